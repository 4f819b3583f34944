"""What a deletion of snapshots would give back, against deleting them in a copy of the store."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest

from anqfs.errors import NotFound
from anqfs.namespace import ROOT, Namespace
from anqfs.namespace.reclaimable import Freed, reclaimable
from anqfs.store.schema import Window
from tests.unit.namespace_volume import make_store, opened, work_off
from tests.unit.test_diff import Restless


def held(path: Path) -> Freed:
    """Return the file data that a closed store holds, in bytes, extents and versions of file maps."""
    with opened(path) as ns:
        work_off(ns)
    with opened(path) as ns:  # what was freed is deleted with the group after
        ns.volume.commit().wait()
        inline = windows = 0
        for letter in (b"W", b"w"):
            for _, record in ns.volume.scan(letter, letter + b"\xff"):
                assert isinstance(record, Window)
                inline += len(record.inline)
                windows += 1
        extents = ns.volume.raw_extent_ids(0, 1 << 20)
        return Freed(inline + sum(ns.volume.extent_length(each) for each in extents), len(extents), windows)


def really_deleted(store: Path, copy: Path, numbers: Iterable[int]) -> Freed:
    """Delete snapshots in a copy of a closed store and return what came back."""
    shutil.copytree(store, copy)
    before = held(copy)
    shutil.rmtree(copy)
    shutil.copytree(store, copy)
    with opened(copy) as ns:
        for number in numbers:
            ns.snapshot_delete(number)
        work_off(ns)
    after = held(copy)
    shutil.rmtree(copy)
    return Freed(*(one - other for one, other in zip(before, after, strict=True)))


@pytest.mark.parametrize("seed", range(6))
def test_what_a_deletion_gives_back_is_known_before(tmp_path: Path, seed: int) -> None:
    store, pick = tmp_path / "store", random.Random(seed)
    make_store(store)
    with opened(store) as ns:
        player = Restless(ns, seed)
        for number in range(200):
            player.step()
            if number % 50 == 49:
                many_small_files(ns, number)
    for turn in range(4):
        with opened(store) as ns:
            numbers = [each.id for each in ns.snapshots()]
            if turn:
                numbers = sorted(pick.sample(numbers, pick.randrange(1, len(numbers) + 1)))
            expected = reclaimable(ns, numbers if turn else None)
        assert really_deleted(store, tmp_path / "copy", numbers) == expected


def many_small_files(ns: Namespace, number: int) -> None:
    """Make files that share extents, and let snapshots keep some of them."""
    directory, _ = ns.mkdir(1, b"many%d" % number, 0o755, ROOT)
    files = []
    for each in range(70):
        file, _ = ns.create(directory, b"%d" % each, 0o644, ROOT)
        ns.write(file, 0, b"%d" % each * 500)
        files.append(file)
    ns.volume.commit().wait()
    ns.snapshot_create(directory)
    for file in files[:40]:
        ns.set_attributes(file, size=10, caller=ROOT)
    ns.snapshot_create(directory)
    for each in range(40, 70):
        ns.unlink(directory, b"%d" % each)


def test_a_worked_example(tmp_path: Path) -> None:
    """1 MiB of 4 MiB overwritten: the snapshot alone holds that one. A snapshot between holds what is shared by none else."""
    make_store(tmp_path / "store")
    with opened(tmp_path / "store") as ns:
        file, _ = ns.create(1, b"file", 0o644, ROOT)
        for at in range(4):
            ns.write(file, at << 20, bytes(1 << 20))
        first = ns.snapshot_create(1)
        assert reclaimable(ns, [first.id]).bytes == 0
        ns.write(file, 0, b"\1" * (1 << 20))
        assert reclaimable(ns, [first.id]) == (1 << 20, 1, 1)
        second = ns.snapshot_create(1)
        ns.write(file, 0, b"\2" * (1 << 20))
        ns.write(file, 1 << 20, b"\2" * (1 << 20))
        both = [first.id, second.id]
        assert [reclaimable(ns, each).bytes >> 20 for each in ([first.id], [second.id], both, None)] == [1, 1, 3, 3]
        ns.snapshot_delete(first.id)
        assert reclaimable(ns, [second.id]).bytes >> 20 == 2
        work_off(ns)
        assert reclaimable(ns, [second.id]).bytes >> 20 == 2
        with pytest.raises(NotFound):
            reclaimable(ns, [first.id])
