"""The process that runs the servers of one volume: starts them when the volume is mounted, again when they die, and stops them.

One thread, one loop that sleeps in poll(2) until something happens: a server dies, a signal comes, the mount changes, or a pause is over.
SIGTERM: stop the servers and end. SIGHUP: read export.toml again. SIGUSR1: stop the servers, so that the volume can be unmounted;
SIGUSR2: it was not, start them again.

The servers never outlive the mount they were started on. nfs-ganesha answers SERVERFAULT for ever when its filesystem is mounted anew below
it, and Samba's sessions are refused; so when the mount goes, they are stopped, and when the volume is mounted again, they are started.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from anqfs.errors import AnqfsError, ExportFailed, NotMounted
from anqfs.export import servers, settings, state
from anqfs.export.description import Description, Kind
from anqfs.export.layout import Layout
from anqfs.export.life import Life

log = logging.getLogger(__name__)

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_MOUNT_SECONDS = 1.0
"""How often a mount that is not there is looked for."""


class Mounted(NamedTuple):
    """The live mount of a volume. `pid`: its daemon; with `started` and `device`, it is told from any other."""

    pid: int
    started: int
    device: int


class Supervisor:
    """The servers of the export in `layout`.

    `find_mount` returns the mount of the volume that is meant, None when there is none; `snapshot_mode` how its shares show `.snapshot`,
    None when it does not say.
    """

    def __init__(
        self,
        layout: Layout,
        find_mount: Callable[[Description], Mounted | None],
        snapshot_mode: Callable[[Description], str | None] = lambda _description: "visible",
    ) -> None:
        self._layout = layout
        self._find_mount = find_mount
        self._snapshot_mode = snapshot_mode
        self._description = settings.read(layout)
        self._lives: dict[Kind, Life] = {}
        self._mount: Mounted | None = None
        self._daemon = -1
        self._fault: str | None = None
        self._ending = False
        self._hung_up = False
        self._paused = False
        self._published: dict[str, Any] = {}
        self._began = time.time_ns()

    def run(self, ready: Callable[[], None]) -> None:
        """Start the servers, call `ready` when all answer, and look after them until SIGTERM.

        Raises NotMounted, ExportFailed when they cannot be started; then none is left running.
        """
        wakeup, alarm = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        before = {number: signal.signal(number, self._on_signal) for number in _SIGNALS}
        signal.set_wakeup_fd(alarm)
        try:
            lock = state.take(self._layout)  # from here on others send signals, so there are handlers for them already
            try:
                self._serve(wakeup, ready)
            finally:
                self._stop_all()
                self._layout.status.unlink(missing_ok=True)
                os.close(lock)
        finally:
            signal.set_wakeup_fd(-1)
            for number, handler in before.items():
                signal.signal(number, handler)
            os.close(wakeup)
            os.close(alarm)

    def _serve(self, wakeup: int, ready: Callable[[], None]) -> None:
        self._begin()
        self._publish()
        with open("/proc/self/mountinfo", "rb") as table:
            self._loop(wakeup, table.fileno(), ready)

    def _on_signal(self, number: int, _frame: object) -> None:
        if number == signal.SIGHUP:
            self._hung_up = True
        elif number in (signal.SIGUSR1, signal.SIGUSR2):
            self._paused = number == signal.SIGUSR1
        else:
            self._ending = True

    def _begin(self) -> None:
        if not self._description.served():
            raise ExportFailed("nothing is exported: add something with `anqfs export add`")
        mount = self._find_mount(self._description)
        if mount is None:
            raise NotMounted(f"{self._description.mountpoint}: the volume {self._description.volume} is not mounted there")
        self._generate()
        self._follow(mount)

    def _generate(self) -> None:
        settings.generate(self._layout, self._description)
        mode = self._snapshot_mode(self._description)
        if mode is not None:
            settings.show_snapshots(self._layout, mode)

    def _loop(self, wakeup: int, table: int, ready: Callable[[], None]) -> None:
        told = False
        while not self._ending:
            self._sleep(wakeup, table)
            if self._hung_up:
                self._hung_up = False
                self._reread()
            self._look_at_mount()
            for life in self._lives.values():
                life.step()
            self._publish()
            if not told:
                told = self._tell(ready)

    def _tell(self, ready: Callable[[], None]) -> bool:
        """Say that all servers answer, once they do. Raises ExportFailed when one died before that."""
        for life in self._lives.values():
            if life.state == "failed":
                raise ExportFailed(f"the {life.server.kind} server {life.error}; its log is {life.server.log}")
        if any(life.state != "running" for life in self._lives.values()):
            return False
        ready()
        return True

    def _sleep(self, wakeup: int, table: int) -> None:
        poller = select.poll()
        poller.register(wakeup, select.POLLIN)
        poller.register(table, select.POLLPRI)  # the kernel's word that something was mounted or unmounted
        descriptors = [self._daemon if self._daemon >= 0 else None, *(life.descriptor for life in self._lives.values())]
        for descriptor in descriptors:
            if descriptor is not None:
                poller.register(descriptor, select.POLLIN)
        waits = [life.patience() for life in self._lives.values()] + [_MOUNT_SECONDS if self._mount is None else None]
        timeout = min((wait for wait in waits if wait is not None), default=None)
        poller.poll(None if timeout is None else timeout * 1000)
        with contextlib.suppress(BlockingIOError):
            os.read(wakeup, 4096)

    def _look_at_mount(self) -> None:
        mount = None if self._paused else self._find_mount(self._description)
        if mount == self._mount:
            return
        if self._mount is not None:
            why = "it is to be unmounted" if self._paused else "the mount went away"
            log.warning("%s: %s: the servers are stopped", self._description.mountpoint, why)
            self._stop_all()
            self._mount = None
        if mount is not None:
            log.info("%s: the volume is mounted: the servers are started", self._description.mountpoint)
            try:
                self._follow(mount)
            except AnqfsError as error:
                self._fault = str(error)
                log.error("%s", error)

    def _follow(self, mount: Mounted) -> None:
        """Start the servers on this mount. Raises ExportFailed, NotMounted."""
        try:
            self._daemon = os.pidfd_open(mount.pid)
        except ProcessLookupError:
            return
        self._mount = mount
        for kind in self._description.served():
            self._launch(kind)

    def _launch(self, kind: Kind) -> None:
        self._check_directories(kind)
        servers.check_before(kind, self._description, self._layout)
        life = self._lives[kind] = Life(servers.server(kind, self._description, self._layout))
        life.start()

    def _check_directories(self, kind: Kind) -> None:
        exports = self._description.nfs.export if kind == "nfs" else self._description.smb.share
        for export in exports:
            path = self._description.directory(export)
            if not os.path.isdir(path):
                raise ExportFailed(f"{export.name}: {path} is no directory: make it, or remove the export")
            if self._mount is not None and os.stat(path).st_dev != self._mount.device:
                raise ExportFailed(f"{export.name}: {path} is not in the volume: something else is mounted there, or a link leads out")

    def _reread(self) -> None:
        """Put a changed export.toml into effect: exports at once, everything else by starting the server anew."""
        before = self._description
        try:
            self._description = settings.read(self._layout)
            self._generate()
            self._fault = None
        except (AnqfsError, OSError) as error:
            self._fault = f"export.toml is not in effect: {error}"
            log.error("%s", self._fault)
            return
        if self._mount is None:
            return
        for kind in ("nfs", "smb"):
            try:
                self._adapt(kind, before)
            except AnqfsError as error:
                self._fault = str(error)
                log.error("%s", error)

    def _adapt(self, kind: Kind, before: Description) -> None:
        life = self._lives.get(kind)
        if kind not in self._description.served():
            if life is not None:
                life.stop()
                del self._lives[kind]
        elif life is None:
            self._launch(kind)
        elif _settings_of(kind, before) != _settings_of(kind, self._description):
            life.stop()
            self._launch(kind)
        else:
            self._check_directories(kind)
            life.reread()

    def _stop_all(self) -> None:
        for life in self._lives.values():
            life.ask_to_end()
        for life in self._lives.values():
            life.stop()
        self._lives = {}
        if self._daemon >= 0:
            os.close(self._daemon)
            self._daemon = -1

    def _publish(self) -> None:
        document = {
            "pid": os.getpid(),
            "since": self._began,
            "mountpoint": self._description.mountpoint,
            "volume": self._description.volume,
            "paused": self._paused and self._mount is None,
            "waiting_for_mount": self._mount is None,
            "fault": self._fault,
            "servers": [life.document() for life in self._lives.values()],
        }
        steady = {**document, "servers": [{**life.document(), "next_try": life.next_try} for life in self._lives.values()]}
        if steady != self._published:
            state.write(self._layout, document)
            self._published = steady


def _settings_of(kind: Kind, description: Description) -> Any:
    """Return what a server reads only when it starts."""
    if kind == "nfs":
        return description.bind, msgspec.structs.replace(description.nfs, export=(), last_id=0)
    return description.bind, msgspec.structs.replace(description.smb, share=())
