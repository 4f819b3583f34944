"""The change index against the versions of inodes: what is recorded for nobody, and what ought to be recorded and is not.

Called by `check` only. The rules are those of `change_index`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from itertools import groupby

from anqfs.namespace.check_source import Absent, Source, snapshot_of
from anqfs.store.schema import COUNTER_CHANGES, EPOCH_MAX, Counter, Inode, Snapshot, changed_key, inode_key
from anqfs.store.volume import Volume

Complain = Callable[[bytes, str], None]
TRIES_MAX = 64
"""Snapshots looked at for the one under which a change ought to be recorded; with more between, it is not judged."""
MEMO_MAX = 50_000


class ChangeRecords:
    """The judgement of the change index. `source.load_snapshots` was called before."""

    def __init__(self, source: Source, complain: Complain, seen: Callable[[], None]) -> None:
        self.source = source
        self.complain = complain
        self.seen = seen
        self._live = sorted((each for each in source.snapshots.values() if not each.state), key=lambda each: each.epoch)
        self._epochs = [each.epoch for each in self._live]
        counter = source.get(COUNTER_CHANGES, Counter)
        self._whole_since = counter.value if isinstance(counter, Counter) else EPOCH_MAX
        self._owners: dict[tuple[int, int], Snapshot | None] = {}

    def expect(self, parent: int, ino: int, birth: int) -> None:
        """See that a version of an inode, born in an epoch and named in a directory, is recorded if a snapshot shows the directory."""
        if not self._epochs or self._epochs[0] >= birth or self.source.damaged:
            return
        owner = self._owner(parent, bisect_left(self._epochs, birth))
        if owner is not None and owner.epoch >= self._whole_since and not self._is_recorded(parent, ino, owner.epoch, birth):
            self.complain(self.source.describe(parent), f"that its inode {ino} changed since snapshot {owner.id} is not recorded")

    def _owner(self, ino: int, count: int) -> Snapshot | None:
        """Return the newest of the oldest `count` snapshots that shows an inode."""
        memo = (ino, count)
        if memo not in self._owners:
            if len(self._owners) >= MEMO_MAX:
                self._owners.clear()
            candidates = reversed(self._live[max(0, count - TRIES_MAX) : count])
            self._owners[memo] = next((each for each in candidates if self.source.shows(each, ino)), None)
        return self._owners[memo]

    def _is_recorded(self, parent: int, ino: int, epoch: int, before: int) -> bool:
        """Tell whether there is an entry, under this snapshot or under one in deletion that comes after it."""
        epochs = [epoch, *(each.epoch for each in self.source.epochs_between(epoch + 1, before - 1) if each.state)]
        return any(self.source.volume.get(changed_key(parent, each, ino)) is not None for each in epochs)

    def run(self, listed: dict[bytes, int]) -> None:
        """Judge every entry. `listed`: what dead lists name and nothing else has claimed; claimed entries are removed."""
        entries = self.source.letter(b"N")
        for prefix, group in groupby(entries, key=lambda entry: entry[0][:17]):
            for _ in group:
                self.seen()
            self._judge(int.from_bytes(prefix[1:9], "big"), int.from_bytes(prefix[9:], "big"), listed.pop(prefix, None))

    def _judge(self, ino: int, epoch: int, owner: int | None) -> None:
        here = self.source.describe(ino)
        if owner is None:
            if not any(damaged[:1] == b"L" for damaged in self.source.damaged):
                self.complain(here, f"changes since epoch {epoch} are recorded, but on no dead list")
        elif owner != ino:
            self.complain(here, f"the dead list gives recorded changes to inode {owner}")
        if not self.source.snapshots_known:
            return
        snapshots = self.source.at_epoch(epoch)
        if not snapshots:
            self.complain(here, f"changes since epoch {epoch} are recorded, of which there is no snapshot")
        elif not snapshots[0].state:
            self._judge_place(ino, snapshots[0])

    def _judge_place(self, ino: int, snapshot: Snapshot) -> None:
        """See that the snapshot shows the directory or file, and that what it was in is recorded as changed, too."""
        if not self.source.shows(snapshot, ino):
            self.complain(self.source.describe(ino), f"changes since snapshot {snapshot.id} are recorded, which does not show it")
            return
        inode = self.source.at(inode_key(ino), snapshot.epoch, Inode)
        if ino == snapshot.root or isinstance(inode, Absent) or self.source.damaged or snapshot.epoch < self._whole_since:
            return
        for parent, _ in inode.links[:1]:
            if self.source.shows(snapshot, parent) and not self._is_recorded(parent, ino, snapshot.epoch, EPOCH_MAX):
                self.complain(self.source.describe(parent), f"that its inode {ino} changed since snapshot {snapshot.id} is lost")

    def judge_dead(self, number: int, key: bytes) -> str | None:
        """Return what is wrong with the entry of a dead list that names recorded changes."""
        if len(key) != 17:
            return "its dead list names something that is no record of changes"
        snapshot = snapshot_of(self.source, number)
        if not isinstance(snapshot, Absent) and int.from_bytes(key[9:], "big") != snapshot.epoch:
            return "its dead list names changes of another epoch"
        if not is_recorded(self.source.volume, key):
            return "its dead list names changes of which none are recorded"
        return None


def is_recorded(volume: Volume, prefix: bytes) -> bool:
    """Tell whether there is any entry of the change index whose key begins with what a dead list names."""
    return any(True for _ in volume.scan_keys(prefix, prefix + b"\xff" * 9))
