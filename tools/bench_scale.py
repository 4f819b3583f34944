"""`tools/bench --scale`: what one operation costs in a directory of 10 thousand files, of 100 thousand and of a million.

All figures are costs, so that a cost which does not depend on the size has the ratio 1. Beside anqfs stands ext4, on the same disk: where
a cold look-up has to go to the disk because the directory no longer fits into what is read ahead, it does so on ext4, too.
"""

from __future__ import annotations

import os
import random
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench_peers import PEERS, Anqfs, Cost, Peer, cold_caches, wait_for
from bench_report import Results, shown
from bench_rows import snapshot_times, spread, timed, write_file

STEPS = (10_000, 100_000, 1_000_000)
QUICK_STEPS = (2_000, 4_000)
BATCH = 1_000
"""Files that are created, looked up and removed for one figure."""
REPEATS = 5
FLAT = 1.5
"""A cost that grows by more than this factor from the smallest directory to the largest is not flat."""
COMPARED = ("anqfs", "ext4")


@dataclass(frozen=True)
class Measure:
    """One line of the table. `is_flat`: whether the cost must not depend on the number of files."""

    title: str
    unit: str
    is_flat: bool = True


MEASURES = {
    "create": Measure("create + write 1 byte + close", "us"),
    "commit": Measure("fsync after 1,000 of them", "ms"),
    "unlink": Measure("unlink, of what was just made", "us"),
    "snapshot": Measure("snapshot of the directory", "ms"),
    "mount": Measure("mount until the first file is found, cold", "ms"),
    "missing cold": Measure("look-up of a missing name, cold", "us"),
    "found cold": Measure("look-up of a name at random, cold", "us"),
    "found warm": Measure("the same names, asked for again", "us"),
    "list": Measure("listing with attributes, each entry, cold", "us"),
    "memory": Measure("the daemon's peak memory", "MiB", is_flat=False),
    "store": Measure("the store's size for each file", "bytes"),
}


def name_of(number: int) -> str:
    """Return the name of file `number` of the large directory."""
    return f"image-{number:08d}"


def fill(base: Path, first: int, last: int) -> None:
    """Make the files first..last-1 of the large directory, as fast as it goes."""
    spread(16, last - first, lambda item: write_file(base / name_of(first + item), b"x"))
    os.sync()


def create_and_remove(base: Path) -> dict[str, float]:
    """Measure creates, the commit of a batch of them, and unlinks; the directory is as large as before afterwards."""
    paths = [base / f"more-{number:04d}" for number in range(BATCH)]
    seconds: dict[str, list[float]] = {"create": [], "commit": [], "unlink": []}
    for _ in range(REPEATS):
        os.sync()
        seconds["create"].append(timed(lambda: [write_file(path, b"x") for path in paths]) / BATCH)
        with paths[-1].open("rb") as file:
            seconds["commit"].append(timed(lambda file=file: os.fsync(file.fileno())) * 1e-3)  # type: ignore[misc]
        seconds["unlink"].append(timed(lambda: [path.unlink() for path in paths]) / BATCH)
    return {what: 1e6 * statistics.median(each) for what, each in seconds.items()}


def snapshots(peer: Anqfs, base: Path) -> float:
    """Return the ms that one snapshot takes, each after a change; all of them are gone afterwards."""
    taken = snapshot_times(base)
    for snapshot in (base / ".snapshot").iterdir():
        snapshot.rmdir()
    wait_for("the end of the snapshots", lambda: not peer.status()["namespace"]["snapshots_in_deletion"])
    return statistics.median(taken)


def look_up(base: Path, files: int) -> dict[str, float]:
    """Measure look-ups in us, the first of each kind cold: nothing is in the kernel or in the daemon."""
    some = [base / name_of(number) for number in random.Random(files).sample(range(files), BATCH)]

    def found() -> float:
        return 1e6 * timed(lambda: [os.stat(path) for path in some]) / BATCH

    costs = {"missing cold": 1e6 * timed(lambda: [os.path.exists(base / f"none-{number}") for number in range(BATCH)]) / BATCH}
    costs["found cold"] = found()
    Path("/proc/sys/vm/drop_caches").write_text("2\n")  # names and inodes alone: the kernel asks again
    costs["found warm"] = found()
    return costs


