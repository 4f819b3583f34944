"""The half of the filesystem that only reads: look-ups, listings, data, attributes, snapshots and totals. Trio thread.

Looking into `.snapshot` may number a view, which is recorded; nothing else here changes a record.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator
from stat import S_ISDIR, S_ISLNK

from msgspec.structs import replace

from anqfs.errors import AnqfsError, Damaged, FilesystemError, ReadOnlyVolume
from anqfs.namespace import virtual_xattrs
from anqfs.namespace.api_users import ApiUsers
from anqfs.namespace.attributes import Attributes
from anqfs.namespace.copying import Copying
from anqfs.namespace.core import Core, operation
from anqfs.namespace.directories import COOKIES_RESERVED, Directories
from anqfs.namespace.file_locks import FileLocks
from anqfs.namespace.files import Files, Range
from anqfs.namespace.nodes import (
    BY_TIME,
    SNAPSHOT_NAME,
    SNAPSHOTS,
    VERSIONS,
    VERSIONS_NAME,
    ino_of,
    is_door,
    node_of,
    snapshots_node,
    versions_node,
)
from anqfs.namespace.policies import Policies
from anqfs.namespace.quotas import Quotas
from anqfs.namespace.reclaim import Reclaim
from anqfs.namespace.renaming import Renaming
from anqfs.namespace.security_keys import SecurityKeys
from anqfs.namespace.settings import VolumeSettings
from anqfs.namespace.snapshot_locks import SnapshotLocks
from anqfs.namespace.snapshots import Snapshots, label, version_label, version_time
from anqfs.namespace.tree_deletes import TreeDeletes
from anqfs.namespace.usage import of_inode
from anqfs.namespace.xattrs import Xattrs
from anqfs.store.schema import INO_BITS, INO_MAX, ROOT_INO, Dirent, Inode, Snapshot, Usage, dirent_key, inode_key, usage_key
from anqfs.store.volume import Volume


class Reading:
    """What can be asked of a volume's tree and its snapshots. `Namespace` adds what changes them."""

    def __init__(self, volume: Volume, *, clock: Callable[[], int] = time.time_ns) -> None:
        self.volume = volume
        self.core = Core(volume, clock)
        self.xattrs = Xattrs(self.core)
        self.files = Files(self.core)
        self.copying = Copying(self.core, self.files)
        self.reclaim = Reclaim(self.core, self.files, self.xattrs)
        self.directories = Directories(self.core, self.xattrs, self.reclaim)
        self.renaming = Renaming(self.core, self.directories)
        self.attribute_changes = Attributes(self.core, self.files, self.xattrs)
        self.settings = VolumeSettings(self.core)
        self.api_users = ApiUsers(self.core)
        self.quotas = Quotas(self.core)
        self.file_locks = FileLocks(self.core)
        self.tree_deletes = TreeDeletes(self.core, self.directories, self.path_of)
        self._snapshots = Snapshots(self.core)
        self._snapshots.load()
        self.security_keys = SecurityKeys(self.core)
        self.snapshot_locks = SnapshotLocks(self.core, self._snapshots, self.security_keys)
        self.snapshot_locks.load()
        self.policies = Policies(self.core, self._snapshots, self.security_keys, self.path_of)
        self.policies.load()
        volume.before_close += self.reclaim.finish, self.core.group_closes
        self._snapshots.views.lease()
        self.core.lease_inos()  # this makes both durable
        if not volume.read_only:
            self.reclaim.load()
            self.tree_deletes.load()

    # --- nodes

    def _inode(self, node: int) -> tuple[int, Inode, int | None]:
        """Return ino, inode and epoch of a node that is not a door; of those, EISDIR. Raises ESTALE."""
        view = node >> INO_BITS
        if view == 0:
            return node, self.core.inode(node), None
        if view >= VERSIONS:
            raise FilesystemError(errno.EISDIR)
        ino, epoch = node & INO_MAX, self._snapshots.views.find(view).snapshot.epoch
        inode: Inode | None = self.core.versions.at(inode_key(ino), epoch)
        if inode is None:
            raise FilesystemError(errno.ESTALE)
        return ino, inode, epoch

    def snapshot_of(self, node: int) -> Snapshot | None:
        """Return the snapshot that a node is in; None for live nodes and doors. Raises ESTALE."""
        view = node >> INO_BITS
        return self._snapshots.views.find(view).snapshot if 0 < view < VERSIONS else None

    def generation(self, node: int) -> int:
        """Return the generation of a node id: 0 except for view numbers that came back. Raises ESTALE."""
        view = node >> INO_BITS
        return self._snapshots.views.find(view).generation if 0 < view < VERSIONS else 0

    # --- look-ups

    def attributes(self, node: int) -> Inode:
        """Return a node's inode. Raises ESTALE."""
        view = node >> INO_BITS
        if view == 0:
            return self.core.inode(node)
        if view >= VERSIONS:
            return self._snapshots.directory(ino_of(node), self.core.inode(ino_of(node)))
        ino, inode, _ = self._inode(node)
        entered = self._snapshots.views.find(view)
        return replace(inode, mtime=entered.snapshot.created) if ino == entered.entry else inode

    def lookup(self, node: int, name: bytes) -> tuple[int, Inode]:
        """Find a name, "." (of anything), "..", `.snapshot` or the `@GMT` in one. Raises ENOENT, ENOTDIR, ESTALE, ENAMETOOLONG."""
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
        if view >= VERSIONS:
            return self._lookup_in_door(view, ino_of(node), name)
        ino, inode, epoch = self._inode(node)
        if not S_ISDIR(inode.mode):
            raise FilesystemError(errno.ENOTDIR)
        _, dirent = self.directories.find(ino, name, epoch)
        child = node_of(view, dirent.ino)
        return child, self.attributes(child)

    def _lookup_in_door(self, view: int, ino: int, name: bytes) -> tuple[int, Inode]:
        inode = self.core.inode(ino)
        if view == VERSIONS:
            return self._enter(self._snapshots.find_version(ino, name), ino | BY_TIME)
        if name == VERSIONS_NAME:
            return versions_node(ino), self._snapshots.directory(ino, inode)
        return self._enter(self._snapshots.find(ino, name), ino)

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

    def name_in_any_case(self, node: int, name: bytes) -> bytes | None:
        """Return the name in a directory that differs from `name` at most in case, at a cost that does not depend on the directory's size.

        The exact name comes first, then the first by its bytes. Raises ENOTDIR, ESTALE, ENAMETOOLONG, EINVAL.
        """
        if is_door(node):
            self.core.inode(ino_of(node))
            return None if node >> INO_BITS == VERSIONS else self._snapshots.find_in_any_case(ino_of(node), name)
        ino, inode, epoch = self._inode(node)
        if not S_ISDIR(inode.mode):
            raise FilesystemError(errno.ENOTDIR)
        if epoch is None and name.lower() == SNAPSHOT_NAME:
            return SNAPSHOT_NAME
        return self.directories.find_in_any_case(ino, name, epoch)

    def parent(self, node: int) -> int:
        """Return the node of a directory's parent; the root's is itself. Raises ENOTDIR, ESTALE, ENOENT for a removed directory."""
        view = node >> INO_BITS
        if view >= VERSIONS:
            return ino_of(node) if view == SNAPSHOTS else snapshots_node(ino_of(node))
        ino, inode, _ = self._inode(node)
        if not S_ISDIR(inode.mode):
            raise FilesystemError(errno.ENOTDIR)
        if view and ino == (entered := self._snapshots.views.find(view)).entry:
            return versions_node(ino) if entered.by_time else snapshots_node(ino)
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
        if view >= VERSIONS:
            yield from self._list_snapshots(ino_of(node), view == VERSIONS, cookie)
            return
        ino, inode, epoch = self._inode(node)
        if not S_ISDIR(inode.mode):
            raise FilesystemError(errno.ENOTDIR)
        above = view << INO_BITS
        for dirent, following in self.directories.entries(ino, epoch, node, cookie):
            yield dirent.name, above | dirent.ino, self.directories.entry_inode(dirent, epoch), following

    def _list_snapshots(self, ino: int, by_time: bool, cookie: int) -> Iterator[tuple[bytes, int, Inode | None, int]]:
        self.core.inode(ino)
        for snapshot in self._snapshots.covering(ino):
            following = COOKIES_RESERVED + snapshot.id
            if following > cookie and snapshot.id in self.core.versions.by_id:
                child, inode = self._enter(snapshot, ino | BY_TIME if by_time else ino)
                yield version_label(snapshot) if by_time else label(snapshot), child, inode, following

    def readlink(self, node: int) -> bytes:
        """Return a symlink's target. Raises EINVAL."""
        _, inode, _ = self._inode(node)
        if not S_ISLNK(inode.mode):
            raise FilesystemError(errno.EINVAL)
        return inode.target

    # --- data and attributes

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

    def expect(self, node: int, offset: int, size: int) -> None:
        """Ask the disk for what `read` will need, without waiting for it."""
        ino, inode, epoch = self._inode(node)
        self.files.expect(ino, inode, epoch, offset, size)

    def getxattr(self, node: int, name: bytes) -> bytes:
        """Return a value. Raises ENODATA, EOPNOTSUPP, EPERM; a virtual one also ENOTDIR, ENAMETOOLONG, EINVAL."""
        virtual = virtual_xattrs.find(name)
        if virtual is not None:
            answer, argument = virtual
            return answer(self, node, argument)
        if is_door(node):
            return virtual_xattrs.of_door(name)
        ino, inode, epoch = self._inode(node)
        return self.xattrs.get(ino, inode, name, epoch)

    def listxattr(self, node: int) -> list[bytes]:
        """Return the names of a node's attributes."""
        if is_door(node):
            return []
        ino, inode, epoch = self._inode(node)
        return self.xattrs.names(ino, inode, epoch)

    # --- snapshots

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

    def version_time(self, node: int) -> int | None:
        """Return when the snapshot that a node is in was taken, as Previous Versions shows it: ns since 1970; None outside. Raises ESTALE.

        Snapshots that can be seen in one directory differ in the seconds of it.
        """
        if not 0 < node >> INO_BITS < VERSIONS:
            return None
        self._inode(node)
        return version_time(self._snapshots.views.find(node >> INO_BITS).snapshot)

    def covering(self, node: int) -> list[Snapshot]:
        """Return the snapshots listed in a live directory's `.snapshot`, by id. Raises ENOTDIR."""
        ino, inode = self.core.writable(node)
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

    def _enter(self, snapshot: Snapshot, door: int) -> tuple[int, Inode]:
        node = node_of(self._view(snapshot, door), ino_of(door))
        return node, self.attributes(node)

    def _view(self, snapshot: Snapshot, door: int) -> int:
        number = self._snapshots.views.number(snapshot.id, door)
        if number is not None:
            return number
        try:
            return self._new_view(snapshot, door)
        except ReadOnlyVolume:
            return self._snapshots.views.allocate_transient(snapshot, door)

    @operation
    def _new_view(self, snapshot: Snapshot, door: int) -> int:
        return self._snapshots.views.allocate(snapshot, door)

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

    def names_of(self, ino: int) -> list[tuple[int, bytes]]:
        """Return all live names of an inode as (directory, name); none when it is gone."""
        inode: Inode | None = self.core.get(inode_key(ino))
        links = () if inode is None else inode.links
        found = [(parent, self.core.get(dirent_key(parent, name_hash))) for parent, name_hash in links]
        return [(parent, dirent.name) for parent, dirent in found if dirent is not None]

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
