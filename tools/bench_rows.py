"""The benchmark's rows: what is done to a mounted filesystem, and what is measured.

A scenario is a function that works in an empty directory of one peer and yields (row, value) pairs; rows that need each other's files
share a scenario. Every read is compared with what was written: a wrong byte ends the run. The unit of a row says whether more or
less is better.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import sqlite3
import statistics
import subprocess
import sys
import sysconfig
import tarfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

from bench_peers import Peer

MIB = 1 << 20
PART = 10_000
"""Files in each part of the tree that is snapshotted, one of which is restored."""
SNAPSHOTS = 9
"""Snapshots of one tree, the median of whose times is its figure."""
Figures = Iterator[tuple[str, float]]


@dataclass(frozen=True)
class Row:
    """One line of the table. `goal` is the wanted ratio of anqfs to the best encrypted peer; None: stated only.

    `also`: wanted ratios to peers by name. `least`: anqfs's own wanted figure, in the row's unit; at most that where less is better.
    """

    title: str
    unit: str
    goal: float | None = None
    also: tuple[tuple[str, float], ...] = ()
    least: float | None = None

    @property
    def more_is_better(self) -> bool:
        return self.unit not in ("s", "ms")


@dataclass(frozen=True)
class Sizes:
    """How much work each scenario does."""

    files: int = 5_000
    synced: int = 1_000
    small_writes: int = 100_000
    tree: int = 50_000
    source: int = 2_500
    stream: int = 4 << 30
    random_file: int = 1 << 30
    random_operations: int = 5_000
    inserts: int = 10_000
    studies: int = 20
    slices: int = 45


QUICK = Sizes(
    files=500, synced=50, small_writes=10_000, tree=2_000, source=300, stream=128 * MIB, random_file=64 * MIB,
    random_operations=500, inserts=500, studies=2, slices=10,
)  # fmt: skip


class Mismatch(Exception):
    """A peer returned other bytes than were written."""


def timed(work: Callable[[], object]) -> float:
    """Return the seconds that `work` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def content(number: int, size: int = 4096) -> bytes:
    """Return the bytes of file `number`: cheap, different for each, not compressible."""
    return hashlib.shake_128(number.to_bytes(8, "big")).digest(size)


def spread(clients: int, items: int, work: Callable[[int], object]) -> None:
    """Run work(0..items-1) on `clients` threads, each with its own share."""
    if clients == 1:
        for item in range(items):
            work(item)
        return

    def share(client: int) -> None:
        for item in range(client, items, clients):
            work(item)

    with ThreadPoolExecutor(clients) as pool:
        for done in [pool.submit(share, client) for client in range(clients)]:
            done.result()


def write_file(path: Path, data: bytes, sync: bool = False) -> None:
    """Create, write, perhaps fsync, close."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        if os.write(descriptor, data) != len(data):
            raise Mismatch(f"{path}: short write")
        if sync:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_file(path: Path, wanted: bytes) -> None:
    """Open, read, close, compare."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        got = os.read(descriptor, len(wanted) + 1)
    finally:
        os.close(descriptor)
    if got != wanted:
        raise Mismatch(str(path))


def small_files(peer: Peer, work: Path, sizes: Sizes) -> Figures:
    """Small files by 1 and by 16 clients: create, stat, read and unlink them."""
    for clients in (1, 16):
        yield from _small_files(peer, work / f"small-{clients}", sizes.files, clients)


def _small_files(peer: Peer, base: Path, files: int, clients: int) -> Figures:
    base.mkdir()
    data = [content(number) for number in range(files)]
    paths = [base / f"file-{number:06d}.dcm" for number in range(files)]

    def rate(work: Callable[[int], object]) -> float:
        return files / timed(lambda: spread(clients, files, work))

    yield f"create x{clients}", rate(lambda number: write_file(paths[number], data[number]))
    if clients == 1:
        yield "stat after write", rate(lambda number: os.stat(paths[number]))
        peer.make_cold()
        yield "stat cold", rate(lambda number: os.stat(paths[number]))
    peer.make_cold()
    yield f"read cold x{clients}", rate(lambda number: read_file(paths[number], data[number]))
    yield f"read warm x{clients}", rate(lambda number: read_file(paths[number], data[number]))
    yield f"unlink x{clients}", rate(lambda number: os.unlink(paths[number]))


