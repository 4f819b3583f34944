"""A writer whose every step is logged outside the filesystem, and the judge of what a crash may leave of its work.

A writer works alone in its own directory. It logs a step before it makes it ("start"), when the call returned ("done") and, for the
calls that promise durability, that everything so far must survive ("ack"). After a crash the names, links, modes, attributes and
snapshots and all data must equal the state after some step k between the last acknowledged one and the last started one, of which step
k + 1 may have put a part of its data (the kernel sends a large write in pieces, and closing a file sends all). Each snapshot must equal,
byte for byte, what its directory held when it was taken.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import functools
import json
import os
import random
import signal
import stat
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .content import File, pattern
from .observe import Tree
from .preload import Marks

Step = list[Any]
GONE = (errno.ENOTCONN, errno.ECONNABORTED, errno.EIO, errno.ENODEV, errno.ESTALE)
"""What a writer sees when the daemon is killed under it."""
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


# ---------------------------------------------------------------- the steps a writer takes


class Planner:
    """Draws the next steps for a state. `snapshots` and `big` say whether those happen."""

    def __init__(self, state: State, rng: random.Random, *, snapshots: bool = True, big: bool = True, sync_share: float = 0.25) -> None:
        self.state, self.rng = state, rng
        self.big, self.snapshots, self.sync_share = big, snapshots, sync_share
        self.names = 0

    def next(self) -> list[Step]:
        """Return one to a few steps that belong together."""
        draw = self.rng.random()
        for limit, make in self._table():
            draw -= limit
            if draw < 0 < limit and (steps := make()):
                return steps
        return self._new_file()

    def _table(self) -> list[tuple[float, Callable[[], list[Step]]]]:
        snap = 0.06 if self.snapshots else 0.0
        return [
            (0.16, self._new_file),
            (0.14, self._grow),
            (0.12, self._overwrite),
            (0.10, self._replace),
            (0.06, self._make_directory),
            (0.05, self._move),
            (0.05, self._hard_link),
            (0.07, self._remove),
            (0.05, self._cut),
            (0.05, self._attribute),
            (0.02, self._point),
            (0.02, self._remove_directory),
            (snap, self._take),
            (snap / 2, self._drop),
        ]

    def _fresh(self, stem: str) -> str:
        self.names += 1
        parent = self.rng.choice(["", *self.state.of_kind(DIRECTORY)])
        return (parent + "/" if parent else "") + f"{stem}{self.names}"

    def _pick(self, kind: int = FILE) -> str | None:
        paths = self.state.of_kind(kind)
        return self.rng.choice(paths) if paths else None

    def _length(self) -> int:
        if self.big and self.rng.random() < 0.04:
            return self.rng.randrange(600_000, 3_000_000)
        return self.rng.choice([0, 5, 100, 4000, 4096, 5000, 20_000, 70_000])

    def _synced(self, path: str, steps: list[Step]) -> list[Step]:
        if self.rng.random() < self.sync_share:
            parent = os.path.dirname(path)
            steps.append(self.rng.choice([["fsync", path], ["fsync", path], ["fsyncdir", parent]]))
        return steps

    def _new_file(self) -> list[Step]:
        path = self._fresh("f")
        length = self._length()
        steps: list[Step] = [["create", path, self.state.files + 1]]
        if length:
            steps.append(["write", path, self.state.versions + 1, 0, length])
        return self._synced(path, steps)

    def _grow(self) -> list[Step]:
        if (path := self._pick()) is None:
            return []
        size = len(self.state.paths[path].content(1 << 60))
        if size > 6_000_000:
            return []
        length = max(1, self._length())
        if self.rng.random() < 0.1:
            return self._synced(path, [["write", path, self.state.versions + 1, size + self.rng.randrange(1, 2_000_000), length]])
        return self._synced(path, [["append", path, self.state.versions + 1, size, length]])

    def _overwrite(self) -> list[Step]:
        if (path := self._pick()) is None:
            return []
        size = len(self.state.paths[path].content(1 << 60))
        offset = self.rng.randrange(size + 1)
        return self._synced(path, [["write", path, self.state.versions + 1, offset, max(1, self._length())]])

    def _replace(self) -> list[Step]:
        """The safe way to replace a file: write beside, sync, rename."""
        if (target := self._pick()) is None:
            return []
        path = self._fresh("t")
        steps: list[Step] = [["create", path, self.state.files + 1], ["write", path, self.state.versions + 1, 0, max(1, self._length())]]
        steps += [["fsync", path], ["rename", path, target]]
        if self.rng.random() < 0.5:
            steps.append(["fsyncdir", os.path.dirname(target)])
        return steps

    def _make_directory(self) -> list[Step]:
        path = self._fresh("d")
        return [["mkdir", path], ["mkdir", path + "/a"], ["create", path + "/a/in", self.state.files + 1]]

    def _move(self) -> list[Step]:
        path = self._pick(self.rng.choice([FILE, DIRECTORY]))
        new = self._fresh("m")
        if path is None or new.startswith(path + "/"):
            return []
        if any(t.directory == path or t.directory.startswith(path + "/") for t in self.state.snapshots.values()):
            return []
        return self._synced_directory([["rename", path, new]], new)

    def _synced_directory(self, steps: list[Step], path: str) -> list[Step]:
        if self.rng.random() < self.sync_share:
            steps.append(["fsyncdir", os.path.dirname(path)])
        return steps

    def _hard_link(self) -> list[Step]:
        path = self._pick()
        return [["link", path, self._fresh("l")]] if path else []

    def _remove(self) -> list[Step]:
        path = self._pick(self.rng.choice([FILE, FILE, SYMLINK]))
        return self._synced_directory([["unlink", path]], path) if path else []

    def _remove_directory(self) -> list[Step]:
        guarded = {t.directory for t in self.state.snapshots.values()}
        empty = [path for path in self.state.of_kind(DIRECTORY) if not self.state.below(path) and path not in guarded]
        return [["rmdir", self.rng.choice(empty)]] if empty else []

    def _cut(self) -> list[Step]:
        if (path := self._pick()) is None:
            return []
        size = len(self.state.paths[path].content(1 << 60))
        return self._synced(path, [["resize", path, self.rng.randrange(size + 10_000)]])

    def _attribute(self) -> list[Step]:
        if (path := self._pick(self.rng.choice([FILE, DIRECTORY]))) is None:
            return []
        item = self.state.paths[path]
        if item.xattrs and self.rng.random() < 0.3:
            return [["removexattr", path, next(iter(item.xattrs))]]
        if self.rng.random() < 0.3:
            return [["chmod", path, self.rng.choice([0o600, 0o640, 0o700, 0o755])]]
        value = f"{self.rng.random()}" * self.rng.choice([1, 1, 200])
        return [["setxattr", path, f"user.{self.rng.choice('abc')}", value]]

    def _point(self) -> list[Step]:
        path = self._fresh("s")
        return [["symlink", path, "to/" + path]]

    def _take(self) -> list[Step]:
        path = self.rng.choice(["", *self.state.of_kind(DIRECTORY)])
        self.names += 1
        return [["snap", path, f"w{self.state.writer}n{self.names}"]]

    def _drop(self) -> list[Step]:
        if not self.state.snapshots:
            return []
        name = self.rng.choice(list(self.state.snapshots))
        return [["unsnap", self.state.snapshots[name].directory, name]]


class Hands:
    """Makes steps on the host, below `top`."""

    acknowledging = ("fsync", "fsyncdir")

    def __init__(self, top: str, state: State) -> None:
        self.top, self.state = top, state

    def make(self, step: Step) -> None:
        """Make one step; raises OSError."""
        getattr(self, "_" + step[0])(*step[1:])

    def _at(self, path: str) -> str:
        return os.path.join(self.top, path) if path else self.top

    def _create(self, path: str, number: int) -> None:
        os.close(os.open(self._at(path), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))

    def _put(self, path: str, version: int, offset: int, length: int, flags: int) -> None:
        data = pattern(self.state.writer, self.state.paths[path].number, version, offset, length)
        file = os.open(self._at(path), os.O_WRONLY | flags)
        try:
            while data:
                done = os.write(file, data) if flags else os.pwrite(file, data, offset)
                offset, data = offset + done, data[done:]
        finally:
            os.close(file)

    def _write(self, path: str, version: int, offset: int, length: int) -> None:
        self._put(path, version, offset, length, 0)

    def _append(self, path: str, version: int, offset: int, length: int) -> None:
        self._put(path, version, offset, length, os.O_APPEND)

    def _resize(self, path: str, size: int) -> None:
        os.truncate(self._at(path), size)

    def _fsync(self, path: str) -> None:
        self._sync(path, os.O_RDWR)

    def _fsyncdir(self, path: str) -> None:
        self._sync(path, os.O_RDONLY | os.O_DIRECTORY)

    def _sync(self, path: str, flags: int) -> None:
        file = os.open(self._at(path), flags)
        try:
            os.fsync(file)
        finally:
            os.close(file)

    def _mkdir(self, path: str) -> None:
        os.mkdir(self._at(path), 0o755)

    def _rmdir(self, path: str) -> None:
        os.rmdir(self._at(path))

    def _symlink(self, path: str, target: str) -> None:
        os.symlink(target, self._at(path))

    def _unlink(self, path: str) -> None:
        os.unlink(self._at(path))

    def _link(self, path: str, new: str) -> None:
        os.link(self._at(path), self._at(new))

    def _rename(self, old: str, new: str) -> None:
        os.rename(self._at(old), self._at(new))

    def _chmod(self, path: str, permissions: int) -> None:
        os.chmod(self._at(path), permissions)

    def _setxattr(self, path: str, name: str, value: str) -> None:
        os.setxattr(self._at(path), name, value.encode())

    def _removexattr(self, path: str, name: str) -> None:
        os.removexattr(self._at(path), name)

    def _snap(self, path: str, name: str) -> None:
        os.mkdir(os.path.join(self._at(path), ".snapshot", name))

    def _unsnap(self, path: str, name: str) -> None:
        directory = os.path.join(self._at(path), ".snapshot")
        [full] = [entry for entry in os.listdir(directory) if entry.split("_", 1)[1] == name]
        os.rmdir(os.path.join(directory, full))


class LineLog:
    """A writer's log as a file of JSON lines, each appended with one write."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def append(self, value: object) -> None:
        os.write(self._file, json.dumps(value).encode() + b"\n")

    def close(self) -> None:
        os.close(self._file)


