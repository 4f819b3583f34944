"""Inodes without a name, and other work for the background. Called by the facade on the trio thread.

An inode that lost its last name while somebody holds it, or that is large, gets an Orphan record in the same operation. It goes when the
last holder drops it, in bounded steps if it is large; after a crash nobody holds anything, so all orphans are reclaimed.
"""

from __future__ import annotations

import logging
from collections import deque

from anqfs.errors import AnqfsError
from anqfs.namespace.core import Core, operation
from anqfs.namespace.files import Files
from anqfs.namespace.xattrs import Xattrs
from anqfs.store.schema import WINDOW, Inode, Orphan, inode_key, orphan_key, prefix_end

_log = logging.getLogger(__name__)
STEP = 256
"""Windows that one step removes, and the most that a removal does at once."""
_TOGETHER = 64
"""Small inodes that are removed in one operation."""


class Reclaim:
    """Orphans, and windows that were truncated away."""

    def __init__(self, core: Core, files: Files, xattrs: Xattrs) -> None:
        self.core = core
        self._files = files
        self._xattrs = xattrs
        self._queue: deque[int] = deque()
        self._held: set[int] = set()
        """Orphans that somebody holds."""
        self._dropped: list[int] = []
        """Small orphans that nobody holds any more: they go before the group closes."""

    @property
    def waiting(self) -> int:
        """The number of inodes that wait to be reclaimed or trimmed."""
        return len(self._queue) + len(self._dropped) + len(self._files.to_trim)

    def load(self) -> None:
        """Find the orphans that an earlier run left."""
        for key in self.core.volume.scan_keys(b"O", prefix_end(b"O")):
            ino = int.from_bytes(key[1:], "big")
            try:
                inode: Inode | None = self.core.get(inode_key(ino))
            except AnqfsError as error:
                _log.error("orphan %d is not reclaimed: %s", ino, error)
                continue
            if inode is not None and inode.nlink:
                self._files.trimming.add(ino)
                self._files.to_trim.append(ino)
            else:
                self._queue.append(ino)

    def unnamed(self, ino: int, inode: Inode) -> None:
        """In the operation that took the last name away, after the inode's record was put: remove it or make it an orphan."""
        core = self.core
        held = ino in core.held
        if not held and inode.size <= STEP * WINDOW:
            self._remove(ino, inode)
            return
        core.volume.put(orphan_key(ino), Orphan())
        core.after.append(lambda: self._note(ino, held))

    def _note(self, ino: int, held: bool) -> None:
        self._files.trimming.discard(ino)
        if held:
            self._held.add(ino)
        else:
            self._queue.append(ino)

    def dropped(self, ino: int) -> None:
        """Nobody holds this inode any more: reclaim it if it has no name.

        A small one waits for others that are removed one after the other, if the open group has changes: it closes soon.
        """
        if ino not in self._held:
            return
        self._held.discard(ino)
        if not self._is_small(ino):
            if self._tried(self._step, ino, STEP):
                self._queue.append(ino)
            return
        self._dropped.append(ino)
        if len(self._dropped) >= _TOGETHER or self.core.volume.due() is None:
            self.finish()

    def _is_small(self, ino: int) -> bool:
        """Tell whether an inode has one window at most, so that one step removes it."""
        try:
            inode: Inode | None = self.core.get(inode_key(ino))
        except AnqfsError:
            return False
        return inode is not None and inode.size <= WINDOW and not inode.cut_epoch

    def finish(self) -> None:
        """Remove the small inodes that nobody holds any more. A hook of the volume: no group closes with them in it."""
        dropped, self._dropped = self._dropped, []
        if not dropped or self.core.volume.failed is not None:
            return
        try:
            self._step_all(dropped)
        except AnqfsError:
            for ino in dropped:
                self._tried(self._step, ino, STEP)

    def step(self, budget: int) -> bool:
        """Remove up to `budget` windows of one orphan or truncated file. Returns whether there was anything to do."""
        if self._dropped:
            self.finish()
            return True
        if self._queue:
            ino = self._queue.popleft()
            if ino in self.core.held:
                self._held.add(ino)
            elif self._tried(self._step, ino, budget):
                self._queue.appendleft(ino)
            return True
        trims = self._files.to_trim
        if trims:
            ino = trims.popleft()
            if ino in self._files.trimming:
                if self._tried(self._trim, ino, budget):
                    trims.appendleft(ino)
                else:
                    self._files.trimming.discard(ino)
            return True
        return False

    @staticmethod
    def _tried(step: object, ino: int, budget: int) -> bool:
        assert callable(step)
        try:
            return bool(step(ino, budget))
        except AnqfsError as error:
            _log.error("inode %d is not reclaimed now: %s", ino, error)
            return False

    @operation
    def _trim(self, ino: int, budget: int) -> bool:
        return self._files.trim_step(ino, budget)

    @operation
    def _step_all(self, inos: list[int]) -> None:
        for ino in inos:
            self._reclaim(ino, STEP)

    @operation
    def _step(self, ino: int, budget: int) -> bool:
        return self._reclaim(ino, budget)

    def _reclaim(self, ino: int, budget: int) -> bool:
        """Remove up to `budget` windows of an orphan, and itself after the last; return whether there are more."""
        core = self.core
        inode: Inode | None = core.get(inode_key(ino))
        position: Orphan | None = core.get(orphan_key(ino))
        if inode is None or position is None:
            core.volume.delete(orphan_key(ino))
            return False
        _, following = self._files.remove_windows(ino, inode, position.next_window, budget)
        if following is not None:
            core.volume.put(orphan_key(ino), Orphan(following))
            return True
        self._xattrs.remove_all(ino, inode)
        core.versions.remove(inode_key(ino), inode, ino, inode)
        core.volume.delete(orphan_key(ino))
        return False

    def _remove(self, ino: int, inode: Inode) -> None:
        core = self.core
        if inode.allocated:
            self._files.remove_windows(ino, inode, 0, None)
        self._xattrs.remove_all(ino, inode)
        core.versions.remove(inode_key(ino), inode, ino, inode)
        if ino in self._files.trimming:
            core.volume.delete(orphan_key(ino))
            core.after.append(lambda: self._files.trimming.discard(ino))
