"""The model of a writer's directory: what it holds after each of the writer's steps. Pure, no files.

A step is a list: its name, then its arguments, as they stand in the writer's log.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass, field
from typing import Any

from .content import File, pattern

Step = list[Any]
FILE, DIRECTORY, SYMLINK = stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK


@dataclass
class Item:
    """An inode of the model. `changes` are all data changes ever: (step, offset, data) or (step, size, None)."""

    kind: int
    permissions: int
    number: int = 0
    target: str = ""
    xattrs: dict[str, str] = field(default_factory=dict)
    base: bytes = b""
    changes: list[tuple[int, int, bytes | None]] = field(default_factory=list)

    def content(self, upto: int) -> bytes:
        """Return the data after all changes of steps <= `upto`."""
        return self.file(upto, upto).now()

    def file(self, settled: int, started: int) -> File:
        """Return the data of which steps <= `settled` are durable and those <= `started` may be."""
        file = File(bytearray(self.base))
        for step, place, data in self.changes:
            if step <= started:
                file.later.append((place, data))
                if step <= settled:
                    file.settle()
        return file


@dataclass
class Taken:
    """A snapshot of the model: its directory and what it showed."""

    directory: str
    signature: tuple[Any, ...]
    content: dict[str, bytes]
    inside: dict[str, Item]


class State:
    """The writer's directory after some steps. Paths are relative to it; "" is the directory itself.

    With `names_only`, steps leave the items' data alone (the judge puts the data of all steps in, whichever state it looks at).
    """

    def __init__(self, writer: int, *, names_only: bool = False) -> None:
        self.writer, self.names_only = writer, names_only
        self.paths: dict[str, Item] = {"": Item(DIRECTORY, 0o755)}
        self.snapshots: dict[str, Taken] = {}
        self.files = 0
        self.versions = 0

    def of_kind(self, kind: int) -> list[str]:
        return [path for path, item in self.paths.items() if item.kind == kind and path]

    def below(self, path: str) -> dict[str, Item]:
        """Return what is below `path`, by relative path."""
        prefix = path + "/" if path else ""
        return {p[len(prefix) :]: item for p, item in self.paths.items() if p and p.startswith(prefix)}

    def signature(self, path: str = "") -> tuple[Any, ...]:
        """Return names, kinds, links, permissions, targets and attributes below `path`, comparable with `signature_of`."""
        first: dict[int, str] = {}
        lines = []
        for name, item in sorted(self.below(path).items()):
            group = first.setdefault(id(item), name) if item.kind == FILE else name
            permissions = item.permissions if item.kind != SYMLINK else 0
            lines.append((name, item.kind, permissions, group, item.target, tuple(sorted(item.xattrs.items()))))
        return tuple(lines)

    def apply(self, n: int, step: Step) -> None:
        """Make step number `n` in the model."""
        getattr(self, "_" + step[0])(n, *step[1:])

    def _create(self, n: int, path: str, number: int) -> None:
        self.files += 1
        self.paths[path] = Item(FILE, 0o644, number)

    def _write(self, n: int, path: str, version: int, offset: int, length: int) -> None:
        self.versions += 1
        if self.names_only:
            return
        item = self.paths[path]
        item.changes.append((n, offset, pattern(self.writer, item.number, version, offset, length)))

    _append = _write

    def _resize(self, n: int, path: str, size: int) -> None:
        if not self.names_only:
            self.paths[path].changes.append((n, size, None))

    def _fsync(self, n: int, path: str) -> None:
        """Changes nothing."""

    _fsyncdir = _fsync

    def _mkdir(self, n: int, path: str) -> None:
        self.paths[path] = Item(DIRECTORY, 0o755)

    def _symlink(self, n: int, path: str, target: str) -> None:
        self.paths[path] = Item(SYMLINK, 0o777, target=target)

    def _unlink(self, n: int, path: str) -> None:
        del self.paths[path]

    _rmdir = _unlink

    def _link(self, n: int, path: str, new: str) -> None:
        self.paths[new] = self.paths[path]

    def _rename(self, n: int, old: str, new: str) -> None:
        moved = {new + p[len(old) :]: item for p, item in self.paths.items() if p == old or p.startswith(old + "/")}
        if self.paths.get(new) is self.paths[old]:
            return
        for path in [p for p in self.paths if p in (old, new) or p.startswith(old + "/")]:
            del self.paths[path]
        self.paths.update(moved)

    def _chmod(self, n: int, path: str, permissions: int) -> None:
        self.paths[path].permissions = permissions

    def _setxattr(self, n: int, path: str, name: str, value: str) -> None:
        self.paths[path].xattrs[name] = value

    def _removexattr(self, n: int, path: str, name: str) -> None:
        del self.paths[path].xattrs[name]

    def _snap(self, n: int, path: str, name: str) -> None:
        inside = self.below(path)
        content = {p: item.content(n) for p, item in inside.items() if item.kind == FILE}
        frozen = {p: _frozen(item, n) for p, item in inside.items()}
        self.snapshots[name] = Taken(path, self.signature(path), content, _regroup(inside, frozen))

    def _unsnap(self, n: int, path: str, name: str) -> None:
        del self.snapshots[name]

    def _restore(self, n: int, name: str, destination: str) -> None:
        """The snapshot's content at `destination`: its own directory (in place) or a new one beside."""
        for path in self.below(destination):
            del self.paths[(destination + "/" if destination else "") + path]
        self.paths.setdefault(destination, Item(DIRECTORY, 0o755))
        copies: dict[int, Item] = {}
        for path, item in self.snapshots[name].inside.items():
            copy = copies.setdefault(id(item), _frozen(item, n))
            self.paths[(destination + "/" if destination else "") + path] = copy


def _frozen(item: Item, n: int) -> Item:
    return Item(item.kind, item.permissions, item.number, item.target, dict(item.xattrs), item.content(n))


def _regroup(inside: dict[str, Item], frozen: dict[str, Item]) -> dict[str, Item]:
    """Give names of one inode one copy again."""
    first: dict[int, Item] = {}
    return {path: first.setdefault(id(item), frozen[path]) for path, item in inside.items()}
