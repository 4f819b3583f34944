"""What changed since each snapshot, so that two snapshots are compared in time proportional to their differences. Trio thread.

When an inode changes, `N(directory, epoch, inode)` is put for each directory that names it (or just did), then `N(its parent, epoch,
directory)`, and so on up to the root; `epoch` is that of the newest live snapshot that shows the directory. So at most once for each
changed inode between two snapshots, and only below directories that some snapshot shows: in a volume without snapshots, and in directories
that came after the last one, nothing is recorded, because who compares finds those as wholly new.

A comparison begins at the snapshots' directory and goes down only where there is an entry with older <= epoch < newer (`diff`). Why that
finds everything: if something below `c`, or `c` itself, changed while `c` was in the directory `D`, the climb put the pair (D, c); if `c`
was elsewhere at the time, then it had left `D` before or came (back) after, and that change of its own names put the pair.

When a snapshot goes, its entries move to the next older snapshot that shows the directory, where equal ones become one, or are removed
when there is none. For that its dead list names each directory that has entries, once. So the index holds what the live snapshots can
be asked for and no more, and `check` works it out again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from heapq import merge
from itertools import islice
from typing import Any

from anqfs.errors import Damaged
from anqfs.namespace.versions import Versions
from anqfs.store.schema import (
    COUNTER_CHANGES,
    EPOCH_MAX,
    Changed,
    Counter,
    Dead,
    Inode,
    changed_key,
    changed_prefix,
    inode_key,
    prefix_end,
)

_log = logging.getLogger(__name__)
_CHANGED = Changed()
_NOTED_MAX = 1 << 13
"""Pairs remembered as recorded already; more are forgotten and recorded again, which changes nothing. A snapshot waits until they are
forgotten: a millisecond for so many, thirteen for 60,000."""


class ChangeIndex:
    """Records changes inside the operations that make them, and tells of them."""

    def __init__(self, versions: Versions) -> None:
        self._versions = versions
        self._volume = versions.volume
        self._get: Callable[[bytes], Any] = versions.get
        self._noted: set[tuple[int, int]] = set()
        self._owners: dict[int, int] = {}
        """Directory or file -> epoch under which its changes are recorded, 0 for not at all."""
        self._touched = False

    def begin(self) -> None:
        """On the first opening for writing by a program that keeps the index: from this epoch on it is whole."""
        if self._first() is None:
            self._volume.put(COUNTER_CHANGES, Counter(self._versions.epoch))

    def is_whole_since(self, epoch: int) -> bool:
        """Tell whether all changes after a snapshot of this epoch are recorded."""
        first = self._first()
        return first is not None and epoch >= first

    def _first(self) -> int | None:
        """Return the first epoch all of whose changes are recorded, None when it is not known."""
        try:
            counter: Counter | None = self._get(COUNTER_CHANGES)
        except Damaged as error:
            _log.error("from when on changes are recorded is not known, comparisons look at everything: %s", error)
            return None
        return None if counter is None else counter.value

    # --- noting

    def note(self, ino: int, links: Iterable[tuple[int, bytes]]) -> None:
        """Record that an inode with these names changed, inside an operation. Only while there are snapshots."""
        noted = self._noted
        for parent, _ in links:
            if (parent, ino) not in noted:
                self._climb(parent, ino)

    def note_window(self, ino: int, inode: Inode, window: int) -> None:
        """Record that a window from WINDOWS_UNRECORDED on of a file changed."""
        if (ino, window) in self._noted or not inode.links:
            return
        owner = self._owners.get(ino)
        self._remember(ino, window)
        if owner is None:
            owner = self._find_owner(ino, *self._versions.cover(ino, inode))
        if owner:
            self._volume.put(changed_key(ino, owner, window), _CHANGED)

    def _climb(self, parent: int, ino: int) -> None:
        noted, owners = self._noted, self._owners
        try:
            while (parent, ino) not in noted:
                self._remember(parent, ino)
                owner = owners.get(parent)
                if owner is None:
                    owner = self._find_owner(parent, *self._versions.cover_directory(parent))
                if owner:
                    self._volume.put(changed_key(parent, owner, ino), _CHANGED)
                above: Inode | None = self._get(inode_key(parent))
                if above is None or not above.links:
                    return
                parent, ino = above.links[0][0], parent
        except Damaged as error:  # who compares what is above will meet the same damage
            _log.error("a change of inode %d is not recorded above inode %d: %s", ino, parent, error)

    def _remember(self, parent: int, ino: int) -> None:
        if len(self._noted) >= _NOTED_MAX:
            self.forget()
        self._touched = True
        self._noted.add((parent, ino))

    def _find_owner(self, ino: int, cover: int, exact: bool) -> int:
        """Return the epoch of the newest snapshot that shows an inode, with the inode on its dead list; 0 if there is none."""
        snapshot = self._versions.needer(ino, 0, cover, exact) if cover else None
        if snapshot is not None and not self._has_any(ino, snapshot.epoch):
            self._versions.enlist(changed_prefix(ino, snapshot.epoch), ino, snapshot)
        owner = self._owners[ino] = 0 if snapshot is None else snapshot.epoch
        return owner

    def _has_any(self, ino: int, epoch: int) -> bool:
        return any(True for _ in self._since(ino, epoch))

    def _since(self, ino: int, epoch: int) -> Iterator[bytes]:
        prefix = changed_prefix(ino, epoch)
        return self._volume.scan_keys(prefix, prefix_end(prefix))

    def forget(self) -> None:
        """Drop what is remembered: a snapshot came or went."""
        self._noted.clear()
        self._owners.clear()

    def done(self) -> None:
        """The running operation finished."""
        self._touched = False

    def undone(self) -> None:
        """The running operation was undone, and with it what it recorded."""
        if self._touched:
            self.forget()
            self._touched = False

    # --- a snapshot's end

    def pass_on(self, dead: Dead, limit: int) -> bool:
        """Give up to `limit` changes that a dead list names to the next older snapshot, inside an operation. Returns whether all are."""
        ino, epoch = int.from_bytes(dead.key[1:9], "big"), int.from_bytes(dead.key[9:17], "big")
        older = self._versions.needer(ino, 0, epoch - 1)
        if older is not None and not self._has_any(ino, older.epoch):
            self._versions.enlist(changed_prefix(ino, older.epoch), ino, older)
        keys = list(islice(self._since(ino, epoch), limit + 1))
        for key in keys[:limit]:
            self._volume.delete(key)
            if older is not None:
                self._volume.put(changed_key(ino, older.epoch, int.from_bytes(key[17:], "big")), _CHANGED)
        return len(keys) <= limit

    # --- asking

    def between(self, ino: int, older: int, newer: int | None, after: int = -1) -> Iterator[int]:
        """Yield, ascending, what of a directory or file changed since the snapshot of epoch `older` and before `newer` (None: until now).

        A few more may be among them; only numbers above `after`. No operation may run meanwhile.
        """
        stop = changed_key(ino, EPOCH_MAX if newer is None else newer, 0)
        streams: list[Iterator[int]] = []
        position = changed_key(ino, older, 0)
        while (key := next(self._volume.scan_keys(position, stop), None)) is not None:
            epoch = int.from_bytes(key[9:17], "big")
            streams.append(self._numbers(ino, epoch, after + 1))
            position = changed_key(ino, epoch + 1, 0)
        before = -1
        for number in streams[0] if len(streams) == 1 else merge(*streams):
            if number != before:
                yield number
                before = number

    def _numbers(self, ino: int, epoch: int, first: int) -> Iterator[int]:
        keys = self._volume.scan_keys(changed_key(ino, epoch, first), prefix_end(changed_prefix(ino, epoch)))
        return (int.from_bytes(key[17:], "big") for key in keys)
