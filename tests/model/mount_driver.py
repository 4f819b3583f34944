"""Runs one random history on a mount and on ext4, and compares what both answer and show.

A history that fails is repeated as it was, with everything compared after each step; what is left is then thinned out: operations
without which it still fails are left out. What is reported is what remains.
"""

from __future__ import annotations

import ctypes
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.mount.mounted import Mount, libc

from .mount_operations import Chooser
from .mount_sides import LATENESS, OLD, SKIPPED, Facts, Operation, Side, moved, wait_for_a_later_time

TREE_EVERY = 12
TIMES_EVERY = 3
SNAPSHOTS_MAX = 3
THINNING = 120
"""Repetitions that thinning out may take."""


class Difference(AssertionError):
    """The mount and ext4 disagree."""


class Pair:
    """A mount and a directory on ext4, with a new place on both for each history."""

    def __init__(self, mount: Mount, ext4: Path) -> None:
        self.mount = mount
        self.ext4 = ext4
        self.counts: Counter[str] = Counter()
        self._places = 0
        mount.expect("dead mount|was left|left by")

    @contextmanager
    def sides(self) -> Iterator[tuple[Side, Side]]:
        """Give (ext4, mount): new roots, both closed at the end."""
        self._places += 1
        name = b"run%d/top" % self._places  # a link may lead one directory up
        sides = Side(bytes(self.ext4) + b"/" + name), Side(bytes(self.mount.point) + b"/" + name)
        try:
            yield sides
        finally:
            for side in sides:
                side.close_all()


def run_seed(pair: Pair, seed: int, steps: int) -> None:
    """Run one history; raise Difference for what is left of it when all that does not matter is left out."""
    with pair.sides() as sides:
        run = Run(pair, *sides)
        chooser = Chooser(seed)
        try:
            for step in range(steps):
                run.step(chooser.choose(run.ext4), step % TREE_EVERY == 0, step % TIMES_EVERY == 0)
            run.finish()
            return
        except Exception as first:
            fault, log = first, run.log
    found = replay(pair, log)
    if found is None:
        raise Difference(f"seed {seed}, step {len(log)}: {fault!r} (but not when everything is compared after each step)") from fault
    fault, log = found
    fault, log = thin(pair, fault, log)
    lines = "\n".join(f"  {shorten(operation)}" for operation in log)
    raise Difference(f"seed {seed}: {fault}\n{lines}") from fault


def replay(pair: Pair, operations: list[Operation]) -> tuple[Exception, list[Operation]] | None:
    """Repeat operations, comparing everything after each; return the fault and the operations up to it."""
    with pair.sides() as sides:
        run = Run(pair, *sides)
        try:
            for operation in operations:
                run.step(operation, True, True)
            run.finish()
        except Exception as fault:
            return fault, run.log
    return None


def thin(pair: Pair, fault: Exception, log: list[Operation]) -> tuple[Exception, list[Operation]]:
    """Leave out what does not matter, big pieces first."""
    piece, left = len(log) // 2, THINNING
    while piece and left:
        start = 0
        while start < len(log) and left:
            left -= 1
            found = replay(pair, log[:start] + log[start + piece :])
            if found is None:
                start += piece
            else:
                fault, log = found
        piece //= 2
    return fault, log


