"""Snapshots and `.snapshot`: what is listed, what is refused, node ids that last, dropping."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import pytest

from anqfs.errors import NotFound
from anqfs.namespace import ROOT, Caller, Namespace
from anqfs.namespace import snapshots as snapshots_module
from anqfs.namespace.directories import COOKIES_RESERVED
from anqfs.store.schema import INO_BITS
from tests.unit.namespace_volume import answer, make_store, opened, work_off

USER = Caller(1000, 100, frozenset((7,)), 0o022)


def walk(ns: Namespace, node: int, path: bytes) -> int:
    for name in path.split(b"/"):
        node, _ = ns.lookup(node, name)
    return node


def listed(ns: Namespace, node: int) -> list[bytes]:
    return [name for name, _, _, _ in ns.readdir(ns.lookup(node, b".snapshot")[0], 0)]


def test_a_directory_lists_the_snapshots_of_itself_and_above_in_which_it_was(ns: Namespace) -> None:
    first = ns.snapshot_create(1, b"before")
    one, _ = ns.mkdir(1, b"one", 0o755, USER)
    two, _ = ns.mkdir(one, b"two", 0o755, USER)
    other, _ = ns.mkdir(1, b"other", 0o755, USER)
    ns.snapshot_create(one, b"one")
    ns.snapshot_create(1, b"all")
    ns.snapshot_create(two)
    assert listed(ns, 1) == [b"1_before", b"3_all"]
    assert listed(ns, one) == [b"2_one", b"3_all"]
    assert listed(ns, two) == [b"2_one", b"3_all", b"4_OnDemand"]
    assert listed(ns, other) == [b"3_all"]
    assert [each.id for each in ns.covering(two)] == [2, 3, 4]
    assert ns.snapshots(1) == [first, ns.snapshot(3)]
    assert [each.id for each in ns.snapshots()] == [1, 2, 3, 4]
    assert ns.snapshot_path(2) == b"/one/.snapshot/2_one"
    assert ns.snapshot_path(1) == b"/.snapshot/1_before"
    assert answer(lambda: walk(ns, one, b".snapshot/1_before")) == errno.ENOENT
    assert answer(lambda: walk(ns, 1, b".snapshot/2_one")) == errno.ENOENT


def test_a_directory_that_moved_away_and_back(ns: Namespace) -> None:
    one, _ = ns.mkdir(1, b"one", 0o755, USER)
    two, _ = ns.mkdir(1, b"two", 0o755, USER)
    node, _ = ns.mkdir(one, b"d", 0o755, USER)
    ns.snapshot_create(one, b"s")
    ns.rename(one, b"d", two, b"d", 0)
    assert listed(ns, node) == []
    ns.rename(two, b"d", one, b"e", 0)
    assert listed(ns, node) == [b"1_s"]
    late, _ = ns.mkdir(two, b"late", 0o755, USER)
    ns.rename(two, b"late", one, b"late", 0)
    assert listed(ns, late) == []


def test_the_dot_snapshot_directory(ns: Namespace) -> None:
    node, _ = ns.mkdir(1, b"d", 0o700, USER)
    assert [name for name, _, _, _ in ns.readdir(1, 0)] == [b"d"]
    virtual, inode = ns.lookup(node, b".snapshot")
    assert inode.mode == 0o40555
    assert ns.attributes(virtual) == inode
    assert ns.parent(virtual) == node
    assert ns.lookup(virtual, b"..")[0] == node
    assert ns.lookup(virtual, b".")[0] == virtual
    assert virtual < 1 << 63
    for call in (
        lambda: ns.create(virtual, b"x", 0o644, ROOT),
        lambda: ns.symlink(virtual, b"x", b"t", ROOT),
        lambda: ns.unlink(virtual, b"x"),
        lambda: ns.rename(virtual, b"x", 1, b"y", 0),
        lambda: ns.rename(1, b"d", virtual, b"y", 0),
        lambda: ns.set_attributes(virtual, mode=0, caller=ROOT),
        lambda: ns.setxattr(virtual, b"user.a", b"", 0, ROOT),
    ):
        assert answer(call) == errno.EROFS
    assert answer(lambda: ns.lookup(virtual, b"none")) == errno.ENOENT
    assert answer(lambda: ns.lookup(virtual, b".snapshot")) == errno.ENOENT
    assert answer(lambda: ns.read(virtual, 0, 1)) == errno.EISDIR
    assert (ns.listxattr(virtual), answer(lambda: ns.getxattr(virtual, b"user.a"))) == ([], errno.ENODATA)
    ns.rmdir(1, b"d")
    assert answer(lambda: ns.attributes(virtual)) == errno.ESTALE
    assert answer(lambda: list(ns.readdir(virtual, 0))) == errno.ESTALE


def test_a_file_has_no_dot_snapshot(ns: Namespace) -> None:
    node, _ = ns.create(1, b"f", 0o644, USER)
    assert answer(lambda: ns.lookup(node, b".snapshot")) == errno.ENOTDIR


def test_everything_in_a_snapshot_is_read_only(ns: Namespace) -> None:
    directory, _ = ns.mkdir(1, b"d", 0o755, USER)
    node, _ = ns.create(directory, b"f", 0o644, USER)
    ns.write(node, 0, b"content")
    ns.setxattr(node, b"user.a", b"old", 0, ROOT)
    ns.symlink(directory, b"l", b"target", USER)
    snapshot = ns.snapshot_create(1)
    ns.setxattr(node, b"user.a", b"new", 0, ROOT)
    ns.setxattr(node, b"user.b", b"new", 0, ROOT)
    top = walk(ns, 1, b".snapshot/1_OnDemand")
    inside, seen = walk(ns, top, b"d"), walk(ns, top, b"d/f")
    assert ns.attributes(top).mtime == snapshot.created
    assert ns.attributes(inside).mtime == ns.attributes(directory).mtime
    assert ns.getxattr(seen, b"user.a") == b"old"
    assert ns.listxattr(seen) == [b"user.a"]
    assert ns.readlink(walk(ns, inside, b"l")) == b"target"
    assert ns.read(seen, 2, 3) == b"nte"
    assert ns.cold(seen, 0, 100) == []
    assert (ns.parent(inside), ns.parent(top)) == (top, ns.lookup(1, b".snapshot")[0])
    for call in (
        lambda: ns.write(seen, 0, b"x"),
        lambda: ns.create(inside, b"x", 0o644, ROOT),
        lambda: ns.mkdir(inside, b"x", 0o755, ROOT),
        lambda: ns.unlink(inside, b"f"),
        lambda: ns.rmdir(top, b"d"),
        lambda: ns.rename(inside, b"f", 1, b"f", 0),
        lambda: ns.rename(1, b"d", inside, b"f", 0),
        lambda: ns.link(seen, 1, b"x"),
        lambda: ns.link(node, inside, b"x"),
        lambda: ns.set_attributes(seen, mode=0, caller=ROOT),
        lambda: ns.setxattr(seen, b"user.a", b"", 0, ROOT),
        lambda: ns.removexattr(seen, b"user.a", ROOT),
        lambda: ns.snapshot_create(inside),
        lambda: ns.symlink(inside, b"x", b"t", ROOT),
        lambda: ns.mknod(inside, b"x", 0o100644, 0, ROOT),
    ):
        assert answer(call) == errno.EROFS
    assert answer(lambda: ns.lookup(inside, b".snapshot")) == errno.ENOENT
    assert answer(lambda: ns.lookup(inside, b"none")) == errno.ENOENT
    assert answer(lambda: ns.lookup(seen, b"none")) == errno.ENOTDIR


def test_one_directory_through_two_doors_has_two_nodes(ns: Namespace) -> None:
    one, _ = ns.mkdir(1, b"one", 0o755, USER)
    ns.snapshot_create(1, b"s")
    through_root = walk(ns, 1, b".snapshot/1_s/one")
    direct = walk(ns, one, b".snapshot/1_s")
    assert through_root != direct
    assert ns.parent(through_root) == walk(ns, 1, b".snapshot/1_s")
    assert ns.parent(direct) == ns.lookup(one, b".snapshot")[0]


def test_node_ids_into_snapshots_survive_a_remount(tmp_path: Path) -> None:
    make_store(tmp_path / "store")
    with opened(tmp_path / "store") as ns:
        ns.write(ns.create(1, b"f", 0o644, USER)[0], 0, b"old")
        ns.snapshot_create(1, b"s")
        node = walk(ns, 1, b".snapshot/1_s/f")
    with opened(tmp_path / "store") as ns:
        assert ns.read(node, 0, 10) == b"old"
        assert walk(ns, 1, b".snapshot/1_s/f") == node
        assert ns.generation(node) == 0
        ns.snapshot_delete(1)
        assert answer(lambda: ns.read(node, 0, 10)) == errno.ESTALE
        assert answer(lambda: ns.attributes(node)) == errno.ESTALE
        assert answer(lambda: walk(ns, 1, b".snapshot/1_s")) == errno.ENOENT
        assert listed(ns, 1) == []
        work_off(ns)
        ns.snapshot_create(1, b"s")
        assert walk(ns, 1, b".snapshot/2_s") >> INO_BITS != node >> INO_BITS
        assert answer(lambda: ns.attributes(node)) == errno.ESTALE


def test_a_node_id_that_a_crash_took_back_leads_into_no_other_snapshot(tmp_path: Path) -> None:
    make_store(tmp_path / "store")
    with opened(tmp_path / "store") as ns:
        ns.write(ns.create(1, b"f", 0o644, USER)[0], 0, b"first")
        ns.snapshot_create(1, b"s")
        ns.write(ns.lookup(1, b"f")[0], 0, b"second")
        ns.snapshot_create(1, b"s")
        ns.volume.commit().wait()
        lost = walk(ns, 1, b".snapshot/1_s/f")
        shutil.copytree(tmp_path / "store", tmp_path / "crashed")
    with opened(tmp_path / "crashed") as ns:
        other = walk(ns, 1, b".snapshot/2_s/f")
        assert other != lost
        assert answer(lambda: ns.read(lost, 0, 10)) == errno.ESTALE


def test_view_numbers_come_back_with_a_new_generation(ns: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anqfs.namespace.views._NUMBERS", 3)
    for _ in range(3):
        ns.snapshot_create(1, b"s")
    nodes = [walk(ns, 1, b".snapshot/%d_s" % number) for number in (1, 2, 3)]
    assert sorted(node >> INO_BITS for node in nodes) == [1, 2, 3]
    ns.snapshot_create(1, b"s")
    assert answer(lambda: walk(ns, 1, b".snapshot/4_s")) == errno.ENOSPC
    ns.snapshot_delete(2)
    work_off(ns)
    assert answer(lambda: walk(ns, 1, b".snapshot/4_s")) == errno.ENOSPC
    ns._snapshots.views._freed.clear()
    node = walk(ns, 1, b".snapshot/4_s")
    assert (node >> INO_BITS, ns.generation(node)) == (nodes[1] >> INO_BITS, 1)


def test_a_read_only_volume_shows_its_snapshots(tmp_path: Path) -> None:
    make_store(tmp_path / "store")
    with opened(tmp_path / "store") as ns:
        node, _ = ns.create(1, b"f", 0o644, USER)
        ns.write(node, 0, b"old")
        ns.snapshot_create(1, b"s")
        ns.write(node, 0, b"new")
    with opened(tmp_path / "store", read_only=True) as ns:
        node = walk(ns, 1, b".snapshot/1_s/f")
        assert ns.read(node, 0, 9) == b"old"
        assert walk(ns, 1, b".snapshot/1_s/f") == node
        assert ns.read(walk(ns, 1, b"f"), 0, 9) == b"new"
        assert answer(lambda: ns.create(1, b"x", 0o644, USER)) == errno.EROFS
        assert answer(lambda: ns.snapshot_create(1)) == errno.EROFS
        assert (ns.usage(1).files, ns.work(10)) == (1, False)


def test_taking_and_dropping_through_the_directory(ns: Namespace) -> None:
    node, _ = ns.mkdir(1, b"d", 0o755, USER)
    virtual, _ = ns.lookup(node, b".snapshot")
    above, _ = ns.lookup(1, b".snapshot")
    made, inode = ns.mkdir(virtual, b"mine", 0o755, USER)
    assert walk(ns, node, b".snapshot/1_mine") == made
    assert ns.attributes(made) == inode
    ns.mkdir(above, b"all", 0o755, ROOT)
    assert answer(lambda: ns.mkdir(virtual, b"x", 0o755, Caller(5, 5, frozenset(), 0))) == errno.EACCES
    ns.set_attributes(node, mode=0o775, caller=ROOT)
    ns.mkdir(virtual, b"group", 0o755, Caller(5, 5, frozenset((100,)), 0))
    assert answer(lambda: ns.mkdir(virtual, b"..", 0o755, ROOT)) == errno.EEXIST
    assert answer(lambda: ns.rmdir(virtual, b"2_all")) == errno.EPERM
    assert answer(lambda: ns.rmdir(virtual, b"mine")) == errno.ENOENT
    ns.rmdir(virtual, b"1_mine")
    ns.rmdir(above, b"2_all")
    assert listed(ns, node) == [b"3_group"]
    assert ns.attributes(virtual).mtime > inode.mtime


def test_names(ns: Namespace) -> None:
    for name in (b"\xff", b"a b\n", b"1_2_3", b"x" * 253):
        snapshot = ns.snapshot_create(1, name)
        assert walk(ns, 1, b".snapshot/%d_%s" % (snapshot.id, name))
    for name, number in ((b"x" * 254, errno.ENAMETOOLONG), (b"", errno.EINVAL), (b"a/b", errno.EINVAL), (b"\0", errno.EINVAL)):
        assert answer(lambda name=name: ns.snapshot_create(1, name)) == number  # type: ignore[misc]
    assert ns.snapshot_create(1, None).name == b"OnDemand"
    assert answer(lambda: ns.snapshot_create(ns.create(1, b"f", 0o644, ROOT)[0])) == errno.ENOTDIR
    for name in (b"01_\xff", b"1", b"_", b"1_x", b"x_1", b"9" * 30 + b"_x"):
        assert answer(lambda name=name: walk(ns, 1, b".snapshot/" + name)) == errno.ENOENT  # type: ignore[misc]


def test_the_limit(ns: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots_module, "SNAPSHOTS_MAX", 2)
    ns.snapshot_create(1)
    ns.snapshot_create(1)
    assert answer(lambda: ns.snapshot_create(1)) == errno.ENOSPC
    ns.snapshot_delete(1)
    work_off(ns)
    ns.snapshot_create(1)


def test_listing_cookies(ns: Namespace) -> None:
    for _ in range(5):
        ns.snapshot_create(1, b"s")
    virtual, _ = ns.lookup(1, b".snapshot")
    cookies = [cookie for _, _, _, cookie in ns.readdir(virtual, 0)]
    assert cookies == [COOKIES_RESERVED + number for number in range(1, 6)]
    ns.snapshot_delete(3)
    assert [name for name, _, _, _ in ns.readdir(virtual, cookies[1])] == [b"4_s", b"5_s"]
    assert len(list(ns.readdir(virtual, 2))) == 4


def test_expiration_can_be_changed(ns: Namespace) -> None:
    number = ns.snapshot_create(1, b"s", 99).id
    node = walk(ns, 1, b".snapshot/1_s")
    assert ns.snapshot(number).expires == 99
    ns.snapshot_modify(number, 0)
    assert ns.snapshot(number).expires == 0
    assert ns.attributes(node).mtime == ns.snapshot(number).created
    with pytest.raises(NotFound):
        ns.snapshot_modify(77, 0)
    with pytest.raises(NotFound):
        ns.snapshot_delete(77)


def test_totals_are_those_of_the_time(ns: Namespace) -> None:
    node, _ = ns.mkdir(1, b"d", 0o755, USER)
    ns.write(ns.create(node, b"a", 0o644, USER)[0], 0, b"x" * 5000)
    ns.snapshot_create(1, b"s")
    ns.write(ns.create(node, b"b", 0o644, USER)[0], 0, b"x" * 700)
    ns.unlink(node, b"a")
    old = ns.usage(walk(ns, 1, b".snapshot/1_s"))
    assert (old.size, old.files, old.directories) == (5000, 1, 1)
    new = ns.usage(1)
    assert (new.size, new.files, new.directories) == (700, 1, 1)


def test_a_snapshot_outlives_its_directory(ns: Namespace) -> None:
    node, _ = ns.mkdir(1, b"d", 0o755, USER)
    ns.write(ns.create(node, b"f", 0o644, USER)[0], 0, b"old")
    number = ns.snapshot_create(node).id
    ns.unlink(node, b"f")
    ns.rmdir(1, b"d")
    work_off(ns)
    assert ns.snapshot_path(number) is None
    top = ns.snapshot_node(number)
    assert ns.read(ns.lookup(top, b"f")[0], 0, 9) == b"old"
    ns.snapshot_delete(number)
    work_off(ns)
    assert list(ns.volume.scan_keys(b"a", b"z")) == []


def test_deletion_goes_on_after_a_crash(tmp_path: Path) -> None:
    make_store(tmp_path / "store")
    with opened(tmp_path / "store") as ns:
        for number in range(40):
            ns.write(ns.create(1, b"%d" % number, 0o644, USER)[0], 0, b"old" * 2000)
        ns.snapshot_create(1, b"older")
        ns.snapshot_create(1, b"newer")
        for number in range(40):
            ns.unlink(1, b"%d" % number)
        ns.snapshot_delete(2)
        assert ns.work(7)
        ns.volume.commit().wait()
        shutil.copytree(tmp_path / "store", tmp_path / "crashed")
    with opened(tmp_path / "crashed") as ns:
        assert ns.snapshots_in_deletion() == [2]
        assert listed(ns, 1) == [b"1_older"]
        work_off(ns, 7)
        assert ns.snapshots_in_deletion() == []
        top = walk(ns, 1, b".snapshot/1_older")
        assert len(list(ns.readdir(top, 0))) == 40
        assert ns.read(ns.lookup(top, b"7")[0], 0, 6) == b"oldold"
        ns.snapshot_delete(1)
        work_off(ns, 7)
        assert list(ns.volume.scan_keys(b"a", b"z")) == []
        assert list(ns.volume.scan_keys(b"L", b"M")) == []


def test_taking_a_snapshot_reads_nothing_of_the_tree(ns: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(200):
        ns.create(1, b"%d" % number, 0o644, USER)
    ns.usage(1)
    asked: list[bytes] = []
    get = ns.core.get
    monkeypatch.setattr(ns.core, "get", lambda key: asked.append(key) or get(key))  # type: ignore[func-returns-value]
    monkeypatch.setattr(ns.volume, "scan", None)
    ns.snapshot_create(1)
    assert len(asked) < 10
