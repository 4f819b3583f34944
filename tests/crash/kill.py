"""SIGKILL: a real daemon dies under writers at random moments, again and again on one volume, and nothing acknowledged is missing.

`python -m tests.crash.kill --seconds S --seed N`. Each round starts writers in directories of their own, kills the daemon, mounts
again and judges the trees and snapshots of this round's and of the last rounds' writers through the new mount. Older directories are
removed while others write, so that reclaiming and snapshot deletion are killed too. Every few rounds the offline check must be clean.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from . import judge
from .daemon import CommandDaemon, Daemon, check_store, detach, end_orderly, eventually, have_begun, make_store, writers
from .observe import Mounted

KEPT_ROUNDS = 3
CHECK_EVERY = 3


@dataclass
class Campaign:
    """One volume that is killed many times."""

    directory: Path
    seed: int
    writers: int = 3
    longest: float = 1.5
    commands: bool = False
    """Use the daemon of the command line: writers also restore snapshots, and keys are rotated."""
    counts: collections.Counter[str] = field(default_factory=collections.Counter)
    faults: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = random.Random(f"kill {self.seed}")
        store, key_file = make_store(self.directory)
        place = (store, key_file, self.directory / "mount", self.directory / "daemon.log")
        self.daemon = CommandDaemon(*place, self.directory / "run") if self.commands else Daemon(*place)
        self.histories: dict[int, list[judge.History]] = {}

    def round(self, number: int) -> None:
        """Mount, judge the rounds before, write, remove, kill."""
        self.daemon.start()
        self.judge()
        old = [n for n in self.histories if n <= number - KEPT_ROUNDS]
        extra = ["--restores"] if self.commands else []
        place = (self.writers, self.daemon.mountpoint, self.directory, self.seed + number)
        with writers(*place, *extra, first=number * 10, environment=self.daemon.environment) as started:
            remover = threading.Thread(target=self._remove, args=([h.writer for n in old for h in self.histories.pop(n)],))
            remover.start()
            logs = [self.directory / f"log{number * 10 + at}" for at in range(self.writers)]
            if number == 1 or self.rng.random() < 0.7:  # the others may be killed before a writer has done anything
                eventually("the writers to begin", lambda: self._has_begun(started, logs))
            alive_until = time.monotonic() + self.rng.uniform(0.05, self.longest)
            while time.monotonic() < alive_until:
                self._expect_alive(started)
                self._rotate()
                time.sleep(0.01)
            self._expect_alive(started)
            self.daemon.kill(leave_mount=True)
            self.counts["kills"] += 1
            remover.join()
            for process in started:
                if process.wait(60) != 3:
                    self.faults.append(f"a writer ended in an unforeseen way: {process.stdout.read() if process.stdout else ''}")
            detach(self.daemon.mountpoint)
        self.histories[number] = [h for log in logs for h in judge.histories(judge.read_lines(log)).values()]
        for history in self.histories[number]:
            self.counts["steps"] += len(history.steps)
            self.counts["acknowledged"] += history.acked
            self.counts.update(f"step {step[0]}" for step in history.steps)
        if number % CHECK_EVERY == 0:
            self.check()

    def finish(self) -> None:
        """Judge the last round, unmount cleanly, check."""
        self.daemon.start()
        self.judge()
        if (code := self.daemon.stop()) != 0:
            self.faults.append(f"the daemon ended with {code}: {self.daemon.log_tail(1500)}")
        self.check()
        text = self.daemon.log_tail(1 << 22)
        self.faults += [f"daemon log: {line}" for line in text.splitlines() if line.startswith(("ERROR", "CRITICAL", "Traceback"))][:5]

    def judge(self) -> None:
        """Judge all kept histories through the mount."""
        observer = Mounted(self.daemon.mountpoint)
        for number, histories in self.histories.items():
            for history in histories:
                top = f"w{history.writer}".encode()
                if history.acked == 0 and not observer.exists(top):
                    continue
                verdict = judge.judge(history, observer, top)
                self.faults += [f"round {number}: {fault}" for fault in verdict.faults]
                self.counts.update(trees=1, files=verdict.files, exact=verdict.exact, snapshots=verdict.snapshots)

    def check(self) -> None:
        """Run the offline check."""
        self.faults += [f"check: {finding}" for finding in check_store(self.daemon.store, self.daemon.key_file)]
        self.counts["checks"] += 1

    def _has_begun(self, started: list[subprocess.Popen[str]], logs: list[Path]) -> bool:
        self._expect_alive(started)
        return have_begun(logs, *([b'"snap"'] if self.commands else []))

    def _expect_alive(self, started: list[subprocess.Popen[str]]) -> None:
        for process in started:
            if process.poll() is not None:
                words = process.stdout.read() if process.stdout else ""
                raise AssertionError(f"a writer ended before the kill: {words}\n{self.daemon.log_tail()}")

    def _rotate(self) -> None:
        """Rotate the keys now and then."""
        if isinstance(self.daemon, CommandDaemon) and self.rng.random() < 0.05:
            done = self.daemon.run("key", "rotate", str(self.daemon.mountpoint))
            self.counts["rotations"] += 1
            if done.returncode != 0:
                self.faults.append(f"key rotate ended with {done.returncode}: {done.stderr}")

    def _remove(self, numbers: list[int]) -> None:
        """Remove old writers' directories and snapshots until done or killed."""
        for number in numbers:
            top = self.daemon.mountpoint / f"w{number}"
            with contextlib.suppress(OSError):
                for directory, _, _ in os.walk(top):
                    door = os.path.join(directory, ".snapshot")
                    for name in os.listdir(door):
                        if f"_w{number}n" in name:
                            os.rmdir(os.path.join(door, name))
                            self.counts["snapshots removed"] += 1
                shutil.rmtree(top)
                self.counts["trees removed"] += 1


