"""Clones: a writable copy of a directory or file, live or as a snapshot shows it, that shares all data with it. Trio thread.

A live source is snapshotted first, for as long as the clone takes, so that the clone is what the source was at one moment. It is made by
the steps of a restore (`restore`) under a name of its own beside the destination, and gets its name at the end: nobody ever finds half of
one under that name. What a crash, an error or an unmount leaves is on record (`J`) and goes away in the background: the temporary snapshot
at once, the unfinished tree by a deletion (`tree_deletes`).
"""

from __future__ import annotations

import errno
import logging
from collections import deque
from stat import S_IFDIR, S_ISDIR
from typing import TYPE_CHECKING

from msgspec.structs import replace

from anqfs.errors import AnqfsError, FilesystemError
from anqfs.namespace.core import RECORD_ROOM, Core, check_new_name, operation
from anqfs.namespace.nodes import ino_of, view_of
from anqfs.namespace.restore import Progress, Restore
from anqfs.namespace.trees import Tree
from anqfs.store.schema import EPOCH_MAX, CloneJob, Dirent, Snapshot, clone_key, dirent_key, prefix_end

if TYPE_CHECKING:
    from anqfs.namespace.namespace import Namespace

_log = logging.getLogger(__name__)
SNAPSHOT_NAME_OF_CLONES = b"clone"
_STAGING = b".anqfs_clone_%d"
_NOREPLACE = 1


class Clones:
    """What clones are on record, and what is left of those that came to no end."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self.core: Core = namespace.core
        self._left: deque[int] = deque()

    @property
    def waiting(self) -> bool:
        """Whether there are leftovers to remove."""
        return bool(self._left)

    def load(self) -> None:
        """On opening: every clone on record was cut short."""
        self._left.extend(int.from_bytes(key[1:], "big") for key in self.core.volume.scan_keys(b"J", prefix_end(b"J")))

    @operation
    def begin(self, parent: int, snapshot: int) -> tuple[int, bytes]:
        """Put a new clone in a directory on record; returns its number and the name under which it is made. `snapshot`: 0 or temporary."""
        core = self.core
        core.room(RECORD_ROOM)
        number = 1
        for key in core.volume.scan_keys(clone_key(1), clone_key(EPOCH_MAX)):
            number = int.from_bytes(key[1:], "big") + 1
        while core.get(dirent_key(parent, core.volume.name_hash(_STAGING % number))) is not None:
            number += 1
        core.volume.put(clone_key(number), CloneJob(parent, _STAGING % number, snapshot))
        return number, _STAGING % number

    @operation
    def made(self, number: int, ino: int) -> None:
        """Put on record what was made under a clone's temporary name; in the same group of changes as that."""
        record = self.core.get(clone_key(number))
        assert isinstance(record, CloneJob)
        self.core.volume.put(clone_key(number), replace(record, made=ino))

    @operation
    def done(self, number: int) -> None:
        """The clone has its name: what is found under its old one from now on is somebody else's."""
        record = self.core.get(clone_key(number))
        assert isinstance(record, CloneJob)
        self.core.volume.put(clone_key(number), replace(record, name=b""))
        self.give_up(number)

    def end(self, number: int) -> None:
        """The clone has its name, or will get none: remove what was only for the making. What fails is tried again after a restart."""
        record = self.core.get(clone_key(number))
        if not isinstance(record, CloneJob):
            return
        if record.snapshot in self.core.versions.by_id:
            self._namespace.snapshot_delete(record.snapshot)
        if record.name:
            self._remove(record)
        self._forget(number)

    def _remove(self, record: CloneJob) -> None:
        dirent: Dirent | None = self.core.get(dirent_key(record.parent, self.core.volume.name_hash(record.name)))
        if dirent is None or dirent.ino != record.made:
            return
        if dirent.kind == S_IFDIR:
            try:
                self._namespace.tree_deletes.start(dirent.ino)
            except FilesystemError as error:
                if error.errno != errno.EALREADY:
                    raise
        else:
            self._namespace.unlink(record.parent, record.name)

    @operation
    def _forget(self, number: int) -> None:
        self.core.volume.delete(clone_key(number))

    def give_up(self, number: int) -> None:
        """Leave a clone that came to no end to the background."""
        self._left.append(number)

    def step(self) -> None:
        """Remove what is left of one clone."""
        number = self._left.popleft()
        try:
            self.end(number)
        except AnqfsError as error:
            _log.error("what is left of clone %d is not removed now: %s", number, error)


