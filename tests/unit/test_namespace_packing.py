"""Many small files share extents; what is read, freed and counted is the same as if they did not."""

from __future__ import annotations

from pathlib import Path

import pytest

from anqfs.namespace import Caller, Namespace, packing
from anqfs.namespace.check import check
from anqfs.store.schema import Window, references_key, window_key
from tests.unit.namespace_volume import make_store, opened, work_off

USER = Caller(1000, 1000, frozenset(), 0o022)


def small_files(ns: Namespace, count: int, size: int = 4096) -> dict[int, bytes]:
    """Write small files and return their contents by node."""
    contents = {}
    for number in range(count):
        node, _ = ns.create(1, b"small-%d" % number, 0o644, USER)
        contents[node] = number.to_bytes(4, "big") * (size // 4)
        ns.write(node, 0, contents[node])
    return contents


def durable(ns: Namespace) -> None:
    """Commit, and once more, so that what was freed is deleted."""
    ns.volume.commit(to_stores=True).wait()
    ns.volume.close_group()
    ns.volume.commit(to_stores=True).wait()


def extents(ns: Namespace) -> list[int]:
    return ns.volume.raw_extent_ids(0, 10_000)


def window(ns: Namespace, node: int) -> Window:
    record = ns.volume.get(window_key(node, 0))
    assert isinstance(record, Window)
    return record


def test_many_small_files_share_few_extents_and_read_back(ns: Namespace) -> None:
    contents = small_files(ns, 1000)
    durable(ns)
    assert len(extents(ns)) == -(-1000 // (packing.PACK // 4096))
    assert {node: ns.read(node, 0, 5000) for node in contents} == contents
    assert not any(window(ns, node).inline for node in contents)


def test_few_small_files_stay_in_their_records(ns: Namespace) -> None:
    contents = small_files(ns, packing.FEWEST - 1)
    durable(ns)
    assert extents(ns) == []
    assert {node: ns.read(node, 0, 5000) for node in contents} == contents


def test_tiny_files_stay_in_their_records(ns: Namespace) -> None:
    contents = small_files(ns, 300, packing.ABOVE)
    durable(ns)
    assert extents(ns) == []
    assert {node: ns.read(node, 0, 5000) for node in contents} == contents


def test_an_extent_goes_with_the_last_file_in_it(ns: Namespace) -> None:
    small_files(ns, 128)
    durable(ns)
    shared = window(ns, ns.lookup(1, b"small-0")[0]).pieces[0][2]
    inside = [n for n in range(128) if window(ns, ns.lookup(1, b"small-%d" % n)[0]).pieces[0][2] == shared]
    assert len(inside) == packing.PACK // 4096
    for number in inside[1:]:
        ns.unlink(1, b"small-%d" % number)
    work_off(ns)
    durable(ns)
    assert shared in extents(ns)
    assert ns.volume.get(references_key(shared)) is None
    assert ns.read(ns.lookup(1, b"small-%d" % inside[0])[0], 0, 4096) == inside[0].to_bytes(4, "big") * 1024
    ns.unlink(1, b"small-%d" % inside[0])
    work_off(ns)
    durable(ns)
    assert shared not in extents(ns)


def test_a_small_file_is_changed_without_touching_its_neighbours(ns: Namespace) -> None:
    contents = small_files(ns, 100, 2048)
    durable(ns)
    changed = next(iter(contents))
    ns.write(changed, 1000, b"changed")
    ns.write(changed, 2048, b"and longer")
    contents[changed] = contents[changed][:1000] + b"changed" + contents[changed][1007:] + b"and longer"
    assert window(ns, changed).inline == contents[changed]
    durable(ns)
    assert {node: ns.read(node, 0, 5000) for node in contents} == contents


def test_a_snapshot_keeps_what_was_packed(ns: Namespace) -> None:
    small_files(ns, 100)
    durable(ns)
    taken = ns.snapshot_create(1, b"before")
    for number in range(100):
        ns.write(ns.lookup(1, b"small-%d" % number)[0], 0, b"after")
    durable(ns)
    old = ns.snapshot_node(taken.id)
    for number in range(100):
        assert ns.read(ns.lookup(old, b"small-%d" % number)[0], 0, 5000) == number.to_bytes(4, "big") * 1024
    ns.snapshot_delete(taken.id)
    work_off(ns)
    for number in range(100):
        ns.unlink(1, b"small-%d" % number)
    work_off(ns)
    durable(ns)
    assert extents(ns) == []


def test_an_operation_that_is_undone_leaves_nothing_to_pack(ns: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = small_files(ns, packing.MOST)
    node, _ = ns.create(1, b"undone", 0o644, USER)

    def fail() -> int:
        raise RuntimeError("on purpose")

    with monkeypatch.context() as patch:
        patch.setattr(ns.core, "clock", fail)
        with pytest.raises(RuntimeError, match="on purpose"):
            ns.write(node, 0, b"x" * 4096)
    durable(ns)
    assert ns.read(node, 0, 5000) == b""
    assert {each: ns.read(each, 0, 5000) for each in contents} == contents


def test_the_whole_volume_checks_clean(tmp_path: Path) -> None:
    make_store(tmp_path / "store")
    with opened(tmp_path / "store") as ns:
        small_files(ns, 500)
        ns.snapshot_create(1, b"s")
        for number in range(0, 500, 3):
            ns.unlink(1, b"small-%d" % number)
    with opened(tmp_path / "store", read_only=True) as ns:
        report = check(ns.volume)
        assert report.findings == []
