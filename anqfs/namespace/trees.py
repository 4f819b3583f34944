"""A tree to look at: a directory and all below it as a snapshot shows it, or as it is now. Called by `diff` and others, trio thread."""

from __future__ import annotations

from itertools import islice
from stat import S_ISDIR
from typing import TYPE_CHECKING

from anqfs.errors import Damaged, FilesystemError
from anqfs.namespace.restore_steps import Entry, following
from anqfs.store.schema import Dirent, Inode, Snapshot, Window, Xattr, dirent_key, inode_key, window_key, xattr_key

if TYPE_CHECKING:
    from anqfs.namespace.namespace import Namespace

_FIRST, _LAST = bytes(16), b"\xff" * 16
_PATHS_MAX = 4096
_ESTALE = 116


class Tree:
    """The tree below `root`; `snapshot` None: live. What is remembered of a live tree is void once it changed (`forget`)."""

    def __init__(self, namespace: Namespace, root: int, snapshot: Snapshot | None) -> None:
        self._core = namespace.core
        self._files = namespace.files
        self.root = root
        self.epoch = None if snapshot is None else snapshot.epoch
        self._paths: dict[int, bytes] = {}

    def forget(self) -> None:
        """Drop what is remembered of a live tree."""
        if self.epoch is None:
            self._paths.clear()

    def inode(self, ino: int) -> Inode | None:
        """Return an inode, wherever it is."""
        key = inode_key(ino)
        found: Inode | None = self._core.get(key) if self.epoch is None else self._core.versions.at(key, self.epoch)
        return found

    def dirent(self, parent: int, name_hash: bytes) -> Dirent | None:
        """Return a name."""
        key = dirent_key(parent, name_hash)
        found: Dirent | None = self._core.get(key) if self.epoch is None else self._core.versions.at(key, self.epoch)
        return found

    def entries(self, parent: int, after: bytes, limit: int) -> list[Entry]:
        """Return up to `limit` (hash, dirent) of a directory whose hashes are above `after` (b"": from the first), in order."""
        start = dirent_key(parent, following(after) if after else _FIRST)
        found = self._core.versions.range_at(start, dirent_key(parent, _LAST) + b"\0", self.epoch)
        return [(key[9:25], record) for key, record in islice(found, limit)]

    def xattrs(self, ino: int) -> dict[bytes, Xattr]:
        """Return an inode's extended attributes by live key."""
        return dict(self._core.versions.range_at(xattr_key(ino, _FIRST), xattr_key(ino, _LAST) + b"\0", self.epoch))

    def window(self, ino: int, inode: Inode, number: int) -> Window | None:
        """Return a window of a file; `inode` is that of this tree."""
        return self._files.window(ino, inode, number, self.epoch)

    def window_numbers(self, ino: int, first: int, stop: int, limit: int) -> list[int]:
        """Return the numbers of up to `limit` windows with first <= number < stop."""
        found = self._core.versions.range_at(window_key(ino, first), window_key(ino, stop), self.epoch)
        return [int.from_bytes(key[9:17], "big") for key, _ in islice(found, limit)]

    def shows(self, ino: int) -> bool:
        """Tell whether an inode is the root of this tree or in it."""
        if self.epoch is not None:
            return self._core.versions.visible(ino, self.epoch, self.root)
        if ino == self.root:
            return True
        inode = self.inode(ino)
        if inode is None or S_ISDIR(inode.mode):
            return inode is not None and self.shows_directory(ino)
        return any(self.shows_directory(parent) for parent, _ in inode.links)

    def shows_directory(self, ino: int) -> bool:
        """Tell the same of a directory."""
        if self.epoch is not None:
            return self._core.versions.visible(ino, self.epoch, self.root)
        while ino != self.root:
            inode = self.inode(ino)
            if inode is None or not inode.links:
                return False
            ino = inode.links[0][0]
        return True

    def path(self, directory: int) -> bytes:
        """Return the path of a directory below the root, beginning with a slash; b"" for the root. Raises ESTALE when it left."""
        known = self._paths.get(directory)
        if known is not None:
            return known
        names: list[bytes] = []
        ino, above = directory, b""
        while ino != self.root:
            inode = self.inode(ino)
            dirent = self.dirent(*inode.links[0]) if inode is not None and inode.links else None
            if inode is None or dirent is None:
                raise FilesystemError(_ESTALE, "a directory left the tree while it was looked at")
            names.append(dirent.name)
            ino = inode.links[0][0]
            if ino in self._paths:
                above = self._paths[ino]
                break
        path = above + b"".join(b"/" + name for name in reversed(names))
        if len(self._paths) >= _PATHS_MAX:
            self._paths.clear()
        self._paths[directory] = path
        return path

    def find(self, parts: list[bytes]) -> tuple[int, Inode]:
        """Return (ino, inode) of a path below the root. Raises ENOENT, Damaged."""
        ino, inode = self.root, self.inode(self.root)
        for part in parts:
            dirent = self.dirent(ino, self._core.volume.name_hash(part)) if inode is not None and S_ISDIR(inode.mode) else None
            if dirent is None or dirent.name != part:
                raise FilesystemError(2, f"there is no {b'/'.join(parts).decode('utf-8', 'backslashreplace')}")
            ino, inode = dirent.ino, self.inode(dirent.ino)
        if inode is None:
            raise Damaged(f"inode {ino} is missing")
        return ino, inode
