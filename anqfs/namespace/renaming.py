"""rename(2) with its flags. Called by the facade inside an operation.

Order for the sake of snapshots: covers and floors are worked out first; an inode's record is put, with its old name out and its new one
in, while the old name still counts; then the names change.
"""

from __future__ import annotations

import errno
from stat import S_IFDIR, S_ISDIR
from typing import NamedTuple

from msgspec.structs import replace

from anqfs.errors import FilesystemError
from anqfs.namespace.core import RECORD_ROOM, Core, check_name
from anqfs.namespace.directories import Directories, without
from anqfs.namespace.nodes import SNAPSHOT_NAME
from anqfs.namespace.usage import ONE_DIRECTORY, Delta, negative, of_inode
from anqfs.store.schema import ROOT_INO, Dirent, Inode, dirent_key

NOREPLACE, EXCHANGE = 1, 2


class Place(NamedTuple):
    """A name in a directory: the directory, the name's hash, and what is there."""

    parent: int
    name: bytes
    hash: bytes
    dirent: Dirent
    inode: Inode


class Renaming:
    """Moves names."""

    def __init__(self, core: Core, directories: Directories) -> None:
        self._core = core
        self._directories = directories

    def moves_directory(self, old_parent: int, old_name: bytes, new_parent: int, new_name: bytes, flags: int) -> bool:
        """Tell whether a rename would move a directory to another parent, so that totals must be flushed before."""
        if old_parent == new_parent or not self._core.usage.pending:
            return False
        try:
            if self._directories.find(old_parent, old_name)[1].kind == S_IFDIR:
                return True
            return bool(flags & EXCHANGE) and self._directories.find(new_parent, new_name)[1].kind == S_IFDIR
        except FilesystemError:
            return False

    def rename(self, old_parent: int, old_name: bytes, new_parent: int, new_name: bytes, flags: int) -> int | None:
        """Rename as renameat2(2); returns the ino that lost its name by it, if any.

        Raises EINVAL (flags, or a directory into itself), ENOENT, EEXIST, ENOTDIR, EISDIR, ENOTEMPTY, EBUSY for `.snapshot`, EROFS.
        """
        core = self._core
        if flags & ~(NOREPLACE | EXCHANGE) or flags == NOREPLACE | EXCHANGE:
            raise FilesystemError(errno.EINVAL)
        source, above = core.writable_directory(old_parent)
        goal, beyond = core.writable_directory(new_parent)
        for name in (old_name, new_name):
            check_name(name)
            if name in (SNAPSHOT_NAME, b".", b".."):
                raise FilesystemError(errno.EBUSY)
        old = self._place(source, old_name)
        if old is None:
            raise FilesystemError(errno.ENOENT)
        new = self._place(goal, new_name)
        if new is not None and flags & NOREPLACE:
            raise FilesystemError(errno.EEXIST)
        if new is None and flags & EXCHANGE:
            raise FilesystemError(errno.ENOENT)
        if source != goal and S_ISDIR(old.inode.mode) and self._is_below(goal, old.dirent.ino):
            raise FilesystemError(errno.EINVAL)
        if new is not None and flags & EXCHANGE:
            if source != goal and S_ISDIR(new.inode.mode) and self._is_below(source, new.dirent.ino):
                raise FilesystemError(errno.EINVAL)
            if new.dirent.ino != old.dirent.ino:
                self._exchange(old, new, above, beyond)
            return None
        if new is not None:
            if new.dirent.ino == old.dirent.ino:
                return None
            self._check_replace(old, new, source)
        core.room(RECORD_ROOM)
        self._move(old, goal, new_name, new, above, beyond)
        return new.dirent.ino if new is not None else None

    def _place(self, parent: int, name: bytes) -> Place | None:
        try:
            name_hash, dirent = self._directories.find(parent, name)
        except FilesystemError:
            return None
        return Place(parent, name, name_hash, dirent, self._directories.named(dirent))

    def _check_replace(self, old: Place, new: Place, source: int) -> None:
        if S_ISDIR(new.inode.mode):
            if source != new.parent and self._is_below(source, new.dirent.ino):
                raise FilesystemError(errno.ENOTEMPTY)
            if not S_ISDIR(old.inode.mode):
                raise FilesystemError(errno.EISDIR)
            if new.inode.size:
                raise FilesystemError(errno.ENOTEMPTY)
        elif S_ISDIR(old.inode.mode):
            raise FilesystemError(errno.ENOTDIR)

    def _is_below(self, ino: int, ancestor: int) -> bool:
        """Tell whether a directory is `ancestor` or below it."""
        while ino != ancestor:
            if ino == ROOT_INO:
                return False
            links = self._core.inode(ino).links
            if not links:
                return False
            ino = links[0][0]
        return True

    def _move(self, old: Place, goal: int, new_name: bytes, new: Place | None, above: Inode, beyond: Inode) -> None:
        core = self._core
        now, epoch = core.clock(), core.versions.epoch
        is_directory = S_ISDIR(old.inode.mode)
        new_hash = core.volume.name_hash(new_name)
        if new is not None:
            self._directories.take_away(goal, beyond, new_hash, new.dirent, new.inode, now)
        moved = self._relinked(old, goal, new_hash, now)
        core.put_inode(old.dirent.ino, old.inode, moved)
        core.versions.remove(dirent_key(old.parent, old.hash), old.dirent, old.parent, above)
        core.volume.put(dirent_key(goal, new_hash), Dirent(epoch, new_name, old.dirent.ino, old.dirent.kind))
        gone = new is not None
        if old.parent == goal:
            nlink = above.nlink - (is_directory and gone)
            core.put_inode(goal, above, replace(above, birth=epoch, nlink=nlink, size=above.size - gone, mtime=now, ctime=now))
            return
        core.put_inode(
            old.parent, above, replace(above, birth=epoch, nlink=above.nlink - is_directory, size=above.size - 1, mtime=now, ctime=now)
        )
        core.put_inode(
            goal,
            beyond,
            replace(
                beyond, birth=epoch, nlink=beyond.nlink + (is_directory and not gone), size=beyond.size + (not gone), mtime=now, ctime=now
            ),
        )
        self._moved(old, goal)

    def _exchange(self, old: Place, new: Place, above: Inode, beyond: Inode) -> None:
        core = self._core
        core.room(RECORD_ROOM)
        now, epoch = core.clock(), core.versions.epoch
        first = self._relinked(old, new.parent, new.hash, now)
        second = self._relinked(new, old.parent, old.hash, now)
        core.put_inode(old.dirent.ino, old.inode, first)
        core.put_inode(new.dirent.ino, new.inode, second)
        for here, there, inode in ((old, new, above), (new, old, beyond)):
            core.versions.put(
                dirent_key(here.parent, here.hash),
                here.dirent,
                Dirent(epoch, here.name, there.dirent.ino, there.dirent.kind),
                here.parent,
                inode,
            )
        if old.parent == new.parent:
            core.put_inode(old.parent, above, replace(above, birth=epoch, mtime=now, ctime=now))
            return
        change = S_ISDIR(new.inode.mode) - S_ISDIR(old.inode.mode)
        core.put_inode(old.parent, above, replace(above, birth=epoch, nlink=above.nlink + change, mtime=now, ctime=now))
        core.put_inode(new.parent, beyond, replace(beyond, birth=epoch, nlink=beyond.nlink - change, mtime=now, ctime=now))
        self._moved(old, new.parent)
        self._moved(new, old.parent)

    def _relinked(self, place: Place, parent: int, name_hash: bytes, now: int) -> Inode:
        core = self._core
        floor = core.versions.floor_without(place.inode, place.parent, place.dirent.birth)
        links = (*without(place.inode.links, (place.parent, place.hash)), (parent, name_hash))
        return replace(place.inode, birth=core.versions.epoch, ctime=now, floor=floor, links=links)

    def _moved(self, place: Place, goal: int) -> None:
        """Move totals to another parent; what is remembered below a moved directory is void."""
        core = self._core
        delta: Delta = of_inode(place.inode)
        if S_ISDIR(place.inode.mode):
            below = core.usage.below(place.dirent.ino)
            delta = (below[0], below[1], below[2], below[3] + ONE_DIRECTORY[3], below[4], below[5])
            core.usage.touched(((goal, b""),), core.usage.changed_below(place.dirent.ino))
            core.after.append(core.versions.forget)
            core.after.append(core.quotas.forget)
        core.usage.note(place.parent, negative(delta))
        core.usage.note(goal, delta)
