"""Power cuts: record what a real daemon asks of its disk, then rebuild what a cut could leave at many moments and judge each.

`python -m tests.crash.powercut --seconds S --seed N`. Each round loads a volume for some seconds and spends the rest on cuts.
With `--nosync` the daemon's syncs do nothing: the judge must then find losses, or it proves nothing.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import disk, judge, preload
from .child import ChildCrashed, in_child
from .daemon import REPOSITORY, Daemon, detach, end_orderly, end_writers, make_store, module, writers
from .observe import Direct
from .preload import Kind

UNMOUNTED = {"w": 0, "unmounted": True}
LEAST_CUTS = 25
"""Cuts that are made however little time there is."""


@dataclass
class Recording:
    """A log and the state of the disk before it."""

    root: Path
    base: Path
    objects: dict[str, int]
    log: Path
    key_file: Path


@dataclass
class Result:
    """What was tried and found."""

    counts: collections.Counter[str] = field(default_factory=collections.Counter)
    faults: list[str] = field(default_factory=list)


def record(directory: Path, *, seconds: float, seed: int, nosync: bool = False, count: int = 2, group_seconds: float = 0.3) -> Recording:
    """Run a daemon under writers for `seconds` with everything it does to its disk logged."""
    root = directory / "disk"
    root.mkdir()
    store, key_file = make_store(root)
    key_file = key_file.rename(directory / "key")
    base = directory / "base"
    shutil.copytree(root, base)
    log = directory / "log"
    recording = Recording(root, base, disk.snapshot(root), log, key_file)
    daemon = Daemon(
        store,
        key_file,
        directory / "mount",
        directory / "daemon.log",
        environment=preload.environment(root, log=log, nosync=nosync),
        group_seconds=group_seconds,
    )
    with daemon:
        with writers(count, daemon.mountpoint, directory, seed, shared_log=log) as started:
            rotations, limit = 0, time.monotonic() + seconds
            while (time.monotonic() < limit or rotations < 2) and all(process.poll() is None for process in started):
                time.sleep(0.2)
                if rotations == 0 and not _have_acknowledged(log, count):
                    limit = time.monotonic() + seconds
                    continue
                os.kill(daemon.pid, signal.SIGUSR1)  # a rotation: the superblock is replaced under the load
                rotations += 1
            for code, words in end_writers(started):
                if code != 0:
                    raise RuntimeError(f"a writer failed: {words}\n{daemon.log_tail()}")
        if daemon.stop() != 0:
            raise RuntimeError(f"the daemon failed:\n{daemon.log_tail()}")
    with contextlib.closing(preload.Marks(log)) as marks:
        marks.append(UNMOUNTED)
    return recording


def _have_acknowledged(log: Path, count: int) -> bool:
    """Tell whether each of `count` writers has something to lose."""
    marks = [json.loads(entry.data) for entry in preload.entries(log) if entry.kind == Kind.MARK]
    return len({line["w"] for line in marks if "ack" in line}) == count


def record_command(directory: Path, root: Path, key_file: Path, action: str) -> Recording:
    """Run `--action` of this module (an opening or a making of a store) under the preload library."""
    base = directory / "base"
    shutil.copytree(root, base)
    log = directory / "log"
    objects = disk.snapshot(root)
    command = module("powercut", "--action", action, "--root", str(root), "--key-file", str(key_file))
    environment = {**os.environ, **preload.environment(root, log=log)}
    subprocess.run(command, cwd=REPOSITORY, env=environment, stdin=subprocess.DEVNULL, check=True)
    with contextlib.closing(preload.Marks(log)) as marks:
        marks.append({"w": 0, "made": True})
    return Recording(root, base, objects, log, key_file)


def run_action(action: str, root: Path, key_file: Path) -> None:
    """What runs under the library in `record_command`."""
    from anqfs.crypto.secrets import Secret
    from anqfs.namespace.namespace import Namespace
    from anqfs.store.volume import Volume

    secret = Secret.from_key_file(key_file)
    if action == "make":
        Volume.create(root / "store", secret)
    volume = Volume.open(root / "store", secret)
    if action == "make":
        Namespace.format(volume)
    else:
        namespace = Namespace(volume)
        while namespace.work(100):
            volume.commit().wait()
    volume.close()


def choose_cuts(recording: Recording, count: int, rng: random.Random) -> list[int]:
    """Return the places in the log to cut at: around barriers, names and acknowledgements, and anywhere, half each; always the end."""
    kinds = [entry.kind for entry in preload.entries(recording.log)]
    special = [at for at, kind in enumerate(kinds) if kind not in (Kind.WRITE, Kind.MARK)]
    acks = [at for at, kind in enumerate(kinds) if kind == Kind.MARK]
    places = {len(kinds)}
    for _ in range(count):
        pool = rng.choice([special, acks, range(len(kinds))])
        if pool:
            places.add(min(len(kinds), rng.choice(pool) + rng.randrange(2)))
    return sorted(places)


def cut_and_judge(recording: Recording, directory: Path, *, deadline: float, seed: int, count: int, stop_at_fault: bool = False) -> Result:
    """Walk the log, cut at `count` places (when time runs out, at some of them) and judge every rebuilt store."""
    rng = random.Random(f"cuts {seed}")
    result = Result()
    simulated = disk.Disk(recording.root, recording.base, recording.objects)
    histories: dict[int, judge.History] = {}
    unmounted = False
    places = choose_cuts(recording, count, rng)
    lines = preload.entries(recording.log)
    at = 0
    for place in places:
        while at < place and (entry := next(lines, None)) is not None:
            at += 1
            if entry.kind == Kind.MARK:
                line = json.loads(entry.data)
                unmounted = unmounted or "unmounted" in line
                if line["w"]:
                    histories.setdefault(line["w"], judge.History(line["w"])).add(line)
            else:
                simulated.apply(entry)
        if time.monotonic() > deadline and result.counts["cuts"] >= LEAST_CUTS and place != places[-1]:
            continue
        strategy = rng.choice([None, *disk.STRATEGIES])
        image = directory / "image"
        simulated.cut(image, rng, strategy)
        result.counts["cuts"] += 1
        result.counts["cuts with changes in flight"] += simulated.waiting() > 0
        result.counts[f"strategy {strategy or 'mixed'}"] += 1
        faults = judge_image(image, recording.key_file, histories, unmounted, result.counts)
        result.faults += [f"cut at line {place} of the log ({strategy}): {fault}" for fault in faults]
        shutil.rmtree(image)
        if faults and stop_at_fault:
            break
    result.counts["disk writes"] = simulated.writes
    result.counts["barriers"] = simulated.barriers
    result.counts["superblocks replaced"] = simulated.renames
    stray = [path for path in simulated.shared_maps if not path.endswith("lock.mdb")]
    result.faults += [f"{path} is written through a shared map: no log can vouch for it" for path in stray]
    return result


def judge_image(
    image: Path, key_file: Path, histories: dict[int, judge.History], unmounted: bool, counts: collections.Counter[str]
) -> list[str]:
    """Open the rebuilt store, judge every writer's tree and run the check, in a child process."""
    try:
        answer = in_child(_judge_image, image, key_file, histories, unmounted)
    except (ChildCrashed, RuntimeError) as error:
        return [f"{type(error).__name__}: {error}"]
    counts.update(answer["counts"])
    return list(answer["faults"])