def run_writer(
    writer: int, top: str, log: Any, rng: random.Random, *, steps: int, until: float, stop: Callable[[], bool], **kinds: Any
) -> str:
    """Take steps until told to stop, and return "stopped", or "gone" when the filesystem went away."""
    state = State(writer)
    planner = Planner(state, rng, **kinds)
    hands = Hands(top, state)
    n = 0
    while n < steps and time.monotonic() < until and not stop():
        for step in planner.next():
            n += 1
            log.append({"w": writer, "start": n, "step": step})
            try:
                hands.make(step)
            except OSError as error:
                log.append({"w": writer, "failed": n, "errno": error.errno, "message": str(error)})
                return "gone" if error.errno in GONE else f"step {n} {step}: {error}"
            state.apply(n, step)
            log.append({"w": writer, "ack" if step[0] in Hands.acknowledging else "done": n})
    return "stopped"


# ---------------------------------------------------------------- the judge


@dataclass
class History:
    """One writer's log as read back: the steps started, of which the first `acked` must have survived."""

    writer: int
    steps: list[Step] = field(default_factory=list)
    acked: int = 0
    returned: int = 0
    failure: dict[str, Any] | None = None

    def add(self, line: dict[str, Any]) -> None:
        if "start" in line:
            self.steps.append(line["step"])
        elif "ack" in line:
            self.acked = self.returned = line["ack"]
        elif "done" in line:
            self.returned = line["done"]
        elif "failed" in line:
            self.failure = line


