"""Open files: which inode a handle is for, who opened it, how it is being read. Trio thread.

Directories need no state: their handle is the node id itself. A node needs no extra hold while it is open: the kernel forgets an inode
only after its last file was released.
"""

from __future__ import annotations

import os


class Handle:
    """One open file. `privileged`: who opened it may write without clearing setuid and setgid. `next` and `ahead` are byte offsets.

    `direct`: its writes do not go through the kernel's cache.
    """

    __slots__ = ("ahead", "direct", "next", "node", "privileged", "writable")

    def __init__(self, node: int, writable: bool, privileged: bool) -> None:
        self.node = node
        self.writable = writable
        self.privileged = privileged
        self.direct = False
        self.next = 0
        self.ahead = 0


class Handles:
    """The table of open files, bounded by the kernel's own limit on open files."""

    def __init__(self) -> None:
        self._files: dict[int, Handle] = {}
        self._last = 0
        self._writers: dict[int, int] = {}
        self._opened: dict[int, int] = {}
        self.over_quota: set[int] = set()
        """Open nodes of which a quota refused something: the kernel tells of that when it next writes them back."""

    def open(self, node: int, flags: int, uid: int) -> int:
        """Enter an opened file and return its handle. `flags` as in open(2)."""
        self._last += 1
        writable = flags & os.O_ACCMODE != os.O_RDONLY
        self._files[self._last] = Handle(node, writable, uid == 0)
        self._opened[node] = self._opened.get(node, 0) + 1
        if writable:
            self._writers[node] = self._writers.get(node, 0) + 1
        return self._last

    def __getitem__(self, number: int) -> Handle:
        return self._files[number]

    def __len__(self) -> int:
        return len(self._files)

    def release(self, number: int) -> None:
        """Forget a handle."""
        handle = self._files.pop(number)
        _take_one(self._opened, handle.node)
        if handle.node not in self._opened:
            self.over_quota.discard(handle.node)
        if handle.writable:
            _take_one(self._writers, handle.node)

    def is_open(self, node: int) -> bool:
        """Tell whether anybody has a node open."""
        return node in self._opened

    def written(self) -> set[int]:
        """Return the nodes open for writing: only they can have dirty pages in the kernel."""
        return set(self._writers)


def _take_one(counts: dict[int, int], node: int) -> None:
    if counts[node] > 1:
        counts[node] -= 1
    else:
        del counts[node]
