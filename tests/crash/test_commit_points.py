"""The store as it is on the disk at each step of a commit opens as a whole, recent state (`commit_points`)."""

from __future__ import annotations

from pathlib import Path

import pytest

from . import commit_points


@pytest.mark.parametrize("seed", [1, 2])
def test_a_stop_at_any_step_leaves_a_whole_state(tmp_path: Path, seed: int) -> None:
    counts, faults = commit_points.run(tmp_path, seed=seed, operations=60, keep=0.02, limit=60)
    assert faults == []
    assert counts["copies"] >= 20
    assert counts["copy after extents.commit"] > 0
    assert counts["copy before records.commit"] > 0
    assert counts["background work"] > 0