def _judge_image(image: Path, key_file: Path, histories: dict[int, judge.History], unmounted: bool) -> dict[str, Any]:
    from anqfs.crypto.secrets import Secret
    from anqfs.namespace.check import check
    from anqfs.namespace.namespace import Namespace
    from anqfs.store import structure
    from anqfs.store.volume import Volume

    faults = structure.faults(os.fsencode(image / "store"))
    counts: collections.Counter[str] = collections.Counter()
    volume = Volume.open(image / "store", Secret.from_key_file(key_file))
    with contextlib.closing(volume):
        observer = Direct(Namespace(volume))
        for history in histories.values():
            if unmounted:
                history.acked = len(history.steps)
            top = f"w{history.writer}".encode()
            if history.acked == 0 and not observer.exists(top):
                continue
            verdict = judge.judge(history, observer, top)
            faults += verdict.faults
            counts.update(trees=1, files=verdict.files, exact=verdict.exact, snapshots=verdict.snapshots)
    with contextlib.closing(Volume.open(image / "store", Secret.from_key_file(key_file), read_only=True)) as volume:
        faults += [f"check: {finding}" for finding in check(volume).findings]
    return {"faults": faults, "counts": counts}


def run_reopenings(directory: Path, recording: Recording, *, seed: int, deadline: float, rounds: int) -> Result:
    """Cut the power while a store that already lost it once is being opened, and judge the result by the same histories."""
    rng = random.Random(f"again {seed}")
    result = Result()
    for number in range(rounds):
        if number and time.monotonic() > deadline:
            break
        place = directory / f"again{number}"
        place.mkdir()
        histories, simulated = _walk_to(recording, rng)
        simulated.cut(place / "disk", rng)
        again = record_command(place, place / "disk", recording.key_file, "open")
        second = disk.Disk(again.root, again.base, again.objects)
        for entry in preload.entries(again.log):
            if entry.kind != Kind.MARK:
                second.apply(entry)
            if second.waiting() and rng.random() < 0.2:
                second.cut(place / "image", rng)
                result.faults += judge_image(place / "image", recording.key_file, histories, False, result.counts)
                result.counts["cuts during an opening"] += 1
                shutil.rmtree(place / "image")
        result.counts["openings"] += 1
        shutil.rmtree(place)
    return result