def histories(lines: Iterable[dict[str, Any]]) -> dict[int, History]:
    """Collect the histories of all writers from the lines of a log."""
    found: dict[int, History] = {}
    for line in lines:
        found.setdefault(line["w"], History(line["w"])).add(line)
    return found


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@dataclass
class Verdict:
    """What the judge found: `faults` (empty when all is well), the step whose state it is, and how much was looked at."""

    faults: list[str]
    step: int = -1
    files: int = 0
    exact: int = 0
    snapshots: int = 0
    size: int = 0


def signature_of(tree: Tree) -> tuple[Any, ...]:
    """Return a seen tree in the form of `State.signature`."""
    first: dict[int, str] = {}
    lines = []
    for path, seen in sorted(tree.items()):
        name = os.fsdecode(path)
        group = first.setdefault(seen.ino, name) if seen.kind == FILE else name
        permissions = seen.permissions if seen.kind != SYMLINK else 0
        xattrs = tuple((os.fsdecode(key), value.decode()) for key, value in seen.xattrs)
        lines.append((name, seen.kind, permissions, group, os.fsdecode(seen.target), xattrs))
    return tuple(lines)


def judge(history: History, observer: Any, top: bytes) -> Verdict:
    """Compare what is at `top` with what the writer's history allows."""
    if history.steps and history.steps[-1][0] == "restore" and history.returned < len(history.steps):
        return Verdict([], len(history.steps))
    if not observer.exists(top):
        return Verdict([f"writer {history.writer}: its directory is gone"])
    tree = observer.tree(top)
    seen = signature_of(tree)
    wanted_first: tuple[Any, ...] | None = None
    read = functools.cache(lambda path: _read(tree[os.fsencode(path)]))
    best: Verdict | None = None
    for k, state in _states(history):
        signature = state.signature()
        wanted_first = signature if wanted_first is None else wanted_first
        if signature != seen:
            continue
        verdict = _judge_state(history, state, k, observer, read, top)
        if not verdict.faults:
            return verdict
        best = best if best is not None and best.files > verdict.files else verdict
    if best is not None:
        return best
    span = f"{history.acked}..{len(history.steps)}"
    return Verdict([f"writer {history.writer}: the names equal no state of steps {span}: {_tree_difference(wanted_first or (), seen)}"])


