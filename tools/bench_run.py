"""Run the benchmark: peers interleaved on one journalled loop image, each read verified, medians and ratios at the end.

Exit codes: 0 every chosen row ran (whether or not its goal was reached), 1 a peer returned wrong bytes or anqfs failed, 2 usage.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bench_export import export
from bench_peers import PEERS, Anqfs, Cost, Peer, Unavailable, cold_caches, run
from bench_report import Results, plot, print_table, write_json
from bench_rows import QUICK, SCENARIOS, Sizes, content, write_file
from bench_scale import QUICK_STEPS, STEPS, scale

LONG = {"tree": 2, "stream": 2, "random": 2, "sqlite": 2, "dicom": 3, "snapshot": 1}
"""Scenarios that take long, and the rounds that are enough for them."""
DEFAULT_ROWS = ",".join(SCENARIOS)
SCENARIOS["export"] = export
"""File servers take long and need nfs-ganesha and Samba: only when they are asked for."""
DEFAULT_PEERS = "anqfs,ext4,noop,gocryptfs,securefs"
WITHOUT: dict[str, set[str]] = {
    "noop": {"snapshot", "export"},
    "cryfs": {"snapshot"},
    "juicefs": {"snapshot"},
}
"""Scenarios that a peer cannot take part in."""


class Disk:
    """One journalled ext4 in a loop image, for all stores."""

    def __init__(self, size: int) -> None:
        self.base = Path(tempfile.mkdtemp(prefix="anqfs-bench-"))
        self.image = self.base / "disk.img"
        self.root = self.base / "disk"
        self.size = size

    def __enter__(self) -> Path:
        self.root.mkdir()
        with self.image.open("wb") as file:
            file.truncate(self.size)
        run(["mkfs.ext4", "-q", "-F", str(self.image)])
        run(["mount", "-o", "loop", str(self.image), str(self.root)])
        return self.root

    def __exit__(self, *exc: object) -> None:
        subprocess.run(["umount", "-l", str(self.root)], check=False)
        shutil.rmtree(self.base, ignore_errors=True)


def warm_up(disk: Path) -> None:
    """Make the disk's bitmaps and journal warm: dropping caches made them cold for everyone."""
    directory = disk / "warm-up"
    directory.mkdir()
    for number in range(500):
        write_file(directory / str(number), content(number))
    os.sync()
    shutil.rmtree(directory)


def one_peer(peer: Peer, scenario: str, sizes: Sizes, results: Results) -> None:
    """Run one scenario on a fresh store of one peer and note its figures and its daemon's cost."""
    peer.set_up()
    try:
        warm_up(peer.store.parent)
        work = peer.root / "work"
        work.mkdir()
        used, peak = 0.0, 0.0
        cost = Cost(peer.pid())
        for row, value in SCENARIOS[scenario](peer, work, sizes):
            results.add(row, peer.name, value)
            used, peak = max(used, cost.seconds()), max(peak, cost.peak_mib())
            if cost.pid != peer.pid():
                cost = Cost(peer.pid())
        noted = results.daemon.setdefault(scenario, {}).setdefault(peer.name, {"cpu_seconds": 0.0, "peak_mib": 0.0})
        noted["cpu_seconds"] = max(noted["cpu_seconds"], used)
        noted["peak_mib"] = max(noted["peak_mib"], peak, cost.peak_mib())
    finally:
        try:
            peer.take_down()
        except Unavailable:
            peer.kill()


def order(peers: list[str], scenario: str, turn: int) -> list[str]:
    """Return anqfs, an encrypted peer, anqfs, the next one ... so that drift of the machine hits both alike; then what is not encrypted.

    In a long scenario each runs once in a round, in the reverse order every other time.
    """
    rivals = [name for name in peers if name != "anqfs" and PEERS[name].encrypted]
    if scenario in LONG:
        return peers[::-1] if turn % 2 else peers
    if "anqfs" not in peers or not rivals:
        return peers
    return [name for rival in rivals for name in ("anqfs", rival)] + [name for name in peers if not PEERS[name].encrypted]


