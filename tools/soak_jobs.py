"""The jobs of a soak: what is tried, by which command, and how its result is read.

A job is a module that `python -m MODULE --seconds S --seed N` runs. It tries faults until the time is over, prints what went wrong on
stderr and, as its last line on stdout, a JSON object: `faults`, how many things went wrong, and counts by kind of what it tried.
It exits with 0 only if it tried something and nothing went wrong.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

_NOT_COUNTS = {"seed", "faults", "failures"}


@dataclass(frozen=True, slots=True)
class Job:
    """One way to try to break a volume."""

    name: str
    module: str
    about: str
    weight: int = 1
    """Its part of the time, beside the others' weights."""

    def command(self, seconds: int, seed: int) -> list[str]:
        """Return the command that tries for about `seconds` seconds, beginning with this seed."""
        return [sys.executable, "-m", self.module, "--seconds", str(seconds), "--seed", str(seed)]

    def is_there(self, project: Path) -> bool:
        """Return whether the project has the job's module."""
        return (project / Path(*self.module.split("."))).with_suffix(".py").is_file()


JOBS = (
    Job("model", "tools.soak_model", "random operations, on a namespace and on a model of it"),
    Job("mount model", "tests.model.mount_run", "random operations, on a mount and on ext4"),
    Job("kill", "tests.crash.kill", "the daemon is killed under writers", weight=8),
    Job("power cut", "tests.crash.powercut", "the disk loses what was not flushed"),
    Job("commit points", "tests.crash.commit_points", "the daemon stops at each step of a commit"),
    Job("disk faults", "tests.crash.faults", "a full or failing disk"),
    Job("tampering", "tests.crash.tamper", "the store is altered behind the program's back"),
    Job("hostile use", "tests.crash.limits", "many open files, huge directories, deep paths"),
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one run of a job said. `counts` by kind; `fault` is empty if all was well."""

    counts: dict[str, int]
    fault: str


def read_outcome(status: int, output: str) -> Outcome:
    """Judge a run by its exit status and what it printed on stdout."""
    lines = output.strip().splitlines()
    try:
        said = json.loads(lines[-1]) if lines else None
    except ValueError:
        said = None
    if not isinstance(said, dict):
        return Outcome({}, f"exit status {status} and no JSON on the last line")
    counts = {name: value for name, value in said.items() if name not in _NOT_COUNTS and type(value) is int}
    faults = said.get("faults", said.get("failures", 0))
    if faults:
        return Outcome(counts, f"{faults if isinstance(faults, int) else len(faults)} fault(s)")
    if status != 0:
        return Outcome(counts, f"exit status {status}")
    return Outcome(counts, "" if any(counts.values()) else "it tried nothing")
