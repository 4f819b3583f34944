"""What several of the unit tests are given."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from anqfs.namespace import Namespace
from tests.unit.damaged_volume import Damage, Facts, build, copied
from tests.unit.namespace_volume import make_store, opened


@pytest.fixture
def ns(tmp_path: Path) -> Iterator[Namespace]:
    """The namespace of a new volume at `tmp_path / "store"`."""
    make_store(tmp_path / "store")
    with opened(tmp_path / "store") as namespace:
        yield namespace


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Facts]:
    """A store with one of each thing that can be damaged, and what is where in it."""
    store = tmp_path_factory.mktemp("original") / "store"
    return store, build(store)


@pytest.fixture
def damage(original: tuple[Path, Facts], tmp_path: Path) -> Damage:
    """A copy of it to damage."""
    return copied(*original, tmp_path / "store")