def _walk_to(recording: Recording, rng: random.Random) -> tuple[dict[int, judge.History], disk.Disk]:
    """Return the histories and the disk at a random place of the log."""
    total = sum(1 for _ in preload.entries(recording.log))
    stop = rng.randrange(total // 3, total)
    simulated = disk.Disk(recording.root, recording.base, recording.objects)
    lines = []
    for at, entry in enumerate(preload.entries(recording.log)):
        if at >= stop:
            break
        if entry.kind == Kind.MARK:
            lines.append(json.loads(entry.data))
        else:
            simulated.apply(entry)
    return judge.histories(line for line in lines if line["w"]), simulated


def run_making(directory: Path, *, seed: int, count: int = 10) -> Result:
    """A store whose making was acknowledged opens after a cut at the very next moment."""
    rng = random.Random(f"make {seed}")
    result = Result()
    root = directory / "disk"
    root.mkdir(parents=True)
    key_file = directory / "key"
    key_file.write_bytes(bytes(range(64)))
    key_file.chmod(0o600)
    made = record_command(directory, root, key_file, "make")
    simulated = disk.Disk(made.root, made.base, made.objects)
    for entry in preload.entries(made.log):
        if entry.kind != Kind.MARK:
            simulated.apply(entry)
    for _ in range(count):
        simulated.cut(directory / "image", rng)
        result.faults += [f"making: {fault}" for fault in judge_image(directory / "image", key_file, {}, True, result.counts)]
        result.counts["cuts after making"] += 1
        shutil.rmtree(directory / "image")
    return result


def run(directory: Path, *, seconds: float, seed: int, nosync: bool = False, cuts: int = 1000) -> Result:
    """Record and cut for about `seconds`."""
    deadline = time.monotonic() + seconds
    total = Result()
    try:
        recording = record(directory, seconds=min(4.0, max(1.0, seconds / 5)), seed=seed, nosync=nosync)
        parts = [cut_and_judge(recording, directory, deadline=deadline - seconds / 6, seed=seed, count=cuts, stop_at_fault=nosync)]
        if not nosync:
            parts.append(run_making(directory / "making", seed=seed, count=5))
            parts.append(run_reopenings(directory, recording, seed=seed, deadline=deadline, rounds=max(1, int(seconds / 20))))
    finally:
        detach(directory / "mount")
    for part in parts:
        total.counts.update(part.counts)
        total.faults += part.faults
    return total


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--nosync", action="store_true")
    parser.add_argument("--action", choices=["make", "open"])
    parser.add_argument("--root", type=Path)
    parser.add_argument("--key-file", type=Path)
    options = parser.parse_args()
    end_orderly()
    if options.action:
        run_action(options.action, options.root, options.key_file)
        return 0
    deadline = time.monotonic() + options.seconds
    total, seed = Result(), options.seed
    while not total.faults and (seed == options.seed or time.monotonic() < deadline - 5):
        with tempfile.TemporaryDirectory(prefix="anqfs-powercut-") as directory:
            part = run(Path(directory), seconds=min(40.0, deadline - time.monotonic()), seed=seed, nosync=options.nosync)
        total.counts.update(part.counts)
        total.faults += part.faults
        seed += 1
    for fault in total.faults[:20]:
        print(fault, file=sys.stderr)
    print(json.dumps({"part": "powercut", "seed": options.seed, "faults": len(total.faults), **total.counts}))
    return 0 if total.counts["cuts with changes in flight"] and not total.faults else 1


if __name__ == "__main__":
    raise SystemExit(main())
