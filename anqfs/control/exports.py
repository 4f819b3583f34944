"""What `anqfs export` does: finding a volume's export by its mount point, changing it, starting and stopping its servers. Blocking.

Called by the command line. The servers' supervisor is a process of its own (`anqfs.control.supervise`), so they go on when the command
has ended, and stop before the volume is unmounted.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from anqfs.control import locate, wire
from anqfs.errors import ExportFailed, NotFound, NotMounted, UsageError
from anqfs.export import layout as layouts
from anqfs.export import settings, state
from anqfs.export import users as accounts
from anqfs.export.description import Description, Kind, Nfs, Smb, check_path, parse
from anqfs.export.layout import Layout
from anqfs.mount import mountpoint as place

_MODULE = "anqfs.control.supervise"
_ACCESS = {True: "read-write", False: "read-only"}
_POLL = 0.02
_STOP_SECONDS = 90.0


def init(mountpoint: str, directory: str | None, bind: str, nfs_port: int, smb_port: int) -> Layout:
    """Make the description of a mounted volume, with nothing exported. Raises NotMounted, UsageError."""
    entry = locate.by_mount_point(mountpoint)
    if entry is None:
        raise NotMounted(f"{wire.shown(mountpoint)}: no volume is mounted there: mount it first, so that it is known which one is meant")
    check_path("the mount point", entry.mountpoint)
    description = Description(entry.mountpoint, entry.uuid, bind, Nfs(port=nfs_port), Smb(port=smb_port))
    _must_be_sound(description)
    point = os.fsencode(entry.mountpoint)
    existing = layouts.find(point)
    if existing is not None:
        raise UsageError(f"{existing.file} describes the exports of {wire.shown(point)} already")
    where = None if directory is None else Path(directory).resolve()
    if where is not None:
        check_path("--dir", str(where))
        if (os.fsencode(where) + b"/").startswith(point + b"/"):
            raise UsageError(f"{wire.shown(str(where))}: lies in the volume: its servers must find it when the volume is not mounted")
    layout = layouts.place(point, where)
    check_path("the directory of the export's files", str(layout.root))
    settings.create(layout, description)
    return layout


def _must_be_sound(description: Description) -> None:
    import msgspec

    parse(msgspec.to_builtins(description))


def of_mount_point(mountpoint: str | None) -> Layout:
    """Return the export of a mount point, or the only one there is. Raises NotFound, UsageError."""
    if mountpoint is not None:
        point = locate.mount_point(mountpoint)
        found = layouts.find(point)
        if found is None:
            raise NotFound(f"{wire.shown(point)}: nothing is exported there: begin with `anqfs export init {wire.shown(point)}`")
        return found
    known = layouts.every()
    if not known:
        raise NotFound("nothing is exported: begin with `anqfs export init MOUNTPOINT`")
    if len(known) > 1:
        raise UsageError(f"{len(known)} volumes have exports: say which with --mountpoint")
    return known[0]


def of_path(path: str) -> tuple[Layout, str]:
    """Return the export whose volume holds a directory, and the directory's path below the mount point. Raises NotFound, NotMounted."""
    entry = locate.by_path(path)
    layout = of_mount_point(entry.mountpoint)
    real = os.path.realpath(path)
    relative = os.path.relpath(real, entry.mountpoint)
    if relative.startswith(".."):
        raise UsageError(f"{wire.shown(path)}: is reached by a link or another mount: name it below {wire.shown(entry.mountpoint)}")
    if not os.path.isdir(real):
        raise UsageError(f"{wire.shown(path)}: is no directory")
    return layout, "" if relative == "." else relative


def add_nfs(
    path: str, name: str, *, read_write: bool, clients: tuple[str, ...], root_squash: bool, security: tuple[str, ...]
) -> tuple[Layout, bool]:
    """Export a directory over NFS. Servers that run serve it at once: return whether any do. Raises UsageError, NotFound, NotMounted."""
    layout, relative = of_path(path)
    fields = {
        "name": name,
        "path": relative,
        "access": _ACCESS[read_write],
        "clients": list(clients),
        "squash": "root" if root_squash else "none",
        "security": list(security),
    }
    settings.add(layout, "nfs", fields)
    return layout, state.tell(layout.lock, signal.SIGHUP)


