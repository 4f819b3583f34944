"""Who owns the capacity and how old it is: the totals that are kept, against a walk, on random trees; and what check says of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from anqfs.errors import FilesystemError
from anqfs.namespace import ROOT, Namespace
from anqfs.namespace.check import check
from anqfs.namespace.owners import DAY, OwnerWalk, Sums
from anqfs.store.schema import OWNERS, OwnerTotals, owner_key
from tests.unit.namespace_volume import make_store, opened, work_off
from tests.unit.test_diff import Restless


def walked(ns: Namespace, node: int = 1) -> Sums:
    walk = OwnerWalk(ns, node)
    while walk.step(7):
        pass
    return walk.sums


@pytest.mark.parametrize("seed", range(4))
def test_the_totals_are_what_a_walk_finds(tmp_path: Path, seed: int) -> None:
    make_store(tmp_path / "store")
    with opened(tmp_path / "store") as ns:
        player = Restless(ns, seed)
        for number in range(160):
            player.step()
            if number % 20 == 19:
                assert ns.core.owners.totals() == walked(ns)
            if number % 40 == 39:
                assert check(ns.volume).findings == []
        work_off(ns)
        file, _ = ns.create(1, b"old", 0o644, ROOT)
        ns.set_attributes(file, uid=9, mtime=-5 * DAY, caller=ROOT)
        expected = walked(ns)
        assert expected[9, -5] == (0, 0, 1)
    with opened(tmp_path / "store") as ns:
        assert ns.core.owners.totals() == walked(ns) == expected


def test_below_a_directory_and_in_a_snapshot_files_are_walked(tmp_path: Path) -> None:
    make_store(tmp_path / "store")
    with opened(tmp_path / "store") as ns:
        top, _ = ns.mkdir(1, b"top", 0o755, ROOT)
        file, _ = ns.create(top, b"file", 0o644, ROOT)
        ns.write(file, 0, bytes(5000))
        ns.link(file, top, b"second name")
        ns.set_attributes(file, uid=7, mtime=3 * DAY + 5, caller=ROOT)
        ns.create(1, b"elsewhere", 0o644, ROOT)
        assert walked(ns, top) == {(7, 3): (5000, 5000, 1)}
        snapshot = ns.snapshot_create(top)
        ns.set_attributes(file, uid=8, mtime=-1, caller=ROOT)
        assert walked(ns, top) == {(8, -1): (5000, 5000, 1)}
        assert walked(ns, ns.snapshot_node(snapshot.id)) == {(7, 3): (5000, 5000, 1)}


def test_an_operation_that_fails_counts_nothing(tmp_path: Path) -> None:
    make_store(tmp_path / "store")
    with opened(tmp_path / "store") as ns:
        ns.create(1, b"f", 0o644, ROOT)
        with pytest.raises(FilesystemError):
            ns.create(1, b"f", 0o644, ROOT)
        assert sum(files for _, _, files in ns.core.owners.totals().values()) == 1


def test_check_compares_the_totals(tmp_path: Path) -> None:
    make_store(tmp_path / "store")
    with opened(tmp_path / "store") as ns:
        ns.create(1, b"f", 0o644, ROOT)
        ns.volume.commit().wait()
        ns.volume.put(owner_key(5, 0), OwnerTotals(1, 1, 1))
        assert [each.what for each in check(ns.volume).findings] == [
            "the totals of owner 5 for day 0 are (1, 1, 1), but the files add up to (0, 0, 0)"
        ]


def test_a_volume_from_before_has_none(tmp_path: Path) -> None:
    make_store(tmp_path / "store")
    with opened(tmp_path / "store") as ns:
        ns.volume.delete(OWNERS)
    with opened(tmp_path / "store") as ns:
        ns.create(1, b"f", 0o644, ROOT)
        assert not ns.core.owners.kept and ns.core.owners.totals() == {}
        assert check(ns.volume).findings == []
