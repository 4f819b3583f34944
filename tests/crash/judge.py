"""What a crash may leave of a writer's work, judged from the writer's log.

The names, links, modes, attributes and snapshots and all data must equal the state after some step k between the last acknowledged one
and the last started one, of which step k + 1 may have put a part of its data (the kernel sends a large write in pieces, and closing a
file sends all). Each snapshot must equal, byte for byte, what its directory held when it was taken.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .content import File
from .model import DIRECTORY, FILE, SYMLINK, Item, State, Step
from .observe import Tree


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
        return _judge_restoring(history, observer, top)
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


def _judge_restoring(history: History, observer: Any, top: bytes) -> Verdict:
    """Judge what is left of a restore that was cut short: what is not its destination, and every snapshot, are as before."""
    before = History(history.writer, history.steps[:-1], history.acked, history.returned)
    destination = history.steps[-1][2]
    tree = observer.tree(top)
    if destination:
        inside = os.fsencode(destination)
        tree = {path: seen for path, seen in tree.items() if path != inside and not path.startswith(inside + b"/")}
    seen = signature_of(tree)
    verdict = Verdict([f"writer {history.writer}: while {history.steps[-1]} was cut short, something else changed"])
    for k, state in _states(before):
        if destination and state.signature() != seen:
            continue
        attempt = Verdict([], k)
        _judge_snapshots(before, state, k, observer, top, attempt)
        if not attempt.faults:
            return attempt
        verdict = attempt
    for each in tree.values():
        data = _read(each)
        if isinstance(data, str):
            verdict.faults.append(f"writer {history.writer}: after a restore that was cut short: {data}")
    return verdict


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
        for full in observer.snapshots(place) if observer.exists(place) else ():
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