def add_smb(
    path: str, name: str, *, read_write: bool, clients: tuple[str, ...], users: tuple[str, ...], encrypt: str
) -> tuple[Layout, bool]:
    """Export a directory over SMB. Servers that run serve it at once: return whether any do. Raises UsageError, NotFound, NotMounted."""
    layout, relative = of_path(path)
    fields = {
        "name": name,
        "path": relative,
        "access": _ACCESS[read_write],
        "clients": list(clients),
        "users": list(users),
        "encrypt": encrypt,
    }
    settings.add(layout, "smb", fields)
    return layout, state.tell(layout.lock, signal.SIGHUP)


def remove(layout: Layout, kind: Kind, name: str) -> bool:
    """Remove an export; servers that run stop serving it. Return whether any do. Raises NotFound."""
    settings.remove(layout, kind, name)
    return state.tell(layout.lock, signal.SIGHUP)


def listing(layout: Layout) -> list[dict[str, Any]]:
    """Return the exports, NFS first."""
    import msgspec

    description = settings.read(layout)
    found: list[dict[str, Any]] = []
    for kind, exports in (("nfs", description.nfs.export), ("smb", description.smb.share)):
        for export in exports:
            fields = msgspec.to_builtins(export)
            found.append({"kind": kind, **fields, "path": description.directory(export), "mountpoint": description.mountpoint})
    return found


def one(layout: Layout, kind: Kind, name: str) -> dict[str, Any]:
    """Return one export. Raises NotFound."""
    for export in listing(layout):
        if (export["kind"], export["name"]) == (kind, name):
            return export
    raise NotFound(f"{name!a}: no {kind} export has this name: see `anqfs export list`")


def whole(layout: Layout) -> dict[str, Any]:
    """Return everything a description says, and where it is."""
    import msgspec

    return {"file": str(layout.file), **msgspec.to_builtins(settings.read(layout))}


def configuration(layout: Layout, kind: Kind) -> str:
    """Return the server's configuration as it is made from the description now."""
    made = settings.texts(layout, settings.read(layout))
    return made[layout.ganesha_conf if kind == "nfs" else layout.smb_conf]


def changed(mountpoint: str) -> None:
    """Tell the servers of a mount point, if there are any, that something which they go by has changed."""
    layout = layouts.find(os.fsencode(mountpoint))
    if layout is not None:
        state.tell(layout.lock, signal.SIGHUP)


def start(layout: Layout) -> dict[str, Any]:
    """Start the servers and return their status when all of them answer. Raises ExportFailed, NotMounted, UsageError."""
    _must_be_root()
    running = state.holder(layout.lock)
    if running is not None:
        raise ExportFailed(f"the servers are supervised by process {running} already: see `anqfs export status`")
    settings.read(layout)
    reading, writing = os.pipe()
    command = [sys.executable, "-P", "-m", _MODULE, str(layout.root), str(writing)]
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            pass_fds=(writing,),
            start_new_session=True,
        )
    finally:
        os.close(writing)
    try:
        with os.fdopen(reading, "rb") as stream:
            line = stream.readline()
    except BaseException:
        process.terminate()
        process.wait()
        raise
    if not line:
        raise ExportFailed(f"the supervisor ended with status {process.wait()}; its log is {layout.supervisor_log}")
    answer = json.loads(line)
    if "error" in answer:
        process.wait()
        raise wire.from_fault(answer)
    process.returncode = 0  # it lives on: not ours to wait for
    return status(layout)


