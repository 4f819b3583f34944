"""Where a restore takes from and where it goes. Called by `restore` on the trio thread, before anything is changed."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from stat import S_IFDIR, S_ISDIR
from typing import TYPE_CHECKING

from anqfs.errors import FilesystemError, NotFound
from anqfs.namespace.core import check_new_name
from anqfs.namespace.nodes import ino_of, view_of
from anqfs.namespace.restore_steps import Steps, Then
from anqfs.store.schema import ROOT_INO, Inode, Snapshot

if TYPE_CHECKING:
    from anqfs.namespace.namespace import Namespace


@dataclass
class Place:
    """Where the restored thing goes. `top` is the live directory that is made equal, None when everything is made anew."""

    parent: int
    name: bytes
    live: int | None
    top: int | None


class Finder:
    """Finds both. Its methods raise NotFound, and FilesystemError for a destination that cannot be."""

    def __init__(self, namespace: Namespace, snapshot: Snapshot, then: Then, steps: Steps) -> None:
        self._namespace = namespace
        self._snapshot = snapshot
        self._then = then
        self._steps = steps

    def source(self, parts: list[bytes]) -> tuple[int, Inode]:
        """Return (ino, inode) of what a path in the snapshot leads to."""
        ino, inode = self._snapshot.root, self._then.inode(self._snapshot.root)
        for part in parts:
            dirent = self._then.dirent(ino, self._hash(part)) if inode is not None and S_ISDIR(inode.mode) else None
            if dirent is None or dirent.name != part:
                raise NotFound(f"snapshot {self._snapshot.id} has no {_shown(b'/'.join(parts))}")
            ino, inode = dirent.ino, self._then.inode(dirent.ino)
        if inode is None:
            raise NotFound(f"snapshot {self._snapshot.id} lacks inode {ino}")
        return ino, inode

    def beside(self, destination: tuple[int, bytes]) -> Place:
        """Return the place of a new name."""
        node, name = destination
        if view_of(node):
            raise FilesystemError(errno.EROFS, "the destination is in a snapshot")
        parent, _ = self._namespace.core.writable_directory(node)
        check_new_name(name)
        if self._steps.dirent(parent, self._hash(name)) is not None:
            raise FilesystemError(errno.EEXIST, "the destination exists")
        return Place(ino_of(parent), name, None, None)

    def in_live_tree(self, parts: list[bytes], old: Inode) -> Place:
        """Find the live place that the path in the snapshot stands for."""
        root = self._snapshot.root
        inode = self._steps.inode(root)
        if inode is None or not self._steps.is_inside(root, ROOT_INO):
            raise NotFound(f"the directory of snapshot {self._snapshot.id} was removed: restore it beside instead")
        if not parts:
            return self._root(root, inode)
        parent = root
        for part in parts[:-1]:
            found = self._steps.dirent(parent, self._hash(part))
            if found is None or found.kind != S_IFDIR:
                raise NotFound(f"the directory above {_shown(b'/'.join(parts))} was removed: restore it beside, or restore that first")
            parent = found.ino
        there = self._steps.dirent(parent, self._hash(parts[-1]))
        live = None if there is None else there.ino
        top = live if there is not None and there.kind == S_IFDIR and S_ISDIR(old.mode) else None
        return Place(parent, parts[-1], live, top)

    def _root(self, root: int, inode: Inode) -> Place:
        if root == ROOT_INO:
            return Place(ROOT_INO, b"", root, root)
        parent, name_hash = inode.links[0]
        return Place(parent, self._steps.name_of(parent, name_hash), root, root)

    def total(self, source: int, old: Inode) -> int | None:
        """Return how many files and directories the snapshot has there, if it is known."""
        if not S_ISDIR(old.mode):
            return 1
        usage = self._then.usage(source)
        return 1 if usage is None else 1 + usage.files + usage.directories + usage.symlinks + usage.others

    def _hash(self, name: bytes) -> bytes:
        return self._namespace.core.volume.name_hash(name)


def _shown(path: bytes) -> str:
    return path.decode("utf-8", "backslashreplace")
