"""A stop at each step of a commit and of each background job: whatever was on the disk at that moment opens as a whole state.

`python -m tests.crash.commit_points --seconds S --seed N`. A volume is driven without a mount; at each step of the writer thread
(before and after each put, removal, commit, in both stores and the intent log, and around a rotation's superblock) the store is
copied as it is on disk. Each copy is opened: what it shows must be exactly what the live volume showed after some operation that is no
older than the last acknowledged commit. Then the background work is run to its end, and the check must find nothing.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import random
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anqfs.crypto.secrets import Secret
from anqfs.namespace import files
from anqfs.namespace.check import check
from anqfs.namespace.core import ROOT_CALLER as ROOT
from anqfs.namespace.namespace import Namespace
from anqfs.store import intent_log, lmdb_store, structure
from anqfs.store.volume import Volume

from . import direct
from .model import State
from .planner import Planner

SECRET = Secret("key-file", b"the key of the commit points" * 2)
_HOOKED = ("replace", "remove", "put", "commit")
COPY_ATTEMPTS = 100
LOG_SHARE = 0.3
"""Of the steps of the intent log, how many copies are made."""


FEW_PIECES, FEW_WINDOWS = 4, 2


@contextlib.contextmanager
def early_background() -> Iterator[None]:
    """Let merging and removing in the background begin with small files."""
    before = files.MERGE_ABOVE, files.REMOVE_NOW
    files.MERGE_ABOVE, files.REMOVE_NOW = FEW_PIECES, FEW_WINDOWS
    try:
        yield
    finally:
        files.MERGE_ABOVE, files.REMOVE_NOW = before


class Steps:
    """Calls `reached(name)` at each step of the stores' batches and of the intent log while it is installed."""

    def __init__(self, reached: Callable[[str], None]) -> None:
        self.reached = reached
        self._undo: list[Callable[[], None]] = []

    def __enter__(self) -> Steps:
        self._hook(intent_log.IntentLog, "append", "log.append")
        for kind, batch in (("records", lmdb_store._RecordBatch), ("extents", lmdb_store._ExtentBatch)):
            for name in _HOOKED:
                if hasattr(batch, name):
                    self._hook(batch, name, f"{kind}.{name}")
        return self

    def __exit__(self, *_: object) -> None:
        for undo in self._undo:
            undo()

    def _hook(self, owner: Any, name: str, label: str) -> None:
        original, own = getattr(owner, name), name in vars(owner)
        reached = self.reached

        def hooked(*arguments: Any, **named: Any) -> Any:
            reached(f"before {label}")
            result = original(*arguments, **named)
            reached(f"after {label}")
            return result

        setattr(owner, name, hooked)
        self._undo.append(lambda: setattr(owner, name, original) if own else delattr(owner, name))


@dataclass
class Copy:
    """The store at one step: what was acknowledged before it was copied and what had been done after."""

    path: Path
    step: str
    acked: int
    started: int


