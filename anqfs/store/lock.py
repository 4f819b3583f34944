"""One process for each store: an flock on STORE/lock. Called when a volume is opened and closed, owner's thread.

A writer holds it alone, read-only openings share it. The holder's pid is in the file for people; the lock itself is the kernel's and
ends with the process.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os

from anqfs.errors import StoreInUse, StoreMissing

_log = logging.getLogger(__name__)
NAME = b"lock"


class StoreLock:
    """The held lock of a store."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def acquire(cls, store: bytes, *, shared: bool) -> StoreLock:
        """Lock the store directory `store`, shared or alone.

        Raises StoreInUse (which names the pid that wrote itself down last) or StoreMissing when there is no lock file to be had.
        """
        path = os.path.join(store, NAME)
        descriptor = _open(path, shared)
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError as error:
            holder = _holder(descriptor)
            os.close(descriptor)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            raise StoreInUse(f"store {os.fsdecode(store)!r} is in use by {holder}") from error
        _sign(descriptor, path)
        return cls(descriptor)

    def release(self) -> None:
        """Unlock; harmless when done before."""
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)


def _open(path: bytes, shared: bool) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        if shared and error.errno in (errno.EROFS, errno.EACCES, errno.ENOSPC):
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        raise StoreMissing(f"the store's lock file {os.fsdecode(path)!r} cannot be opened: {error.strerror}") from error


def _sign(descriptor: int, path: bytes) -> None:
    """Write this process's pid into the file. Failing to (a full disk, a read-only one) only makes a later message poorer."""
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    except OSError as error:
        _log.info("the pid could not be written to %r: %s", os.fsdecode(path), error.strerror)


def _holder(descriptor: int) -> str:
    text = os.pread(descriptor, 32, 0).strip()
    return f"process {int(text)}" if text.isdigit() else "another process"