def run(
    directory: Path, *, seconds: float, seed: int, rounds: int = 1 << 30, count: int = 3, longest: float = 1.5, commands: bool = False
) -> Campaign:
    """Kill a volume's daemon for `seconds` (at least twice) or for so many rounds."""
    deadline = time.monotonic() + seconds
    campaign = Campaign(directory, seed, count, longest, commands)
    try:
        number = 0
        while number < 2 or (number < rounds and time.monotonic() < deadline):
            number += 1
            campaign.round(number)
            if campaign.faults:
                return campaign
        campaign.finish()
    finally:
        if campaign.daemon.process is not None and campaign.daemon.process.poll() is None:
            campaign.daemon.kill()
        detach(campaign.daemon.mountpoint)
    return campaign


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--commands", action=argparse.BooleanOptionalAction, help="with restores and rotations; odd seeds by default")
    parser.add_argument("--keep", action="store_true", help="leave the store behind when something is wrong")
    options = parser.parse_args()
    end_orderly()
    counts: collections.Counter[str] = collections.Counter()
    faults: list[str] = []
    deadline, seed = time.monotonic() + options.seconds, options.seed
    while not faults and (seed == options.seed or time.monotonic() < deadline):
        directory = Path(tempfile.mkdtemp(prefix="anqfs-kill-"))
        commands = bool(seed % 2) if options.commands is None else options.commands
        longest, most = (2.5, 60.0) if commands else (0.7, 120.0)  # commands start a process each: fewer kills a minute
        try:
            campaign = run(directory, seconds=min(most, deadline - time.monotonic()), seed=seed, longest=longest, commands=commands)
            counts.update(campaign.counts)
            faults += campaign.faults
        finally:
            if options.keep and faults:
                print(f"kept: {directory}", file=sys.stderr)
            else:
                shutil.rmtree(directory)
        seed += 1
    for fault in faults[:20]:
        print(fault, file=sys.stderr)
    print(json.dumps({"part": "kill", "seed": options.seed, "faults": len(faults), **counts}))
    return 0 if counts["kills"] and counts["acknowledged"] and not faults else 1


if __name__ == "__main__":
    raise SystemExit(main())
