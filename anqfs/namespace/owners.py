"""Who owns the capacity, and how old it is. Totals for the whole volume are kept; those below a directory take a walk. Trio thread.

The totals (`G`, by owner and by the day of the last change of data) change with the inodes: an operation notes what it did, and what a
group changed is added to a few records before it closes. So the answer for a volume takes time for owners and days, not for files. Each
file counts once, however many names it has, and directories not at all. A volume from before the totals were kept is walked.

A day is mtime // DAY. `size` is bytes that files show, `allocated` bytes that they hold.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from stat import S_IFDIR, S_IFMT, S_IFREG, S_ISDIR
from typing import TYPE_CHECKING, Any

from anqfs.errors import AnqfsError, Damaged
from anqfs.store.schema import OWNERS, Counter, Inode, OwnerTotals, owner_key, prefix_end
from anqfs.store.volume import Volume

if TYPE_CHECKING:
    from anqfs.namespace.namespace import Namespace

_log = logging.getLogger(__name__)
DAY = 86_400 * 10**9
_SEEN_MAX = 1 << 20
"""Files with several names that a walk remembers; more may count twice."""
_FORMAT = 0o170000
_NOTHING = (0, 0, 0)
Place = tuple[int, int]
"""uid and day."""
Sums = dict[Place, tuple[int, int, int]]
"""size, allocated, files."""


def place_of(inode: Inode) -> Place:
    """Return where a file counts."""
    return inode.uid, inode.mtime // DAY


def add(sums: Sums, inode: Inode, sign: int = 1) -> None:
    """Add a file to sums, or take it away."""
    place = place_of(inode)
    size, allocated, files = sums.get(place, _NOTHING)
    shown = inode.size if S_IFMT(inode.mode) == S_IFREG else 0
    sums[place] = (size + sign * shown, allocated + sign * inode.allocated, files + sign)


class Owners:
    """The totals of a volume."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._get: Callable[[bytes], Any] = volume.get
        self._pending: Sums = {}
        self._noted: list[tuple[Inode, int]] = []
        """Files that count, or count no more (-1), by the running operation."""
        self._grown: list[tuple[Inode, int, int]] = []
        """Files that grew where they count already: by so many bytes of size, and of what they hold."""
        self._today = (0, 0)
        """The day in which files were last seen to change, from and to."""
        self.kept = self._are_kept()
        """Whether this volume has the totals."""

    def _are_kept(self) -> bool:
        try:
            return self._get(OWNERS) is not None
        except Damaged as error:
            _log.error("whether the totals of owners are kept is not known, they are walked for: %s", error)
            return False

    @staticmethod
    def begin(volume: Volume) -> None:
        """Keep the totals of a new volume."""
        volume.put(OWNERS, Counter(1))

    def came(self, inode: Inode) -> None:
        """Note a new inode, inside an operation."""
        if self.kept and not S_ISDIR(inode.mode):
            self._noted.append((inode, 1))

    def changed(self, old: Inode, new: Inode) -> None:
        """Note that an inode's record was replaced, inside an operation."""
        if new.mode & _FORMAT == S_IFDIR or not self.kept:
            return
        start, end = self._today
        if (
            old.uid == new.uid
            and old.nlink
            and new.nlink
            and (old.mtime == new.mtime or (start <= old.mtime < end and start <= new.mtime < end))
        ):
            grown, held = new.size - old.size, new.allocated - old.allocated
            if grown or held:
                self._grown.append((new, grown if new.mode & _FORMAT == S_IFREG else 0, held))
            return
        self._today = (new.mtime // DAY * DAY, new.mtime // DAY * DAY + DAY)
        if old.nlink:
            self._noted.append((old, -1))
        if new.nlink:
            self._noted.append((new, 1))

    def done(self) -> None:
        """The operation finished: what it noted counts."""
        if self._noted:
            for inode, sign in self._noted:
                add(self._pending, inode, sign)
            self._noted.clear()
        if self._grown:
            for inode, size, allocated in self._grown:
                place = (inode.uid, inode.mtime // DAY)
                before = self._pending.get(place, _NOTHING)
                self._pending[place] = (before[0] + size, before[1] + allocated, before[2])
            self._grown.clear()

    def undone(self) -> None:
        """The operation was undone."""
        self._noted.clear()
        self._grown.clear()

    def flush(self) -> None:
        """Add what is pending to the records; before a group closes. What is damaged is logged and skipped."""
        for place, (size, allocated, files) in self._pending.items():
            if not (size or allocated or files):
                continue
            key = owner_key(*place)
            try:
                old: OwnerTotals | None = self._get(key)
            except AnqfsError as error:
                _log.error("the totals of owner %d are not updated: %s", place[0], error)
                continue
            if old is not None:
                size, allocated, files = size + old.size, allocated + old.allocated, files + old.files
            if size or allocated or files:
                self._volume.put(key, OwnerTotals(size, allocated, files))
            else:
                self._volume.delete(key)
        self._pending.clear()

    def totals(self) -> Sums:
        """Return the totals of the volume. Raises Damaged."""
        sums: Sums = {}
        for key, record in self._volume.scan(b"G", prefix_end(b"G")):
            assert isinstance(record, OwnerTotals)
            sums[place_in(key)] = (record.size, record.allocated, record.files)
        for place, (size, allocated, files) in self._pending.items():
            before = sums.get(place, (0, 0, 0))
            sums[place] = (before[0] + size, before[1] + allocated, before[2] + files)
        return {place: found for place, found in sums.items() if any(found)}


def place_in(key: bytes) -> Place:
    """Return (uid, day) of a record's key."""
    return int.from_bytes(key[1:9], "big"), int.from_bytes(key[9:17], "big") - (1 << 32)


class OwnerWalk:
    """The totals below a directory, live or in a snapshot, by a walk in bounded steps. `sums` once `step` returned False."""

    def __init__(self, namespace: Namespace, node: int) -> None:
        self._namespace = namespace
        self.sums: Sums = {}
        self._seen: set[int] = set()
        self._stack: list[Iterator[tuple[bytes, int, Inode | None, int]]] = [namespace.readdir(node, 0)]

    def step(self, budget: int = 1024) -> bool:
        """Look at up to `budget` names; return whether there are more. Raises Damaged, ESTALE."""
        for _ in range(budget):
            if not self._stack:
                return False
            entry = next(self._stack[-1], None)
            if entry is None:
                self._stack.pop()
                continue
            name, node, inode, _ = entry
            if inode is None:
                raise Damaged(f"the inode of {name.decode('utf-8', 'backslashreplace')} is damaged")
            if S_IFMT(inode.mode) == S_IFDIR:
                self._stack.append(self._namespace.readdir(node, 0))
            elif inode.nlink == 1 or node not in self._seen:
                if inode.nlink > 1 and len(self._seen) < _SEEN_MAX:
                    self._seen.add(node)
                add(self.sums, inode)
        return True