def synced_files(peer: Peer, work: Path, sizes: Sizes) -> Figures:
    """Small files with an fsync for each."""
    for clients in (1, 16):
        yield f"create+fsync x{clients}", _synced_files(work / f"synced-{clients}", sizes.synced, clients)


def _synced_files(base: Path, files: int, clients: int) -> float:
    base.mkdir()
    return files / timed(lambda: spread(clients, files, lambda number: write_file(base / str(number), content(number), sync=True)))


def small_writes(peer: Peer, work: Path, sizes: Sizes) -> Figures:
    """Many buffered writes of 4 KiB to one file."""
    block = content(1)
    path = work / "appended"

    def all_writes() -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
        for _ in range(sizes.small_writes):
            os.write(descriptor, block)
        os.fsync(descriptor)
        os.close(descriptor)

    yield "4K buffered writes", sizes.small_writes / timed(all_writes)
    if path.stat().st_size != sizes.small_writes * len(block):
        raise Mismatch(str(path))


def command(*arguments: str, cwd: Path | None = None) -> None:
    """Run a command quietly; it must succeed."""
    subprocess.run(arguments, cwd=cwd, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def big_tree(peer: Peer, work: Path, sizes: Sizes) -> Figures:
    """Walks of a tree of many small files, each cold, and its removal."""
    base = work / "tree"
    base.mkdir()
    for number in range(sizes.tree):
        if number % 100 == 0:
            directory = base / f"study-{number // 100:05d}"
            directory.mkdir()
        write_file(directory / f"image-{number:06d}", b"x" * 100)
    for title, walk in (("ls -lR cold", ["ls", "-lR"]), ("find cold", ["find"]), ("du cold", ["du", "-s"])):
        peer.make_cold()
        yield title, timed(lambda walk=walk: command(*walk, str(base)))  # type: ignore[misc]
    yield "rm -rf tree", timed(lambda: command("rm", "-rf", str(base)))


def source_archive(base: Path, files: int) -> Path:
    """Make (once) a tar of so many source files, from Python's library and what is installed beside it; again if these are too few."""
    archive = base / f"source-{files}.tar"
    if not archive.exists():
        libraries = [Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib")]
        found = [(library, path) for library in libraries for path in sorted(library.rglob("*.py")) if path.is_file()]
        with tarfile.open(archive, "w", dereference=True) as tar:
            for number, (library, path) in enumerate(islice(cycle(found), files)):
                part = f"{library.name}-{number // len(found)}"
                tar.add(path, arcname=Path("source") / part / path.relative_to(library))
    return archive


def source_tree(peer: Peer, work: Path, sizes: Sizes) -> Figures:
    """A developer's work: unpack, copy, remove, git."""
    archive = source_archive(peer.store.parent, sizes.source)
    yield "untar", timed(lambda: command("tar", "-xf", str(archive), "-C", str(work)))
    yield "cp -r", timed(lambda: command("cp", "-r", "source", "copy", cwd=work))
    yield "rm -rf copy", timed(lambda: command("rm", "-rf", "copy", cwd=work))
    source = work / "source"
    git = ["git", "-c", "user.name=bench", "-c", "user.email=bench@example.org"]

    def commit() -> None:
        command(*git, "init", "-q", cwd=source)
        command(*git, "add", ".", cwd=source)
        command(*git, "commit", "-qm", "all", cwd=source)

    yield "git add+commit", timed(commit)
    peer.make_cold()
    yield "git status cold", timed(lambda: command(*git, "status", "--short", cwd=source))


def stream(peer: Peer, work: Path, sizes: Sizes) -> Figures:
    """One large file, written and read front to back in MiB requests."""
    path = work / "stream"
    blocks = [random.Random(number).randbytes(MIB) for number in range(16)]
    count = sizes.stream // MIB

    def write() -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
        for number in range(count):
            os.write(descriptor, blocks[number * 7 % 16])
        os.fsync(descriptor)
        os.close(descriptor)

    def read(client: int = 0) -> None:
        descriptor = os.open(path, os.O_RDONLY)
        for number in range(count):
            if os.pread(descriptor, MIB, number * MIB) != blocks[number * 7 % 16]:
                raise Mismatch(f"{path} at {number} MiB")
        os.close(descriptor)

    size = sizes.stream / MIB
    yield "stream write+fsync", size / timed(write)
    peer.make_cold()
    yield "stream read cold", size / timed(read)
    yield "stream read warm", size / timed(read)
    peer.make_cold()
    yield "stream read cold x4", 4 * size / timed(lambda: spread(4, 4, read))
    path.unlink()


def _random_reads(path: Path, places: list[int], depth: int) -> float:
    descriptor = os.open(path, os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)

    def read(item: int) -> None:
        number = places[item]
        if os.pread(descriptor, 4096, number * 4096) != number.to_bytes(8, "big") * 512:
            raise Mismatch(f"{path} at block {number}")

    seconds = timed(lambda: spread(depth, len(places), read))
    os.close(descriptor)
    return len(places) / seconds


def random_blocks(peer: Peer, work: Path, sizes: Sizes) -> Figures:
    """Random 4 KiB reads and overwrites of one file."""
    path = work / "random"
    blocks = sizes.random_file // 4096
    with path.open("wb", buffering=MIB) as out:
        for number in range(blocks):
            out.write(number.to_bytes(8, "big") * 512)
    places = random.Random(7).sample(range(blocks), sizes.random_operations)
    for depth in (1, 16):
        peer.make_cold()
        yield f"random 4K read cold x{depth}", _random_reads(path, places, depth)
    descriptor = os.open(path, os.O_RDWR)
    block = b"\xaa" * 4096

    def overwrite(count: int, each: bool) -> None:
        for number in places[:count]:
            os.pwrite(descriptor, block, number * 4096)
            if each:
                os.fsync(descriptor)
        os.fsync(descriptor)

    yield "random 4K overwrite", len(places) / timed(lambda: overwrite(len(places), False))
    few = max(1, len(places) // 10)
    yield "random 4K overwrite+fsync", few / timed(lambda: overwrite(few, True))
    os.close(descriptor)
    path.unlink()


def database(peer: Peer, work: Path, sizes: Sizes) -> Figures:
    """SQLite inserts, one transaction each."""
    for mode, count in (("WAL", sizes.inserts), ("DELETE", max(1, sizes.inserts // 10))):
        connection = sqlite3.connect(work / f"{mode}.db", isolation_level=None)
        connection.execute(f"pragma journal_mode={mode}")
        connection.execute("pragma synchronous=FULL")
        connection.execute("create table image (uid text primary key, study text, size integer)")

        def inserts(connection: sqlite3.Connection = connection, count: int = count) -> None:
            for number in range(count):
                connection.execute("insert into image values (?, ?, ?)", (f"2.25.{number}", f"study {number % 97}", number))

        yield f"SQLite {mode}", count / timed(inserts)
        if connection.execute("select count(*) from image").fetchone() != (count,):
            raise Mismatch(f"SQLite {mode}")
        connection.close()


def dicom(peer: Peer, work: Path, sizes: Sizes) -> Figures:
    """CT studies in (write, fsync, rename, 4 writers), out cold a whole study at a time, and a scan of all headers."""
    image = content(99, 512 * 512 * 2 + 1200)
    base = work / "archive"
    total = sizes.studies * sizes.slices
    for study in range(sizes.studies):
        (base / f"study-{study:03d}").mkdir(parents=True)

    def place(number: int) -> Path:
        return base / f"study-{number % sizes.studies:03d}" / f"image-{number // sizes.studies:04d}.dcm"

    def arrive(number: int) -> None:
        path = place(number)
        temporary = path.with_suffix(".part")
        write_file(temporary, number.to_bytes(8, "big") + image, sync=True)
        temporary.rename(path)

    def leave(study: int) -> None:
        for number in range(study, total, sizes.studies):
            read_file(place(number), number.to_bytes(8, "big") + image)

    def scan(number: int) -> None:
        with place(number).open("rb", buffering=0) as file:
            if file.read(4096) != (number.to_bytes(8, "big") + image)[:4096]:
                raise Mismatch(str(place(number)))

    size = total * (len(image) + 8) / MIB
    yield "DICOM in", size / timed(lambda: spread(4, total, arrive))
    peer.make_cold()
    seconds = timed(lambda: spread(1, sizes.studies, leave))
    yield "DICOM out cold", size / seconds
    yield "DICOM images out cold", total / seconds
    peer.make_cold()
    yield "DICOM header scan cold", total / timed(lambda: spread(1, total, scan))
    shutil.rmtree(base)


def snapshot_times(directory: Path) -> list[float]:
    """Snapshot a directory SNAPSHOTS times, each after a change of it, and return the ms that each took."""
    taken = []
    for number in range(SNAPSHOTS):
        os.utime(directory)
        taken.append(1000 * timed((directory / ".snapshot" / f"bench-{number}").mkdir))
    return taken


def snapshots(peer: Peer, work: Path, sizes: Sizes) -> Figures:
    """Snapshots of a small and a large tree, reading from one, deleting it, restoring from it. Only anqfs has them."""
    if peer.name != "anqfs":
        return
    for count in (100, sizes.tree * 6):
        base = work / f"tree-{count}"
        base.mkdir()
        for number in range(count):
            if number % 1000 == 0:
                directory = base / f"part-{number // PART}" / f"d{number // 1000}"
                directory.mkdir(parents=True)
            write_file(directory / f"f{number}", b"content")
        os.sync()
        yield f"snapshot of {'few' if count == 100 else 'many'}", statistics.median(snapshot_times(base))
    taken = next(base.joinpath(".snapshot").iterdir())
    some = [f"part-{number // PART}/d{number // 1000}/f{number}" for number in range(0, count, max(1, count // 1000))]
    peer.make_cold()
    yield "read in snapshot cold", len(some) / timed(lambda: [read_file(taken / path, b"content") for path in some])
    peer.make_cold()
    yield "read live cold", len(some) / timed(lambda: [read_file(base / path, b"content") for path in some])
    arguments = [sys.executable, "-m", "anqfs.cli.app", "snapshot", "restore", taken.name.split("_")[0], "--path", "part-0"]
    restored = work / "restored"
    seconds = timed(lambda: command(*arguments, "--to", str(restored), "--mountpoint", str(peer.mountpoint)))
    found = sum(len(names) for _, _, names in os.walk(restored))
    if found != min(PART, count):
        raise Mismatch(f"{found} files were restored")
    yield "restored files", found / seconds
    yield "snapshot deleted", 1000 * timed(taken.rmdir)


SCENARIOS: dict[str, Callable[[Peer, Path, Sizes], Figures]] = {
    "small": small_files,
    "fsync": synced_files,
    "append": small_writes,
    "tree": big_tree,
    "source": source_tree,
    "stream": stream,
    "random": random_blocks,
    "sqlite": database,
    "dicom": dicom,
    "snapshot": snapshots,
}

ROWS: dict[str, Row] = {
    "create x1": Row("create + write 4 KiB + close, 1 client", "files/s", 1.0, (("gocryptfs", 4.0), ("noop", 0.75))),
    "create x16": Row("the same, 16 clients", "files/s", 1.0, (("gocryptfs", 4.0), ("noop", 0.75))),
    "create+fsync x1": Row("create + write + fsync, 1 client", "files/s", 1.5),
    "create+fsync x16": Row("the same, 16 clients", "files/s", 3.0),
    "stat after write": Row("stat after write", "files/s", 1.3),
    "stat cold": Row("stat, cold", "files/s", 1.5),
    "read cold x1": Row("open + read 4 KiB + close, cold, 1 client", "files/s", 1.5),
    "read cold x16": Row("the same, 16 clients", "files/s", 1.5),
    "read warm x1": Row("open + read 4 KiB + close, warm, 1 client", "files/s", 2.0),
    "read warm x16": Row("the same, 16 clients", "files/s", 2.0),
    "unlink x1": Row("unlink, 1 client", "files/s", 1.0),
    "unlink x16": Row("the same, 16 clients", "files/s", 1.0),
    "4K buffered writes": Row("buffered writes of 4 KiB to one file", "writes/s", 5.0),
    "ls -lR cold": Row("ls -lR of the large tree, cold", "s", 2.0),
    "find cold": Row("find, cold", "s", 2.0),
    "du cold": Row("du, cold", "s", 2.0),
    "rm -rf tree": Row("rm -rf of the large tree", "s", 1.0),
    "untar": Row("untar a source tree", "s", 1.5),
    "cp -r": Row("cp -r of it", "s", 1.5),
    "rm -rf copy": Row("rm -rf of the copy", "s", 1.5),
    "git add+commit": Row("git add + commit", "s", 1.5),
    "git status cold": Row("git status, cold", "s", 2.0),
    "stream write+fsync": Row("sequential write + fsync", "MiB/s", 1.2, (("ext4", 0.9),)),
    "stream read cold": Row("sequential read, cold", "MiB/s", 2.0, (("ext4", 0.7),)),
    "stream read warm": Row("sequential read, warm: the kernel's cache", "MiB/s", None, (("ext4", 1.0),)),
    "stream read cold x4": Row("sequential read, cold, 4 clients", "MiB/s", 2.0, (("ext4", 0.7),)),
    "random 4K read cold x1": Row("random 4 KiB reads, cold, depth 1", "IOPS", 1.3),
    "random 4K read cold x16": Row("the same, depth 16", "IOPS", 1.3),
    "random 4K overwrite": Row("random 4 KiB overwrites, one fsync", "IOPS", 3.0),
    "random 4K overwrite+fsync": Row("random 4 KiB overwrites, fsync each", "IOPS", 1.5),
    "SQLite WAL": Row("SQLite inserts, WAL", "inserts/s", 1.5),
    "SQLite DELETE": Row("SQLite inserts, rollback journal", "inserts/s", 1.5),
    "DICOM in": Row("DICOM studies in: write, fsync, rename, 4 writers", "MiB/s", 1.5),
    "DICOM out cold": Row("DICOM studies out, cold", "MiB/s", 1.5),
    "DICOM images out cold": Row("the same, by one reader", "images/s", None, (), 250.0),
    "DICOM header scan cold": Row("DICOM header scan, cold", "files/s", 2.0),
    "snapshot of few": Row("snapshot of a tree of 100 files, median of nine", "ms", None, (), 5.0),
    "snapshot of many": Row("snapshot of the tree six times the large one, median of nine", "ms", None, (), 5.0),
    "read in snapshot cold": Row("open + read + close in a snapshot, cold", "files/s"),
    "read live cold": Row("the same files in the live tree, cold", "files/s"),
    "restored files": Row("restore of 10,000 files beside the live tree", "files/s"),
    "snapshot deleted": Row("deleting the snapshot: until rmdir returns", "ms"),
    "NFS stream write": Row("over NFS: sequential write", "MiB/s", also=(("ext4", 0.8),)),
    "NFS stream read": Row("over NFS: sequential read, just written", "MiB/s", also=(("ext4", 0.8),)),
    "NFS create": Row("over NFS: create + write 4 KiB + close", "files/s", also=(("gocryptfs", 1.5),)),
    "NFS read": Row("over NFS: open + read 4 KiB + close, warm", "files/s", also=(("gocryptfs", 1.5),)),
    "SMB stream write": Row("over SMB: sequential write", "MiB/s", also=(("ext4", 0.8),)),
    "SMB stream read": Row("over SMB: sequential read, just written", "MiB/s", also=(("ext4", 0.8),)),
    "SMB create": Row("over SMB: create + write 4 KiB + close", "files/s", also=(("gocryptfs", 1.5),)),
    "SMB read": Row("over SMB: open + read 4 KiB + close, warm", "files/s", also=(("gocryptfs", 1.5),)),
}
