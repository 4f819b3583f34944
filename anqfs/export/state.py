"""Who supervises an export's servers, and how they are. Any thread, any process.

The supervisor holds a POSIX lock on its lock file as long as it lives, and the kernel tells who holds a lock: no pid is ever read from a
file that a dead process left. ganesha and smbd hold such locks on their pid files, so what a killed supervisor left running is found
in the same way.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import struct
from pathlib import Path
from typing import Any

from anqfs.errors import AnqfsError, ExportFailed
from anqfs.export.layout import Layout

_FLOCK = "hhqqi4x"
"""struct flock of 64-bit Linux: type, whence, start, length, pid."""


def holder(path: Path) -> int | None:
    """Return the pid of the process that holds the lock on a file, None when nobody does."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    try:
        asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind, _, _, _, pid = struct.unpack(_FLOCK, fcntl.fcntl(handle, fcntl.F_GETLK, asked))
    finally:
        os.close(handle)
    return None if kind == fcntl.F_UNLCK else pid


def take(layout: Layout) -> int:
    """Become the supervisor; return the descriptor that holds the lock until it is closed. Raises ExportFailed when there is one."""
    handle = os.open(layout.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise ExportFailed(f"{layout.root}: its servers are supervised by process {holder(layout.lock)} already") from None
    return handle


def end(path: Path, number: signal.Signals, patience: float) -> bool:
    """Send a signal to whoever holds the lock on `path` and wait until it has ended; return whether it has, within `patience` seconds."""
    pid = holder(path)
    if pid is None:
        return True
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        if holder(path) != pid:
            return holder(path) is None
        signal.pidfd_send_signal(process, number)
        return bool(select.select([process], [], [], patience)[0])
    except ProcessLookupError:
        return True
    finally:
        os.close(process)


def tell(path: Path, number: signal.Signals) -> bool:
    """Send a signal to whoever holds the lock on `path`; return whether there was someone."""
    pid = holder(path)
    if pid is None:
        return False
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def write(layout: Layout, document: dict[str, Any]) -> None:
    """Replace the status document."""
    new = layout.status.with_suffix(".new")
    new.write_text(json.dumps(document), encoding="ascii")
    os.replace(new, layout.status)


def read(layout: Layout) -> dict[str, Any] | None:
    """Return the status document of a supervisor that lives, None when none does."""
    pid = holder(layout.lock)
    if pid is None:
        return None
    try:
        document = json.loads(layout.status.read_text(encoding="ascii"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise AnqfsError(f"{layout.status}: is no status document: {error}") from error
    return document if isinstance(document, dict) and document.get("pid") == pid else None
