"""Makes a writer's steps straight in a namespace, without a mount, and digests everything that a volume shows."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from typing import Any

from .content import pattern
from .model import State, Step
from .observe import SNAPSHOTS, Direct

PIECE = 1 << 20


class DirectHands:
    """Makes steps in a namespace below directory node `top`. `after` is called after each atomic operation."""

    def __init__(self, namespace: Any, top: int, state: State, caller: Any, after: Callable[[], None]) -> None:
        self.namespace, self.top, self.state, self.caller, self.after = namespace, top, state, caller, after

    def make(self, step: Step) -> None:
        """Make one step; raises FilesystemError or what the volume raises."""
        getattr(self, "_" + step[0])(*step[1:])

    def node(self, path: str) -> int:
        node = self.top
        for name in os.fsencode(path).split(b"/"):
            if name:
                node, _ = self.namespace.lookup(node, name)
        return node

    def _place(self, path: str) -> tuple[int, bytes]:
        parent, _, name = path.rpartition("/")
        return self.node(parent), os.fsencode(name)

    def _create(self, path: str, number: int) -> None:
        self.namespace.create(*self._place(path), stat.S_IFREG | 0o644, self.caller)
        self.after()

    def _write(self, path: str, version: int, offset: int, length: int) -> None:
        node = self.node(path)
        data = pattern(self.state.writer, self.state.paths[path].number, version, offset, length)
        while data:
            part = data[: PIECE - offset % PIECE]
            self.namespace.write(node, offset, part)
            self.after()
            offset, data = offset + len(part), data[len(part) :]

    _append = _write

    def _resize(self, path: str, size: int) -> None:
        self.namespace.set_attributes(self.node(path), size=size, caller=self.caller)
        self.after()

    def _fsync(self, path: str) -> None:
        """The driver commits."""

    _fsyncdir = _fsync

    def _mkdir(self, path: str) -> None:
        self.namespace.mkdir(*self._place(path), stat.S_IFDIR | 0o755, self.caller)
        self.after()

    def _rmdir(self, path: str) -> None:
        self.namespace.rmdir(*self._place(path))
        self.after()

    def _symlink(self, path: str, target: str) -> None:
        self.namespace.symlink(*self._place(path), os.fsencode(target), self.caller)
        self.after()

    def _unlink(self, path: str) -> None:
        self.namespace.unlink(*self._place(path))
        self.after()

    def _link(self, path: str, new: str) -> None:
        self.namespace.link(self.node(path), *self._place(new))
        self.after()

    def _rename(self, old: str, new: str) -> None:
        self.namespace.rename(*self._place(old), *self._place(new), 0)
        self.after()

    def _chmod(self, path: str, permissions: int) -> None:
        node = self.node(path)
        kind = stat.S_IFMT(self.namespace.attributes(node).mode)
        self.namespace.set_attributes(node, mode=kind | permissions, caller=self.caller)
        self.after()

    def _setxattr(self, path: str, name: str, value: str) -> None:
        self.namespace.setxattr(self.node(path), name.encode(), value.encode(), 0, self.caller)
        self.after()

    def _removexattr(self, path: str, name: str) -> None:
        self.namespace.removexattr(self.node(path), name.encode(), self.caller)
        self.after()

    def _snap(self, path: str, name: str) -> None:
        self.namespace.snapshot_create(self.node(path), name.encode())
        self.after()

    def _unsnap(self, path: str, name: str) -> None:
        [snapshot] = [s for s in self.namespace.snapshots() if s.name == name.encode() and s.state == 0]
        self.namespace.snapshot_delete(snapshot.id)
        self.after()


def digest(namespace: Any) -> str:
    """Return a digest of everything the volume shows: the live tree with data, attributes and times, and every snapshot's tree."""
    hasher = hashlib.sha256()
    for line in lines(namespace):
        hasher.update(line)
    return hasher.hexdigest()


def lines(namespace: Any) -> Iterator[bytes]:
    """Yield one line for each thing the volume shows."""
    observer = Direct(namespace)
    yield from _tree_lines(namespace, observer, b"", 1)
    for snapshot in sorted(namespace.snapshots(), key=lambda snapshot: snapshot.id):
        if snapshot.state == 0:
            path = namespace.path_of(snapshot.root)
            yield b"snapshot %d %s %r\n" % (snapshot.id, snapshot.name, path)
            if path is not None:
                door = path.strip(b"/") + b"/" + SNAPSHOTS + b"/%d_%s" % (snapshot.id, snapshot.name)
                yield from _tree_lines(namespace, observer, door.strip(b"/"), 0)


def _tree_lines(namespace: Any, observer: Direct, path: bytes, live: int) -> Iterator[bytes]:
    for name, seen in observer.tree(path).items():
        inode = namespace.attributes(observer.find(path + b"/" + name))
        times = (inode.mtime, inode.ctime, inode.btime)
        data = hashlib.sha256(seen.read()).digest()
        facts = (seen.kind, seen.permissions, seen.size, seen.target, seen.xattrs, times, inode.uid, inode.gid, inode.nlink * live)
        yield repr((path, name, facts, data)).encode()
