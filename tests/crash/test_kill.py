"""A daemon killed under writers loses nothing that was acknowledged (`kill`)."""

from __future__ import annotations

from pathlib import Path

from . import kill


def test_what_was_acknowledged_survives_kills(tmp_path: Path) -> None:
    campaign = kill.run(tmp_path, seconds=7.0, seed=1, rounds=4, count=2, longest=0.8)
    assert campaign.faults == []
    assert campaign.counts["kills"] >= 2
    assert campaign.counts["acknowledged"] > 0
    assert campaign.counts["files"] > 0
    assert campaign.counts["checks"] > 0


def test_restores_and_rotations_survive_kills(tmp_path: Path) -> None:
    campaign = kill.run(tmp_path, seconds=10.0, seed=3, rounds=2, count=2, longest=3.0, commands=True)
    assert campaign.faults == []
    assert campaign.counts["kills"] == 2
    assert campaign.counts["step snap"] > 0
    assert campaign.counts["files"] > 0
