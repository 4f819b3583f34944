"""The filesystem, for `mount/`, `control/` and offline tools. Everything here belongs to the trio thread.

Every method is synchronous and atomic: it is seen whole or not at all, and raises without having changed anything. There is no await in
any of them and none may be added. What is raised is an AnqfsError, whose `errno` is the answer: FilesystemError for what a caller did,
Damaged (EIO), NoSpace (ENOSPC), ReadOnlyVolume (EROFS). Permissions are the kernel's business (default_permissions); what the kernel does
not check is checked here. Times are ns, sizes bytes, node ids as in `nodes`.
"""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Callable
from stat import S_IFDIR, S_IFLNK, S_IFMT, S_IFREG, S_IMODE, S_ISBLK, S_ISCHR, S_ISDIR, S_ISFIFO, S_ISREG, S_ISSOCK

from anqfs.errors import AnqfsError, FilesystemError, StoreExists
from anqfs.namespace import usage_xattrs
from anqfs.namespace.clone import Clones
from anqfs.namespace.core import Caller, check_new_name, operation
from anqfs.namespace.files import check_regular
from anqfs.namespace.nodes import SNAPSHOTS, ino_of
from anqfs.namespace.owners import Owners
from anqfs.namespace.reading import Reading
from anqfs.namespace.snapshots import ON_DEMAND
from anqfs.store.schema import (
    COUNTER_EPOCH,
    COUNTER_INO,
    INO_BITS,
    ROOT_INO,
    Counter,
    Inode,
    Snapshot,
    inode_key,
)
from anqfs.store.volume import Volume

_log = logging.getLogger(__name__)
TARGET_MAX = 4095