class Run:
    """One history in progress."""

    def __init__(self, pair: Pair, ext4: Side, here: Side) -> None:
        self.pair = pair
        self.ext4 = ext4
        self.here = here
        self.log: list[Operation] = []
        self.snapshots: list[tuple[bytes, dict[bytes, Facts]]] = []

    def step(self, operation: Operation, everything: bool, times: bool) -> None:
        """Carry out one operation on both sides and compare."""
        self.log.append(operation)
        self.pair.counts["operations"] += 1
        special = getattr(self, f"special_{operation[0]}", None)
        if special is not None:
            self.pair.counts[f"{operation[0]}s"] += 1
            special()
        elif times:
            self.timed(operation)
        else:
            self.both(operation)
        if everything or special is not None:
            self.compare_trees()

    def both(self, operation: Operation) -> Any:
        wanted, got = self.ext4.do(operation), self.here.do(operation)
        if wanted != got:
            raise Difference(f"{shorten(operation)} answers {shorten(got)}, on ext4 {shorten(wanted)}")
        return wanted

    def timed(self, operation: Operation) -> None:
        """Compare also which times an operation moves."""
        before = self.ext4.times(operation), self.here.times(operation)
        changes_attributes = operation[0].endswith(("setxattr", "removexattr"))
        attributes = self.ext4.attributes(operation) if changes_attributes else {}
        wait_for_a_later_time(*before)
        answer = self.both(operation)
        if changes_attributes and attributes == self.ext4.attributes(operation):
            return  # ctime moves here all the same
        after = self.ext4.times(operation), self.here.times(operation)
        wanted, got = (moved(*each) for each in zip(before, after, strict=True))
        if answer != SKIPPED and wanted != got:
            raise Difference(f"{shorten(operation)}: (mtime, ctime) that moved are {shorten(got)}, on ext4 {shorten(wanted)}")

    def compare_trees(self) -> None:
        compare("the tree", self.here.tree(), self.ext4.tree())
        self.pair.counts["trees"] += 1

    def finish(self) -> None:
        """Compare everything once more, restore a snapshot, and drop all of them."""
        self.compare_trees()
        if self.snapshots:
            self.restore(*self.snapshots[0])
        self.special_remount()
        if self.snapshots:
            compare("restored and remounted", without_time(self.here.tree(exact=True)), self.snapshots[0][1])
        else:
            self.compare_trees()
        while self.snapshots:
            self.special_drop_snapshot()

    # ----------------------------------------------------------------- events

    def special_snapshot(self) -> None:
        if len(self.snapshots) == SNAPSHOTS_MAX:
            self.special_drop_snapshot()
        directory = self.here.path(b".snapshot")
        before = set(os.listdir(directory))
        os.mkdir(directory + b"/shot")
        (made,) = set(os.listdir(directory)) - before
        self.snapshots.append((made, without_time(self.here.tree(exact=True))))
        self.compare_snapshots()

    def special_drop_snapshot(self) -> None:
        if self.snapshots:
            self.compare_snapshots()
            name, _ = self.snapshots.pop(0)
            os.rmdir(self.here.path(b".snapshot/" + name))

    def compare_snapshots(self) -> None:
        for name, tree in self.snapshots:
            compare(f"snapshot {name!r}", without_time(self.here.tree(b".snapshot/" + name, exact=True)), tree)
            self.pair.counts["snapshot trees"] += 1

    def special_remount(self) -> None:
        self.close_all()
        self.pair.mount.remount()
        self.compare_snapshots()

    def restore(self, name: bytes, tree: dict[bytes, Facts]) -> None:
        """Restore a snapshot in place: what is open stays as it is, the tree becomes what it was."""
        before = self.here.contents()
        answer = self.pair.mount.ask("restore", int(name.partition(b"_")[0]))
        if answer is not None:
            raise Difference(f"restore answers {answer}")
        compare("restored", without_time(self.here.tree(exact=True)), tree)
        if self.here.contents() != before:
            raise Difference("a restore changes what is open")
        self.pair.counts["restores"] += 1

    def special_kill(self) -> None:
        """Kill the daemon when all is durable."""
        self.close_all()
        top = os.open(self.here.root, os.O_RDONLY)
        try:
            libc("syncfs", ctypes.c_int(top))
            os.fsync(top)
        finally:
            os.close(top)
        self.pair.mount.kill()
        self.pair.mount.start()
        self.compare_snapshots()

    def close_all(self) -> None:
        self.ext4.close_all()
        self.here.close_all()


def without_time(tree: dict[bytes, Facts]) -> dict[bytes, Facts]:
    """Return a tree without its top's mtime: that of a snapshot's top is when it was taken."""
    return {**tree, b"": tree[b""]._replace(mtime=0)}


def compare(what: str, got: dict[bytes, Facts], wanted: dict[bytes, Facts]) -> None:
    """Raise Difference that says which path differs in what."""
    if got == wanted:
        return
    for path in sorted(set(got) | set(wanted)):
        a, b = got.get(path), wanted.get(path)
        if a is None or b is None:
            raise Difference(f"{what}: {path!r} {'is missing' if a is None else 'should not be there'}")
        for name in Facts._fields:
            if not equal(name, getattr(a, name), getattr(b, name)):
                raise Difference(f"{what}: {name} of {shorten(path)} is {shorten(getattr(a, name))}, not {shorten(getattr(b, name))}")


def equal(name: str, a: Any, b: Any) -> bool:
    """Compare; two times that clocks gave are equal if the one may be the other, taken from the clock that goes in ticks."""
    return a == b or (name.endswith("time") and a >= OLD and b >= OLD and abs(a - b) < LATENESS)


def shorten(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{shorten(key)}: {shorten(item)}" for key, item in value.items()) + "}"
    if isinstance(value, tuple):
        return "(" + ", ".join(map(shorten, value)) + ")"
    if isinstance(value, bytes) and len(value) > 60:
        return f"{value[:16]!r}...({len(value)} bytes)"
    return repr(value)
