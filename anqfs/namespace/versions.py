"""Versions of records: what a change must keep for snapshots, and what was there at an epoch. Trio thread, inside an operation.

A snapshot is a (root, epoch). A live record's `birth` is the epoch in which this version was written. `cover` of an inode is the newest
epoch at which a snapshot may need it: that of its own snapshots, its floor, and the cover of each parent whose name for it is not newer
than that cover. Before a record is replaced or removed, its needer is the newest live snapshot in birth..cover whose tree shows the
inode; with one, the old version becomes a past record that is seen up to the needer's epoch and is on the needer's dead list. Within an
epoch a record is simply replaced, and without snapshots nothing of this costs anything.

When a name goes away, the inode's floor rises to the cover through that name (`floor_without`), in the same put that takes the name out
of `links`; that put must come while the name still counts.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from heapq import merge
from operator import attrgetter, itemgetter
from stat import S_ISDIR
from typing import Any, TypeVar

from anqfs.errors import FilesystemError
from anqfs.store.schema import (
    COUNTER_DEAD,
    COUNTER_EPOCH,
    EPOCH_MAX,
    Counter,
    Dead,
    Dirent,
    Inode,
    Snapshot,
    Usage,
    Window,
    Xattr,
    dead_key,
    dirent_key,
    inode_key,
    live_key,
    past_key,
)
from anqfs.store.volume import Volume

Versioned = Inode | Dirent | Window | Xattr | Usage
V = TypeVar("V", Inode, Dirent, Window, Xattr, Usage)
_MEMO_MAX = 4096
_SHOWN_MAX = 65536
_EIO = 5


class Versions:
    """The snapshots that count and the rules of keeping. Snapshots in deletion are not among them."""

    def __init__(self, volume: Volume, get: Callable[[bytes], Any]) -> None:
        self.volume = volume
        self.get = get
        self.epoch = 1
        self.live: list[Snapshot] = []
        """By epoch, oldest first. Empty: nothing is ever kept."""
        self.by_id: dict[int, Snapshot] = {}
        self.by_root: dict[int, list[Snapshot]] = {}
        self._epochs: list[int] = []
        self._covers: dict[int, tuple[int, bool]] = {}
        self._needers: dict[tuple[int, int], tuple[Snapshot | None, int]] = {}
        self._shown: dict[tuple[int, int, int], bool] = {}
        self._dead = 1
        self._dead_saved = 1
        self._touched = False
        """Whether the running operation changed what covers and counters depend on."""

    # --- state

    def load(self, snapshots: list[Snapshot]) -> None:
        """Take over the live snapshots and the counters from the records."""
        self.live = sorted(snapshots, key=attrgetter("epoch"))
        self._index()
        self.reload()

    def undone(self) -> None:
        """The running operation was undone: forget what it may have left here."""
        if self._touched:
            self.reload()

    def reload(self) -> None:
        """Read the counters again and forget what is derived."""
        epoch, dead = self.get(COUNTER_EPOCH), self.get(COUNTER_DEAD)
        self.epoch = epoch.value if epoch is not None else 1
        self._dead = self._dead_saved = dead.value if dead is not None else 1
        self._touched = False
        self._covers.clear()
        self._needers.clear()
        self._shown.clear()

    def add(self, snapshot: Snapshot) -> None:
        """Count a new snapshot, which is the newest."""
        self.live.append(snapshot)
        self._epochs.append(snapshot.epoch)
        self.by_id[snapshot.id] = snapshot
        self.by_root.setdefault(snapshot.root, []).append(snapshot)
        self._covers.clear()
        self._needers.clear()
        self._shown.clear()

    def discard(self, snapshot: int) -> None:
        """Count a snapshot no more: its deletion began."""
        self.live = [each for each in self.live if each.id != snapshot]
        self._index()

    def replace(self, snapshot: Snapshot) -> None:
        """Take a snapshot's changed record (name, expiration)."""
        self.live = [snapshot if each.id == snapshot.id else each for each in self.live]
        self._index()

    def forget(self) -> None:
        """Drop what is remembered of covers: directories moved. Who needed what still holds: a snapshot never changes."""
        self._covers.clear()

    def forget_directory(self, ino: int) -> None:
        """Drop the remembered cover of one directory, which was removed."""
        self._covers.pop(ino, None)

    def next_epoch(self) -> None:
        """Begin a new epoch."""
        self._touched = True
        self.epoch += 1
        self.volume.put(COUNTER_EPOCH, Counter(self.epoch))

    def settle(self) -> None:
        """Save the number of the next dead-list entry, at the end of each operation."""
        self._touched = False
        if self._dead != self._dead_saved:
            self.volume.put(COUNTER_DEAD, Counter(self._dead))
            self._dead_saved = self._dead

    def _index(self) -> None:
        self._epochs = [each.epoch for each in self.live]
        self.by_id = {each.id: each for each in self.live}
        self.by_root = {}
        for each in self.live:
            self.by_root.setdefault(each.root, []).append(each)
        self._covers.clear()
        self._needers.clear()
        self._shown.clear()

    # --- changes

    def put(self, key: bytes, old: V | None, new: V, ino: int, inode: Inode, upto: int = EPOCH_MAX) -> bool:
        """Replace the live record `key`, keeping the old version if a snapshot needs it.

        Arguments: `old` is the present record; `new` has the current epoch as its birth; `inode` is the present record of `ino`, the inode
        that the record belongs to (of a dirent: the directory). `upto`: no snapshot after this epoch needs `old`. Returns whether it was
        kept.
        """
        self._touched = True
        kept = bool(self.live) and old is not None and old.birth != self.epoch and self.keep(key, old, ino, inode, upto)
        self.volume.put(key, new)
        return kept

    def remove(self, key: bytes, old: Versioned, ino: int, inode: Inode, upto: int = EPOCH_MAX) -> bool:
        """Remove the live record `key`, keeping it if a snapshot needs it. `upto`: no snapshot after this epoch does.

        Returns whether `old` was kept.
        """
        self._touched = True
        kept = bool(self.live) and old.birth != self.epoch and self.keep(key, old, ino, inode, upto)
        self.volume.delete(key)
        return kept

    def keep(self, key: bytes, old: Versioned, ino: int, inode: Inode, upto: int = EPOCH_MAX) -> bool:
        """Keep a version for its needer, if there is one."""
        cover, exact = self.cover(ino, inode)
        if cover > upto:
            cover, exact = upto, False
        if cover < old.birth:
            return False
        snapshot = self.needer(ino, old.birth, cover, exact)
        if snapshot is None:
            return False
        self.give(key, old, ino, snapshot)
        return True

    def give(self, key: bytes, old: Versioned, ino: int, snapshot: Snapshot) -> None:
        """Put a past version on a snapshot's dead list. `key` is the live key."""
        self._touched = True
        past = past_key(key, snapshot.epoch)
        self.volume.put(past, old)
        self.enlist(past, ino, snapshot)

    def enlist(self, key: bytes, ino: int, snapshot: Snapshot) -> None:
        """Put what belongs to an inode, by its key, on a snapshot's dead list."""
        self._touched = True
        self.volume.put(dead_key(snapshot.id, self._dead), Dead(key, ino))
        self._dead += 1

    # --- who needs it

    def floor_without(self, inode: Inode, parent: int, birth: int) -> int:
        """Return the floor of an inode once its name in `parent`, a dirent born at `birth`, is gone."""
        if not self.live:
            return inode.floor
        cover = self.cover_directory(parent)[0]
        return max(inode.floor, cover) if cover >= birth else inode.floor

    def cover(self, ino: int, inode: Inode) -> tuple[int, bool]:
        """Return an inode's cover, and whether it is exact: the snapshot of that epoch is live and surely shows the inode."""
        if not self.live:
            return 0, False
        if S_ISDIR(inode.mode):
            return self.cover_directory(ino)
        best: tuple[int, bool] = (inode.floor, False)
        for parent, name in inode.links:
            best = self._through(best, parent, name, self.cover_directory(parent))
        return best

    def cover_directory(self, ino: int) -> tuple[int, bool]:
        """Return a directory's cover as `cover` does; remembered."""
        covers = self._covers
        known = covers.get(ino)
        if known is not None:
            return known
        chain: list[tuple[int, Inode]] = []
        above: tuple[int, bool] = (0, False)
        while True:
            inode: Inode | None = self.get(inode_key(ino))
            if inode is None:
                raise FilesystemError(_EIO, f"inode {ino}, a parent, is missing")
            chain.append((ino, inode))
            if not inode.links:
                break
            ino = inode.links[0][0]
            known = covers.get(ino)
            if known is not None:
                above = known
                break
        for ino, inode in reversed(chain):
            best = (inode.floor, False)
            own = self.by_root.get(ino)
            if own and own[-1].epoch >= inode.floor:
                best = (own[-1].epoch, True)
            for parent, name in inode.links:
                best = self._through(best, parent, name, above)
            above = covers[ino] = best
        return above

    def _through(self, best: tuple[int, bool], parent: int, name: bytes, cover: tuple[int, bool]) -> tuple[int, bool]:
        if cover[0] > best[0] or (cover[0] == best[0] and cover[1] and not best[1]):
            dirent: Dirent | None = self.get(dirent_key(parent, name))
            if dirent is not None and dirent.birth <= cover[0]:
                return cover
        return best

    def needer(self, ino: int, birth: int, upto: int, exact: bool = False) -> Snapshot | None:
        """Return the newest live snapshot with birth <= epoch <= upto whose tree shows the inode.

        `exact`: it is known that the one of epoch `upto` is it.
        """
        at = bisect_right(self._epochs, upto) - 1
        if at < 0:
            return None
        if exact and self._epochs[at] == upto:
            self._remember(ino, upto, self.live[at], 0)
            return self.live[at]
        found, low = self._needers.get((ino, upto), (None, EPOCH_MAX))
        if found is not None:
            return found if found.epoch >= birth else None
        if birth >= low:
            return None
        while at >= 0 and self._epochs[at] >= birth:
            snapshot = self.live[at]
            if snapshot.epoch < low and self.visible(ino, snapshot.epoch, snapshot.root):
                found = snapshot
                break
            at -= 1
        self._remember(ino, upto, found, birth)
        return found

    def _remember(self, ino: int, upto: int, found: Snapshot | None, low: int) -> None:
        """Note an answer of `needer`; None means none down to epoch `low`. What a snapshot shows never changes."""
        if len(self._needers) >= _MEMO_MAX:
            self._needers.clear()
        self._needers[ino, upto] = (found, low)

    def visible(self, ino: int, epoch: int, root: int, last: int | None = None) -> bool:
        """Tell whether an inode is in the tree below `root` as it was at the epoch of a snapshot.

        `last`: up to this epoch there may be a past version of the inode that was valid at `epoch`; it is found without a search then.
        """
        if ino == root:
            return True
        inode: Inode | None = None if last is None else self.get(past_key(inode_key(ino), last))
        if inode is None or inode.birth > epoch:
            inode = self.at(inode_key(ino), epoch)
        if inode is None:
            return False
        if S_ISDIR(inode.mode):
            return self._shows(ino, epoch, root)
        return any(self._names(parent, name, ino, epoch) and self._shows(parent, epoch, root) for parent, name in inode.links)

    def _shows(self, ino: int, epoch: int, root: int) -> bool:
        """`visible` for a directory; remembered with its ancestors, because what a snapshot shows never changes."""
        way: list[tuple[int, int, int]] = []
        while True:
            place = (ino, epoch, root)
            shown = True if ino == root else self._shown.get(place)
            if shown is not None:
                break
            way.append(place)
            inode: Inode | None = self.at(inode_key(ino), epoch)
            if inode is None or not inode.links or not self._names(*inode.links[0], ino, epoch):
                shown = False
                break
            ino = inode.links[0][0]
        if len(self._shown) + len(way) > _SHOWN_MAX:
            self._shown.clear()
        for place in way:
            self._shown[place] = shown
        return shown

    def _names(self, parent: int, name: bytes, ino: int, epoch: int) -> bool:
        dirent: Dirent | None = self.at(dirent_key(parent, name), epoch)
        return dirent is not None and dirent.ino == ino

    # --- what was there

    def at(self, key: bytes, epoch: int) -> Any:
        """Return the version of the record with this live key at an epoch, or None."""
        live = self.get(key)
        if live is not None and live.birth <= epoch:
            return live
        for _, past in self.volume.scan(past_key(key, epoch), past_key(key, EPOCH_MAX)):
            record: Any = past
            return record if record.birth <= epoch else None
        return None

    def range_at(self, start: bytes, stop: bytes, epoch: int | None) -> Iterator[tuple[bytes, Any]]:
        """Yield (live key, record) for start <= live key < stop, in order, as at an epoch; None: the live ones."""
        if epoch is None:
            return self.volume.scan(start, stop)
        live = ((key, record) for key, record in self._any(start, stop) if record.birth <= epoch)
        return merge(live, self._past(start, stop, epoch), key=itemgetter(0))

    def _any(self, start: bytes, stop: bytes) -> Iterator[tuple[bytes, Any]]:
        return self.volume.scan(start, stop)

    def _past(self, start: bytes, stop: bytes, epoch: int) -> Iterator[tuple[bytes, Any]]:
        letter = bytes((start[0] | 0x20,))
        for key, record in self._any(letter + start[1:], letter + stop[1:]):
            live, last = live_key(key)
            if last >= epoch and record.birth <= epoch:
                yield live, record
