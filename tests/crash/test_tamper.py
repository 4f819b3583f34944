"""An altered store gives the right bytes or an error, never wrong bytes, and check names what is damaged (`tamper`)."""

from __future__ import annotations

from pathlib import Path

import pytest

from . import alter, tamper


@pytest.mark.parametrize("kinds", [alter.RECORD_LEVEL, alter.FILE_LEVEL], ids=["records and extents", "files"])
def test_an_altered_store_never_lies(tmp_path: Path, kinds: tuple[alter.Alteration, ...]) -> None:
    counts, faults = tamper.run(tmp_path, seconds=6.0, seed=1, attempts=60, kinds=kinds)
    assert faults == []
    assert counts["attempts"] >= len(kinds)
    assert counts["noticed"] > 0
    assert counts["files right"] > 0
    assert counts["rollbacks"] == 1
