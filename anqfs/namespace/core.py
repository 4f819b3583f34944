"""What all parts of the namespace share: the volume, versions, references, totals, who is held. And the frame of an operation.

Every operation is a plain synchronous function on the trio thread and atomic: `operation` begins it, finishes it, and undoes all of it
when anything is raised. There is no await inside one, and there must never be: another task would see half of it.

What can fail (look-ups, limits, room) comes before the first change all the same, because the bytes of a still-unsealed extent that a
write changes in place are not in the undo log.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from functools import update_wrapper
from stat import S_ISDIR
from typing import Any, Concatenate, NamedTuple, ParamSpec, Protocol, TypeVar

from anqfs.errors import Damaged, FilesystemError, NoSpace
from anqfs.namespace import stand_ins
from anqfs.namespace.change_index import ChangeIndex
from anqfs.namespace.nodes import SNAPSHOT_NAME
from anqfs.namespace.owners import Owners
from anqfs.namespace.packing import Packer
from anqfs.namespace.quota_accounts import QuotaAccounts
from anqfs.namespace.references import References
from anqfs.namespace.usage import UsageTotals
from anqfs.namespace.versions import Versions
from anqfs.store.schema import COUNTER_INO, INO_BITS, INO_MAX, ROOT_INO, Counter, Inode, Record, inode_key
from anqfs.store.volume import Volume

NAME_MAX = 255
RECORD_ROOM = 2048
"""Bytes that are taken to be needed for the records of one operation."""
_INO_LEASE = 1 << 18
_ROOM_STEP = 1 << 20
P = ParamSpec("P")
R = TypeVar("R")


class Caller(NamedTuple):
    """Who asks: ids, supplementary groups (or how to find them out, only called when they matter) and the umask."""

    uid: int
    gid: int
    groups: Callable[[], frozenset[int]] | frozenset[int]
    umask: int

    def in_group(self, gid: int) -> bool:
        """Tell whether the caller is a member of a group."""
        if gid == self.gid:
            return True
        groups = self.groups
        return gid in (groups() if callable(groups) else groups)


ROOT_CALLER = Caller(0, 0, frozenset(), 0)


class HasCore(Protocol):
    """What `operation` wraps methods of."""

    core: Core


S = TypeVar("S", bound=HasCore)


def operation(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """Make a method one atomic operation."""

    def run(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        core = self.core
        volume = core.volume
        volume.begin()
        try:
            result = method(self, *args, **kwargs)
            if core.quotas.any:
                core.quotas.admit()
            core.versions.settle()
        except BaseException:
            volume.undo()
            core.undone()
            raise
        volume.finish()
        core.done()
        return result

    update_wrapper(run, method)
    return run


def check_name(name: bytes) -> None:
    """Raise ENAMETOOLONG or EINVAL for what no file can be called."""
    if len(name) > NAME_MAX:
        raise FilesystemError(errno.ENAMETOOLONG)
    if not name or b"/" in name or b"\0" in name:
        raise FilesystemError(errno.EINVAL)


def check_new_name(name: bytes) -> None:
    """Raise what creating this name answers before anything is looked up."""
    check_name(name)
    if name in (b".", b"..", SNAPSHOT_NAME):
        raise FilesystemError(errno.EEXIST)


class Core:
    """Shared state. Everything here is on the trio thread."""

    def __init__(self, volume: Volume, clock: Callable[[], int]) -> None:
        self.volume = volume
        self.clock = clock
        self.stand_ins = stand_ins.find(volume, clock)
        """Records that the volume lost and that it cannot do without; empty on a sound volume."""
        self._root_stand_in = self.stand_ins.get(stand_ins.ROOT_KEY)
        if not volume.read_only:
            self._put_counters()
        self.get: Callable[[bytes], Any] = self._get_or_stand_in if self.stand_ins else volume.get
        self.versions = Versions(volume, self.get)
        self.changes = ChangeIndex(self.versions)
        self.owners = Owners(volume)
        self.references = References(volume)
        self.usage = UsageTotals(self.versions, clock)
        self.quotas = QuotaAccounts(self)
        self.directory_goes: list[Callable[[int], None]] = [self.quotas.directory_goes]
        """Who hears, inside the operation, that a directory is removed: what is recorded of it goes, too."""
        self.packer = Packer(self)
        self.held: dict[int, int] = {}
        """Live inodes that the kernel (or somebody else) holds: ino -> count."""
        self.after: list[Callable[[], None]] = []
        """What to do in memory once the running operation has finished."""
        self.timetable_changed: Callable[[], None] = lambda: None
        """Hears that a snapshot is to be taken, or expires, at another time than before."""
        self._next_ino = 0
        self._leased_ino = 0
        self._room = 0

    def _get_or_stand_in(self, key: bytes) -> Record | None:
        return self.stand_ins.get(key) or self.volume.get(key)

    def _put_counters(self) -> None:
        """Make the counters that stand in the volume's own, before anything is numbered. The root digest still tells of the damage."""
        for key, record in list(self.stand_ins.items()):
            if isinstance(record, Counter):
                self.volume.put(key, record)
                del self.stand_ins[key]

    def room(self, size: int) -> None:
        """Raise NoSpace when `size` more bytes would not fit. The volume is asked once for a MiB of small changes."""
        if size <= self._room:
            self._room -= size
            return
        try:
            self.volume.room(size + _ROOM_STEP)
            self._room = _ROOM_STEP
        except NoSpace:
            self._room = 0
            self.volume.room(size)

    def group_closes(self) -> None:
        """Hook of the volume: totals are part of the group that changed them, and room is measured anew."""
        self._room = 0
        if self.volume.failed is None and not self.volume.read_only:
            self.usage.flush(lazily=True)
            self.owners.flush()
            self.packer.group_closes()

    # --- operations

    def done(self) -> None:
        """The operation finished."""
        self.usage.done()
        self.changes.done()
        self.owners.done()
        if self.after:
            for action in self.after:
                action()
            self.after.clear()
        if self.packer.is_full:
            self.packer.pack_oldest()

    def undone(self) -> None:
        """The operation was undone: forget what was derived during it."""
        self.usage.undone()
        self.changes.undone()
        self.owners.undone()
        self.after.clear()
        self.versions.undone()

    # --- inodes

    def lease_inos(self) -> None:
        """Reserve inode numbers durably, so that a number that was ever answered is never used again, crash or not."""
        counter: Counter | None = self.get(COUNTER_INO)
        self._next_ino = counter.value if counter is not None else ROOT_INO + 1
        if not self.volume.read_only:
            self._leased_ino = self._next_ino + _INO_LEASE
            self.volume.put(COUNTER_INO, Counter(self._leased_ino))
            self.changes.begin()
            self.volume.commit().wait()

    def next_ino(self) -> int:
        """Return a number that no inode has or had. Half of a lease is left when the next one is written."""
        ino = self._next_ino
        if self._leased_ino - ino < _INO_LEASE // 2:
            self.volume.put(COUNTER_INO, Counter(self._leased_ino + _INO_LEASE))
            self.after.append(self._extend_lease)
        if ino > INO_MAX:
            raise FilesystemError(errno.ENOSPC, "no inode numbers are left")
        self._next_ino = ino + 1
        return ino

    def _extend_lease(self) -> None:
        counter: Counter | None = self.get(COUNTER_INO)
        if counter is not None:
            self._leased_ino = counter.value

    def inode(self, ino: int) -> Inode:
        """Return a live inode. Raises ESTALE when there is none, or when it has neither a name nor a holder."""
        inode: Inode | None = self.get(inode_key(ino))
        if inode is None or (inode.nlink == 0 and ino not in self.held):
            raise FilesystemError(errno.ESTALE)
        return inode

    def writable(self, node: int) -> tuple[int, Inode]:
        """Return the ino and inode of a node that is to be changed. Raises EROFS in snapshots, ESTALE."""
        if node >> INO_BITS:
            raise FilesystemError(errno.EROFS)
        return node, self.inode(node)

    def writable_directory(self, node: int) -> tuple[int, Inode]:
        """Return the ino and inode of a directory whose entries are to be changed. Raises ENOTDIR, ENOENT if it was removed."""
        ino, inode = self.writable(node)
        if not S_ISDIR(inode.mode):
            raise FilesystemError(errno.ENOTDIR)
        if inode.nlink == 0:
            raise FilesystemError(errno.ENOENT)
        return ino, inode

    def put_inode(self, ino: int, old: Inode, new: Inode) -> None:
        """Replace an inode's record. Raises EPERM when the inode is locked (`file_locks`)."""
        if old.retained or old.legal_hold:
            check_unlocked(old, self.clock())
        self.put_rearranged(ino, old, new)
        ctime = new.ctime
        if ctime != old.ctime:
            self.usage.touched(new.links, ctime)

    def put_rearranged(self, ino: int, old: Inode, new: Inode) -> None:
        """Replace the record of an inode that stays the same for everybody: how it is kept, or its lock, changed.

        Raises Damaged for a root directory whose own record is lost.
        """
        if old is self._root_stand_in:
            raise Damaged("the root directory's inode is lost: nothing changes in the root itself")
        versions = self.versions
        versions.put(inode_key(ino), old, new, ino, old)
        self.owners.changed(old, new)
        if versions.live:
            self.changes.note(ino, old.links)
            if new.links is not old.links:
                self.changes.note(ino, new.links)


def is_locked(inode: Inode, now: int) -> bool:
    """Tell whether a file lock holds at a time (ns): a retention that is not over, or a legal hold."""
    return inode.legal_hold or inode.retained > now


def check_unlocked(inode: Inode, now: int) -> None:
    """Raise EPERM, as for an immutable file on ext4, while a file lock holds."""
    if is_locked(inode, now):
        raise FilesystemError(errno.EPERM, "the file is locked: nothing about it changes until its retention is over and no hold is on it")
