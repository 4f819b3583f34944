"""A power cut at any moment loses nothing that was acknowledged, and the proof notices when it would (`powercut`)."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from . import powercut
from .daemon import detach


def test_nothing_acknowledged_is_lost_in_a_power_cut(tmp_path: Path) -> None:
    result = powercut.run(tmp_path, seconds=5.0, seed=1, cuts=40)
    assert result.faults == []
    assert result.counts["cuts with changes in flight"] > 0
    assert result.counts["barriers"] > 0
    assert result.counts["files"] > 0
    assert result.counts["cuts after making"] > 0
    assert result.counts["openings"] > 0
    assert result.counts["superblocks replaced"] > 0


def test_a_store_that_does_not_sync_is_caught(tmp_path: Path) -> None:
    """The same load and the same judge, but the daemon's syncs do nothing: if no loss were found, finding none would mean nothing."""
    try:
        recording = powercut.record(tmp_path, seconds=1.0, seed=1, nosync=True)
    finally:
        detach(tmp_path / "mount")
    result = powercut.cut_and_judge(recording, tmp_path, deadline=time.monotonic() + 60, seed=1, count=60, stop_at_fault=True)
    assert result.counts["barriers"] == 0
    assert result.faults, "no loss was found although nothing was ever synced"


@pytest.mark.parametrize("seed", [1])
def test_a_volume_whose_making_was_acknowledged_opens(tmp_path: Path, seed: int) -> None:
    result = powercut.run_making(tmp_path / "making", seed=seed, count=10)
    assert result.faults == []
    assert result.counts["cuts after making"] == 10
