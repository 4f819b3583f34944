"""What several of the unit tests are given."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from anqfs.namespace import Namespace
from tests.unit.namespace_volume import make_store, opened


@pytest.fixture
def ns(tmp_path: Path) -> Iterator[Namespace]:
    """The namespace of a new volume at `tmp_path / "store"`."""
    make_store(tmp_path / "store")
    with opened(tmp_path / "store") as namespace:
        yield namespace