class Namespace(Reading):
    """One volume's tree and its snapshots."""

    def __init__(self, volume: Volume, *, clock: Callable[[], int] = time.time_ns) -> None:
        super().__init__(volume, clock=clock)
        self.clones = Clones(self)
        if not volume.read_only:
            self.clones.load()

    @staticmethod
    def format(volume: Volume) -> None:
        """Make the root directory of an empty volume: 0755, owned by who runs this. Raises StoreExists when there is one."""
        if volume.get(inode_key(ROOT_INO)) is not None:
            raise StoreExists("the volume has a root directory already")
        now = time.time_ns()
        volume.begin()
        volume.put(inode_key(ROOT_INO), Inode(1, S_IFDIR | 0o755, os.getuid(), os.getgid(), 2, 0, 0, now, now, now, now))
        volume.put(COUNTER_EPOCH, Counter(1))
        Owners.begin(volume)
        volume.put(COUNTER_INO, Counter(ROOT_INO + 1))
        volume.finish()

    # --- names

    @operation
    def create(self, parent: int, name: bytes, mode: int, caller: Caller, *, times: int | None = None) -> tuple[int, Inode]:
        """Make a regular file; `times` (ns) are its own, None: now. Raises EEXIST, ENOENT, ENOTDIR, ENAMETOOLONG, EROFS, NoSpace."""
        return self.directories.make(self._changeable(parent), name, S_IFREG | S_IMODE(mode), caller, times=times)

    def mkdir(self, parent: int, name: bytes, mode: int, caller: Caller) -> tuple[int, Inode]:
        """Make a directory; in `.snapshot`, take a snapshot called `name` and return its node. Raises as `create`, EACCES."""
        if parent >> INO_BITS == SNAPSHOTS:
            ino = ino_of(parent)
            if caller.uid not in (0, self.core.inode(ino).uid) and not self._may_write(ino, caller):
                raise FilesystemError(errno.EACCES)
            check_new_name(name)
            return self._enter(self.snapshot_create(ino, name), ino)
        return self._mkdir(parent, name, mode, caller)

    @operation
    def _mkdir(self, parent: int, name: bytes, mode: int, caller: Caller) -> tuple[int, Inode]:
        return self.directories.make(self._changeable(parent), name, S_IFDIR | (mode & 0o1777), caller)

    @operation
    def mknod(self, parent: int, name: bytes, mode: int, rdev: int, caller: Caller) -> tuple[int, Inode]:
        """Make a file of the type in `mode`: regular, FIFO, socket or device. Raises as `create`, EINVAL, EPERM for directories."""
        if S_ISDIR(mode):
            raise FilesystemError(errno.EPERM)
        device = S_ISCHR(mode) or S_ISBLK(mode)
        if not (S_ISREG(mode) or S_ISFIFO(mode) or S_ISSOCK(mode) or device or S_IFMT(mode) == 0):
            raise FilesystemError(errno.EINVAL)
        kind = S_IFMT(mode) or S_IFREG
        return self.directories.make(self._changeable(parent), name, kind | S_IMODE(mode), caller, rdev=rdev if device else 0)

    @operation
    def symlink(self, parent: int, name: bytes, target: bytes, caller: Caller) -> tuple[int, Inode]:
        """Make a symlink. Raises as `create`, ENOENT for an empty target, ENAMETOOLONG above TARGET_MAX bytes."""
        if not target:
            raise FilesystemError(errno.ENOENT)
        if len(target) > TARGET_MAX:
            raise FilesystemError(errno.ENAMETOOLONG)
        return self.directories.make(self._changeable(parent), name, S_IFLNK | 0o777, caller, target=target)

    @operation
    def link(self, node: int, new_parent: int, new_name: bytes) -> tuple[int, Inode]:
        """Give a file one more name. Raises EPERM, EMLINK at 1,024 names, EEXIST, ENOENT, EROFS, NoSpace."""
        ino, inode = self.core.writable(node)
        return ino, self.directories.link(ino, inode, self._changeable(new_parent), new_name)

    @operation
    def unlink(self, parent: int, name: bytes) -> int:
        """Remove a name and return its ino. Raises EISDIR, ENOENT, EROFS."""
        return self.directories.unlink(self._changeable(parent), name)

    def rmdir(self, parent: int, name: bytes) -> int:
        """Remove an empty directory and return its ino; in `.snapshot`, drop the snapshot.

        Raises ENOTEMPTY, ENOTDIR, ENOENT, EROFS, EBUSY for `.snapshot`; for a snapshot EPERM when it was taken of a directory above or is
        locked, EBUSY when it is held.
        """
        if parent >> INO_BITS == SNAPSHOTS:
            ino = ino_of(parent)
            self.core.inode(ino)
            snapshot = self._snapshots.find(ino, name)
            if snapshot.root != ino:
                raise FilesystemError(errno.EPERM)
            self.snapshot_delete(snapshot.id)
            return ino
        return self._rmdir(parent, name)

    @operation
    def _rmdir(self, parent: int, name: bytes) -> int:
        return self.directories.rmdir(self._changeable(parent), name)

    def rename(self, old_parent: int, old_name: bytes, new_parent: int, new_name: bytes, flags: int) -> int | None:
        """Rename as renameat2(2) with RENAME_NOREPLACE and RENAME_EXCHANGE. Returns the ino whose name was replaced, if any.

        Raises EINVAL, ENOENT, EEXIST, ENOTDIR, EISDIR, ENOTEMPTY, EBUSY for `.snapshot`, EROFS.
        """
        self._changeable(old_parent)
        self._changeable(new_parent)
        if self.renaming.moves_directory(old_parent, old_name, new_parent, new_name, flags):
            self.core.usage.flush()
        return self._rename(old_parent, old_name, new_parent, new_name, flags)

    @operation
    def _rename(self, old_parent: int, old_name: bytes, new_parent: int, new_name: bytes, flags: int) -> int | None:
        return self.renaming.rename(old_parent, old_name, new_parent, new_name, flags)

    @staticmethod
    def _changeable(node: int) -> int:
        """Return a live node; `.snapshot` and everything in it is read-only."""
        if node >> INO_BITS:
            raise FilesystemError(errno.EROFS)
        return node

    def _may_write(self, ino: int, caller: Caller) -> bool:
        inode = self.core.inode(ino)
        if caller.in_group(inode.gid):
            return bool(inode.mode & 0o020)
        return bool(inode.mode & 0o002)

    # --- attributes

    @operation
    def set_attributes(
        self,
        node: int,
        *,
        mode: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        size: int | None = None,
        atime: int | None = None,
        mtime: int | None = None,
        ctime: int | None = None,
        btime: int | None = None,
        caller: Caller,
    ) -> Inode:
        """Set what is given and return the new inode. Raises EROFS, ESTALE, EISDIR, EINVAL, EFBIG."""
        ino, inode = self.core.writable(node)
        return self.attribute_changes.set(ino, inode, mode, uid, gid, size, atime, mtime, ctime, btime, caller)

    # --- data

    @operation
    def write(
        self, node: int, offset: int, data: bytes | bytearray | memoryview, *, kill_privileges: bool = False, keep_times: bool = False
    ) -> int:
        """Write data and return its length. `kill_privileges`: the writer may not keep setuid and setgid.

        `keep_times`: who writes sets mtime and ctime itself.

        Raises EISDIR, EINVAL, EFBIG, EROFS, NoSpace, Damaged.
        """
        core = self.core
        ino, inode = core.writable(self._changeable(node))
        check_regular(inode)
        if not data:
            return 0
        new = self.files.write(ino, inode, offset, data, keep_times=keep_times)
        if kill_privileges or inode.flags:
            new = self.attribute_changes.written(ino, inode, new, kill_privileges)
        core.put_inode(ino, inode, new)
        return len(data)

    @operation
    def copy_window(self, source: int, index: int, target: int, place: int) -> int:
        """Make one aligned MiB of a live file equal to one of another file, sharing its data; returns the bytes of the file copied.

        `source` may be in a snapshot. Raises EISDIR, EINVAL, EFBIG, EROFS, ESTALE, NoSpace.
        """
        self.core.writable(target)
        return self.copying.window(self._inode(source), index, target, place)

    @operation
    def clear_window(self, node: int, index: int) -> None:
        """Make a hole of one aligned MiB of a live file, whose size stays. Raises EISDIR, EINVAL, EROFS, ESTALE."""
        self.core.writable(node)
        self.copying.clear(node, index)

    def hold(self, node: int) -> None:
        """Keep an inode alive without a name: the kernel looked it up or opened it."""
        if not node >> INO_BITS:
            held = self.core.held
            held[node] = held.get(node, 0) + 1

    def drop(self, node: int, count: int = 1) -> None:
        """Take back `count` holds. An inode without a name goes with the last one: a small one at the latest when the open group closes."""
        if node >> INO_BITS:
            return
        held = self.core.held
        left = held.get(node, 0) - count
        if left > 0:
            held[node] = left
            return
        held.pop(node, None)
        self.reclaim.dropped(node)

    # --- extended attributes

    def setxattr(self, node: int, name: bytes, value: bytes, flags: int, caller: Caller) -> None:
        """Set a value; `flags`: XATTR_CREATE 1, XATTR_REPLACE 2. An access ACL changes the mode too.

        Raises EEXIST, ENODATA, E2BIG, ERANGE, EOPNOTSUPP, EPERM, EACCES, EINVAL, ENOSPC, EROFS.
        """
        if name == usage_xattrs.MAX_BYTES:
            usage_xattrs.set_limit(self, node, value, caller)
        else:
            self._setxattr(node, name, value, flags, caller)

    @operation
    def _setxattr(self, node: int, name: bytes, value: bytes, flags: int, caller: Caller) -> None:
        ino, inode = self.core.writable(node)
        self.xattrs.set(ino, inode, name, value, flags, caller)

    def removexattr(self, node: int, name: bytes, caller: Caller) -> None:
        """Remove an attribute. Raises ENODATA, EOPNOTSUPP, EPERM, EROFS."""
        if name == usage_xattrs.MAX_BYTES:
            usage_xattrs.set_limit(self, node, b"0", caller)
        else:
            self._removexattr(node, name)

    @operation
    def _removexattr(self, node: int, name: bytes) -> None:
        ino, inode = self.core.writable(node)
        self.xattrs.remove(ino, inode, name)

    # --- snapshots

    def snapshot_create(self, directory_node: int, name: bytes | None = ON_DEMAND, expires: int = 0) -> Snapshot:
        """Snapshot a directory in O(1) of its size. What the kernel still holds must be flushed before.

        Arguments: `expires` in ns since 1970, 0 = never. Raises ENOTDIR, ENOENT, EROFS, EINVAL, ENAMETOOLONG, ENOSPC at 40,000.
        """
        self.core.usage.flush()
        return self._snapshot_create(directory_node, name, expires)

    @operation
    def _snapshot_create(self, directory_node: int, name: bytes | None, expires: int) -> Snapshot:
        ino, _ = self.core.writable_directory(self._changeable(directory_node))
        return self._snapshots.create(ino, name, expires)

    @operation
    def snapshot_delete(self, number: int) -> None:
        """Drop a snapshot; its space comes back through `work`. Raises NotFound, SnapshotLocked, SnapshotHeld."""
        self._snapshots.begin_delete(number)

    @operation
    def snapshot_modify(self, number: int, expires: int) -> Snapshot:
        """Set when a snapshot expires: ns since 1970, 0 = never. Raises NotFound, SnapshotLocked for an earlier time, SnapshotHeld."""
        return self._snapshots.change(number, expires)

    @operation
    def snapshot_expire(self) -> int | None:
        """Drop one snapshot that has expired and return its id; None when there is none. Locked ones expire, held ones do not."""
        return self._snapshots.expire(self.core.clock())

    def next_expiration(self) -> int | None:
        """Return when the next snapshot expires, ns since 1970; None when none does."""
        return self._snapshots.expirations.next()

    # --- background

    def work(self, budget: int) -> bool:
        """Do one bounded step of about `budget` records of background work. Returns whether there is more.

        In turn: inodes without a name, truncated windows, dropped snapshots, unfinished clones, deletions of directories, windows of many
        pieces. After it, the kernel is to forget what `tree_deletes.take_changes` says.
        """
        if self.volume.read_only or self.volume.failed is not None:
            return False
        budget = max(1, min(budget, 256))
        if not self.reclaim.step(budget):
            if self._snapshots.deleting:
                self._try_delete_step(budget)
            elif self.clones.waiting:
                self.clones.step()
            elif self.tree_deletes.running:
                self.tree_deletes.step(budget)
            elif self.files.merges:
                self._merge_step()
        waiting = self.reclaim.waiting or self._snapshots.deleting or self.clones.waiting
        return bool(waiting or self.tree_deletes.running or self.files.merges)

    def _try_delete_step(self, budget: int) -> None:
        try:
            self._delete_step(budget)
        except AnqfsError as error:
            number = self._snapshots.deleting.popleft()
            _log.error("the space of snapshot %d does not come back before the next mount: %s", number, error)

    @operation
    def _delete_step(self, budget: int) -> None:
        self._snapshots.delete_step(budget)

    def _merge_step(self) -> None:
        ino, index = next(iter(self.files.merges))
        del self.files.merges[ino, index]
        try:
            self._merge(ino, index)
        except AnqfsError:
            # Gone meanwhile, damaged, or no room: the pieces do as they are.
            return

    @operation
    def _merge(self, ino: int, index: int) -> None:
        self.files.merge(ino, index)
