#!/usr/bin/env python3
"""Runs the soak's jobs in turn until the time is over, each round with new seeds, and counts what was tried by kind.

Exit code 0 only if every job ran, tried something, and nothing went wrong or was left behind.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.table import Table

import leftovers
from soak_jobs import JOBS, Job, Outcome, read_outcome

PROJECT = Path(__file__).resolve().parent.parent
LONGEST = 300
"""Seconds that a job of weight 1 runs before it is the next one's turn."""
SHORTEST = 5
GRACE = 240
"""Seconds that a job may overrun: the last round and its checks are finished, not cut."""
SHOWN_LINES = 60


@dataclass
class Tally:
    """What one job did in all rounds."""

    job: Job
    counts: collections.Counter[str] = field(default_factory=collections.Counter)
    runs: int = 0
    faults: list[str] = field(default_factory=list)


def plan(seconds: float, weight: int) -> tuple[int, float]:
    """Return (rounds, seconds for each unit of weight in a round) that fill a time. `weight` is that of all jobs."""
    rounds = max(1, -(-int(seconds) // (weight * LONGEST)))
    return rounds, seconds / (rounds * weight)


def run_job(job: Job, seconds: int, seed: int, console: Console) -> Outcome:
    """Run a job once, in a temporary directory and process group of its own, and see that it leaves nothing behind."""
    directory = Path(tempfile.mkdtemp(prefix="anqfs-soak."))
    command = job.command(seconds, seed)
    try:
        status, output, errors = _run(command, directory, seconds + GRACE)
    finally:
        said = leftovers.remove(directory, patience=10)
        shutil.rmtree(directory)
    outcome = read_outcome(status, output) if status is not None else Outcome({}, f"did not end within {seconds + GRACE} s")
    if said and not outcome.fault:
        outcome = Outcome(outcome.counts, "; ".join(said))
    if outcome.fault:
        console.print(f"{job.name}: {outcome.fault}\n  again: {' '.join(command)}", style="red", markup=False, soft_wrap=True)
        for line in (output.splitlines() + errors.splitlines())[-SHOWN_LINES:]:
            console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)
    return outcome


def _run(command: list[str], directory: Path, limit: float) -> tuple[int | None, str, str]:
    """Return exit status (None: took too long), stdout and stderr of a command; its whole process group is gone afterwards."""
    environment = {**os.environ, "TMPDIR": str(directory)}
    with (
        open(directory / "stdout", "w+", encoding="utf-8", errors="replace") as output,
        open(directory / "stderr", "w+", encoding="utf-8", errors="replace") as errors,
    ):
        process = subprocess.Popen(
            command, cwd=PROJECT, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=errors, start_new_session=True
        )
        try:
            status: int | None = process.wait(limit)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            _end_group(process)
        output.seek(0)
        errors.seek(0)
        return status, output.read(), errors.read()


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of a job's process group."""
    with contextlib.suppress(ProcessLookupError):  # nobody is left, as it should be
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def soak(jobs: list[Job], seconds: float, seed: int, console: Console) -> list[Tally]:
    """Run all jobs in turn; a job that found a fault is not run again, the others go on."""
    tallies = [Tally(job) for job in jobs]
    rounds, share = plan(seconds, sum(job.weight for job in jobs))
    deadline = time.monotonic() + seconds
    for number in range(rounds):
        for tally in tallies:
            left = int(deadline - time.monotonic())
            if tally.faults or (tally.runs and left < SHORTEST):
                continue
            used = max(SHORTEST, min(int(share * tally.job.weight), left))
            console.print(f"round {number + 1}/{rounds}: {tally.job.name}, {used} s: {tally.job.about}", markup=False, soft_wrap=True)
            outcome = run_job(tally.job, used, seed + number * 1000, console)
            tally.runs += 1
            tally.counts.update(outcome.counts)
            if outcome.fault:
                tally.faults.append(outcome.fault)
    return tallies


def summary(tallies: list[Tally]) -> Table:
    """Return the counts by job and kind."""
    table = Table()
    for column in ("job", "runs", "tried", "count"):
        table.add_column(column, no_wrap=True, justify="right" if column in ("runs", "count") else "left")
    table.add_column("result")
    for tally in tallies:
        result = "[red]" + "; ".join(tally.faults).replace("[", "(") if tally.faults else "[green]held"
        rows = sorted(tally.counts.items()) or [("nothing", 0)]
        for place, (kind, count) in enumerate(rows):
            first = place == 0
            table.add_row(
                tally.job.name if first else "",
                str(tally.runs) if first else "",
                kind,
                f"{count:,}",
                result if first else "",
                end_section=place == len(rows) - 1,
            )
    return table


def main(arguments: list[str] | None = None) -> int:
    """Run the soak; return 0 if all held, 1 if not, 130 when interrupted."""
    names = [job.name for job in JOBS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20, help="how long in all (default 20)")
    parser.add_argument("--seed", type=int, default=1, help="the first seed; the same seed tries the same things (default 1)")
    parser.add_argument("--job", action="append", choices=names, help="only this job; may be given several times")
    options = parser.parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 120)
    jobs = [job for job in JOBS if not options.job or job.name in options.job]
    missing = [job.module for job in jobs if not job.is_there(PROJECT)]
    if missing:
        console.print(f"these jobs are not in this project: {', '.join(missing)}", style="red", markup=False)
        return 1
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        tallies = soak(jobs, options.minutes * 60, options.seed, console)
    except KeyboardInterrupt:
        console.print("interrupted; cleaned up", style="yellow")
        return 130
    console.print(summary(tallies))
    held = all(tally.runs and not tally.faults for tally in tallies)
    console.print("everything held" if held else "NOT everything held", style="bold green" if held else "bold red")
    return 0 if held else 1


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
