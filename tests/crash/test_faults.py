"""Disks that are full or fail cost nothing that was acknowledged (`faults`)."""

from __future__ import annotations

import collections
import time
from pathlib import Path

import pytest

from . import faults


def test_an_error_at_any_step_of_a_commit(tmp_path: Path) -> None:
    counts, wrong = faults.commit_faults(tmp_path, seed=1, deadline=time.monotonic() + 8, attempts=12)
    assert wrong == []
    assert counts["commits failed"] > 0


@pytest.mark.parametrize("kind", faults.DISK_FAULTS[1:5], ids=["half a write", "a write", "the meta page", "a sync"])
def test_a_failing_disk_below_a_daemon(tmp_path: Path, kind: faults.DiskFault) -> None:
    """The meta page: LMDB shuts the whole database when it cannot be written, and reads must go on all the same."""
    counts: collections.Counter[str] = collections.Counter()
    assert faults.daemon_fault(tmp_path, seed=1, counts=counts, kind=kind) == []
    assert counts["files"] > 0


def test_a_full_disk(tmp_path: Path) -> None:
    counts: collections.Counter[str] = collections.Counter()
    assert faults.full_disk(tmp_path, seed=1, counts=counts) == []
    assert counts["full disks"] == 1
    assert counts["files until full"] > 0
    assert counts["files until full again"] > 0
    assert counts["disks filled by a stranger"] == 1


def test_a_full_map(tmp_path: Path) -> None:
    counts: collections.Counter[str] = collections.Counter()
    assert faults.full_map(tmp_path, counts) == []
    assert counts["files in a full map"] > 0
