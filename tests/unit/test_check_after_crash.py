"""What a crash leaves is not damage: extents of a group whose records never became durable."""

from __future__ import annotations

from pathlib import Path

import pytest

from anqfs.errors import AnqfsError
from anqfs.namespace import Caller, Namespace
from anqfs.namespace.check import check
from anqfs.store.lmdb_store import LmdbRecords
from anqfs.store.schema import WINDOW
from anqfs.store.volume import Volume
from tests.unit.namespace_volume import SECRET, make_store

CALLER = Caller(1000, 1000, frozenset(), 0o022)


def write_large(ns: Namespace, name: bytes) -> None:
    node, _ = ns.create(1, name, 0o644, CALLER)
    ns.write(node, 0, name * (WINDOW // len(name)))


def extents(store: Path) -> list[int]:
    volume = Volume.open(store, SECRET, read_only=True)
    try:
        return volume.raw_extent_ids(0, 100)
    finally:
        volume.close()


def leftovers(store: Path) -> int:
    volume = Volume.open(store, SECRET, read_only=True)
    try:
        return check(volume).leftovers
    finally:
        volume.close()


def findings(store: Path) -> list[str]:
    volume = Volume.open(store, SECRET, read_only=True)
    try:
        return [finding.what for finding in check(volume).findings]
    finally:
        volume.close()


def test_extents_without_records_are_no_finding_and_go_with_the_next_opening(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = tmp_path / "store"
    make_store(store)
    volume = Volume.open(store, SECRET)
    ns = Namespace(volume)
    write_large(ns, b"durable")
    volume.commit().wait()
    before = volume.raw_extent_ids(0, 100)

    def fail(_records: LmdbRecords) -> None:
        raise OSError("the power is cut here")

    with monkeypatch.context() as patch:
        patch.setattr(LmdbRecords, "begin", fail)
        write_large(ns, b"lost")
        with pytest.raises(AnqfsError):
            volume.commit().wait()
    volume.close()
    assert len(extents(store)) == len(before) + 1
    assert findings(store) == []
    assert leftovers(store) == 1
    again = Volume.open(store, SECRET)
    Namespace(again)
    again.close()
    assert extents(store) == before
    assert findings(store) == []
    assert leftovers(store) == 0


def test_an_unused_extent_below_the_counter_is_a_finding(tmp_path: Path) -> None:
    store = tmp_path / "store"
    make_store(store)
    volume = Volume.open(store, SECRET)
    ns = Namespace(volume)
    volume.write_extent(b"x" * 100)
    write_large(ns, b"used")
    volume.close()
    assert findings(store) == ["is used by no file"]
