"""Recursive totals of directories. Called by every operation that adds, removes or resizes, on the trio thread.

An operation notes its deltas at the directory that holds the name; they reach the records of that directory and of all its ancestors
when `flush` runs: before a group closes, a snapshot is taken, a directory moves, and when somebody asks. A directory does not count
itself. A file counts in each directory that names it, once for each name. `size` is that of regular files. `changed` is the newest change
time of what is below: it goes up with each change, and removals do not take it back. Where nothing else of a total changed, it is put into
its record once in CHANGED_LAG at most, or every small fsync would write a record for each directory above; after a restart it may be as
much too old.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Set
from stat import S_ISDIR, S_ISLNK, S_ISREG
from typing import Any

from anqfs.errors import Damaged, FilesystemError
from anqfs.namespace.versions import Versions
from anqfs.store.schema import Inode, Usage, inode_key, usage_key

_log = logging.getLogger(__name__)
Delta = tuple[int, int, int, int, int, int]
"""size, allocated, files, directories, symlinks, others."""
ONE_DIRECTORY: Delta = (0, 0, 0, 1, 0, 0)
CHANGED_LAG = 10**9
"""ns by which a recorded change time may be older than what is below."""
NOTHING: Delta = (0, 0, 0, 0, 0, 0)


def of_inode(inode: Inode) -> Delta:
    """Return what one name of an inode adds to the directory that holds it (of a directory: without what is below)."""
    mode = inode.mode
    if S_ISREG(mode):
        return (inode.size, inode.allocated, 1, 0, 0, 0)
    if S_ISDIR(mode):
        return ONE_DIRECTORY
    return (0, 0, 0, 0, 1, 0) if S_ISLNK(mode) else (0, 0, 0, 0, 0, 1)


def negative(delta: Delta) -> Delta:
    """Return the delta that takes `delta` back."""
    return (-delta[0], -delta[1], -delta[2], -delta[3], -delta[4], -delta[5])


def _plus(one: Delta, other: Delta) -> Delta:
    return (
        one[0] + other[0],
        one[1] + other[1],
        one[2] + other[2],
        one[3] + other[3],
        one[4] + other[4],
        one[5] + other[5],
    )


class UsageTotals:
    """Collects deltas and adds them to the records."""

    def __init__(self, versions: Versions, clock: Callable[[], int]) -> None:
        self._versions = versions
        self._clock = clock
        self._get: Callable[[bytes], Any] = versions.get
        self._pending: dict[int, Delta] = {}
        self._changed: dict[int, int] = {}
        self._noted: list[tuple[int, Delta]] = []
        self._gone: dict[int, int] = {}
        """Directories that the running operation removed -> their parents, to which what was noted or waits there belongs now."""
        self._touched: list[tuple[int, int]] = []

    @property
    def pending(self) -> bool:
        """Whether `flush` has anything to do."""
        return bool(self._pending or self._changed)

    def waiting(self) -> Iterator[tuple[int, Delta]]:
        """Yield (directory, delta) of what is not in the records yet, without what the running operation adds or takes away."""
        return ((self._present(directory), delta) for directory, delta in self._pending.items())

    def added(self) -> Iterator[tuple[int, Delta]]:
        """Yield (directory, delta) of what the running operation adds or takes away."""
        return ((self._present(directory), delta) for directory, delta in self._noted)

    def _present(self, directory: int) -> int:
        """Return a directory, or the nearest one above it that the running operation did not remove."""
        while directory in self._gone:
            directory = self._gone[directory]
        return directory

    def note(self, directory: int, delta: Delta) -> None:
        """Note a delta of the running operation."""
        self._noted.append((directory, delta))

    def touched(self, links: tuple[tuple[int, bytes], ...], when: int) -> None:
        """Note a new change time (ns) of an inode with these names."""
        for parent, _ in links:
            self._touched.append((parent, when))

    def resized(self, inode: Inode, size: int, allocated: int) -> None:
        """Note that a regular file changed by `size` and `allocated` bytes: at each directory that names it."""
        if size or allocated:
            for parent, _ in inode.links:
                self._noted.append((parent, (size, allocated, 0, 0, 0, 0)))

    def done(self) -> None:
        """The operation finished: its deltas count."""
        pending, changed = self._pending, self._changed
        for directory, delta in self._noted:
            before = pending.get(directory)
            pending[directory] = delta if before is None else _plus(before, delta)
        self._noted.clear()
        for directory, when in self._touched:
            if when > changed.get(directory, 0):
                changed[directory] = when
        self._touched.clear()
        if self._gone:
            self._settle_gone()

    def _settle_gone(self) -> None:
        for ino, parent in self._gone.items():
            delta = self._pending.pop(ino, NOTHING)
            if any(delta):
                self._pending[parent] = _plus(self._pending.get(parent, NOTHING), delta)
            self._changed.pop(ino, None)
        self._gone.clear()

    def undone(self) -> None:
        """The operation was undone."""
        self._noted.clear()
        self._touched.clear()
        self._gone.clear()

    def below(self, ino: int) -> Delta:
        """Return the recorded totals of a directory; call after `flush`."""
        record: Usage | None = self._get(usage_key(ino))
        if record is None:
            return NOTHING
        return (record.size, record.allocated, record.files, record.directories, record.symlinks, record.others)

    def changed_below(self, ino: int) -> int:
        """Return the recorded newest change time below a directory, 0 if none is known; call after `flush`."""
        try:
            record: Usage | None = self._get(usage_key(ino))
        except Damaged:
            return 0
        return 0 if record is None else record.changed

    def directory_removed(self, ino: int, inode: Inode, parent: int) -> None:
        """Remove an empty directory's record. What was pending there still has to reach the ancestors, through `parent`."""
        self._gone[ino] = parent
        record: Usage | None = self._get(usage_key(ino))
        if record is not None:
            self._versions.remove(usage_key(ino), record, ino, inode)

    def flush(self, *, lazily: bool = False) -> None:
        """Add what is pending to the directories and all their ancestors. One operation of its own; damage is logged and skipped.

        `lazily`: a change time alone may stay pending for CHANGED_LAG.
        """
        volume = self._versions.volume
        since = self._clock() - CHANGED_LAG // 2 if lazily else 0
        later = self._younger(self._changed, since) if lazily else {}
        sums, changed = self._sums(self._changed.keys() - later.keys())
        if lazily and changed:
            alone = {ino: when for ino, when in changed.items() if ino not in sums}
            for ino, when in self._younger(alone, since).items():
                later[ino] = max(when, later.get(ino, 0))  # what comes from below may be older than what waits there already
        due = sums.keys() | (changed.keys() - later.keys())
        if due:
            volume.begin()
            try:
                for directory in due:
                    self._add(directory, sums.get(directory, NOTHING), changed.get(directory, 0))
                self._versions.settle()
            except BaseException:
                volume.undo()
                self._versions.reload()
                raise
            volume.finish()
        self._pending.clear()
        self._changed = later

    def _younger(self, changed: dict[int, int], since: int) -> dict[int, int]:
        """Return those of some new change times whose directory had one recorded that is younger than `since`."""
        return {ino: when for ino, when in changed.items() if self.changed_below(ino) > since}

    def _sums(self, changed: Set[int]) -> tuple[dict[int, Delta], dict[int, int]]:
        """Return what to add to each directory, and its new newest change time: its own and those below, from the deepest up.

        Of change times only those of the directories `changed` count.
        """
        sums = {ino: delta for ino, delta in self._pending.items() if any(delta)}
        newest = {ino: self._changed[ino] for ino in changed}
        parents: dict[int, int] = {}
        depths: dict[int, int] = {}
        for directory in sums.keys() | changed:
            self._climb(directory, parents, depths)
        for ino in sorted(depths, key=depths.__getitem__, reverse=True):
            parent = parents.get(ino)
            if parent is None:
                continue
            if ino in sums:
                before = sums.get(parent)
                sums[parent] = sums[ino] if before is None else _plus(before, sums[ino])
            if newest.get(ino, 0) > newest.get(parent, 0):
                newest[parent] = newest[ino]
        return {ino: delta for ino, delta in sums.items() if any(delta)}, newest

    def _climb(self, ino: int, parents: dict[int, int], depths: dict[int, int]) -> None:
        """Note the parents and depths of a directory and its ancestors, as far as they are not known yet."""
        way: list[int] = []
        while ino not in depths:
            way.append(ino)
            try:
                inode: Inode | None = self._get(inode_key(ino))
            except Damaged as error:
                _log.error("usage: totals above inode %d are not updated: %s", ino, error)
                break
            if inode is None or not inode.links:
                break
            parent = inode.links[0][0]
            parents[ino] = parent
            ino = parent
        depth = depths.get(ino, 0)
        for each in reversed(way):
            depth += 1
            depths[each] = depth

    def _add(self, ino: int, delta: Delta, changed: int) -> None:
        versions = self._versions
        try:
            inode: Inode | None = self._get(inode_key(ino))
            if inode is None or (not inode.links and ino != 1):
                return
            old: Usage | None = self._get(usage_key(ino))
            if old is None:
                new = Usage(versions.epoch, *delta, changed)
            else:
                new = Usage(versions.epoch, *_plus(self.below(ino), delta), max(old.changed, changed))
            versions.put(usage_key(ino), old, new, ino, inode)
        except (Damaged, FilesystemError) as error:
            _log.error("usage: totals of inode %d are not updated: %s", ino, error)
