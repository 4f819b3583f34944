"""Bring in what the kernel still holds, before a snapshot.

With the writeback cache written data sits in the kernel's pages. syncfs starts their way here, but on kernels that do not let one
filesystem's data integrity hang on a FUSE daemon it returns before they have arrived. So each file that is open for writing (no other
can have dirty pages) is also opened and closed through the mount: the kernel writes a file back and waits for it when any handle on it
is closed. Where the daemon's user may not open the file, or it has no path, its pages are invalidated instead, which launders them.

All of that happens on a thread: the write requests come back into our own loop, which must be free to answer them. For the same
reason whoever calls this awaits, and holds nothing.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import os
from typing import TYPE_CHECKING

import pyfuse3
import trio

from ..errors import FilesystemError
from ..namespace.nodes import ino_of

if TYPE_CHECKING:
    from ..namespace.namespace import Namespace
    from .handles import Handles

log = logging.getLogger(__name__)

ROUNDS = 10
_libc = ctypes.CDLL(None, use_errno=True)


class Flush:
    """Flushes of one mount. Concurrent callers that come before a flush begins share it."""

    def __init__(self, namespace: Namespace, handles: Handles, point: bytes) -> None:
        """`point` is the absolute path of the mount."""
        self._namespace = namespace
        self._handles = handles
        self._point = point
        self._limiter = trio.CapacityLimiter(1)

    async def __call__(self) -> None:
        """Return when everything written before the call has reached the namespace.

        Files that are opened for writing meanwhile are flushed too, for up to ROUNDS rounds: what a program wrote to one of them may
        depend on what it wrote before to another. Raises FilesystemError EBUSY when a file's pages cannot be had.
        """
        done: set[int] = set()
        await trio.to_thread.run_sync(self._sync, limiter=self._limiter)
        for _ in range(ROUNDS):
            nodes = self._handles.written() - done
            if not nodes:
                return
            targets = [(node, self._namespace.path_of(ino_of(node))) for node in nodes]
            await trio.to_thread.run_sync(self._bring_in, targets, limiter=self._limiter)
            done |= nodes

    def _sync(self) -> None:
        descriptor = os.open(self._point, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if _libc.syncfs(ctypes.c_int(descriptor)) != 0:
                number = ctypes.get_errno()
                raise FilesystemError(number, f"syncfs of the mount: {os.strerror(number)}")
        finally:
            os.close(descriptor)

    def _bring_in(self, targets: list[tuple[int, bytes | None]]) -> None:
        for node, path in targets:
            if path is None or not self._open_and_close(node, path):
                self._launder(node)

    def _open_and_close(self, node: int, path: bytes) -> bool:
        try:
            descriptor = os.open(self._point + b"/" + path.lstrip(b"/"), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            log.debug("node %d cannot be opened through the mount: %s", node, error)
            return False
        same = os.fstat(descriptor).st_ino == node
        try:
            os.close(descriptor)
        except OSError as error:
            raise FilesystemError(error.errno or errno.EIO, f"what was written to {os.fsdecode(path)!r} could not be stored") from None
        return same

    def _launder(self, node: int) -> None:
        try:
            pyfuse3.invalidate_inode(node)
        except OSError as error:
            if error.errno == errno.ENOENT:  # the kernel does not know the inode any more, so it has no pages
                return
            raise FilesystemError(errno.EBUSY, f"the kernel keeps pages of inode {ino_of(node)}: {error}") from None