class Driver:
    """A volume under steps, whose shown state is digested after every atomic operation."""

    def __init__(self, directory: Path, seed: int, *, keep: float, limit: int) -> None:
        self.rng = random.Random(f"commit points {seed}")
        self.directory, self.store = directory, directory / "store"
        self.keep, self.limit = keep, limit
        self.counts: collections.Counter[str] = collections.Counter()
        self.digests: list[str] = []
        self.acked = 0
        self.copies: list[Copy] = []
        self._lock = threading.Lock()
        self._choice = random.Random(f"copies {seed}")
        Volume.create(self.store, SECRET)
        self.volume = Volume.open(self.store, SECRET, group_seconds=1e9)
        Namespace.format(self.volume)
        self.clock = 1_700_000_000_000_000_000
        self.namespace = Namespace(self.volume, clock=self._tick)
        self.state = State(1)
        self.planner = Planner(self.state, self.rng, sync_share=0.0)
        self.hands = direct.DirectHands(self.namespace, 1, self.state, ROOT, self.operated)
        self.operated()
        self.commit()
        self.n = 0

    def _tick(self) -> int:
        self.clock += 1_000_000
        return self.clock

    def operated(self) -> None:
        """An atomic operation is over: note what the volume shows now."""
        self.digests.append(direct.digest(self.namespace))

    def reached(self, step: str) -> None:
        """A step of the writer thread: copy the store, always around commits, often around the log's, else with probability `keep`."""
        self.counts["steps"] += 1
        self.counts[step] += 1
        share = 1.0 if step.endswith(".commit") else LOG_SHARE if step.endswith("log.append") else self.keep
        if len(self.copies) >= self.limit or self._choice.random() >= share:
            return
        with self._lock:
            acked = self.acked
            target = self.directory / f"copy{len(self.copies)}"
            self._copy(target)
            self.copies.append(Copy(target, step, acked, len(self.digests)))

    def _copy(self, target: Path) -> None:
        """Copy the store. The owner's thread may be replacing the superblock: one whose new file goes away meanwhile is copied again."""
        for _ in range(COPY_ATTEMPTS):
            try:
                shutil.copytree(self.store, target)
                return
            except shutil.Error as error:
                if any(Path(source).name != "superblock.new" for source, _, _ in error.args[0]):
                    raise
                shutil.rmtree(target)
        raise RuntimeError("the superblock is being replaced without end")

    def commit(self) -> None:
        """Make everything so far durable; only then is it acknowledged."""
        done = len(self.digests)
        self.volume.commit(to_stores=self.rng.random() < 0.4).wait(60)
        self.acked = done

    def step(self) -> None:
        """Make one of: a few of the planner's steps, background work, a rotation, a restore's step; then perhaps commit."""
        draw = self.rng.random()
        if draw < 0.12:
            self.namespace.work(self.rng.choice([1, 3, 20]))
            self.counts["background work"] += 1
            self.operated()
        elif draw < 0.14:
            self.volume.rotate()
            self.counts["rotations"] += 1
            self.operated()
        elif draw < 0.18:
            self.restore()
        elif draw < 0.21:
            self.fragment()
        elif draw < 0.25:
            self.unlink_held()
        else:
            for planned in self.planner.next():
                self.n += 1
                self.hands.make(planned)
                self.state.apply(self.n, planned)
                self.counts["operations"] += 1
        if self.rng.random() < 0.25:
            self.commit()
        elif self.rng.random() < 0.1:
            self.volume.close_group()

    def fragment(self) -> None:
        """Overwrite a file in many small pieces, each in a group of its own, so that they get merged in the background."""
        if (path := self.planner.pick()) is None:
            return
        for _ in range(2 * FEW_PIECES):
            self.n += 1
            step = ["write", path, self.state.versions + 1, self.rng.randrange(20_000), self.rng.randrange(5_000, 9_000)]
            self.hands.make(step)
            self.state.apply(self.n, step)
            self.volume.close_group()
        self.counts["fragmented files"] += 1

    def unlink_held(self) -> None:
        """Unlink a file that is open, write on, let it go: what was written in between is never seen again."""
        if (path := self.planner.pick()) is None:
            return
        node = self.hands.node(path)
        self.namespace.hold(node)
        self.n += 1
        self.hands.make(["unlink", path])
        self.state.apply(self.n, ["unlink", path])
        self.namespace.write(node, 0, b"after the end" * 1000)
        self.operated()
        if self.rng.random() < 0.5:
            self.commit()
        self.namespace.drop(node)
        self.operated()
        self.counts["unlinked while open"] += 1

    def restore(self) -> None:
        """Restore a snapshot beside, in small steps with commits between; the result is removed from view by a new name."""
        from anqfs.namespace.restore import Restore

        alive = [s for s in self.namespace.snapshots() if s.state == 0 and s.name.startswith(b"w")]
        if not alive:
            return
        snapshot = self.rng.choice(alive)
        name = b"restored%d" % len(self.digests)
        job = Restore(self.namespace, snapshot.id, b"", (1, name))
        self.counts["restores"] += 1
        more = True
        while more:
            more = job.step(self.rng.choice([1, 2, 10]))
            self.counts["restore steps"] += 1
            self.operated()
            if self.rng.random() < 0.3:
                self.commit()

    def close(self) -> None:
        self.volume.close()


def verify(copy: Copy, digests: list[str]) -> list[str]:
    """Open a copy; return what is wrong with it."""
    faults = [f"{copy.step}: {fault}" for fault in structure.faults(bytes(copy.path))]
    volume = Volume.open(copy.path, SECRET)
    with contextlib.closing(volume):
        namespace = Namespace(volume)
        shown = direct.digest(namespace)
        allowed = digests[max(0, copy.acked - 1) : copy.started + 1]
        if shown not in allowed:
            where = [at for at, value in enumerate(digests) if value == shown]
            faults.append(f"{copy.step}: shows no state of operations {copy.acked}..{copy.started} (equal to {where[-3:]})")
        while namespace.work(1000):
            volume.commit().wait(60)
        if direct.digest(namespace) != shown:
            faults.append(f"{copy.step}: background work after the crash changed what is shown")
    with contextlib.closing(Volume.open(copy.path, SECRET, read_only=True)) as volume:
        faults += [f"{copy.step}: check: {finding}" for finding in check(volume).findings]
    return faults


def run(directory: Path, *, seed: int, operations: int, keep: float, limit: int) -> tuple[collections.Counter[str], list[str]]:
    """Drive a new volume, then verify every copy made on the way. Returns counts and faults."""
    driver = Driver(directory, seed, keep=keep, limit=limit)
    with Steps(driver.reached), early_background():
        for _ in range(operations):
            driver.step()
            if len(driver.copies) >= limit:
                break
        driver.commit()
        driver.close()
    faults: list[str] = []
    for copy in driver.copies:
        faults += verify(copy, driver.digests)
        driver.counts["copies"] += 1
        driver.counts[f"copy {copy.step}"] += 1
        shutil.rmtree(copy.path)
    return driver.counts, faults


def rounds(seconds: float, seed: int) -> Iterator[tuple[collections.Counter[str], list[str]]]:
    """Yield the result of one run after another until the time is over."""
    deadline = time.monotonic() + seconds
    first = True
    while first or time.monotonic() < deadline:
        first = False
        with tempfile.TemporaryDirectory(prefix="anqfs-commit-points-") as directory:
            yield run(Path(directory), seed=seed, operations=60, keep=0.05, limit=120)
        seed += 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    counts: collections.Counter[str] = collections.Counter()
    faults: list[str] = []
    for part, wrong in rounds(options.seconds, options.seed):
        counts.update(part)
        faults += wrong
        if faults:
            break
    for fault in faults[:20]:
        print(fault, file=sys.stderr)
    print(json.dumps({"part": "commit_points", "seed": options.seed, "faults": len(faults), **counts}))
    return 0 if counts["copies"] and not faults else 1


if __name__ == "__main__":
    raise SystemExit(main())