def run_all(disk: Path, chosen: list[str], peers: list[str], sizes: Sizes, rounds: int, console: Console) -> Results:
    """Run the scenarios on the peers, interleaved, several times."""
    results = Results()
    for scenario in chosen:
        began = time.monotonic()
        for turn in range(min(rounds, LONG.get(scenario, rounds))):
            able = [name for name in peers if name not in results.unavailable and scenario not in WITHOUT.get(name, set())]
            for name in order(able, scenario, turn):
                if name in results.unavailable or (scenario == "snapshot" and name != "anqfs"):
                    continue
                console.print(f"[dim]{scenario}: round {turn + 1} of {rounds}: {name}[/dim]")
                cold_caches()
                try:
                    one_peer(PEERS[name](disk), scenario, sizes, results)
                except (Unavailable, OSError, subprocess.CalledProcessError) as error:
                    if name == "anqfs":
                        raise
                    results.unavailable[name] = f"{scenario}: {error}"
        results.facts[f"seconds that the scenario {scenario} took"] = time.monotonic() - began
    return results


def idle(disk: Path, results: Results, seconds: float) -> None:
    """Measure the CPU that an idle mount uses."""
    peer = Anqfs(disk)
    peer.set_up()
    try:
        write_file(peer.root / "file", content(1))
        time.sleep(3)
        cost = Cost(peer.pid())
        time.sleep(seconds)
        results.facts[f"idle mount, CPU % over {seconds:.0f} s"] = 100 * cost.seconds() / seconds
    finally:
        peer.take_down()


def store_size(disk: Path, results: Results, sizes: Sizes) -> None:
    """Measure how much larger the store is than the data in it."""
    for title, count, size in (("4 KiB files", sizes.files * 4, 4096), ("1 MiB extents", 256, 1 << 20)):
        peer = Anqfs(disk)
        peer.set_up()
        try:
            for number in range(count):
                write_file(peer.root / str(number), content(number, size))
            peer.unmount()
            used = sum(path.stat().st_blocks * 512 for path in peer.store.rglob("*") if path.is_file())
            results.facts[f"store size : data size, {count} {title}"] = used / (count * size)
        finally:
            peer.take_down()


def main(
    rows: Annotated[str, typer.Option(help=f"Scenarios, comma-separated: {', '.join(SCENARIOS)}.")] = DEFAULT_ROWS,
    peers: Annotated[str, typer.Option(help=f"Peers, comma-separated: {', '.join(PEERS)}.")] = DEFAULT_PEERS,
    quick: Annotated[bool, typer.Option(help="Small sizes and one round: shows that everything works, not how fast.")] = False,
    rounds: Annotated[int, typer.Option(min=1, max=20, help="Times that each row runs.")] = 3,
    scaling: Annotated[bool, typer.Option("--scale", help="Instead: rates in one directory at 10 k, 100 k, 1 M files.")] = False,
    idle_seconds: Annotated[float, typer.Option(min=0, help="How long to watch an idle mount; 0: not at all.")] = 60.0,
    disk_size: Annotated[int, typer.Option(min=2, help="Size of the loop image in GiB (sparse).")] = 40,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all figures to this file.")] = None,
    picture: Annotated[Path | None, typer.Option("--plot", help="Draw the ratios into this PNG file.")] = None,
) -> None:
    """Compare anqfs with its peers on this machine."""
    console = Console() if sys.stdout.isatty() else Console(width=200)
    chosen, names = [name for name in rows.split(",") if name], [name for name in peers.split(",") if name]
    unknown = [name for name in chosen if name not in SCENARIOS] + [name for name in names if name not in PEERS]
    if unknown:
        console.print(f"tools/bench: unknown: {', '.join(unknown)}")
        raise typer.Exit(2)
    if os.geteuid() != 0:
        console.print("tools/bench: needs root, to make and mount a loop image")
        raise typer.Exit(2)
    sizes = QUICK if quick else Sizes()
    with Disk(disk_size << 30) as disk:
        if scaling:
            results = scale(disk, names, QUICK_STEPS if quick else STEPS, console)
        else:
            results = run_all(disk, chosen, names, sizes, 1 if quick else rounds, console)
            if "anqfs" in names:
                store_size(disk, results, sizes)
            if "anqfs" in names and idle_seconds:
                idle(disk, results, min(idle_seconds, 3) if quick else idle_seconds)
    if not scaling:
        print_table(results, names, console)
    if json_file:
        write_json(results, json_file)
    if picture:
        plot(results, picture)


if __name__ == "__main__":
    typer.run(main)
