"""Snapshots: taking, dropping, and the `.snapshot` directories. Called by the facade on the trio thread.

`.snapshot` of a directory lists `{id}_{name}` of each live snapshot that was taken of the directory or of one of its present ancestors
and in which the directory was. Its node is virtual (`nodes`): mode 0555, owned by root, nlink 1 (not counted), size 0; its times are when
a snapshot last came or went. The directory below it, one snapshot's view of the directory, has the snapshot's time as its mtime.

`.snapshot/@GMT`, which nothing lists either, has the same snapshots by their times, under the names that SMB gives to previous versions
(MS-SMB2 2.2.32.2): a file server finds any of them with one look-up.

Dropping a snapshot takes it out of every listing at once and makes its nodes stale; its dead list is walked in the background: each record
goes to the next older snapshot that needs it, or is removed. A crash in between only leaves the rest for later.
"""

from __future__ import annotations

import errno
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from itertools import takewhile
from operator import attrgetter
from stat import S_IFDIR

from msgspec.structs import replace

from anqfs.errors import Damaged, FilesystemError, NotFound
from anqfs.namespace.case import caseless
from anqfs.namespace.core import NAME_MAX, RECORD_ROOM, Core, check_name
from anqfs.namespace.expirations import Expirations
from anqfs.namespace.references import extents_of
from anqfs.namespace.views import Views
from anqfs.store.schema import (
    COUNTER_SNAPSHOT,
    EPOCH_MAX,
    Counter,
    Dead,
    Dirent,
    Inode,
    Mark,
    Snapshot,
    Window,
    dead_key,
    dirent_key,
    inode_key,
    live_key,
    mark_key,
    prefix_end,
    snapshot_key,
)

_log = logging.getLogger(__name__)
SNAPSHOTS_MAX = 40_000
ON_DEMAND = b"OnDemand"
_CHANGES = ord("N")
_SECOND = 10**9
_MOVED_MAX = 600
"""By how many seconds Previous Versions may show a snapshot late, because there were others in its second."""


def label(snapshot: Snapshot) -> bytes:
    """Return a snapshot's name in `.snapshot`."""
    return b"%d_%s" % (snapshot.id, snapshot.name)


