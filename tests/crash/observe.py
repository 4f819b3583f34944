"""Reads a whole tree into plain values, through a mount or straight from a namespace, so that both are judged by the same rules."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

SNAPSHOTS = b".snapshot"
_PIECE = 1 << 20


@dataclass(frozen=True)
class Seen:
    """One name. `ino` tells hard links; `read` returns the file's content."""

    kind: int
    ino: int
    permissions: int
    size: int
    target: bytes
    xattrs: tuple[tuple[bytes, bytes], ...]
    read: Callable[[], bytes]


Tree = dict[bytes, Seen]
"""Relative path -> what is there. The top is not in it."""


def _nothing() -> bytes:
    return b""


class Mounted:
    """A tree below a path of the host."""

    def __init__(self, top: str | os.PathLike[str]) -> None:
        self.top = os.fsencode(top)

    def tree(self, path: bytes = b"") -> Tree:
        """Return everything below `path`."""
        found: Tree = {}
        self._walk(os.path.join(self.top, path), b"", found)
        return found

    def snapshots(self, path: bytes) -> list[bytes]:
        """Return the names in the `.snapshot` of directory `path`."""
        return sorted(os.listdir(os.path.join(self.top, path, SNAPSHOTS)))

    def exists(self, path: bytes) -> bool:
        return os.path.lexists(os.path.join(self.top, path))

    def _walk(self, directory: bytes, prefix: bytes, found: Tree) -> None:
        for name in sorted(os.listdir(directory)):
            path = os.path.join(directory, name)
            relative = prefix + name
            status = os.lstat(path)
            kind = stat.S_IFMT(status.st_mode)
            link = kind == stat.S_IFLNK
            found[relative] = Seen(
                kind,
                status.st_ino,
                stat.S_IMODE(status.st_mode),
                status.st_size,
                os.readlink(path) if link else b"",
                () if link else _host_xattrs(path),
                (lambda path=path: _slurp(path)) if kind == stat.S_IFREG else _nothing,
            )
            if kind == stat.S_IFDIR:
                self._walk(path, relative + b"/", found)


def _host_xattrs(path: bytes) -> tuple[tuple[bytes, bytes], ...]:
    names = [name for name in os.listxattr(path, follow_symlinks=False) if name.startswith("user.")]
    return tuple(sorted((os.fsencode(name), os.getxattr(path, name, follow_symlinks=False)) for name in names))


def _slurp(path: bytes) -> bytes:
    with open(path, "rb") as file:
        return file.read()


class Direct:
    """A tree in a namespace, without a mount."""

    def __init__(self, namespace: Any) -> None:
        self.namespace = namespace

    def find(self, path: bytes) -> int:
        node = 1
        for name in path.split(b"/"):
            if name:
                node, _ = self.namespace.lookup(node, name)
        return node

    def exists(self, path: bytes) -> bool:
        from anqfs.errors import FilesystemError

        try:
            self.find(path)
        except FilesystemError:
            return False
        return True

    def tree(self, path: bytes = b"") -> Tree:
        """Return everything below `path`."""
        found: Tree = {}
        self._walk(self.find(path), b"", found)
        return found

    def snapshots(self, path: bytes) -> list[bytes]:
        """Return the names in the `.snapshot` of directory `path`."""
        node, _ = self.namespace.lookup(self.find(path), SNAPSHOTS)
        return sorted(entry[0] for entry in self.namespace.readdir(node, 0))

    def _walk(self, directory: int, prefix: bytes, found: Tree) -> None:
        for name, node, inode, _ in sorted(self.namespace.readdir(directory, 0)):
            kind = stat.S_IFMT(inode.mode)
            link = kind == stat.S_IFLNK
            found[prefix + name] = Seen(
                kind,
                node,
                stat.S_IMODE(inode.mode),
                inode.size,
                inode.target if link else b"",
                () if link else self._xattrs(node),
                (lambda node=node, size=inode.size: self._read(node, size)) if kind == stat.S_IFREG else _nothing,
            )
            if kind == stat.S_IFDIR:
                self._walk(node, prefix + name + b"/", found)

    def _xattrs(self, node: int) -> tuple[tuple[bytes, bytes], ...]:
        names = [name for name in self.namespace.listxattr(node) if name.startswith(b"user.")]
        return tuple(sorted((name, self.namespace.getxattr(node, name)) for name in names))

    def _read(self, node: int, size: int) -> bytes:
        parts = [self.namespace.read(node, offset, min(_PIECE, size - offset)) for offset in range(0, size, _PIECE)]
        return b"".join(parts)