def list_all(base: Path, files: int) -> float:
    """Return the us that a listing with attributes takes for each entry."""
    seen = 0

    def walk() -> None:
        nonlocal seen
        with os.scandir(base) as entries:
            for entry in entries:
                entry.stat(follow_symlinks=False)
                seen += 1

    seconds = timed(walk)
    if seen != files:
        raise RuntimeError(f"{seen} of {files} files were listed")
    return 1e6 * seconds / files


def mount_cold(peer: Peer, base: Path) -> float:
    """Return the ms from the mount's command until a file of the large directory is found, with all caches cold."""
    peer.unmount()
    cold_caches()
    return 1000 * timed(lambda: (peer.mount(), os.stat(base / name_of(0))))


def measure(peer: Peer, base: Path, files: int) -> dict[str, float]:
    """Return every cost at this size of the directory, by the keys of MEASURES."""
    costs = create_and_remove(base)
    if isinstance(peer, Anqfs):
        costs["snapshot"] = snapshots(peer, base)
        costs["memory"] = Cost(peer.pid()).peak_mib()
        costs["mount"] = mount_cold(peer, base)
        costs["store"] = sum(path.stat().st_blocks * 512 for path in peer.store.rglob("*") if path.is_file()) / files
    else:
        peer.make_cold()
    costs |= look_up(base, files)
    peer.make_cold()
    costs["list"] = list_all(base, files)
    costs["memory"] = max(costs.get("memory", 0.0), Cost(peer.pid()).peak_mib())
    return costs


def scale(disk: Path, peers: list[str], steps: tuple[int, ...], console: Console) -> Results:
    """Measure every cost in one growing directory of anqfs, and of ext4."""
    results = Results()
    found: dict[str, dict[int, dict[str, float]]] = {}
    for name in [name for name in COMPARED if name in peers]:
        peer = PEERS[name](disk)
        peer.set_up()
        try:
            base, made = peer.root / "large", 0
            base.mkdir()
            for files in steps:
                began = time.monotonic()
                fill(base, made, files)
                made = files
                found.setdefault(name, {})[files] = measure(peer, base, files)
                console.print(f"[dim]{name}: {files:,} files took {time.monotonic() - began:.0f} s[/dim]")
        finally:
            peer.take_down()
        for files, costs in found[name].items():
            results.facts |= {
                f"{name} at {files:,} files: {MEASURES[what].title} ({MEASURES[what].unit})": cost for what, cost in costs.items()
            }
    print_scale(found, console)
    return results


def growth(by_size: dict[int, dict[str, float]], what: str) -> float | None:
    """Return a cost in the largest directory over that in the smallest, None when it was not measured."""
    smallest, largest = by_size[min(by_size)].get(what), by_size[max(by_size)].get(what)
    return largest / smallest if smallest and largest else None


def not_flat(by_size: dict[int, dict[str, float]]) -> list[str]:
    """Return the costs that must be flat and are not."""
    return [what for what, measure in MEASURES.items() if measure.is_flat and (growth(by_size, what) or 0) > FLAT]


def print_scale(found: dict[str, dict[int, dict[str, float]]], console: Console) -> None:
    """Print a table for each filesystem and which of its costs are not flat."""
    for name, by_size in found.items():
        table = Table(title=f"{name}: the cost of one operation in a directory of so many files")
        for heading in ["", "unit", *(f"{files:,}" for files in by_size), "largest : smallest"]:
            table.add_column(heading, justify="left" if heading in ("", "unit") else "right")
        steep = not_flat(by_size)
        for what, measure in MEASURES.items():
            ratio = growth(by_size, what)
            if ratio is not None:
                costs = [shown(costs.get(what)) for costs in by_size.values()]
                table.add_row(measure.title, measure.unit, *costs, f"{ratio:.2f}", style="yellow" if what in steep else None)
        console.print(table)
        if steep:
            console.print(f"[yellow]{name}: not flat:[/yellow] {', '.join(MEASURES[what].title for what in steep)}")
