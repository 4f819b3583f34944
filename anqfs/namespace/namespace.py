"""The filesystem, for `mount/`, `control/` and offline tools. Everything here belongs to the trio thread.

Every method is synchronous and atomic: it is seen whole or not at all, and raises without having changed anything. There is no await in
any of them and none may be added. What is raised is an AnqfsError, whose `errno` is the answer: FilesystemError for what a caller did,
Damaged (EIO), NoSpace (ENOSPC), ReadOnlyVolume (EROFS). Permissions are the kernel's business (default_permissions); what the kernel does
not check is checked here. Times are ns, sizes bytes, node ids as in `nodes`.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from stat import S_IFDIR, S_IFLNK, S_IFMT, S_IFREG, S_IMODE, S_ISBLK, S_ISCHR, S_ISDIR, S_ISFIFO, S_ISLNK, S_ISREG, S_ISSOCK

from msgspec.structs import replace

from anqfs.errors import AnqfsError, Damaged, FilesystemError, ReadOnlyVolume
from anqfs.namespace.attributes import Attributes
from anqfs.namespace.core import Caller, Core, check_new_name, operation
from anqfs.namespace.directories import COOKIES_RESERVED, Directories
from anqfs.namespace.files import Files, Range, check_regular
from anqfs.namespace.nodes import SNAPSHOT_NAME, SNAPSHOTS, ino_of, node_of, snapshots_node
from anqfs.namespace.reclaim import Reclaim
from anqfs.namespace.renaming import Renaming
from anqfs.namespace.snapshots import ON_DEMAND, Snapshots, label
from anqfs.namespace.usage import of_inode
from anqfs.namespace.xattrs import Xattrs
from anqfs.store.schema import (
    COUNTER_EPOCH,
    COUNTER_INO,
    INO_BITS,
    INO_MAX,
    ROOT_INO,
    Counter,
    Dirent,
    Inode,
    Snapshot,
    Usage,
    dirent_key,
    inode_key,
    usage_key,
)
from anqfs.store.volume import Volume

TARGET_MAX = 4095


class Namespace:
    """One volume's tree and its snapshots."""

    @staticmethod
    def format(volume: Volume) -> None:
        """Make the root directory of an empty volume: 0755, owned by who runs this."""
        now = time.time_ns()
        volume.begin()
        volume.put(inode_key(ROOT_INO), Inode(1, S_IFDIR | 0o755, os.getuid(), os.getgid(), 2, 0, 0, now, now, now, now))
        volume.put(COUNTER_EPOCH, Counter(1))
        volume.put(COUNTER_INO, Counter(ROOT_INO + 1))
        volume.finish()

    def __init__(self, volume: Volume, *, clock: Callable[[], int] = time.time_ns) -> None:
        self.volume = volume
        self.core = Core(volume, clock)
        self.xattrs = Xattrs(self.core)
        self.files = Files(self.core)
        self.reclaim = Reclaim(self.core, self.files, self.xattrs)
        self.directories = Directories(self.core, self.xattrs, self.reclaim)
        self.renaming = Renaming(self.core, self.directories)
        self.attribute_changes = Attributes(self.core, self.files, self.xattrs)
        self._snapshots = Snapshots(self.core)
        self._snapshots.load()
        if volume.get(inode_key(ROOT_INO)) is None:
            raise Damaged("the volume has no root directory")
        volume.before_close.append(self.core.group_closes)
        self.core.lease_inos()
        if not volume.read_only:
            self.reclaim.load()

    # --- nodes

    def _where(self, node: int) -> tuple[int, int | None]:
        """Return a node's ino and the epoch at which it is seen, None for live. Raises ESTALE."""
        view = node >> INO_BITS
        if view == 0:
            return node, None
        if view == SNAPSHOTS:
            return ino_of(node), None
        return node & INO_MAX, self._snapshots.views.find(view).snapshot.epoch

    def _inode(self, node: int) -> tuple[int, Inode, int | None]:
        """Return ino, inode and epoch of a node that is not a `.snapshot`; of those, EISDIR. Raises ESTALE."""
        view = node >> INO_BITS
        if view == 0:
            return node, self.core.inode(node), None
        if view == SNAPSHOTS:
            raise FilesystemError(errno.EISDIR)
        ino, epoch = node & INO_MAX, self._snapshots.views.find(view).snapshot.epoch
        inode: Inode | None = self.core.versions.at(inode_key(ino), epoch)
        if inode is None:
            raise FilesystemError(errno.ESTALE)
        return ino, inode, epoch

    def generation(self, node: int) -> int:
        """Return the generation of a node id: 0 except for view numbers that came back. Raises ESTALE."""
        view = node >> INO_BITS
        return self._snapshots.views.find(view).generation if 0 < view < SNAPSHOTS else 0

    # --- look-ups

    def attributes(self, node: int) -> Inode:
        """Return a node's inode. Raises ESTALE."""
        view = node >> INO_BITS
        if view == 0:
            return self.core.inode(node)
        if view == SNAPSHOTS:
            return self._snapshots.directory(ino_of(node), self.core.inode(ino_of(node)))
        ino, inode, _ = self._inode(node)
        entered = self._snapshots.views.find(view)
        return replace(inode, mtime=entered.snapshot.created) if ino == entered.entry else inode

    def lookup(self, node: int, name: bytes) -> tuple[int, Inode]:
        """Find a name, "." (of anything), ".." or `.snapshot`. Raises ENOENT, ENOTDIR, ESTALE, ENAMETOOLONG."""
        view = node >> INO_BITS
        if view == 0:
            inode = self.core.inode(node)
            if S_ISDIR(inode.mode) and name[:1] != b".":
                _, dirent = self.directories.find(node, name)
                return dirent.ino, self.directories.named(dirent)
            return self._lookup_special(node, inode, name)
        if name == b".":
            return node, self.attributes(node)
        if name == b"..":
            parent = self.parent(node)
            return parent, self.attributes(parent)
        if view == SNAPSHOTS:
            ino = ino_of(node)
            self.core.inode(ino)
            return self._enter(self._snapshots.find(ino, name), ino)
        ino, inode, epoch = self._inode(node)
        if not S_ISDIR(inode.mode):
            raise FilesystemError(errno.ENOTDIR)
        _, dirent = self.directories.find(ino, name, epoch)
        child = node_of(view, dirent.ino)
        return child, self.attributes(child)

    def _lookup_special(self, node: int, inode: Inode, name: bytes) -> tuple[int, Inode]:
        if name == b".":
            return node, inode
        if not S_ISDIR(inode.mode):
            raise FilesystemError(errno.ENOTDIR)
        if name == b"..":
            parent = self.parent(node)
            return parent, self.core.inode(parent)
        if name == SNAPSHOT_NAME:
            if inode.nlink == 0:
                raise FilesystemError(errno.ENOENT)
            return snapshots_node(node), self._snapshots.directory(node, inode)
        _, dirent = self.directories.find(node, name)
        return dirent.ino, self.directories.named(dirent)

    def parent(self, node: int) -> int:
        """Return the node of a directory's parent; the root's is itself. Raises ENOTDIR, ESTALE, ENOENT for a removed directory."""
        view = node >> INO_BITS
        if view == SNAPSHOTS:
            return ino_of(node)
        ino, inode, _ = self._inode(node)
        if not S_ISDIR(inode.mode):
            raise FilesystemError(errno.ENOTDIR)
        if view and ino == self._snapshots.views.find(view).entry:
            return snapshots_node(ino)
        if ino == ROOT_INO:
            return node
        if not inode.links:
            raise FilesystemError(errno.ENOENT)
        return node_of(view, inode.links[0][0])

    def readdir(self, node: int, cookie: int) -> Iterator[tuple[bytes, int, Inode | None, int]]:
        """Yield (name, node, inode, cookie to go on from) behind a cookie, without "." and ".."; 0 starts.

        The inode is None when its record is damaged. Cookies are at least COOKIES_RESERVED except those of colliding names, which may be
        anything above 2. Raises ENOTDIR, ESTALE, Damaged.
        """
        view = node >> INO_BITS
        if view == SNAPSHOTS:
            yield from self._list_snapshots(ino_of(node), cookie)
            return
        ino, inode, epoch = self._inode(node)
        if not S_ISDIR(inode.mode):
            raise FilesystemError(errno.ENOTDIR)
        above = view << INO_BITS
        for dirent, following in self.directories.entries(ino, epoch, node, cookie):
            yield dirent.name, above | dirent.ino, self.directories.entry_inode(dirent, epoch), following

    def _list_snapshots(self, ino: int, cookie: int) -> Iterator[tuple[bytes, int, Inode | None, int]]:
        self.core.inode(ino)
        for snapshot in self._snapshots.covering(ino):
            following = COOKIES_RESERVED + snapshot.id
            if following > cookie and snapshot.id in self.core.versions.by_id:
                child, inode = self._enter(snapshot, ino)
                yield label(snapshot), child, inode, following

    def readlink(self, node: int) -> bytes:
        """Return a symlink's target. Raises EINVAL."""
        _, inode, _ = self._inode(node)
        if not S_ISLNK(inode.mode):
            raise FilesystemError(errno.EINVAL)
        return inode.target

    # --- names

    @operation
    def create(self, parent: int, name: bytes, mode: int, caller: Caller) -> tuple[int, Inode]:
        """Make a regular file. Raises EEXIST, ENOENT, ENOTDIR, ENAMETOOLONG, EROFS, NoSpace."""
        return self.directories.make(self._changeable(parent), name, S_IFREG | S_IMODE(mode), caller)

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

        Raises ENOTEMPTY, ENOTDIR, ENOENT, EROFS, EBUSY for `.snapshot`, EPERM for a snapshot that was taken of a directory above.
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
        caller: Caller,
    ) -> Inode:
        """Set what is given and return the new inode. Raises EROFS, ESTALE, EISDIR, EINVAL, EFBIG."""
        ino, inode = self.core.writable(self._changeable(node))
        return self.attribute_changes.set(ino, inode, mode, uid, gid, size, atime, mtime, ctime, caller)

    # --- data

    @operation
    def write(self, node: int, offset: int, data: bytes | bytearray | memoryview, *, kill_privileges: bool = False) -> int:
        """Write data and return its length. `kill_privileges`: the writer may not keep setuid and setgid.

        Raises EISDIR, EINVAL, EFBIG, EROFS, NoSpace, Damaged.
        """
        core = self.core
        ino, inode = core.writable(self._changeable(node))
        check_regular(inode)
        if not data:
            return 0
        new = self.files.write(ino, inode, offset, data)
        if kill_privileges or inode.flags:
            new = self.attribute_changes.written(ino, inode, new, kill_privileges)
        core.put_inode(ino, inode, new)
        return len(data)

    def read(self, node: int, offset: int, size: int) -> bytes:
        """Return up to `size` bytes from `offset`, short only at the end of the file. Raises EISDIR, EINVAL, Damaged."""
        ino, inode, epoch = self._inode(node)
        try:
            return self.files.read(ino, inode, epoch, offset, size)
        except Damaged as error:
            raise self.files.locate(error, self._path_or_none(ino), ino, offset) from error

    def cold(self, node: int, offset: int, size: int) -> list[Range]:
        """Return what `read` would wait for, as `Volume.fetch` takes it: [(extent, offset, length, sealing key number)]."""
        ino, inode, epoch = self._inode(node)
        return self.files.cold(ino, inode, epoch, offset, size)

    def hold(self, node: int) -> None:
        """Keep an inode alive without a name: the kernel looked it up or opened it."""
        if not node >> INO_BITS:
            held = self.core.held
            held[node] = held.get(node, 0) + 1

    def drop(self, node: int, count: int = 1) -> None:
        """Take back `count` holds. An inode without a name goes with the last one."""
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

    def getxattr(self, node: int, name: bytes) -> bytes:
        """Return a value. Raises ENODATA, EOPNOTSUPP, EPERM."""
        if node >> INO_BITS == SNAPSHOTS:
            raise FilesystemError(errno.ENODATA)
        ino, inode, epoch = self._inode(node)
        return self.xattrs.get(ino, inode, name, epoch)

    def listxattr(self, node: int) -> list[bytes]:
        """Return the names of a node's attributes."""
        if node >> INO_BITS == SNAPSHOTS:
            return []
        ino, inode, epoch = self._inode(node)
        return self.xattrs.names(ino, inode, epoch)

    @operation
    def setxattr(self, node: int, name: bytes, value: bytes, flags: int, caller: Caller) -> None:
        """Set a value; `flags`: XATTR_CREATE 1, XATTR_REPLACE 2. An access ACL changes the mode too.

        Raises EEXIST, ENODATA, E2BIG, ERANGE, EOPNOTSUPP, EPERM, EACCES, EINVAL, ENOSPC, EROFS.
        """
        ino, inode = self.core.writable(self._changeable(node))
        self.xattrs.set(ino, inode, name, value, flags, caller)

    @operation
    def removexattr(self, node: int, name: bytes, caller: Caller) -> None:
        """Remove an attribute. Raises ENODATA, EOPNOTSUPP, EPERM, EROFS."""
        ino, inode = self.core.writable(self._changeable(node))
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
        """Drop a snapshot; its space comes back through `work`. Raises NotFound."""
        self._snapshots.begin_delete(number)

    @operation
    def snapshot_modify(self, number: int, expires: int) -> Snapshot:
        """Set when a snapshot expires: ns since 1970, 0 = never. Raises NotFound."""
        return self._snapshots.change(number, expires)

    def snapshot(self, number: int) -> Snapshot:
        """Return a snapshot that is not in deletion. Raises NotFound."""
        return self._snapshots.get(number)

    def snapshots(self, directory_ino: int | None = None) -> list[Snapshot]:
        """Return the snapshots that are not in deletion, by id; of one directory or all."""
        versions = self.core.versions
        return list(versions.live if directory_ino is None else versions.by_root.get(directory_ino, ()))

    def snapshots_in_deletion(self) -> list[int]:
        """Return the ids of dropped snapshots whose space is not all back."""
        return list(self._snapshots.deleting)

    def covering(self, node: int) -> list[Snapshot]:
        """Return the snapshots listed in a live directory's `.snapshot`, by id. Raises ENOTDIR."""
        ino, inode = self.core.writable(self._changeable(node))
        if not S_ISDIR(inode.mode):
            raise FilesystemError(errno.ENOTDIR)
        return self._snapshots.covering(ino)

    def snapshot_node(self, number: int, entry: int | None = None) -> int:
        """Return the node of a directory as a snapshot shows it; by default the one it was taken of. Raises NotFound, ENOENT."""
        snapshot = self._snapshots.get(number)
        ino = snapshot.root if entry is None else entry
        if not self.core.versions.visible(ino, snapshot.epoch, snapshot.root):
            raise FilesystemError(errno.ENOENT)
        return node_of(self._view(snapshot, ino), ino)

    def snapshot_path(self, number: int) -> bytes | None:
        """Return the live path of a snapshot's directory in `.snapshot`, None if what it was taken of is gone. Raises NotFound."""
        snapshot = self._snapshots.get(number)
        path = self.path_of(snapshot.root)
        return None if path is None else path.rstrip(b"/") + b"/" + SNAPSHOT_NAME + b"/" + label(snapshot)

    def _enter(self, snapshot: Snapshot, ino: int) -> tuple[int, Inode]:
        node = node_of(self._view(snapshot, ino), ino)
        return node, self.attributes(node)

    def _view(self, snapshot: Snapshot, entry: int) -> int:
        number = self._snapshots.views.number(snapshot.id, entry)
        if number is not None:
            return number
        try:
            return self._new_view(snapshot, entry)
        except ReadOnlyVolume:
            return self._snapshots.views.allocate_transient(snapshot, entry)

    @operation
    def _new_view(self, snapshot: Snapshot, entry: int) -> int:
        return self._snapshots.views.allocate(snapshot, entry)

    # --- background

    def work(self, budget: int) -> bool:
        """Do one bounded step of about `budget` records of background work. Returns whether there is more.

        In turn: inodes without a name, truncated windows, dropped snapshots, windows of many pieces.
        """
        if self.volume.read_only or self.volume.failed is not None:
            return False
        budget = max(1, min(budget, 256))
        if not self.reclaim.step(budget):
            if self._snapshots.deleting:
                self._delete_step(budget)
            elif self.files.merges:
                self._merge_step()
        return bool(self.reclaim.waiting or self._snapshots.deleting or self.files.merges)

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

    # --- facts

    def usage(self, node: int) -> Usage:
        """Return the totals below a directory, live or as in a snapshot; of anything else, what it adds to its directory."""
        ino, inode, epoch = self._inode(node)
        if not S_ISDIR(inode.mode):
            return Usage(inode.birth, *of_inode(inode))
        if epoch is None and not self.volume.read_only and self.volume.failed is None:
            self.core.usage.flush()
        key = usage_key(ino)
        found: Usage | None = self.core.get(key) if epoch is None else self.core.versions.at(key, epoch)
        return found if found is not None else Usage(inode.birth)

    def path_of(self, ino: int) -> bytes | None:
        """Return a live path of an inode, beginning with a slash; None when it has no name."""
        names: list[bytes] = []
        while ino != ROOT_INO:
            inode: Inode | None = self.core.get(inode_key(ino))
            if inode is None or not inode.links:
                return None
            parent, name_hash = inode.links[0]
            dirent: Dirent | None = self.core.get(dirent_key(parent, name_hash))
            if dirent is None:
                return None
            names.append(dirent.name)
            ino = parent
        return b"/" + b"/".join(reversed(names))

    def _path_or_none(self, ino: int) -> bytes | None:
        try:
            return self.path_of(ino)
        except AnqfsError:
            return None

    def statistics(self) -> dict[str, int]:
        """Return numbers for people and metrics."""
        versions = self.core.versions
        return {
            "epoch": versions.epoch,
            "snapshots": len(versions.live),
            "snapshots_in_deletion": len(self._snapshots.deleting),
            "held": len(self.core.held),
            "reclaim_waiting": self.reclaim.waiting,
            "merges_waiting": len(self.files.merges),
        }