def version_time(snapshot: Snapshot) -> int:
    """Return when a snapshot was taken, as Previous Versions shows it: ns since 1970. Its seconds tell it from its neighbours."""
    return (snapshot.version_second or snapshot.created // _SECOND) * _SECOND + snapshot.created % _SECOND


def version_label(snapshot: Snapshot) -> bytes:
    """Return a snapshot's name in `.snapshot/@GMT`."""
    return time.strftime("@GMT-%Y.%m.%d-%H.%M.%S", time.gmtime(version_time(snapshot) // _SECOND)).encode()


def _allow(snapshot: Snapshot, expires: int = 0) -> None:
    """Nothing is locked or held."""


class Snapshots:
    """The snapshots of a volume."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.views = Views(core)
        self.deleting: deque[int] = deque()
        """Snapshots whose dead list is being walked."""
        self._versions: dict[bytes, list[Snapshot]] = {}
        """The live snapshots by their names in `.snapshot/@GMT`; empty: not known."""
        self._positions: dict[int, bytes] = {}
        """How far their dead lists are walked."""
        self._changed = 0
        self._damaged: set[int] = set()
        """Live snapshots whose records are damaged: nobody knows whether they are locked, so they stay as they are."""
        self.check_may_go: Callable[[Snapshot], None] = _allow
        """Raises what keeps a snapshot from being deleted (`snapshot_locks`)."""
        self.check_may_expire: Callable[[Snapshot, int], None] = _allow
        """Raises what keeps a snapshot from expiring at another time (`snapshot_locks`)."""
        self.is_held: Callable[[int], bool] = lambda number: False
        self.expirations = Expirations(core.versions, lambda number: self.is_held(number))

    def load(self) -> None:
        """Read all snapshots. One whose record is damaged goes on under another name: its epoch, which protects its data, is kept twice."""
        live: list[Snapshot] = []
        for key in self._core.volume.scan_keys(b"S", prefix_end(b"S")):
            number = int.from_bytes(key[1:], "big")
            try:
                record = self._core.get(key)
            except Damaged as damage:
                _log.error("snapshot %d is damaged, what it holds is kept: %s", number, damage)
                live.extend(self._from_marks(number))
                self._damaged.add(number)
                continue
            assert isinstance(record, Snapshot)
            self._changed = max(self._changed, record.created)
            if record.state:
                self.deleting.append(record.id)
            else:
                live.append(record)
        self._core.versions.load(live)
        self.expirations.load(live)

    def _from_marks(self, number: int) -> Iterator[Snapshot]:
        """Yield what the index by directory tells of a snapshot."""
        for key in self._core.volume.scan_keys(b"s", prefix_end(b"s")):
            if int.from_bytes(key[9:], "big") == number:
                try:
                    mark: Mark = self._core.get(key)
                except Damaged:
                    continue
                yield Snapshot(number, b"damaged", int.from_bytes(key[1:9], "big"), mark.epoch, 0)

    # --- coming and going

    def next_number(self) -> int:
        """Return the id that the next snapshot gets."""
        counter: Counter | None = self._core.get(COUNTER_SNAPSHOT)
        return counter.value if counter is not None else 1

    def create(self, directory: int, name: bytes | None, expires: int, *, policy: int = 0, lock_key: int = 0) -> Snapshot:
        """Snapshot a live directory, inside an operation whose totals were flushed. `policy` takes it, `lock_key` locks it; 0 = none.

        Raises ENAMETOOLONG and EINVAL for the name, ENOSPC at the limit of SNAPSHOTS_MAX.
        """
        core, versions = self._core, self._core.versions
        name = ON_DEMAND if name is None else name
        check_name(name)
        number, created = self.next_number(), core.clock()
        second = self._version_second(directory, created)
        locks = 1 if lock_key else 0
        snapshot = Snapshot(number, name, directory, versions.epoch, created, expires, 0, second, policy, lock_key, locks)
        if len(label(snapshot)) > NAME_MAX:
            raise FilesystemError(errno.ENAMETOOLONG)
        if len(versions.live) + len(self.deleting) >= SNAPSHOTS_MAX:
            raise FilesystemError(errno.ENOSPC, f"there are {SNAPSHOTS_MAX} snapshots already")
        core.room(RECORD_ROOM)
        core.volume.put(COUNTER_SNAPSHOT, Counter(number + 1))
        core.volume.put(snapshot_key(number), snapshot)
        core.volume.put(mark_key(directory, number), Mark(snapshot.epoch))
        versions.next_epoch()
        core.after.append(lambda: self._added(snapshot))
        return snapshot

    def _version_second(self, directory: int, created: int) -> int:
        """Return the second by which Previous Versions shall know a new snapshot; 0 for that of its creation, if it is free.

        SMB's names for versions have seconds and no more. A snapshot of the same directory, or of one above or below, shows in the same
        places: if it has the second, the next free one is taken.
        """
        second = first = created // _SECOND
        taken = {
            version_time(other) // _SECOND
            for other in takewhile(lambda other: other.created // _SECOND >= first - _MOVED_MAX, reversed(self._core.versions.live))
            if version_time(other) // _SECOND >= first and self._is_related(other.root, directory)
        }
        while second in taken and second < first + _MOVED_MAX:
            second += 1
        return 0 if second == first else second

    def _is_related(self, one: int, other: int) -> bool:
        """Tell whether two directories are the same or one is above the other."""
        return any(ino == one for ino, _ in self._upwards(other)) or any(ino == other for ino, _ in self._upwards(one))

    def _added(self, snapshot: Snapshot) -> None:
        self._core.versions.add(snapshot)
        self._core.changes.forget()
        self._versions = {}
        self._changed = snapshot.created
        self.expirations_changed(snapshot)

    def expirations_changed(self, snapshot: Snapshot) -> None:
        """Take note of when a snapshot expires: it is new, or that changed, or it is held no more."""
        self.expirations.add(snapshot)
        if snapshot.expires:
            self._core.timetable_changed()

    def begin_delete(self, number: int) -> None:
        """Drop a snapshot, inside an operation. Raises NotFound, SnapshotLocked, SnapshotHeld, Damaged."""
        snapshot = self.get(number)
        self._check_sound(number)
        self.check_may_go(snapshot)
        self._drop(snapshot)

    def _check_sound(self, number: int) -> None:
        if number in self._damaged:
            raise Damaged(f"the record of snapshot {number} is damaged: whether it is locked is not known, so it stays as it is")

    def expire(self, now: int) -> int | None:
        """Drop a snapshot whose time has come at `now`, locked or not, inside an operation; returns its id, None when there is none."""
        number = self.expirations.expired(now)
        if number is not None:
            self._drop(self.get(number))
        return number

    def _drop(self, snapshot: Snapshot) -> None:
        number = snapshot.id
        self._core.volume.put(snapshot_key(number), replace(snapshot, state=1))
        self._core.after.append(lambda: self._dropped(number))

    def _dropped(self, number: int) -> None:
        self._core.versions.discard(number)
        self._core.changes.forget()
        self._versions = {}
        self.views.forget(number)
        self.deleting.append(number)
        self._changed = self._core.clock()

    def change(self, number: int, expires: int) -> Snapshot:
        """Set when a snapshot expires (ns since 1970, 0 = never), inside an operation. Raises NotFound, SnapshotLocked, SnapshotHeld."""
        snapshot = self.get(number)
        self.check_may_expire(snapshot, expires)
        return self.put(replace(snapshot, expires=expires))

    def put(self, snapshot: Snapshot) -> Snapshot:
        """Replace the record of a live snapshot, inside an operation, and return it. Raises Damaged."""
        self._check_sound(snapshot.id)
        self._core.room(RECORD_ROOM)
        self._core.volume.put(snapshot_key(snapshot.id), snapshot)
        self._core.after.append(lambda: self._replaced(snapshot))
        return snapshot

    def _replaced(self, snapshot: Snapshot) -> None:
        self._core.versions.replace(snapshot)
        self._versions = {}
        self.views.refresh(snapshot)
        self.expirations_changed(snapshot)

    def get(self, number: int) -> Snapshot:
        """Return a live snapshot. Raises NotFound."""
        found = self._core.versions.by_id.get(number)
        if found is None:
            raise NotFound(f"there is no snapshot {number}")
        return found

    def delete_step(self, budget: int) -> None:
        """Move or remove up to `budget` records of the dead list of the first snapshot in deletion, inside an operation."""
        number = self.deleting[0]
        core = self._core
        snapshot: Snapshot | None = core.get(snapshot_key(number))
        if snapshot is None:
            core.after.append(lambda: self._deleted(number))
            return
        start = self._positions.get(number, dead_key(number, 0))
        for count, (key, record) in enumerate(core.volume.scan(start, dead_key(number, EPOCH_MAX))):
            assert isinstance(record, Dead)
            if count >= budget or not self._pass_on(record, snapshot.epoch, budget):
                core.after.append(partial(self._positions.update, {number: key}))
                return
            core.volume.delete(key)
        if self.views.remove(number, budget):
            return
        core.volume.delete(mark_key(snapshot.root, number))
        core.volume.delete(snapshot_key(number))
        core.after.append(lambda: self._deleted(number))

    def _deleted(self, number: int) -> None:
        self.deleting.remove(number)
        self._positions.pop(number, None)

    def _pass_on(self, dead: Dead, epoch: int, limit: int) -> bool:
        """Give a past record to the next older snapshot that needs it, or remove it. A damaged one stays, on no list.

        Returns False when the entry names more than `limit` changes, of which only so many are passed on.
        """
        core = self._core
        try:
            if dead.key[0] == _CHANGES:
                return core.changes.pass_on(dead, limit)
            record = core.get(dead.key)
            if record is None:
                return True
            needer = core.versions.needer(dead.ino, record.birth, epoch - 1)
        except Damaged as error:
            _log.error("a past record of inode %d stays: %s", dead.ino, error)
            return True
        core.volume.delete(dead.key)
        if needer is not None:
            core.versions.give(live_key(dead.key)[0], record, dead.ino, needer)
        elif isinstance(record, Window) and record.pieces:
            core.references.release(extents_of(record))
        return True

    # --- `.snapshot`

    def covering(self, ino: int) -> list[Snapshot]:
        """Return the snapshots that `.snapshot` of a live directory lists, by id."""
        versions = self._core.versions
        if not versions.live:
            return []
        found: list[Snapshot] = []
        for root, newest in self._upwards(ino):
            for snapshot in versions.by_root.get(root, ()):
                if snapshot.epoch >= newest or versions.visible(ino, snapshot.epoch, root):
                    found.append(snapshot)
        return sorted(found, key=attrgetter("id"))

    def covers(self, snapshot: Snapshot, ino: int) -> bool:
        """Tell whether `.snapshot` of a live directory lists a snapshot."""
        for root, newest in self._upwards(ino):
            if root == snapshot.root:
                return snapshot.epoch >= newest or self._core.versions.visible(ino, snapshot.epoch, root)
        return False

    def find(self, ino: int, name: bytes) -> Snapshot:
        """Return the snapshot that is called `name` in `.snapshot` of a live directory. Raises ENOENT."""
        snapshot = self._numbered(name)
        if snapshot is None or label(snapshot) != name or not self.covers(snapshot, ino):
            raise FilesystemError(errno.ENOENT)
        return snapshot

    def find_version(self, ino: int, name: bytes) -> Snapshot:
        """Return the snapshot that is called `name` in `.snapshot/@GMT` of a live directory. Raises ENOENT."""
        if not self._versions:
            for snapshot in self._core.versions.live:
                self._versions.setdefault(version_label(snapshot), []).append(snapshot)
        for snapshot in self._versions.get(name, ()):
            if self.covers(snapshot, ino):
                return snapshot
        raise FilesystemError(errno.ENOENT)

    def find_in_any_case(self, ino: int, name: bytes) -> bytes | None:
        """Return the name in `.snapshot` of a live directory that differs from `name` at most in case, None if there is none."""
        snapshot = self._numbered(name)
        if snapshot is None or caseless(label(snapshot)) != caseless(name) or not self.covers(snapshot, ino):
            return None
        return label(snapshot)

    def _numbered(self, name: bytes) -> Snapshot | None:
        number = name.partition(b"_")[0]
        return self._core.versions.by_id.get(int(number)) if number.isdigit() and len(number) < 20 else None

    def directory(self, ino: int, inode: Inode) -> Inode:
        """Return the virtual inode of a live directory's `.snapshot`."""
        when = max(inode.btime, self._changed)
        return Inode(inode.birth, S_IFDIR | 0o555, 0, 0, 1, 0, 0, when, when, when, inode.btime)

    def _upwards(self, ino: int) -> Iterator[tuple[int, int]]:
        """Yield a directory and its ancestors, each with the newest birth of the names between."""
        core, newest = self._core, 0
        while True:
            yield ino, newest
            inode: Inode | None = core.get(inode_key(ino))
            if inode is None or not inode.links:
                return
            parent, name = inode.links[0]
            dirent: Dirent | None = core.get(dirent_key(parent, name))
            newest = max(newest, dirent.birth if dirent is not None else core.versions.epoch)
            ino = parent
