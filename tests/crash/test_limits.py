"""Hostile use (`limits`), in its short form."""

from __future__ import annotations

from pathlib import Path

from . import limits


def test_hostile_use_is_survived_in_bounded_memory(tmp_path: Path) -> None:
    figures = limits.run(tmp_path, seed=1, names=20_000, files=3_000, churn_seconds=0.2)
    assert figures.faults == []
    assert figures.facts["names in a directory"] == 20_000
    assert figures.facts["path bytes"] >= 32_000
