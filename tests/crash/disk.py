"""A disk that loses power: what a directory may hold after a cut, rebuilt from the preload library's log.

A file's write is sure to be there only once a later barrier of that file has returned (or the write itself, when the file was opened
O_DSYNC). Before that any of its 512-byte sectors may be there or not, in any order, and the file's length may have grown without
its data. A name (created, renamed, removed) is sure only once its directory was synced; before that any of the directory's
changes may be there or not. Reads nothing but the log, so what it rebuilds is what the program asked the disk for, no more.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from .preload import Entry, Kind

T = TypeVar("T")
SECTOR = 512
STRATEGIES = ("none", "all", "most", "half", "few", "prefix", "last", "all but one", "only one", "grown")


@dataclass
class _Change:
    """A write (data) or a new size (data None) that no barrier has covered yet."""

    token: int
    offset: int
    data: bytes | None


@dataclass
class _File:
    sure: bytearray = field(default_factory=bytearray)
    waiting: list[_Change] = field(default_factory=list)


@dataclass
class _Directory:
    path: Path
    sure: dict[str, int] = field(default_factory=dict)
    """Name -> object of files and of directories."""
    waiting: list[tuple[str, str, int]] = field(default_factory=list)
    """(old name or "", new name or "", object)."""


class Disk:
    """The state of one directory tree after each line of the log.

    Arguments: `root` is the tree's path in the log, `base` holds it as it was at the start, `objects` numbers its names (`snapshot`).
    """

    def __init__(self, root: Path, base: Path, objects: dict[str, int]) -> None:
        self.root = Path(os.path.realpath(root))
        self.files: dict[int, _File] = {}
        self.directories: dict[int, _Directory] = {}
        self.shared_maps: set[str] = set()
        self.writes = self.barriers = self.renames = 0
        self._next = 1 << 62
        self._alias: dict[int, int] = {}
        self._begun: dict[int, tuple[int, int]] = {}
        for name, number in objects.items():
            path = base / name
            if path.is_dir():
                self.directories[number] = _Directory(self.root / name if name != "." else self.root)
            else:
                self.files[number] = _File(bytearray(path.read_bytes()))
        for name, number in objects.items():
            if name != ".":
                self._parent(self.root / name).sure[Path(name).name] = number

    def apply(self, entry: Entry) -> None:
        """Move one line on."""
        number = self._alias.get(entry.object, entry.object)
        match entry.kind:
            case Kind.CREATE | Kind.MKDIR:
                self._created(entry)
            case Kind.WRITE:
                self.writes += 1
                self.files[number].waiting.append(_Change(entry.token, entry.offset, entry.data))
            case Kind.WRITTEN:
                self.barriers += 1
                self._settle_one(self.files[number], entry.token)
            case Kind.TRUNCATE:
                self.files[number].waiting.append(_Change(0, entry.offset, None))
            case Kind.ALLOCATE:
                file = self.files[number]
                if entry.token == 0 and entry.offset > _length(file):
                    file.waiting.append(_Change(0, entry.offset, None))
            case Kind.SYNC_BEGIN:
                waiting = self.files[number].waiting if number in self.files else self.directories[number].waiting
                self._begun[entry.token] = (number, len(waiting))
            case Kind.SYNC_END:
                self.barriers += 1
                self._settle(*self._begun.pop(entry.token))
            case Kind.RENAME:
                self.renames += 1
                old, new = (Path(os.fsdecode(part)) for part in entry.data.split(b"\0"))
                if old.parent != new.parent:
                    raise ValueError(f"a rename between directories: {old} {new}")
                directory = self._parent(new)
                directory.waiting.append((old.name, new.name, _now(directory)[old.name]))
            case Kind.UNLINK | Kind.RMDIR:
                path = Path(os.fsdecode(entry.data))
                directory = self._parent(path)
                directory.waiting.append((path.name, "", _now(directory)[path.name]))
            case Kind.SHARED_MAP:
                self.shared_maps.add(os.fsdecode(entry.data))

    def waiting(self) -> int:
        """Return how many changes no barrier covers."""
        return sum(len(file.waiting) for file in self.files.values()) + sum(len(d.waiting) for d in self.directories.values())

    def cut(self, target: Path, rng: random.Random, strategy: str | None = None) -> None:
        """Write the tree as a power cut at this moment may leave it to `target`, an absent path."""
        top = next(d for d in self.directories.values() if d.path == self.root)
        self._write_directory(top, target, rng, strategy)

    def _write_directory(self, directory: _Directory, target: Path, rng: random.Random, strategy: str | None) -> None:
        target.mkdir(mode=0o700)
        names = dict(directory.sure)
        for old, new, number in _chosen(directory.waiting, rng, strategy or rng.choice(STRATEGIES)):
            names.pop(old, None)
            if new:
                names[new] = number
        for name, number in names.items():
            if number in self.directories:
                self._write_directory(self.directories[number], target / name, rng, strategy)
            else:
                (target / name).write_bytes(_torn(self.files[number], rng, strategy or rng.choice(STRATEGIES)))
                (target / name).chmod(0o600)

    def _created(self, entry: Entry) -> None:
        path = Path(os.fsdecode(entry.data))
        self._next += 1
        self._alias[entry.object] = self._next
        if entry.kind == Kind.MKDIR:
            self.directories[self._next] = _Directory(path)
        else:
            self.files[self._next] = _File()
        self._parent(path).waiting.append(("", path.name, self._next))

    def _parent(self, path: Path) -> _Directory:
        return next(d for d in self.directories.values() if d.path == path.parent)

    def _settle_one(self, file: _File, token: int) -> None:
        change = next(change for change in file.waiting if change.token == token)
        file.waiting.remove(change)
        _write(file.sure, change)
        for began, (number, count) in self._begun.items():
            if self.files.get(number) is file:
                self._begun[began] = (number, min(count, len(file.waiting)))

    def _settle(self, number: int, count: int) -> None:
        if number in self.files:
            file = self.files[number]
            for change in file.waiting[:count]:
                _write(file.sure, change)
            del file.waiting[:count]
            return
        directory = self.directories[number]
        for old, new, object_ in directory.waiting[:count]:
            directory.sure.pop(old, None)
            if new:
                directory.sure[new] = object_
        del directory.waiting[:count]


def snapshot(root: Path) -> dict[str, int]:
    """Return the objects (inode numbers) of every name below `root`, "." included, for Disk."""
    found = {".": root.stat().st_ino}
    for path in sorted(root.rglob("*")):
        found[str(path.relative_to(root))] = path.stat().st_ino
    return found


def _now(directory: _Directory) -> dict[str, int]:
    names = dict(directory.sure)
    for old, new, number in directory.waiting:
        names.pop(old, None)
        if new:
            names[new] = number
    return names


def _length(file: _File) -> int:
    length = len(file.sure)
    for change in file.waiting:
        length = change.offset if change.data is None else max(length, change.offset + len(change.data))
    return length


def _write(content: bytearray, change: _Change) -> None:
    if change.data is None:
        if change.offset < len(content):
            del content[change.offset :]
        else:
            content.extend(bytes(change.offset - len(content)))
        return
    if change.offset > len(content):
        content.extend(bytes(change.offset - len(content)))
    content[change.offset : change.offset + len(change.data)] = change.data


def _torn(file: _File, rng: random.Random, strategy: str) -> bytes:
    content = bytearray(file.sure)
    for change in _chosen(list(_sectors(file.waiting)), rng, strategy):
        _write(content, change)
    if strategy == "grown":
        content.extend(bytes(max(0, _length(file) - len(content))))
    return bytes(content)


def _sectors(changes: Iterable[_Change]) -> Iterable[_Change]:
    for change in changes:
        if change.data is None:
            yield change
            continue
        start = 0
        while start < len(change.data):
            stop = min(len(change.data), start + SECTOR - (change.offset + start) % SECTOR)
            yield _Change(change.token, change.offset + start, change.data[start:stop])
            start = stop


def _chosen(changes: list[T], rng: random.Random, strategy: str) -> list[T]:
    count = len(changes)
    if count == 0 or strategy == "none":
        return []
    one = rng.randrange(count)
    match strategy:
        case "all":
            return changes
        case "prefix":
            return changes[:one]
        case "last":
            return changes[one:]
        case "all but one":
            return changes[:one] + changes[one + 1 :]
        case "only one":
            return [changes[one]]
    share = {"most": 0.95, "half": 0.5, "few": 0.05, "grown": 0.3}[strategy]
    return [change for change in changes if rng.random() < share]
