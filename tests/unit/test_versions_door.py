"""`.snapshot/@GMT`: the same snapshots under the names that SMB gives to previous versions."""

from __future__ import annotations

import errno
import re
from pathlib import Path

from anqfs.namespace import ROOT, Namespace
from anqfs.namespace.check import check
from tests.unit.namespace_volume import answer, make_store, opened, work_off


def door(ns: Namespace, directory: int) -> int:
    return ns.lookup(ns.lookup(directory, b".snapshot")[0], b"@GMT")[0]


def listed(ns: Namespace, node: int) -> list[bytes]:
    return [name for name, _, _, _ in ns.readdir(node, 0)]


def test_it_lists_the_same_snapshots_by_their_times_and_nothing_lists_it(ns: Namespace) -> None:
    directory, _ = ns.mkdir(1, b"d", 0o755, ROOT)
    ns.snapshot_create(directory, b"of d")
    ns.snapshot_create(1, b"of all")
    assert listed(ns, door(ns, directory)) == [b"@GMT-2023.11.14-22.13.20", b"@GMT-2023.11.14-22.13.21"]
    assert listed(ns, door(ns, 1)) == [b"@GMT-2023.11.14-22.13.21"]
    assert listed(ns, ns.lookup(directory, b".snapshot")[0]) == [b"1_of d", b"2_of all"]
    assert all(re.fullmatch(rb"@GMT-\d{4}\.\d\d\.\d\d-\d\d\.\d\d\.\d\d", name) for name in listed(ns, door(ns, directory)))


def test_what_is_seen_through_both_doors_is_the_same_under_different_node_ids(ns: Namespace) -> None:
    directory, _ = ns.mkdir(1, b"d", 0o755, ROOT)
    file, _ = ns.create(directory, b"f", 0o644, ROOT)
    ns.write(file, 0, b"before")
    snapshot = ns.snapshot_create(directory)
    ns.write(file, 0, b"after!")
    (token,) = listed(ns, door(ns, directory))
    by_time, inode = ns.lookup(door(ns, directory), token)
    by_name = ns.snapshot_node(snapshot.id)
    assert by_time != by_name
    assert inode == ns.attributes(by_name)
    assert ns.read(ns.lookup(by_time, b"f")[0], 0, 100) == ns.read(ns.lookup(by_name, b"f")[0], 0, 100) == b"before"
    assert ns.parent(by_time) == ns.lookup(by_time, b"..")[0] == door(ns, directory)
    assert ns.parent(by_name) == ns.parent(door(ns, directory)) == ns.lookup(directory, b".snapshot")[0]
    assert ns.getxattr(by_time, b"ceph.snap.btime") == ns.getxattr(by_name, b"ceph.snap.btime")


def test_nothing_can_be_changed_in_it(ns: Namespace) -> None:
    directory, _ = ns.mkdir(1, b"d", 0o755, ROOT)
    ns.snapshot_create(directory)
    node = door(ns, directory)
    (token,) = listed(ns, node)
    assert answer(lambda: ns.mkdir(node, b"new", 0o755, ROOT)) == errno.EROFS
    assert answer(lambda: ns.rmdir(node, token)) == errno.EROFS
    assert answer(lambda: ns.create(node, b"new", 0o644, ROOT)) == errno.EROFS
    assert answer(lambda: ns.lookup(node, b"@GMT-2023.11.14-22.13.59")) == errno.ENOENT
    assert answer(lambda: ns.lookup(node, b"1_OnDemand")) == errno.ENOENT
    assert answer(lambda: ns.getxattr(node, b"user.x")) == errno.ENODATA
    assert answer(lambda: ns.read(node, 0, 1)) == errno.EISDIR


def test_node_ids_through_it_last_and_go_with_the_snapshot(tmp_path: Path) -> None:
    make_store(tmp_path / "store")
    with opened(tmp_path / "store") as ns:
        snapshot = ns.snapshot_create(1)
        node, _ = ns.lookup(door(ns, 1), listed(ns, door(ns, 1))[0])
    with opened(tmp_path / "store") as ns:
        assert ns.lookup(door(ns, 1), listed(ns, door(ns, 1))[0])[0] == node
        assert ns.parent(node) == door(ns, 1)
        ns.volume.commit().wait()
        assert check(ns.volume).findings == []
        ns.snapshot_delete(snapshot.id)
        assert listed(ns, door(ns, 1)) == []
        assert answer(lambda: ns.attributes(node)) == errno.ESTALE
        work_off(ns)
        ns.volume.commit().wait()
        assert check(ns.volume).findings == []


def test_it_follows_snapshots_that_come_go_and_change(ns: Namespace) -> None:
    node = door(ns, 1)
    first = ns.snapshot_create(1)
    (token,) = listed(ns, node)
    assert ns.lookup(node, token)
    second = ns.snapshot_create(1)
    assert ns.lookup(node, listed(ns, node)[1])
    ns.snapshot_modify(second.id, 7)
    ns.snapshot_delete(first.id)
    assert answer(lambda: ns.lookup(node, token)) == errno.ENOENT
    assert len(listed(ns, node)) == 1
