"""The registry of running daemons: one JSON file for each mounted volume, in a directory only its owner can enter. Any thread.

The directory is `$ANQFS_RUNTIME_DIR`, or `/run/anqfs` for root, or `$XDG_RUNTIME_DIR/anqfs` (/run/user/UID without it, as after
runuser(1)), or `/tmp/anqfs-UID`. Nobody looks into another user's, not even root: what is there says which socket to trust. It also
holds the daemons' sockets and logs. A daemon is known by its pid and its start time, so a pid that was used again is not mistaken for it.

Every change is made under one lock (flock on `.lock`). A stale entry is judged and removed under that lock: between seeing a stale
entry and removing it, a new daemon may have registered the same volume, and its entry must stay.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from anqfs.errors import AnqfsError

_RELAY = ".api"


class Entry(NamedTuple):
    """A running daemon. Paths are strings with surrogateescape; `device` is the mount's st_dev, `started` clock ticks since boot."""

    name: str
    pid: int
    started: int
    store: str
    mountpoint: str
    uuid: str
    socket: str
    log: str
    device: int
    read_only: bool


def relay_socket(entry: Entry) -> str:
    """Return the socket on which a daemon asks for tokens: in a directory of its own (`server.listen_for_relay`)."""
    return f"{entry.socket.removesuffix('.sock')}{_RELAY}/sock"


def start_time(pid: int) -> int | None:
    """Return when a process started (clock ticks since boot); None when there is none or it is a zombie."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stream:
            fields = stream.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def is_running(entry: Entry) -> bool:
    """Tell whether the daemon of an entry still runs."""
    return start_time(entry.pid) == entry.started


def _candidates() -> list[str]:
    named = os.environ.get("ANQFS_RUNTIME_DIR")
    if named:
        return [named]
    uid = os.geteuid()
    if uid == 0:
        return ["/run/anqfs"]
    private = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{uid}"
    return [f"{private}/anqfs", f"/tmp/anqfs-{uid}"]


def _owned(path: str) -> bool:
    try:
        facts = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISDIR(facts.st_mode) and facts.st_uid == os.geteuid() and not facts.st_mode & 0o077


def directory() -> str:
    """Return the registry's directory, made if need be. Raises AnqfsError when it is not a private directory of this user."""
    for path in _candidates():
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            pass
        except OSError:
            continue
        if _owned(path):
            return path
    raise AnqfsError(f"{_candidates()[-1]} is no private directory of this user: remove it, or name another in ANQFS_RUNTIME_DIR")


@contextmanager
def _locked(path: str) -> Iterator[None]:
    handle = os.open(os.path.join(path, ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _read(path: str) -> Entry | None:
    try:
        with open(path, encoding="ascii") as stream:
            fields = json.load(stream)
            return Entry(**{name: fields[name] for name in Entry._fields})
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, OSError):
        return Entry(os.path.basename(path)[: -len(".json")], 0, 0, "", "", "", "", "", 0, False)


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return


def _unlink_sockets(socket: str) -> None:
    """Remove a daemon's socket, and the directory with the one for the relay."""
    _unlink(socket)
    relay = f"{socket.removesuffix('.sock')}{_RELAY}"
    _unlink(f"{relay}/sock")
    try:
        os.rmdir(relay)
    except FileNotFoundError:
        return


def register(entry: Entry) -> None:
    """Write a daemon's entry. A stale one of the same name is replaced. Raises AnqfsError when a running daemon holds the name."""
    where = directory()
    path = os.path.join(where, f"{entry.name}.json")
    with _locked(where):
        old = _read(path)
        if old is not None and is_running(old) and (old.pid, old.started) != (entry.pid, entry.started):
            raise AnqfsError(f"the daemon with pid {old.pid} is registered as {entry.name} already")
        with open(f"{path}.new", "w", encoding="ascii") as stream:
            json.dump(entry._asdict(), stream)
        os.replace(f"{path}.new", path)


def unregister(entry: Entry) -> None:
    """Remove a daemon's own entry and socket; an entry that another daemon wrote meanwhile stays."""
    where = directory()
    path = os.path.join(where, f"{entry.name}.json")
    with _locked(where):
        if _read(path) == entry:
            _unlink(path)
        if entry.socket:
            _unlink_sockets(entry.socket)


def _drop_stale(where: str, seen: Entry) -> None:
    path = os.path.join(where, f"{seen.name}.json")
    with _locked(where):
        now = _read(path)
        if now == seen and not is_running(now):
            _unlink(path)
            if now.socket and os.path.dirname(now.socket) == where:
                _unlink_sockets(now.socket)


def _sweep_sockets(where: str, names: list[str]) -> None:
    """Remove the sockets `NAME.PID.sock` and `NAME.PID.api/sock` of daemons that died before they registered."""
    for name in names:
        stem, _, kind = name.rpartition(".")
        pid = stem.rpartition(".")[2] if kind in ("sock", _RELAY[1:]) else ""
        if pid.isdigit() and start_time(int(pid)) is None:
            _unlink_sockets(os.path.join(where, f"{stem}.sock"))


def entries() -> list[Entry]:
    """Return the running daemons of this user, sorted by mount point; what dead ones left is removed."""
    where = next((path for path in _candidates() if _owned(path)), None)
    if where is None:
        return []
    running = []
    names = os.listdir(where)
    for name in names:
        entry = _read(os.path.join(where, name)) if name.endswith(".json") else None
        if entry is None:
            continue
        if is_running(entry):
            running.append(entry)
        else:
            _drop_stale(where, entry)
    _sweep_sockets(where, names)
    return sorted(running, key=lambda entry: entry.mountpoint)
