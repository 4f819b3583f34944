"""The tools' own care: leftovers are found and removed, and a soak's result is judged strictly."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

import leftovers
import soak_run
from soak_jobs import JOBS, Job, read_outcome

PROJECT = Path(__file__).parents[2]


def test_a_process_left_behind_is_named_and_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import signal; print(flush=True); signal.pause()", f"{tmp_path}/store"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline()
            assert leftovers.processes_naming(tmp_path) == [process.pid]
            assert leftovers.remove(tmp_path, patience=0.1)[0] == f"left running: process {process.pid}"
            assert process.wait(60) == -9
        finally:
            process.kill()
    assert leftovers.remove(tmp_path, patience=0) == []


def test_mount_points_with_odd_names_are_read_from_the_mount_table() -> None:
    assert leftovers._unescape(r"/a\040b\134c\011d") == "/a b\\c\td"


@pytest.mark.parametrize(
    ("status", "output", "fault"),
    [
        (0, 'noise\n{"part": "x", "seed": 4, "faults": 0, "kills": 3}\n', ""),
        (0, '{"faults": 0, "kills": 0, "seed": 9}', "it tried nothing"),
        (0, '{"faults": 2, "kills": 7}', "2 fault(s)"),
        (1, '{"faults": 0, "kills": 7}', "exit status 1"),
        (0, "all fine", "exit status 0 and no JSON on the last line"),
        (-9, "", "exit status -9 and no JSON on the last line"),
    ],
)
def test_outcome_of_a_job(status: int, output: str, fault: str) -> None:
    assert read_outcome(status, output).fault == fault


def test_counts_are_kinds_only() -> None:
    assert read_outcome(0, '{"part": "x", "seed": 4, "faults": 0, "kills": 3, "ok": true}').counts == {"kills": 3}


@pytest.mark.parametrize(("seconds", "rounds", "share"), [(60, 1, 15), (1200, 1, 300), (1300, 2, 162.5), (4, 1, 1)])
def test_rounds_fill_the_time(seconds: int, rounds: int, share: float) -> None:
    assert soak_run.plan(seconds, 4) == (rounds, share)


def test_a_job_that_says_nothing_fails_the_soak(capsys: pytest.CaptureFixture[str]) -> None:
    outcome = soak_run.run_job(Job("none", "this", "prints a poem in place of JSON"), 1, 1, Console(file=sys.stderr))
    assert outcome.fault == "exit status 0 and no JSON on the last line"
    assert "again:" in capsys.readouterr().err


def test_every_job_of_the_soak_is_in_the_project() -> None:
    assert [job.module for job in JOBS if not job.is_there(PROJECT)] == []