def _states(history: History) -> Iterable[tuple[int, State]]:
    """Yield (k, state) for each k that may have survived. Data changes of all steps started are in the items already."""
    whole = State(history.writer)
    data: dict[tuple[int, str], Item] = {}
    for n, step in enumerate(history.steps, 1):
        whole.apply(n, step)
        data.update(_born(whole, n, step))
    state = State(history.writer, names_only=True)
    if history.acked == 0:
        yield 0, state
    for n, step in enumerate(history.steps, 1):
        state.apply(n, step)
        for birth, item in _born(state, n, step).items():
            item.changes = data[birth].changes
        if n >= history.acked:
            yield n, state


def _born(state: State, n: int, step: Step) -> dict[tuple[int, str], Item]:
    """Return the files that step `n` has just made, by (step, path)."""
    if step[0] == "create":
        return {(n, step[1]): state.paths[step[1]]}
    if step[0] == "restore":
        return {(n, path): item for path, item in state.below(step[2]).items() if item.kind == FILE}
    return {}


def _judge_state(history: History, state: State, k: int, observer: Any, read: Callable[[str], bytes | str], top: bytes) -> Verdict:
    verdict = Verdict([], k)
    for path, item in state.below("").items():
        if item.kind != FILE:
            continue
        file = item.file(k, k + 1)
        data = read(path)
        fault = data if isinstance(data, str) else file.fault(data)
        verdict.files += 1
        verdict.exact += not file.later
        verdict.size += len(data)
        if fault:
            verdict.faults.append(f"writer {history.writer} state {k} (acknowledged {history.acked}): {path}: {fault}")
    if not verdict.faults:
        _judge_snapshots(history, state, k, observer, top, verdict)
    return verdict


def _judge_snapshots(history: History, state: State, k: int, observer: Any, top: bytes, verdict: Verdict) -> None:
    prefix = f"w{history.writer}n"
    shown: dict[str, bytes] = {}
    for directory in ["", *state.of_kind(DIRECTORY)]:
        place = os.path.join(top, os.fsencode(directory)) if directory else top
        for full in observer.snapshots(place):
            name = os.fsdecode(full.split(b"_", 1)[1])
            taken = state.snapshots.get(name)
            if name.startswith(prefix) and taken is None:
                verdict.faults.append(f"writer {history.writer} state {k}: snapshot {name} is there but should not be")
            elif taken is not None and taken.directory == directory:
                shown[name] = os.path.join(place, b".snapshot", full)
    for name, taken in state.snapshots.items():
        if name not in shown:
            verdict.faults.append(f"writer {history.writer} state {k}: snapshot {name} of {taken.directory!r} is missing")
            continue
        verdict.snapshots += 1
        tree = observer.tree(shown[name])
        seen = signature_of(tree)
        if seen != taken.signature:
            verdict.faults.append(f"writer {history.writer}: snapshot {name}: {_tree_difference(taken.signature, seen)}")
            continue
        for path, want in taken.content.items():
            got = _read(tree[os.fsencode(path)])
            fault = got if isinstance(got, str) else File(bytearray(want)).fault(got)
            if fault:
                verdict.faults.append(f"writer {history.writer}: snapshot {name}: {path}: {fault}")


def _read(seen: Any) -> bytes | str:
    try:
        data = seen.read()
    except Exception as error:
        return f"cannot be read: {error!r}"
    return data if isinstance(data, bytes) else bytes(data)


def _tree_difference(want: tuple[Any, ...], got: tuple[Any, ...]) -> str:
    missing = [line[:4] for line in want if line not in got][:4]
    extra = [line[:4] for line in got if line not in want][:4]
    return f"not there as they were at the acknowledged step: {missing}; there instead: {extra}"


def main() -> int:
    parser = argparse.ArgumentParser(description="one writer")
    parser.add_argument("--writer", type=int, required=True)
    parser.add_argument("--top", required=True)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--marks", action="store_true", help="the log is the preload library's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=1 << 30)
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--sync-share", type=float, default=0.25)
    parser.add_argument("--no-snapshots", action="store_true")
    parser.add_argument("--no-big", action="store_true")
    options = parser.parse_args()
    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda *_: told.append(1))
    os.umask(0)
    log: Any = Marks(options.log) if options.marks else LineLog(options.log)
    with contextlib.closing(log):
        end = run_writer(
            options.writer,
            options.top,
            log,
            random.Random(f"{options.seed} {options.writer}"),
            steps=options.steps,
            until=time.monotonic() + options.seconds,
            stop=lambda: bool(told),
            snapshots=not options.no_snapshots,
            big=not options.no_big,
            sync_share=options.sync_share,
        )
    print(end)
    return {"stopped": 0, "gone": 3}.get(end, 1)


if __name__ == "__main__":
    raise SystemExit(main())
