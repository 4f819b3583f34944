"""The daemon of one mounted volume: `python -m anqfs.control.daemon ORDER_FD REPORT_FD STORE MOUNTPOINT`, started by `launch`.

The order (what to mount, and the secret) comes through a pipe, never through arguments or the environment; the outcome goes back
through another as one line of JSON. One trio loop serves the mount, the HTTP API and the jobs. The daemon ends when the mount is gone,
however that came about (`anqfs umount`, umount(8), SIGTERM), and only after everything is durable.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import logging
import logging.handlers
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import trio

from anqfs.control import registry, server, wire
from anqfs.control.jobs import Jobs
from anqfs.control.outcome import reporter
from anqfs.control.registry import Entry
from anqfs.control.scheduler import Scheduler
from anqfs.control.service import Service
from anqfs.crypto.secrets import Secret
from anqfs.errors import AnqfsError, MountFailed, WrongKey
from anqfs.mount import mountpoint as place
from anqfs.mount.session import MountOptions, Session, serve
from anqfs.namespace.namespace import Namespace
from anqfs.store.volume import Volume

_log = logging.getLogger("anqfs.control.daemon")

_LOG_BYTES = 4 << 20
_BUSY_SECONDS, _BUSY_PAUSE = 0.5, 0.02
_PR_SET_DUMPABLE = 4
_ROOT_FLAGS = ("suid", "dev")
_OPPOSITES = {"nosuid": "suid", "nodev": "dev"}


class Order(NamedTuple):
    """What the daemon is to do. Paths are absolute, with surrogateescape; `kernel` are flags for the mount (nosuid, noexec, ...)."""

    store: str
    mountpoint: str
    read_only: bool = False
    allow_other: bool = False
    kernel: tuple[str, ...] = ()
    expect_root: str | None = None
    fsid_device: bool = False


Report = Callable[[dict[str, Any]], None]


def _receive_order(handle: int) -> tuple[Order, Secret]:
    with os.fdopen(handle, "rb") as stream:
        head = json.loads(stream.readline())
        material = stream.read(head["length"])
    order = Order(**{**head["order"], "kernel": tuple(head["order"]["kernel"])})
    if len(material) != head["length"]:
        raise AnqfsError("the order was cut short")
    return order, Secret(head["kind"], material)


def _harden() -> None:
    """Keep keys out of core dumps and away from other processes of the same user. A client that goes away must not take us along."""
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    os.umask(0o077)


def _log_to(path: str | None) -> None:
    """Log to a file that starts empty and is bounded, or to stderr. Tracebacks of the interpreter itself go there too."""
    handler: logging.Handler
    if path is None:
        handler = logging.StreamHandler(sys.stderr)
    else:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        os.dup2(handle, 2)
        os.close(handle)
        handler = logging.handlers.RotatingFileHandler(
            path, maxBytes=_LOG_BYTES, backupCount=1, encoding="utf-8", errors="backslashreplace"
        )
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.getLogger("hypercorn").setLevel(logging.WARNING)


def _name_of(volume: Volume, store: str) -> str:
    """Return the registry's name for a volume: a copy of a store has the same uuid, so the path counts too."""
    return f"{volume.uuid}-{hashlib.sha256(os.fsencode(store)).hexdigest()[:8]}"


def _mount_options(order: Order) -> MountOptions:
    root = os.geteuid() == 0
    flags = set(_ROOT_FLAGS if root else ()) | set(order.kernel)
    flags -= {_OPPOSITES[flag] for flag in order.kernel if flag in _OPPOSITES}
    if not root:
        flags -= set(_ROOT_FLAGS)
    return MountOptions(allow_other=root or order.allow_other, suid_dev=False, fsid_device=order.fsid_device, extra=frozenset(flags))


