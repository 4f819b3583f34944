"""Clones of live directories, of files and of what snapshots show: equal, sharing all data, whole or not there, and nothing left over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from anqfs.errors import FilesystemError, NotFound
from anqfs.namespace import ROOT, Namespace
from anqfs.namespace.check import check
from anqfs.namespace.clone import Clone
from tests.unit.namespace_volume import make_store, opened, work_off
from tests.unit.test_namespace_snapshot_rules import Player, tree


def finished(clone: Clone) -> None:
    while clone.step(3):
        pass


def below(ns: Namespace, name: bytes) -> Any:
    """Return the tree below a name of the root."""
    return tree(ns, ns.lookup(1, name)[0])


def scene(ns: Namespace) -> int:
    """Fill a directory with everything, and return it."""
    player = Player(ns, 5)
    for _ in range(120):
        player.step()
    source, _ = ns.mkdir(1, b"source", 0o751, ROOT)
    for name, _, _, _ in list(ns.readdir(1, 0)):
        if name != b"source":
            ns.rename(1, name, source, name, 0)
    big, _ = ns.create(source, b"big", 0o640, ROOT)
    ns.write(big, 5 << 20, b"x" * 100_000)
    ns.link(big, source, b"linked")
    ns.setxattr(source, b"user.kept", b"yes", 0, ROOT)
    for snapshot in ns.snapshots():
        ns.snapshot_delete(snapshot.id)
    work_off(ns)
    return source


def extents(ns: Namespace) -> int:
    ns.volume.commit().wait()
    return len(ns.volume.raw_extent_ids(0, 1 << 20))


def test_a_clone_is_equal_and_shares_all_data(tmp_path: Path) -> None:
    make_store(tmp_path / "store")
    with opened(tmp_path / "store") as ns:
        source = scene(ns)
        expected, before = tree(ns, source), extents(ns)
        clone = Clone(ns, source, (1, b"copy"))
        ns.create(source, b"later", 0o644, ROOT)
        finished(clone)
        work_off(ns)
        assert below(ns, b"copy") == expected
        copy, inode = ns.lookup(1, b"copy")
        assert (inode.mode & 0o7777, ns.getxattr(copy, b"user.kept")) == (0o751, b"yes")
        assert extents(ns) == before and ns.snapshots() == []
        linked = [ns.lookup(copy, name)[0] for name in (b"big", b"linked")]
        assert linked[0] == linked[1] != ns.lookup(source, b"big")[0]
        ns.write(linked[0], 0, b"own")
        assert ns.read(ns.lookup(source, b"big")[0], 0, 3) == bytes(3)
        assert [name for name, *_ in ns.readdir(1, 0) if name.startswith(b".")] == []
        assert check(ns.volume).findings == []


def test_the_name_under_which_a_clone_was_made_is_free_once_it_has_its_own(tmp_path: Path) -> None:
    make_store(tmp_path / "store")
    with opened(tmp_path / "store") as ns:
        clone = Clone(ns, scene(ns), (1, b"copy"))
        made: list[bytes] = []
        while clone.step(3):
            made = made or [name for name, *_ in ns.readdir(1, 0) if name.startswith(b".")]
        (name,) = made
        mine, _ = ns.mkdir(1, name, 0o755, ROOT)
        ns.create(mine, b"mine", 0o644, ROOT)
        work_off(ns)
        assert ns.lookup(ns.lookup(1, name)[0], b"mine")
        assert ns.snapshots() == [] and check(ns.volume).findings == []


@pytest.mark.parametrize("when", ["before it is made", "in its place", "after a crash"])
def test_a_clone_that_fails_removes_only_what_it_made(tmp_path: Path, when: str) -> None:
    make_store(tmp_path / "store")
    with opened(tmp_path / "store") as ns:
        clone = Clone(ns, scene(ns), (1, b"copy"))
        name = b".anqfs_clone_1"
        if when == "before it is made":
            mine, _ = ns.mkdir(1, name, 0o755, ROOT)
            with pytest.raises(FilesystemError):
                finished(clone)
        else:
            clone.step(2)
            ns.rename(1, name, 1, b"taken", 0)
            mine, _ = ns.mkdir(1, name, 0o755, ROOT)
        ns.create(mine, b"mine", 0o644, ROOT)
        if when == "in its place":
            clone.give_up()
            work_off(ns)
    with opened(tmp_path / "store") as ns:
        work_off(ns)
        assert ns.lookup(ns.lookup(1, name)[0], b"mine")
        assert ns.snapshots() == [] and list(ns.volume.scan_keys(b"J", b"K")) == [] and check(ns.volume).findings == []


def test_a_file_and_a_part_of_a_snapshot_can_be_cloned(tmp_path: Path) -> None:
    make_store(tmp_path / "store")
    with opened(tmp_path / "store") as ns:
        source = scene(ns)
        big, _ = ns.lookup(source, b"big")
        expected = tree(ns, source)
        snapshot = ns.snapshot_create(1)
        finished(Clone(ns, big, (1, b"file")))
        ns.write(big, 0, b"changed")
        top = ns.snapshot_node(snapshot.id)
        finished(Clone(ns, ns.lookup(top, b"source")[0], (1, b"then")))
        finished(Clone(ns, ns.lookup(ns.lookup(top, b"source")[0], b"linked")[0], (source, b"old")))
        work_off(ns)
        assert below(ns, b"then") == expected
        for node in (ns.lookup(1, b"file")[0], ns.lookup(source, b"old")[0]):
            assert ns.read(node, 0, 7) == bytes(7) and ns.attributes(node).size == (5 << 20) + 100_000
        assert [each.id for each in ns.snapshots()] == [snapshot.id]
        assert check(ns.volume).findings == []


@pytest.mark.parametrize("how", ["given up", "crash", "snapshot deleted", "destination taken"])
def test_of_a_clone_that_fails_nothing_is_left(tmp_path: Path, how: str) -> None:
    make_store(tmp_path / "store")
    with opened(tmp_path / "store") as ns:
        source = scene(ns)
        expected = tree(ns, source)
        clone = Clone(ns, source, (1, b"copy"))
        clone.step(2)
        assert len(list(ns.readdir(1, 0))) == 2
        assert how == "destination taken" or not any(name == b"copy" for name, *_ in ns.readdir(1, 0))
        if how == "given up":
            clone.give_up()
        elif how == "snapshot deleted":
            ns.snapshot_delete(ns.snapshots()[0].id)
            with pytest.raises(NotFound):
                finished(clone)
        elif how == "destination taken":
            ns.symlink(1, b"copy", b"elsewhere", ROOT)
            with pytest.raises(FilesystemError):
                finished(clone)
            ns.unlink(1, b"copy")
        assert check(ns.volume).findings == []
    with opened(tmp_path / "store") as ns:
        work_off(ns)
        assert [name for name, *_ in ns.readdir(1, 0)] == [b"source"]
        assert tree(ns, ns.lookup(1, b"source")[0]) == expected
        assert ns.snapshots() == [] and list(ns.volume.scan_keys(b"J", b"K")) == []
        assert check(ns.volume).findings == []


def test_a_destination_that_cannot_be(tmp_path: Path) -> None:
    make_store(tmp_path / "store")
    with opened(tmp_path / "store") as ns:
        source = scene(ns)
        file, _ = ns.lookup(source, b"big")
        snapshot = ns.snapshot_create(1)
        for number, parent, name in (
            (17, 1, b"source"),
            (20, file, b"x"),
            (30, ns.snapshot_node(snapshot.id), b"x"),
            (17, 1, b".snapshot"),
        ):
            with pytest.raises(FilesystemError) as caught:
                Clone(ns, source, (parent, name))
            assert caught.value.errno == number
        assert len(ns.snapshots()) == 1 and not ns.work(100)
