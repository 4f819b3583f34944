"""What the API changes in files that the kernel may know too. Trio thread; used by `rest`.

The kernel keeps names, attributes and pages for as long as it likes. After a change it is told what to forget. One thing it cannot be told:
with the writeback cache it goes by its own idea of a regular file's size and times for as long as it knows the inode. So before data
or times change, the kernel is made to let go of the file; while a program has it open through the mount (Samba and ganesha too), the API
refuses with EBUSY, ANQ's fs_sharing_violation_error. Reading needs no such thing: what programs wrote is brought in first.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from stat import S_ISREG
from typing import TYPE_CHECKING

import trio

from anqfs.errors import FilesystemError
from anqfs.mount.session import LET_GO_SECONDS
from anqfs.namespace.nodes import view_of

if TYPE_CHECKING:
    from anqfs.mount.session import Session


PATIENCE_SECONDS = 20.0
"""How long the kernel is asked to let go of a file that nobody has open but somebody looks at again and again."""
_POLL_SECONDS = 0.0005


class Coherence:
    """The kernel's view of the files that the API works on."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._namespace = session.namespace
        self._ours: dict[int, int] = {}

    @contextmanager
    def holding(self, node: int) -> Iterator[None]:
        """Keep an inode alive, though its last name may go meanwhile."""
        self._namespace.hold(node)
        self._ours[node] = self._ours.get(node, 0) + 1
        try:
            yield
        finally:
            if self._ours[node] > 1:
                self._ours[node] -= 1
            else:
                del self._ours[node]
            self._namespace.drop(node)
            self._session.changed()

    def _is_known(self, node: int) -> bool:
        """Tell whether the kernel knows an inode; our own holds do not count."""
        return self._namespace.core.held.get(node, 0) > self._ours.get(node, 0)

    async def brought_in(self, node: int) -> None:
        """Return when what programs wrote to a live file before the call can be read. Raises FilesystemError EBUSY."""
        if node in self._session.operations.handles.written():
            await self._session.flush()

    async def to_ourselves(self, node: int) -> None:
        """Return when the kernel does not know a live regular file, so that its data and times may change, before the next await.

        Raises FilesystemError EBUSY while a program has it open, EROFS in a snapshot.
        """
        if view_of(node):
            raise FilesystemError(errno.EROFS)
        if not S_ISREG(self._namespace.attributes(node).mode) or not self._is_known(node):
            return
        is_open = self._session.operations.handles.is_open
        deadline = trio.current_time() + PATIENCE_SECONDS
        while self._is_known(node) and not is_open(node) and trio.current_time() < deadline:
            await self._ask_to_forget(node)
        if self._is_known(node):
            raise FilesystemError(errno.EBUSY, "a program has the file open through the mount: write it there, or close it first")

    async def _ask_to_forget(self, node: int) -> None:
        """Make the kernel drop all names of an inode and wait a moment for it to forget the inode.

        Whoever lists the directory makes it look the inode up again, so the moment at which it does not know it must be caught.
        """
        invalidation = self._session.invalidation
        if invalidation is None:
            raise FilesystemError(errno.EBUSY, "the volume is being unmounted")
        names = self._namespace.names_of(node)
        await trio.to_thread.run_sync(invalidation.forget_names, names)
        with trio.move_on_after(LET_GO_SECONDS):
            while self._is_known(node):
                await trio.sleep(_POLL_SECONDS)