class Clone:
    """One clone in progress.

    Arguments: `source` is a node, live or in a snapshot; `destination` a live directory's node and a new name. Raises NotFound, EEXIST,
    ENOTDIR, EROFS and other FilesystemErrors for a destination that cannot be, ENOSPC when there are too many snapshots.
    """

    def __init__(self, namespace: Namespace, source: int, destination: tuple[int, bytes]) -> None:
        self._namespace = namespace
        self._parent, self._name = destination
        self._changes: list[tuple[int, bytes | None]] = []
        self._at_end = False
        self._is_recorded = False
        if view_of(self._parent):
            raise FilesystemError(errno.EROFS, "the destination is in a snapshot")
        namespace.core.writable_directory(self._parent)
        self._check_free()
        snapshot, path, temporary = self._source(source)
        try:
            self._number, self._staging = namespace.clones.begin(self._parent, snapshot.id if temporary else 0)
        except AnqfsError:
            if temporary:
                namespace.snapshot_delete(snapshot.id)
            raise
        try:
            self._restore = Restore(namespace, snapshot.id, path, (self._parent, self._staging))
        except AnqfsError:
            self.give_up()
            raise

    def _check_free(self) -> None:
        check_new_name(self._name)
        core = self._namespace.core
        if core.get(dirent_key(self._parent, core.volume.name_hash(self._name))) is not None:
            raise FilesystemError(errno.EEXIST, "the destination exists")

    def _source(self, node: int) -> tuple[Snapshot, bytes, bool]:
        """Return the snapshot to clone from, the path in it, and whether it was taken for this."""
        namespace, view = self._namespace, view_of(node)
        inode = namespace.attributes(node)
        if view:
            snapshot = namespace.snapshot_of(node)
            if snapshot is None:
                raise FilesystemError(errno.EINVAL, "clone one of the snapshots in .snapshot, or the directory")
            return snapshot, _path_in(Tree(namespace, snapshot.root, snapshot), ino_of(node)), False
        if S_ISDIR(inode.mode):
            return namespace.snapshot_create(node, SNAPSHOT_NAME_OF_CLONES), b"", True
        if not inode.links:
            raise FilesystemError(errno.ENOENT, "the source has no name any more")
        snapshot = namespace.snapshot_create(inode.links[0][0], SNAPSHOT_NAME_OF_CLONES)
        return snapshot, _path_in(Tree(namespace, snapshot.root, snapshot), node), True

    @property
    def progress(self) -> Progress:
        """What was cloned so far."""
        return self._restore.progress

    def step(self, budget: int = 256) -> bool:
        """Do a bounded part of the work; return whether there is more. Raises as `Restore.step`, EEXIST; nothing is left then, soon."""
        if self._at_end:
            return False
        try:
            if self._make(budget):
                return True
            self._check_free()
            self._namespace.rename(self._parent, self._staging, self._parent, self._name, _NOREPLACE)
        except AnqfsError:
            self.give_up()
            raise
        self._changes += [(self._parent, self._staging), (self._parent, self._name)]
        self._at_end = True
        self._namespace.clones.done(self._number)
        return False

    def _make(self, budget: int) -> bool:
        """Make some of the clone; return whether there is more. What was made first is on record before anybody else can do anything."""
        try:
            return self._restore.step(budget)
        finally:
            first = self._restore.first_made
            if first is not None and not self._is_recorded:
                self._is_recorded = True
                self._namespace.clones.made(self._number, first)

    def give_up(self) -> None:
        """Stop here. What was made goes away in the background."""
        if not self._at_end:
            self._at_end = True
            self._namespace.clones.give_up(self._number)

    def take_changes(self) -> list[tuple[int, bytes | None]]:
        """Return what changed since the last call, for the kernel's caches: (directory, name) of entries, (inode, None) of inodes."""
        changes, self._changes = self._changes + self._restore.take_changes(), []
        return changes

    def take_wishes(self) -> list[int]:
        """Nothing that is in use is touched."""
        return []


def _path_in(tree: Tree, ino: int) -> bytes:
    """Return an inode's path below a tree's root, b"" for that; without a slash at its beginning. Raises ENOENT when it is not in it."""
    inode = tree.inode(ino)
    if inode is None or not tree.shows(ino):
        raise FilesystemError(errno.ENOENT, "the source is not in the snapshot")
    if S_ISDIR(inode.mode):
        return tree.path(ino)[1:]
    for parent, name_hash in inode.links:
        dirent = tree.dirent(parent, name_hash)
        if dirent is not None and tree.shows_directory(parent):
            return (tree.path(parent) + b"/" + dirent.name)[1:]
    raise FilesystemError(errno.ENOENT, "the source is not in the snapshot")