class _Daemon:
    """The life of one mount, on the trio thread."""

    def __init__(self, order: Order, volume: Volume, log: str | None, report: Report) -> None:
        self._order = order
        self._volume = volume
        self._report = report
        self._started = registry.start_time(os.getpid()) or 0
        self._name = _name_of(volume, order.store)
        self._log = log or "(stderr)"
        self._entry: Entry | None = None
        self._stop = trio.Event()
        self._mounted = trio.Event()
        self._over = trio.Event()
        self._session: Session | None = None
        self._fault: AnqfsError | None = None

    async def run(self) -> None:
        """Serve until the mount is gone. Raises what ended it badly."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_signals)
            nursery.start_soon(self._serve_mount)
            await self._mounted.wait()
            if self._session is not None:
                await self._serve_control(self._session)
            await self._over.wait()
            nursery.cancel_scope.cancel()
        if self._fault is not None:
            raise self._fault

    async def _serve_mount(self) -> None:
        def ready(session: Session) -> None:
            self._session = session
            self._mounted.set()

        try:
            namespace = Namespace(self._volume)
            await serve(
                namespace, self._volume, os.fsencode(self._order.mountpoint), _mount_options(self._order), ready=ready, stop=self._stop
            )
        except AnqfsError as error:
            self._fault = error
        except Exception as error:
            _log.exception("the mount ended")
            self._fault = AnqfsError(f"the mount ended with an unforeseen fault ({type(error).__name__}: {error}); the log has the details")
        finally:
            self._over.set()
            self._mounted.set()

    async def _watch_signals(self) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as arrivals:
            async for number in arrivals:
                _log.info("%s: unmounting", signal.Signals(number).name)
                self._stop.set()

    async def _serve_control(self, session: Session) -> None:
        """Serve the API until the mount is over; register in between, so that whoever sees the entry can connect."""
        where = registry.directory()
        self._entry = Entry(
            name=self._name,
            pid=os.getpid(),
            started=self._started,
            store=self._order.store,
            mountpoint=self._order.mountpoint,
            uuid=str(self._volume.uuid),
            socket=os.path.join(where, f"{self._name}.{os.getpid()}.sock"),
            log=self._log,
            device=await trio.to_thread.run_sync(_device, session.mountpoint),
            read_only=self._volume.read_only,
        )
        listener = server.listen(self._entry.socket)
        for_relay = server.listen_for_relay(registry.relay_socket(self._entry))
        try:
            async with trio.open_nursery() as nursery:
                jobs = Jobs(nursery)
                service = Service(self._entry, session, jobs, self._unmount, self._over)
                end = trio.Event()
                nursery.start_soon(self._end_jobs, jobs)
                nursery.start_soon(self._keep_timetable, session)
                await nursery.start(_serve_api, service, listener, server.trusting(service), end)
                await nursery.start(_serve_api, service, for_relay, server.asking(service), end)
                registry.register(self._entry)
                self._report({"ok": True, "entry": self._entry._asdict()})
                _log.info("%s is mounted on %s", wire.shown(self._order.store), wire.shown(self._order.mountpoint))
                await self._over.wait()
                end.set()
        except BaseException:
            self._stop.set()
            raise
        finally:
            registry.unregister(self._entry)

    async def _keep_timetable(self, session: Session) -> None:
        """Let policies take snapshots and snapshots expire until the mount is over."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_until, self._over, nursery.cancel_scope)
            await Scheduler(session.namespace, session).run()

    async def _end_jobs(self, jobs: Jobs) -> None:
        await self._over.wait()
        await jobs.stop()

    async def _unmount(self) -> None:
        """Take the mount away and return when it is over; the last commit's error is raised. Raises MountFailed when it is busy."""
        assert self._session is not None
        refusals: list[OSError] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_until, self._over, nursery.cancel_scope)
            try:
                await self._take_away(self._session)
                await self._over.wait()
            except OSError as error:
                refusals.append(error)
                nursery.cancel_scope.cancel()
        if refusals:
            raise MountFailed(
                f"{wire.shown(self._order.mountpoint)}: is busy: files are open there, or it is a working directory "
                "(`fuser -vm` names the processes): close them first"
            ) from refusals[0]
        if self._fault is not None:
            raise self._fault

    @staticmethod
    async def _take_away(session: Session) -> None:
        """Unmount; a mount that is busy is tried again for a moment, because a passing `df` or `ls` makes it so. Raises OSError."""
        deadline = trio.current_time() + _BUSY_SECONDS
        while True:
            try:
                await session.unmount()
                return
            except OSError as error:
                if error.errno != errno.EBUSY or trio.current_time() > deadline:
                    raise
            await trio.sleep(_BUSY_PAUSE)


async def _until(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


async def _serve_api(service: Service, listener: Any, gate: server.Gate, stop: trio.Event, *, task_status: trio.TaskStatus[Any]) -> None:
    await server.run(service, listener, gate, stop=stop, task_status=task_status)


def _device(point: bytes) -> int:
    mount = place.mounted_at(point)
    if mount is None:
        raise MountFailed(f"{wire.shown(point)}: the mount went away at once")
    return mount.device


def run(order: Order, secret: Secret, report: Report, *, foreground: bool) -> int:
    """Open the volume, serve it until it is unmounted, close it. Returns an exit code; `report` gets the outcome of starting."""
    _harden()
    told = False

    def once(document: dict[str, Any]) -> None:
        nonlocal told
        if not told:
            told = True
            report(document)

    try:
        _serve_volume(order, secret, once, foreground=foreground)
    except AnqfsError as error:
        if told:
            _log.error("%s", error)
        once(wire.to_fault(error))
        return error.exit_code
    except Exception as error:
        if told or not foreground:
            _log.exception("the daemon ends")
        once(wire.to_fault(AnqfsError(f"the daemon met an unforeseen fault ({type(error).__name__}: {error})")))
        return 1
    return 0


def _serve_volume(order: Order, secret: Secret, report: Report, *, foreground: bool) -> None:
    try:
        volume = Volume.open(Path(order.store), secret, read_only=order.read_only, expect_root=order.expect_root)
    except WrongKey as error:
        raise WrongKey(f"{wire.shown(order.store)}: {error}") from error
    log: str | None = None
    try:
        if not foreground:
            log = os.path.join(registry.directory(), f"{_name_of(volume, order.store)}.log")
        _log_to(log)
        trio.run(_Daemon(order, volume, log, report).run)
    except BaseExceptionGroup as group:
        raise _first_of(group) from group
    finally:
        volume.close()
        _drop_empty(log)


def _first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the exception of a group that says most: one of ours, else the first."""
    leaves: list[BaseException] = []
    pending: list[BaseException] = [group]
    while pending:
        error = pending.pop(0)
        if isinstance(error, BaseExceptionGroup):
            pending.extend(error.exceptions)
        else:
            leaves.append(error)
    return next((error for error in leaves if isinstance(error, AnqfsError)), leaves[0])


def _drop_empty(log: str | None) -> None:
    if log is not None and os.path.exists(log) and os.path.getsize(log) == 0:
        os.unlink(log)


def main(arguments: list[str]) -> int:
    """Entry point of the detached daemon."""
    with os.fdopen(int(arguments[1]), "wb") as outcome:
        order, secret = _receive_order(int(arguments[0]))
        return run(order, secret, reporter(outcome), foreground=False)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
