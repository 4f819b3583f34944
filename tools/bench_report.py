"""What the benchmark found, as a table for people, JSON for machines and a picture."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench_peers import PEERS
from bench_rows import ROWS, Row

FLOOR = """\
noop is a filesystem in pyfuse3 that does nothing: no encryption, no disk, and an fsync that only answers. It is no peer but the floor:
where a goal is missed, "floor" says how noop stands beside the best encrypted peer. A goal above the floor is out of reach for a
filesystem in pyfuse3. Where a row is cold or has an fsync, that is the floor of the transport alone; the disk comes on top."""


@dataclass
class Results:
    """All figures: values[row][peer] is one value for each round."""

    values: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    daemon: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    """daemon[scenario][peer]: cpu_seconds and peak_mib."""
    unavailable: dict[str, str] = field(default_factory=dict)
    facts: dict[str, float] = field(default_factory=dict)

    def add(self, row: str, peer: str, value: float) -> None:
        """Add one measured value."""
        self.values.setdefault(row, {}).setdefault(peer, []).append(value)

    def median(self, row: str, peer: str) -> float | None:
        """Return a peer's median of a row, None when it has none."""
        found = self.values.get(row, {}).get(peer)
        return statistics.median(found) if found else None

    def best_encrypted(self, row: str) -> tuple[str, float] | None:
        """Return name and median of the best encrypted peer other than anqfs."""
        candidates = []
        for peer in self.values.get(row, {}):
            median = self.median(row, peer)
            if peer != "anqfs" and PEERS[peer].encrypted and median is not None:
                candidates.append((peer, median))
        if not candidates:
            return None
        return (max if ROWS[row].more_is_better else min)(candidates, key=lambda pair: pair[1])

    def ratio(self, row: str, peer: str = "anqfs") -> float | None:
        """Return how many times better anqfs, or another peer, is than the best encrypted peer (above 1: better)."""
        best, own = self.best_encrypted(row), self.median(row, peer)
        if best is None or own is None or not own or not best[1]:
            return None
        return own / best[1] if ROWS[row].more_is_better else best[1] / own

    def against(self, row: str, peer: str) -> float | None:
        """Return how many times better anqfs is than one peer."""
        other, own = self.median(row, peer), self.median(row, "anqfs")
        if not other or not own:
            return None
        return own / other if ROWS[row].more_is_better else other / own

    def reaches(self, name: str) -> bool:
        """Tell whether anqfs reaches every goal of a row that could be measured."""
        row, ratio, own = ROWS[name], self.ratio(name), self.median(name, "anqfs")
        wanted = [] if row.goal is None or ratio is None else [ratio >= row.goal]
        for peer, goal in row.also:
            found = self.against(name, peer)
            wanted += [] if found is None else [found >= goal]
        if row.least is not None and own is not None:
            wanted.append(own >= row.least if row.more_is_better else own <= row.least)
        return all(wanted)

    def missed(self) -> list[str]:
        """Return the rows of which anqfs does not reach a goal."""
        return [name for name in ROWS if name in self.values and not self.reaches(name)]


def shown(value: float | None) -> str:
    """Return a figure with three significant digits at least."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _cells(results: Results, name: str, row: Row, peers: list[str], missed: bool) -> list[str]:
    cells = [row.title, row.unit]
    for peer in peers:
        found = results.values[name].get(peer, [])
        spread = f" ±{100 * (max(found) - min(found)) / 2 / statistics.median(found):.0f}%" if len(found) > 1 and min(found) > 0 else ""
        cells.append(shown(results.median(name, peer)) + spread)
    ratio, best = results.ratio(name), results.best_encrypted(name)
    cells.append(f"{ratio:.2f}x {best[0]}" if ratio is not None and best else "-")
    cells.append("-" if row.goal is None else f"{row.goal:g}x")
    further = [f"{found:.2f}x {peer} ({goal:g}x)" for peer, goal in row.also if (found := results.against(name, peer)) is not None]
    if row.least is not None:
        further.append(f"({'at least' if row.more_is_better else 'at most'} {row.least:g} {row.unit})")
    floor = results.ratio(name, "noop")
    if missed and floor is not None:
        further.append(f"floor {floor:.2f}x")
    cells.append(", ".join(further))
    return cells


def print_table(results: Results, peers: list[str], console: Console) -> None:
    """Print medians, spread and ratios, then costs, then what is missing."""
    table = Table(title="anqfs beside its peers (medians; ± half the spread)")
    for heading in ["row", "unit", *peers, "anqfs : best encrypted", "goal", "further (goal)"]:
        table.add_column(heading, justify="left" if heading in ("row", "unit") else "right")
    missed = set(results.missed())
    for name, row in ROWS.items():
        if name in results.values:
            table.add_row(*_cells(results, name, row, peers, name in missed), style="yellow" if name in missed else None)
    console.print(table)
    if "noop" in peers:
        console.print(FLOOR)
    costs = Table(title="the daemon: CPU seconds / peak MiB for each scenario")
    for heading in ["scenario", *peers]:
        costs.add_column(heading, justify="left" if heading == "scenario" else "right")
    for scenario, by_peer in results.daemon.items():
        cells = [f"{by_peer[peer]['cpu_seconds']:.1f} / {by_peer[peer]['peak_mib']:.0f}" if peer in by_peer else "-" for peer in peers]
        costs.add_row(scenario, *cells)
    console.print(costs)
    for fact, value in results.facts.items():
        console.print(f"{fact}: {shown(value)}")
    for peer, why in results.unavailable.items():
        console.print(f"[yellow]{peer} could not run:[/yellow] {why}")
    if missed:
        console.print(f"[yellow]goals missed:[/yellow] {', '.join(name for name in ROWS if name in missed)}")


def write_json(results: Results, path: Path) -> None:
    """Write every value, median and ratio."""
    medians = {row: {peer: results.median(row, peer) for peer in by_peer} for row, by_peer in results.values.items()}
    ratios = {row: results.ratio(row) for row in results.values}
    floors = {row: results.ratio(row, "noop") for row in results.values}
    derived = {"medians": medians, "ratios": ratios, "floors": floors, "missed": results.missed()}
    path.write_text(json.dumps({**asdict(results), **derived}, indent=1) + "\n")


def plot(results: Results, path: Path) -> None:
    """Draw the ratios of every row as bars, with a line at each goal."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [name for name in ROWS if results.ratio(name) is not None]
    figure, axes = pyplot.subplots(figsize=(9, 0.32 * len(rows) + 1.5))
    places = range(len(rows))
    ratios = [results.ratio(name) or 0.0 for name in rows]
    axes.barh(places, ratios, color=["#c77d0a" if name in results.missed() else "#2a7f62" for name in rows])
    for place, name in zip(places, rows, strict=True):
        goal = ROWS[name].goal
        if goal is not None:
            axes.plot([goal, goal], [place - 0.45, place + 0.45], color="black", linewidth=1.5)
    axes.set_yticks(list(places), [ROWS[name].title for name in rows])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.axvline(1, color="grey", linewidth=0.8)
    axes.set_xlabel("times as fast as the best encrypted peer (line: goal)")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