def stay(layout: Layout) -> int:
    """Be the supervisor until SIGTERM. Returns the exit code; errors go to stderr."""
    from anqfs.control import launch, supervise

    _must_be_root()

    def report(document: dict[str, Any]) -> None:
        if "error" in document:
            print(f"anqfs: {document['message']}", file=sys.stderr, flush=True)
        else:
            launch.tell_service_manager("READY=1")

    return supervise.run(layout, report, foreground=True)


def _must_be_root() -> None:
    if os.geteuid() != 0:
        raise UsageError(
            "the servers act for all users, so only root can run them; `anqfs export config` prints configuration for your own servers"
        )


def stop(layout: Layout) -> bool:
    """Stop the servers and their supervisor; return whether there were any. Raises ExportFailed when they do not end."""
    if state.holder(layout.lock) is None:
        return False
    if not state.end(layout.lock, signal.SIGTERM, _STOP_SECONDS):
        raise ExportFailed(f"the supervisor (process {state.holder(layout.lock)}) does not end; its log is {layout.supervisor_log}")
    return True


def status(layout: Layout) -> dict[str, Any]:
    """Return how the servers of an export are. Times are RFC 3339."""
    description = settings.read(layout)
    document = state.read(layout)
    mount = place.mounted_at(os.fsencode(description.mountpoint))
    return {
        "mountpoint": description.mountpoint,
        "volume": description.volume,
        "directory": str(layout.root),
        "exports": {kind: len(description.names(kind)) for kind in ("nfs", "smb")},
        "running": document is not None,
        "pid": None if document is None else document["pid"],
        "since": None if document is None else wire.moment(document["since"]),
        "waiting_for_mount": document is not None and document["waiting_for_mount"],
        "paused": document is not None and document["paused"],
        "fault": None if document is None else document["fault"],
        "lasting_handles": mount is not None and mount.kind == b"fuseblk.anqfs",
        "servers": [] if document is None else [_server(one) for one in document["servers"]],
    }


def _server(document: dict[str, Any]) -> dict[str, Any]:
    times = {key: None if document[key] is None else wire.moment(document[key]) for key in ("since", "next_try")}
    return {**document, **times}


def status_of_mount(mountpoint: str) -> dict[str, Any] | None:
    """Return how the servers of a mounted volume are; None when it has no exports, or their description cannot be read by this user."""
    try:
        layout = layouts.find(os.fsencode(mountpoint))
        return None if layout is None else status(layout)
    except PermissionError:
        return None


@contextmanager
def stopped(point: bytes) -> Iterator[None]:
    """Keep the servers of a mount point stopped while it is unmounted. They end with it, or start again when it stays mounted."""
    layout = layouts.find(point)
    if layout is None or state.holder(layout.lock) is None:
        yield
        return
    _pause(layout)
    try:
        yield
    except BaseException:
        state.tell(layout.lock, signal.SIGUSR2)
        raise
    stop(layout)


def _pause(layout: Layout) -> None:
    """Stop the servers, not the supervisor; return when they are gone."""
    deadline = time.monotonic() + _STOP_SECONDS
    state.tell(layout.lock, signal.SIGUSR1)
    while True:
        document = state.read(layout)
        if state.holder(layout.lock) is None or (document is not None and document["paused"] and not document["servers"]):
            return
        if time.monotonic() > deadline:
            state.tell(layout.lock, signal.SIGUSR2)
            raise ExportFailed(f"the file servers do not end, so the volume cannot be unmounted; their log is {layout.supervisor_log}")
        time.sleep(_POLL)


def add_user(layout: Layout, name: str, password: bytes) -> None:
    """Add an SMB user or change the password of one. Raises UsageError, ExportFailed."""
    settings.generate(layout, settings.read(layout))
    accounts.add(layout, name, password)


def remove_user(layout: Layout, name: str) -> None:
    """Remove an SMB user. Raises NotFound, ExportFailed."""
    settings.generate(layout, settings.read(layout))
    accounts.remove(layout, name)


def user_names(layout: Layout) -> list[str]:
    """Return the SMB users, sorted. Raises ExportFailed."""
    settings.generate(layout, settings.read(layout))
    return accounts.names(layout)
