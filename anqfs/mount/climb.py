"""How the kernel finds its way from a directory's handle up to the root. Trio thread.

A directory that is opened by a handle, as NFS servers do, has to be connected: the kernel looks `..` up and then searches the listing
of what it got for the name of where it came from. `.snapshot` and the `@GMT` in it are in no listing, so handles into snapshots would be
stale. Programs never look `..` up through FUSE (the kernel answers them), so whoever did is climbing, and inside one system call: the
next directory that the same thread opens is the one above, and this once its listing shows where it came from.
"""

from __future__ import annotations

_MOST = 1024
"""Threads that may climb at once. A climb that ended early leaves its note until then."""


class Climbs:
    """Which thread is on its way from a door to the directory above it."""

    def __init__(self) -> None:
        self._above: dict[int, int] = {}

    def begin(self, thread: int, above: int) -> None:
        """Note that `thread` looked up what is above a door. Threads of other pid namespaces have no number and are not noted."""
        if thread == 0:
            return
        if len(self._above) >= _MOST:
            self._above.clear()
        self._above[thread] = above

    def arrives(self, thread: int, directory: int) -> bool:
        """Tell whether `thread`, which opens `directory`, does so to find the door it came from. Its climb is over in any case."""
        return bool(self._above) and self._above.pop(thread, 0) == directory
