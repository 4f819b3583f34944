"""A database's file, read beside LMDB's map. Any thread.

Reading a large value through the map costs a page fault for each 64 KiB and more where pages are not in memory, and a fault cannot be
asked not to wait. A read of the file can: it then takes what the kernel has in memory, or starts the disk and says so.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from anqfs.errors import Damaged

READ_IN_PIECE = 128 << 10
"""Bytes: the read-ahead of a disk for which nobody has set another."""
_NOT_SUPPORTED = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


def read_in(path: bytes, most: int, wanted: Callable[[], bool]) -> None:
    """Let the kernel read the first `most` bytes of a file, as long as `wanted` says so.

    It returns when the disk was asked for all of them, which takes a while. However much is asked for in one call, the kernel reads no more
    than the disk's read-ahead (mm/readahead.c, force_page_cache_ra), so it is asked piece by piece.
    """
    with open(path, "rb", buffering=0) as file:
        for at in range(0, min(most, os.fstat(file.fileno()).st_size), READ_IN_PIECE):
            if not wanted():
                return
            os.posix_fadvise(file.fileno(), at, READ_IN_PIECE, os.POSIX_FADV_WILLNEED)


class DataFile:
    """One open file. `path` is the data file of an LMDB environment."""

    def __init__(self, path: bytes) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_RANDOM)  # what is wanted is known exactly
        self.can_decline = True
        """Whether the filesystem below can read without waiting."""

    def read(self, at: int, target: memoryview) -> None:
        """Fill `target` from byte `at` on, waiting for the disk. Raises Damaged when the disk does not give it."""
        try:
            got = os.preadv(self._descriptor, [target], at)
        except OSError as error:
            raise Damaged(f"the disk did not read the extent database: {error.strerror}") from error
        if got != len(target):
            raise Damaged("the extent database ends before an extent in it does")

    def read_now(self, at: int, target: memoryview) -> bool:
        """Fill `target` if that needs no wait, else start reading it from the disk and return False."""
        try:
            return os.preadv(self._descriptor, [target], at, os.RWF_NOWAIT) == len(target)
        except BlockingIOError:
            return False
        except OSError as error:
            self.can_decline = error.errno not in _NOT_SUPPORTED
            return False  # what is wrong is told by the read that waits

    def expect(self, at: int, length: int) -> None:
        """Start reading a range from the disk, without waiting for it."""
        os.posix_fadvise(self._descriptor, at, length, os.POSIX_FADV_WILLNEED)

    def close(self) -> None:
        """Close the file. Idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
