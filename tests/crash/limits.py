"""Hostile use, with figures: many open files and writers, huge directories, sparse giants, deep paths, a stuck reader, a clock going back.

`python -m tests.crash.limits --seconds S --seed N [--long]`. Each part runs on one real daemon whose memory is watched all the time
(bounded by MEMORY_KIB) while a probe measures how long a small request takes meanwhile; the figures are printed, not judged.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from .content import pattern
from .daemon import Daemon, check_store, detach, end_orderly, eventually, make_store, memory_kib

MEMORY_KIB = 600 << 10
GIB, TIB = 1 << 30, 1 << 40
MOST_NAMES = 1_000_000
NAMES_EACH_SECOND = 400
"""How large the huge directory is for the time that is given: making it takes about a third of that time."""


@dataclass
class Figures:
    """What was measured and found."""

    facts: dict[str, float] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def expect(self, condition: bool, what: str) -> None:
        if not condition:
            self.faults.append(what)


class Watch:
    """Samples the daemon's memory and probes its latency on a thread of its own."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.memory_kib = 0
        self.worst = 0.0
        self.probes = 0

    def __enter__(self) -> Watch:
        (self._daemon.mountpoint / "probe").mkdir(exist_ok=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        probe = self._daemon.mountpoint / "probe" / "file"
        while not self.probes or not self._done.wait(0.02):
            self.memory_kib = max(self.memory_kib, memory_kib(self._daemon.pid))
            started = time.monotonic()
            probe.touch()
            probe.unlink()
            self.worst = max(self.worst, time.monotonic() - started)
            self.probes += 1


def open_files(top: Path, count: int, figures: Figures) -> None:
    """`count` files are open at once, unlinked while open, and read and written through their descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count + 500), max(hard, count + 500)))
    place = top / "open"
    place.mkdir()
    descriptors: list[int] = []
    try:
        for number in range(count):
            descriptors.append(os.open(place / f"f{number}", os.O_RDWR | os.O_CREAT))
            os.write(descriptors[-1], b"%08d" % number)
        for number in range(0, count, 2):
            os.unlink(place / f"f{number}")
        wrong = sum(os.pread(descriptor, 8, 0) != b"%08d" % number for number, descriptor in enumerate(descriptors))
        for descriptor in descriptors[:: max(1, count // 100)]:
            os.pwrite(descriptor, b"changed", 8)
            os.fsync(descriptor)
        figures.expect(wrong == 0, f"{wrong} of {count} open files read wrong")
        figures.expect(len(os.listdir(place)) == count // 2, "the directory of half-unlinked files is wrong")
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    figures.facts["open files"] = len(descriptors)


def one_file_many_writers(top: Path, count: int, figures: Figures) -> None:
    """`count` threads write their own blocks of one file, some syncing; the file is whole in the end."""
    path, block, blocks = top / "shared", 5000, 20
    path.touch()

    def write(writer: int) -> None:
        file = os.open(path, os.O_WRONLY)
        try:
            for at in range(blocks):
                offset = (at * count + writer) * block
                os.pwrite(file, pattern(writer, 1, 1, offset, block), offset)
                if at % 7 == 0:
                    os.fsync(file)
        finally:
            os.close(file)

    with ThreadPoolExecutor(count) as pool:
        list(pool.map(write, range(count)))
    data = path.read_bytes()
    figures.expect(len(data) == count * block * blocks, f"the shared file has {len(data)} bytes")
    wrong = [at for at in range(count * blocks) if data[at * block : (at + 1) * block] != pattern(at % count, 1, 1, at * block, block)]
    figures.expect(not wrong, f"{len(wrong)} blocks of the shared file are wrong, the first is {wrong[:1]}")
    figures.facts["writers of one file"] = count


def huge_directory(top: Path, count: int, figures: Figures) -> None:
    """A directory of `count` names: filled, listed, looked up and partly removed while it is listed."""
    place = top / "huge"
    place.mkdir()
    started = time.monotonic()
    directory = os.open(place, os.O_RDONLY)
    try:
        for number in range(count):
            os.close(os.open(f"name {number}", os.O_WRONLY | os.O_CREAT, dir_fd=directory))
        figures.facts["names/s made"] = round(count / (time.monotonic() - started))
        started = time.monotonic()
        with os.scandir(place) as entries:
            names = [entry.name for entry in entries]
        figures.facts["names/s listed"] = round(count / (time.monotonic() - started))
        figures.expect(len(names) == count and len(set(names)) == count, f"{len(names)} names listed, {len(set(names))} different")
        for number in range(0, count, max(1, count // 1000)):
            os.stat(f"name {number}", dir_fd=directory)
        kept = {f"name {number}" for number in range(1, count, 2)}
        seen = set()
        with os.scandir(place) as entries:
            for at, entry in enumerate(entries):
                seen.add(entry.name)
                if at < 2000 and entry.name not in kept:
                    os.unlink(entry.name, dir_fd=directory)
        figures.expect(kept <= seen, f"{len(kept - seen)} names were missed while others were removed")
        os.fsync(directory)
    finally:
        os.close(directory)
    figures.facts["names in a directory"] = count


def sparse_giant(top: Path, figures: Figures) -> None:
    """A file of 1 TiB with three written places: its size, holes and blocks are right, and cutting it is quick."""
    path = top / "giant"
    places = (0, 512 * GIB + 12_345, TIB - 5000)
    with path.open("wb", buffering=0) as file:
        for place in places:
            os.pwrite(file.fileno(), pattern(1, 1, 1, place, 5000), place)
        os.fsync(file.fileno())
    status = path.stat()
    figures.expect(status.st_size == TIB, f"the giant has {status.st_size} bytes")
    figures.expect(status.st_blocks * 512 < 1 << 20, f"the giant takes {status.st_blocks * 512} bytes")
    with path.open("rb", buffering=0) as file:
        for place in places:
            figures.expect(os.pread(file.fileno(), 5000, place) == pattern(1, 1, 1, place, 5000), f"the giant is wrong at {place}")
        figures.expect(os.pread(file.fileno(), 100_000, 300 * GIB) == bytes(100_000), "the giant's hole is not zeros")
    started = time.monotonic()
    os.truncate(path, 10)
    figures.facts["seconds to cut 1 TiB"] = round(time.monotonic() - started, 4)
    os.truncate(path, TIB)
    figures.expect(path.open("rb", buffering=0).read(100) == pattern(1, 1, 1, 0, 10) + bytes(90), "the cut giant shows old bytes")
    path.unlink()
    figures.facts["sparse bytes"] = TIB


def deep_path(top: Path, length: int, figures: Figures) -> None:
    """Directories nested until the path has `length` bytes, a file at the bottom, and a way back up that removes it all."""
    name = "d" * 255
    (top / "deep").mkdir()
    chain = [os.open(top / "deep", os.O_RDONLY)]
    try:
        while len(chain) * 256 < length:
            os.mkdir(name, dir_fd=chain[-1])
            chain.append(os.open(name, os.O_RDONLY, dir_fd=chain[-1]))
        file = os.open("bottom", os.O_RDWR | os.O_CREAT, dir_fd=chain[-1])
        os.write(file, b"at the bottom")
        os.fsync(file)
        os.close(file)
        os.mkdir(".snapshot/deep", dir_fd=chain[0])
        os.rename("bottom", "moved", src_dir_fd=chain[-1], dst_dir_fd=chain[1])
        os.rename("moved", "bottom", src_dir_fd=chain[1], dst_dir_fd=chain[-1])
        file = os.open("bottom", os.O_RDONLY, dir_fd=chain[-1])
        figures.expect(os.read(file, 100) == b"at the bottom", "the file at the bottom is wrong")
        os.close(file)
        figures.facts["path bytes"] = len(chain) * 256
        os.unlink("bottom", dir_fd=chain[-1])
        while len(chain) > 1:
            os.close(chain.pop())
            os.rmdir(name, dir_fd=chain[-1])
    finally:
        for descriptor in chain:
            os.close(descriptor)


@contextlib.contextmanager
def stuck_reader(top: Path, figures: Figures) -> Iterator[None]:
    """A reader that opened a file before everything else and reads on after everything else still sees that file."""
    path, size = top / "stuck", 3_000_000
    data = pattern(1, 1, 1, 0, size)
    path.write_bytes(data)
    (top / "stuck listing").mkdir()
    for number in range(500):
        (top / "stuck listing" / f"{number}").touch()
    with path.open("rb", buffering=0) as file, os.scandir(top / "stuck listing") as listing:
        first = os.pread(file.fileno(), 1000, 0)
        names = {next(listing).name}
        replacement = top / "replacement"
        replacement.write_bytes(b"new")
        replacement.rename(path)
        yield
        rest = b"".join(os.pread(file.fileno(), 100_000, at) for at in range(0, size, 100_000))
        figures.expect(first == data[:1000] and rest == data, "a reader of a replaced file sees other bytes")
        names |= {entry.name for entry in listing}
        figures.expect(len(names) == 500, f"a listing that took its time has {len(names)} names")
    figures.expect(path.read_bytes() == b"new", "the replacement is wrong")


def clock_going_back(directory: Path, seed: int, figures: Figures) -> None:
    """Times from a clock that jumps about, back before 1970 too: snapshots, restores of order and the check do not mind."""
    from anqfs.crypto.secrets import Secret
    from anqfs.namespace.check import check
    from anqfs.namespace.core import ROOT_CALLER as ROOT
    from anqfs.namespace.namespace import Namespace
    from anqfs.store.volume import Volume

    rng = random.Random(f"clock {seed}")
    secret = Secret("key-file", b"a clock that goes back " * 3)
    Volume.create(directory / "clock", secret)
    volume = Volume.open(directory / "clock", secret)
    Namespace.format(volume)
    namespace = Namespace(volume, clock=lambda: rng.randrange(-(10**18), 4 * 10**18))
    shown: dict[int, bytes] = {}
    node, _ = namespace.create(1, b"file", 0o100644, ROOT)
    for version in range(40):
        data = pattern(1, 1, version, 0, 20_000)
        namespace.write(node, 0, data)
        if version % 4 == 0:
            shown[namespace.snapshot_create(1, b"s%d" % version).id] = data
        if version % 10 == 9:
            gone = next(iter(shown))
            namespace.snapshot_delete(gone)
            del shown[gone]
        while namespace.work(100):
            continue
    volume.commit().wait(60)
    for number, data in shown.items():
        [snapshot] = [s for s in namespace.snapshots() if s.id == number]
        door, _ = namespace.lookup(namespace.lookup(1, b".snapshot")[0], b"%d_%s" % (number, snapshot.name))
        old, _ = namespace.lookup(door, b"file")
        figures.expect(namespace.read(old, 0, 20_000) == data, f"snapshot {number} under a jumping clock is wrong")
    volume.close()
    with contextlib.closing(Volume.open(directory / "clock", secret, read_only=True)) as volume:
        figures.faults += [f"clock: check: {finding}" for finding in check(volume).findings]
    figures.facts["snapshots under a jumping clock"] = len(shown)


def churn(top: Path, seconds: float, rng: random.Random, figures: Figures) -> None:
    """Large files written, read back and removed for a while, to fill every cache."""
    limit = time.monotonic() + seconds
    size = 8 << 20
    written = 0
    while time.monotonic() < limit or not written:
        path = top / f"churn{written % 7}"
        seed = rng.randbytes(1 << 20)
        with path.open("wb", buffering=0) as file:
            for _ in range(size >> 20):
                file.write(seed)
        digest = hashlib.sha256(path.read_bytes()).digest()
        figures.expect(digest == hashlib.sha256(seed * (size >> 20)).digest(), "a large file reads back wrong")
        written += 1
    figures.facts["MiB churned"] = written * (size >> 20)


def run(directory: Path, *, seed: int, names: int = 20_000, files: int = 10_000, churn_seconds: float = 1.0) -> Figures:
    """Run every part on one daemon."""
    figures = Figures()
    rng = random.Random(f"limits {seed}")
    store, key_file = make_store(directory)
    daemon = Daemon(store, key_file, directory / "mount", directory / "daemon.log")
    top = daemon.mountpoint
    parts: list[tuple[str, Callable[[], None]]] = [
        ("open files", lambda: open_files(top, files, figures)),
        ("one file", lambda: one_file_many_writers(top, 64, figures)),
        ("huge directory", lambda: huge_directory(top, names, figures)),
        ("sparse", lambda: sparse_giant(top, figures)),
        ("deep", lambda: deep_path(top, 32_000, figures)),
        ("churn", lambda: churn(top, churn_seconds, rng, figures)),
    ]
    try:
        with daemon:
            with stuck_reader(top, figures):
                for name, part in parts:
                    with Watch(daemon) as watch:
                        part()
                    figures.facts[f"worst ms ({name})"] = round(watch.worst * 1000, 1)
                    figures.facts[f"RssAnon MiB ({name})"] = watch.memory_kib >> 10
                    figures.expect(watch.memory_kib < MEMORY_KIB, f"{name}: the daemon takes {watch.memory_kib} KiB")
                    figures.expect(watch.probes > 0, f"{name}: nothing was probed")
            eventually("the daemon to end", lambda: daemon.stop() == 0)
        figures.faults += [f"check: {finding}" for finding in check_store(store, key_file)]
        clock_going_back(directory, seed, figures)
    finally:
        if daemon.process is not None and daemon.process.poll() is None:
            daemon.kill()
        detach(top)
    text = daemon.log.read_text(errors="replace")
    figures.faults += [f"daemon log: {line}" for line in text.splitlines() if line.startswith(("ERROR", "CRITICAL", "Traceback"))][:5]
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--long", action="store_true", help="a directory of a million names, however long it takes")
    options = parser.parse_args()
    end_orderly()
    with tempfile.TemporaryDirectory(prefix="anqfs-limits-") as directory:
        names = MOST_NAMES if options.long else min(MOST_NAMES, max(20_000, int(options.seconds * NAMES_EACH_SECOND)))
        figures = run(Path(directory), seed=options.seed, names=names, churn_seconds=max(1.0, options.seconds / 2))
    for fault in figures.faults[:20]:
        print(fault, file=sys.stderr)
    print(json.dumps({"part": "limits", "seed": options.seed, "faults": len(figures.faults), **figures.facts}))
    return 0 if len(figures.facts) > 10 and not figures.faults else 1


if __name__ == "__main__":
    raise SystemExit(main())
