"""Restore: the live tree becomes what the snapshot shows, nothing outside the place changes, and no data is copied."""

from __future__ import annotations

import errno
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest

from anqfs.errors import FilesystemError, NoSpace, NotFound
from anqfs.namespace import Caller, Namespace
from anqfs.namespace import files as files_module
from anqfs.namespace.check import check
from anqfs.namespace.restore import Restore
from anqfs.store.schema import WINDOW, Inode
from tests.unit.namespace_volume import make_store, opened, work_off

ROOT = 1
USER = Caller(0, 0, frozenset(), 0o022)
ACCESS, DEFAULT = b"system.posix_acl_access", b"system.posix_acl_default"


def acl(named: int) -> bytes:
    """Pack an ACL (version 2) that names one user."""
    entries = ((1, 7, -1), (2, named, 1000), (4, 5, -1), (16, 7, -1), (32, 4, -1))
    packed = b"".join(
        tag.to_bytes(2, "little") + perm.to_bytes(2, "little") + (who & 0xFFFFFFFF).to_bytes(4, "little") for tag, perm, who in entries
    )
    return (2).to_bytes(4, "little") + packed


def make(ns: Namespace, parent: int, name: bytes, data: bytes = b"") -> int:
    node = ns.create(parent, name, 0o644, USER)[0]
    if data:
        ns.write(node, 0, data)
    return node


def directory(ns: Namespace, parent: int, name: bytes) -> int:
    return ns.mkdir(parent, name, 0o755, USER)[0]


def find(ns: Namespace, path: bytes) -> int:
    node = ROOT
    for part in path.split(b"/"):
        if part:
            node = ns.lookup(node, part)[0]
    return node


def run(restore: Restore, budget: int = 3) -> Restore:
    for _ in range(1_000_000):
        if not restore.step(budget):
            return restore
    raise AssertionError("the restore does not end")


def seen(ns: Namespace, top: int) -> dict[bytes, tuple[Any, ...]]:
    """Return everything a user sees below a node but change times, and which paths are one inode."""
    found: dict[bytes, tuple[Any, ...]] = {}
    first: dict[int, bytes] = {}

    def walk(node: int, path: bytes) -> None:
        inode = ns.attributes(node)
        first.setdefault(node, path)
        data = ns.read(node, 0, inode.size) if stat.S_ISREG(inode.mode) else inode.target
        xattrs = sorted((name, ns.getxattr(node, name)) for name in ns.listxattr(node))
        times = (inode.atime, inode.mtime) if path else ()
        found[path] = (
            inode.mode,
            inode.uid,
            inode.gid,
            inode.rdev,
            inode.nlink,
            inode.size,
            inode.allocated,
            *times,
            data,
            xattrs,
            first[node],
        )
        if stat.S_ISDIR(inode.mode):
            for name, child, _, _ in ns.readdir(node, 0):
                walk(child, path + b"/" + name)

    walk(top, b"")
    return found


def sound(ns: Namespace) -> None:
    report = check(ns.volume)
    assert report.clean, report.findings


def populate(ns: Namespace) -> dict[bytes, int]:
    """Make /d with one of everything; returns its inodes by name."""
    d = directory(ns, ROOT, b"d")
    nodes = {b"d": d, b"sub": directory(ns, d, b"sub"), b"inner": 0}
    nodes[b"inner"] = directory(ns, nodes[b"sub"], b"inner")
    nodes[b"file"] = make(ns, d, b"file", b"f" * (WINDOW + 5000))
    nodes[b"small"] = make(ns, nodes[b"sub"], b"small", b"inline")
    nodes[b"one"] = make(ns, d, b"one", b"linked" * 2000)
    ns.link(nodes[b"one"], nodes[b"inner"], b"two")
    nodes[b"holes"] = make(ns, d, b"holes")
    ns.write(nodes[b"holes"], 5 * WINDOW + 7000, b"end")
    ns.set_attributes(nodes[b"holes"], size=9 * WINDOW, caller=USER)
    nodes[b"link"] = ns.symlink(d, b"link", b"../somewhere", USER)[0]
    nodes[b"fifo"] = ns.mknod(d, b"fifo", stat.S_IFIFO | 0o600, 0, USER)[0]
    nodes[b"device"] = ns.mknod(d, b"device", stat.S_IFCHR | 0o600, 0x105, USER)[0]
    ns.set_attributes(nodes[b"file"], mode=0o4750, uid=1000, gid=100, caller=USER)
    ns.set_attributes(nodes[b"sub"], mode=0o2770, uid=7, gid=8, caller=USER)
    ns.setxattr(nodes[b"small"], b"user.note", b"value" * 1000, 0, USER)
    ns.setxattr(nodes[b"file"], ACCESS, acl(6), 0, USER)
    ns.setxattr(nodes[b"sub"], DEFAULT, acl(4), 0, USER)
    for number, node in enumerate(nodes.values()):
        ns.set_attributes(node, atime=number * 10**9 + 1, mtime=-number * 10**9 - 2, caller=USER)
    return nodes


def wreck(ns: Namespace, nodes: dict[bytes, int]) -> None:
    """Change everything about /d."""
    d, sub = nodes[b"d"], nodes[b"sub"]
    ns.write(nodes[b"file"], 100, b"overwritten")
    ns.removexattr(nodes[b"file"], ACCESS, USER)
    ns.set_attributes(nodes[b"file"], mode=0o600, uid=0, gid=0, caller=USER)
    ns.write(nodes[b"holes"], 0, b"no hole")
    ns.set_attributes(nodes[b"holes"], size=100, caller=USER)
    ns.setxattr(nodes[b"small"], b"user.note", b"other", 0, USER)
    ns.setxattr(nodes[b"small"], b"user.more", b"x", 0, USER)
    ns.removexattr(sub, DEFAULT, USER)
    ns.unlink(nodes[b"inner"], b"two")
    ns.rename(d, b"one", sub, b"one elsewhere", 0)
    ns.unlink(d, b"link")
    ns.unlink(d, b"fifo")
    ns.unlink(d, b"device")
    make(ns, d, b"device", b"now a file")
    directory(ns, d, b"link")
    make(ns, find(ns, b"d/link"), b"in the way", b"x" * 9000)
    new = directory(ns, d, b"new")
    ns.rename(sub, b"inner", new, b"moved", 0)
    make(ns, new, b"later", b"l" * 7000)


# ------------------------------------------------------------------ in place


@pytest.mark.parametrize("budget", [1, 1000])
def test_in_place_gives_back_everything(ns: Namespace, budget: int) -> None:
    nodes = populate(ns)
    before = seen(ns, nodes[b"d"])
    outside = ns.attributes(ROOT)
    snapshot = ns.snapshot_create(nodes[b"d"], b"s")
    wreck(ns, nodes)
    assert seen(ns, nodes[b"d"]) != before
    restore = run(Restore(ns, snapshot.id), budget)
    assert seen(ns, nodes[b"d"]) == before
    assert ns.attributes(nodes[b"d"]).mtime == -2  # number 0 of `populate`
    assert (ns.attributes(ROOT).mtime, ns.attributes(ROOT).size) == (outside.mtime, outside.size)
    assert restore.progress.files == 8 and restore.progress.directories == 2 and restore.progress.total == 11
    assert restore.progress.removed >= 4
    work_off(ns)
    sound(ns)


def test_what_still_lives_keeps_its_inode_number(ns: Namespace) -> None:
    nodes = populate(ns)
    snapshot = ns.snapshot_create(nodes[b"d"], b"s")
    wreck(ns, nodes)
    run(Restore(ns, snapshot.id))
    paths = {b"d/sub": b"sub", b"d/sub/inner": b"inner", b"d/file": b"file", b"d/one": b"one", b"d/sub/inner/two": b"one"}
    paths |= {b"d/holes": b"holes", b"d/sub/small": b"small"}
    assert {path: find(ns, path) for path in paths} == {path: nodes[name] for path, name in paths.items()}


def test_an_unchanged_tree_is_left_alone(ns: Namespace) -> None:
    nodes = populate(ns)
    snapshot = ns.snapshot_create(nodes[b"d"], b"s")
    records = {node: ns.attributes(node) for node in nodes.values()}
    restore = run(Restore(ns, snapshot.id))
    assert {node: ns.attributes(node) for node in nodes.values()} == records
    assert restore.take_changes() == []


def test_undo_is_restoring_before_restore(ns: Namespace) -> None:
    nodes = populate(ns)
    snapshot = ns.snapshot_create(nodes[b"d"], b"s")
    wreck(ns, nodes)
    wrecked = seen(ns, nodes[b"d"])
    restore = run(Restore(ns, snapshot.id))
    assert restore.before is not None and restore.before.name == b"before_restore" and restore.before.root == nodes[b"d"]
    run(Restore(ns, restore.before.id))
    assert seen(ns, nodes[b"d"]) == wrecked
    sound(ns)


def test_directories_that_changed_places(ns: Namespace) -> None:
    p = directory(ns, ROOT, b"p")
    q = directory(ns, p, b"q")
    deep = make(ns, q, b"deep", b"x")
    snapshot = ns.snapshot_create(ROOT, b"s")
    before = seen(ns, ROOT)
    ns.rename(p, b"q", ROOT, b"q", 0)
    ns.rename(ROOT, b"p", q, b"p", 0)
    run(Restore(ns, snapshot.id))
    assert seen(ns, ROOT) == before
    assert (find(ns, b"p"), find(ns, b"p/q"), find(ns, b"p/q/deep")) == (p, q, deep)
    sound(ns)


def test_names_that_changed_hands(ns: Namespace) -> None:
    d = directory(ns, ROOT, b"d")
    nodes = [make(ns, d, b"%d" % number, b"%d" % number) for number in range(4)]
    inner = directory(ns, d, b"inner")
    snapshot = ns.snapshot_create(d, b"s")
    before = seen(ns, d)
    ns.rename(d, b"0", d, b"1", 2)
    ns.rename(d, b"2", d, b"inner", 2)
    ns.rename(d, b"3", find(ns, b"d/2"), b"inner", 0)
    ns.rename(d, b"inner", d, b"3", 0)
    run(Restore(ns, snapshot.id), 1)
    assert seen(ns, d) == before
    assert [find(ns, b"d/%d" % number) for number in range(4)] == nodes
    assert find(ns, b"d/inner") == inner
    sound(ns)


def test_names_in_directories_that_are_made_anew_are_not_taken_for_others(ns: Namespace) -> None:
    """Eight times, because it depends on the order of hashes which of two names comes first."""
    d = directory(ns, ROOT, b"d")
    removed = directory(ns, d, b"removed")
    for number in range(8):
        node = make(ns, d, b"%d" % number, b"x")
        ns.link(node, removed, b"too %d" % number)
    snapshot = ns.snapshot_create(d, b"s")
    before = seen(ns, d)
    for number in range(8):
        ns.unlink(removed, b"too %d" % number)
        ns.rename(d, b"%d" % number, d, b"elsewhere %d" % number, 0)
    ns.rmdir(d, b"removed")
    run(Restore(ns, snapshot.id))
    assert seen(ns, d) == before
    sound(ns)


def test_all_names_of_a_file_with_as_many_links_as_there_may_be(ns: Namespace) -> None:
    d = directory(ns, ROOT, b"d")
    node = make(ns, d, b"n0", b"x")
    for number in range(1, 1024):
        ns.link(node, d, b"n%d" % number)
    snapshot = ns.snapshot_create(d, b"s")
    before = seen(ns, d)
    for number in range(1024):
        ns.rename(d, b"n%d" % number, d, b"m%d" % number, 0)
    run(Restore(ns, snapshot.id), 100)
    assert seen(ns, d) == before and find(ns, b"d/n7") == node


def test_a_directory_made_again_in_the_place_of_the_old_one(ns: Namespace) -> None:
    nodes = populate(ns)
    before = seen(ns, nodes[b"d"])
    snapshot = ns.snapshot_create(ROOT, b"s")
    ns.rename(ROOT, b"d", ROOT, b"old", 0)
    directory(ns, ROOT, b"d")
    run(Restore(ns, snapshot.id, b"d"))
    assert seen(ns, find(ns, b"d")) == before
    assert seen(ns, find(ns, b"old")) == before
    sound(ns)


def test_a_directory_in_the_place_of_a_file_and_the_other_way_round(ns: Namespace) -> None:
    nodes = populate(ns)
    before = seen(ns, nodes[b"d"])
    snapshot = ns.snapshot_create(ROOT, b"s")
    ns.rename(ROOT, b"d", ROOT, b"kept", 0)
    make(ns, ROOT, b"d", b"a file")
    restore = run(Restore(ns, snapshot.id, b"d"))
    assert seen(ns, find(ns, b"d")) == before
    assert restore.before is not None and restore.before.root == ROOT
    d = find(ns, b"d")
    ns.unlink(d, b"file")
    below = directory(ns, directory(ns, d, b"file"), b"deeper")
    make(ns, below, b"x", b"y")
    run(Restore(ns, snapshot.id, b"d/file"))
    again = seen(ns, d)
    assert again[b"/file"] == before[b"/file"]
    sound(ns)


def test_a_removed_directory_comes_back(ns: Namespace) -> None:
    nodes = populate(ns)
    before = seen(ns, nodes[b"sub"])
    snapshot = ns.snapshot_create(nodes[b"d"], b"s")
    for name in (b"two",):
        ns.unlink(nodes[b"inner"], name)
    ns.rmdir(nodes[b"sub"], b"inner")
    ns.unlink(nodes[b"sub"], b"small")
    ns.rmdir(nodes[b"d"], b"sub")
    run(Restore(ns, snapshot.id, b"/sub/"))
    after = seen(ns, find(ns, b"d/sub"))
    assert {path: value[:-1] for path, value in after.items() if path != b"/inner/two"} == {
        path: value[:-1] for path, value in before.items() if path != b"/inner/two"
    }
    assert ns.read(find(ns, b"d/sub/inner/two"), 0, 6) == b"linked"
    assert find(ns, b"d/sub/inner/two") != nodes[b"one"]  # its other name lies outside what was restored
    assert find(ns, b"d/one") == nodes[b"one"] and ns.attributes(nodes[b"one"]).nlink == 1


# ----------------------------------------------------------------- one file


def test_one_file_in_place(ns: Namespace) -> None:
    nodes = populate(ns)
    before = seen(ns, nodes[b"d"])
    snapshot = ns.snapshot_create(ROOT, b"s")
    wreck(ns, nodes)
    run(Restore(ns, snapshot.id, b"d/file"))
    run(Restore(ns, snapshot.id, b"d/holes"))
    after = seen(ns, nodes[b"d"])
    assert (after[b"/file"], after[b"/holes"]) == (before[b"/file"], before[b"/holes"])
    assert (find(ns, b"d/file"), find(ns, b"d/holes")) == (nodes[b"file"], nodes[b"holes"])
    assert b"/new/later" in after


def test_a_name_that_another_file_took_is_replaced_at_once(ns: Namespace) -> None:
    d = directory(ns, ROOT, b"d")
    make(ns, d, b"a", b"old" * 5000)
    snapshot = ns.snapshot_create(d, b"s")
    ns.rename(d, b"a", d, b"moved", 0)
    make(ns, d, b"a", b"new")
    restore = Restore(ns, snapshot.id, b"a")
    while True:
        assert ns.read(find(ns, b"d/a"), 0, 3) in (b"new", b"old")
        if not restore.step(1):
            break
    assert ns.read(find(ns, b"d/a"), 0, 1 << 20) == b"old" * 5000
    assert sorted(name for name, *_ in ns.readdir(d, 0)) == [b"a", b"moved"]
    assert find(ns, b"d/moved") != find(ns, b"d/a")


# ---------------------------------------------------------- names outside


def test_a_file_that_was_changed_through_a_name_outside_is_not_changed_there(ns: Namespace) -> None:
    d, other = directory(ns, ROOT, b"d"), directory(ns, ROOT, b"other")
    node = make(ns, d, b"in", b"old" * 4000)
    ns.link(node, d, b"in too")
    ns.link(node, other, b"out")
    snapshot = ns.snapshot_create(d, b"s")
    ns.write(node, 0, b"new")
    run(Restore(ns, snapshot.id))
    assert ns.read(find(ns, b"other/out"), 0, 6) == b"newold"
    assert ns.read(find(ns, b"d/in"), 0, 6) == b"oldold"
    assert find(ns, b"d/in") == find(ns, b"d/in too") != node == find(ns, b"other/out")
    assert (ns.attributes(node).nlink, ns.attributes(find(ns, b"d/in")).nlink) == (1, 2)
    sound(ns)


def test_an_unchanged_file_with_a_name_outside_keeps_its_links(ns: Namespace) -> None:
    d, other = directory(ns, ROOT, b"d"), directory(ns, ROOT, b"other")
    node = make(ns, d, b"in", b"same" * 4000)
    ns.link(node, other, b"out")
    snapshot = ns.snapshot_create(d, b"s")
    make(ns, d, b"later")
    run(Restore(ns, snapshot.id))
    assert find(ns, b"d/in") == node == find(ns, b"other/out") and ns.attributes(node).nlink == 2


def test_an_unchanged_file_whose_map_was_merged_keeps_its_links(ns: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files_module, "MERGE_ABOVE", 2)
    d = directory(ns, ROOT, b"d")
    node = make(ns, d, b"in", b"." * 40_000)
    ns.link(node, ROOT, b"out")
    for offset in (0, 10_000, 20_000):
        ns.volume.commit().wait()
        ns.write(node, offset, b"x")
    snapshot = ns.snapshot_create(d, b"s")
    work_off(ns)
    ns.unlink(ROOT, b"out")
    ns.link(node, ROOT, b"out2")
    run(Restore(ns, snapshot.id))
    assert ns.read(find(ns, b"d/in"), 0, 1) == b"x"
    sound(ns)


def test_what_moved_out_is_not_taken_back(ns: Namespace) -> None:
    d = directory(ns, ROOT, b"d")
    inner = directory(ns, d, b"inner")
    make(ns, inner, b"x", b"data")
    snapshot = ns.snapshot_create(d, b"s")
    ns.rename(d, b"inner", ROOT, b"away", 0)
    run(Restore(ns, snapshot.id))
    assert find(ns, b"away") == inner and ns.read(find(ns, b"away/x"), 0, 9) == b"data"
    assert find(ns, b"d/inner") != inner and ns.read(find(ns, b"d/inner/x"), 0, 9) == b"data"
    assert find(ns, b"d/inner/x") != find(ns, b"away/x")
    sound(ns)


# -------------------------------------------------------------------- beside


def test_beside_equals_the_snapshot_and_copies_no_data(ns: Namespace) -> None:
    nodes = populate(ns)
    before = seen(ns, nodes[b"d"])
    snapshot = ns.snapshot_create(nodes[b"d"], b"s")
    ns.volume.commit().wait()
    extents = ns.volume.raw_extent_ids(0, 1000)
    restore = run(Restore(ns, snapshot.id, b"", (ROOT, b"copy")))
    assert seen(ns, find(ns, b"copy")) == before == seen(ns, nodes[b"d"])
    ns.volume.commit().wait()
    assert ns.volume.raw_extent_ids(0, 1000) == extents
    assert restore.before is None and restore.progress.files == 8
    assert [each.name for each in ns.snapshots()] == [b"s"]
    assert not set(nodes.values()) & {find(ns, b"copy"), find(ns, b"copy/file"), find(ns, b"copy/sub/inner")}
    sound(ns)


def test_a_copy_and_its_snapshot_do_not_change_each_other(ns: Namespace) -> None:
    """Also while nothing is sealed yet, when a write may change an extent in place."""
    d = directory(ns, ROOT, b"d")
    node = make(ns, d, b"file", b"a" * 20_000)
    snapshot = ns.snapshot_create(d, b"s")
    run(Restore(ns, snapshot.id, b"file", (d, b"copy")))
    copy = find(ns, b"d/copy")
    ns.write(copy, 10, b"COPY")
    ns.write(copy, 20_000, b"COPY")
    ns.write(node, 10, b"LIVE")
    run(Restore(ns, snapshot.id, b"file", (d, b"second")))
    inside = ns.lookup(ns.snapshot_node(snapshot.id), b"file")[0]
    assert ns.read(inside, 0, 30_000) == b"a" * 20_000 == ns.read(find(ns, b"d/second"), 0, 30_000)
    assert ns.read(copy, 0, 30_000) == b"a" * 10 + b"COPY" + b"a" * 19_986 + b"COPY"
    assert ns.read(node, 8, 8) == b"aaLIVEaa"
    sound(ns)


def test_the_space_of_a_copy_comes_back(ns: Namespace) -> None:
    d = directory(ns, ROOT, b"d")
    make(ns, d, b"file", b"a" * 50_000)
    snapshot = ns.snapshot_create(d, b"s")
    run(Restore(ns, snapshot.id, b"", (ROOT, b"copy")))
    ns.unlink(d, b"file")
    ns.snapshot_delete(snapshot.id)
    work_off(ns)
    assert ns.read(find(ns, b"copy/file"), 0, 50_000) == b"a" * 50_000
    ns.unlink(find(ns, b"copy"), b"file")
    for _ in range(3):
        ns.setxattr(ROOT, b"user.tick", b"", 0, USER)
        ns.volume.commit().wait()
    assert ns.volume.raw_extent_ids(0, 10) == []
    sound(ns)


def test_a_default_acl_does_not_reach_what_is_restored_below_it(ns: Namespace) -> None:
    nodes = populate(ns)
    before = seen(ns, nodes[b"sub"])
    snapshot = ns.snapshot_create(nodes[b"d"], b"s")
    target = directory(ns, ROOT, b"target")
    ns.setxattr(target, DEFAULT, acl(2), 0, USER)
    ns.set_attributes(target, mode=0o2755, gid=55, caller=USER)
    run(Restore(ns, snapshot.id, b"sub", (target, b"copy")))
    after = seen(ns, find(ns, b"target/copy"))
    assert {path: value[:4] + value[6:-1] for path, value in after.items() if path != b"/inner/two"} == {
        path: value[:4] + value[6:-1] for path, value in before.items() if path != b"/inner/two"
    }


def test_birth_times_are_kept(ns: Namespace) -> None:
    node = make(ns, ROOT, b"file", b"x")
    snapshot = ns.snapshot_create(ROOT, b"s")
    run(Restore(ns, snapshot.id, b"file", (ROOT, b"copy")))
    assert ns.attributes(find(ns, b"copy")).btime == ns.attributes(node).btime


# --------------------------------------------------------------- big things


def test_a_file_of_many_windows_is_restored_in_small_steps(ns: Namespace) -> None:
    node = make(ns, ROOT, b"file")
    for number in range(300):
        ns.write(node, number * WINDOW, b"%d" % number)
    snapshot = ns.snapshot_create(ROOT, b"s")
    ns.set_attributes(node, size=0, caller=USER)
    ns.write(node, 400 * WINDOW, b"later")
    restore = Restore(ns, snapshot.id, b"file")
    steps = 1
    while restore.step(1):
        steps += 1
        inode = ns.attributes(node)
        assert inode.size in (400 * WINDOW + 5, 299 * WINDOW + 3)
    assert steps >= 5
    assert all(ns.read(node, number * WINDOW, 3) == (b"%d" % number).ljust(3, b"\0")[:3] for number in range(299))
    assert ns.attributes(node).size == 299 * WINDOW + 3
    sound(ns)


def test_windows_that_wait_to_be_removed_do_not_come_through(ns: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files_module, "REMOVE_NOW", 2)
    node = make(ns, ROOT, b"file")
    for number in range(6):
        ns.write(node, number * WINDOW, b"%d" % number)
    full = ns.snapshot_create(ROOT, b"full")
    ns.set_attributes(node, size=WINDOW, caller=USER)
    ns.set_attributes(node, size=6 * WINDOW, caller=USER)
    cut = ns.snapshot_create(ROOT, b"cut")
    run(Restore(ns, cut.id, b"file", (ROOT, b"holes")))
    run(Restore(ns, full.id, b"file"))
    work_off(ns)
    assert [ns.read(find(ns, b"holes"), number * WINDOW, 1) for number in range(6)] == [b"0"] + [b"\0"] * 5
    assert [ns.read(node, number * WINDOW, 1) for number in range(6)] == [b"%d" % number for number in range(6)]
    sound(ns)


def test_a_directory_of_many_names(ns: Namespace) -> None:
    d = directory(ns, ROOT, b"d")
    for number in range(300):
        make(ns, d, b"%d" % number, b"x")
    snapshot = ns.snapshot_create(d, b"s")
    before = seen(ns, d)
    for number in range(0, 300, 2):
        ns.unlink(d, b"%d" % number)
        make(ns, d, b"new%d" % number)
    run(Restore(ns, snapshot.id, b"", (ROOT, b"copy")), 17)
    assert seen(ns, find(ns, b"copy")) == before
    run(Restore(ns, snapshot.id), 17)
    assert seen(ns, d) == before


# -------------------------------------------------------------------- errors


def refused(number: int, ns: Namespace, *arguments: Any) -> None:
    snapshots = ns.snapshots()
    with pytest.raises((FilesystemError, NotFound)) as caught:
        Restore(ns, *arguments)
    assert caught.value.errno == number
    assert ns.snapshots() == snapshots


def test_what_cannot_be_is_refused_before_anything_changes(ns: Namespace) -> None:
    nodes = populate(ns)
    snapshot = ns.snapshot_create(nodes[b"d"], b"s")
    inside = ns.snapshot_node(snapshot.id)
    refused(errno.ENOENT, ns, 99)
    refused(errno.ENOENT, ns, snapshot.id, b"absent")
    refused(errno.ENOENT, ns, snapshot.id, b"file/below a file")
    refused(errno.EEXIST, ns, snapshot.id, b"", (ROOT, b"d"))
    refused(errno.EEXIST, ns, snapshot.id, b"", (ROOT, b".snapshot"))
    refused(errno.ENAMETOOLONG, ns, snapshot.id, b"", (ROOT, b"x" * 256))
    refused(errno.EROFS, ns, snapshot.id, b"", (inside, b"copy"))
    refused(errno.ENOTDIR, ns, snapshot.id, b"", (nodes[b"file"], b"copy"))
    refused(errno.ESTALE, ns, snapshot.id, b"", (12345, b"copy"))


def test_in_place_needs_the_directory_above(ns: Namespace) -> None:
    nodes = populate(ns)
    snapshot = ns.snapshot_create(nodes[b"d"], b"s")
    ns.rename(nodes[b"sub"], b"inner", ROOT, b"inner", 0)
    ns.unlink(nodes[b"sub"], b"small")
    ns.rmdir(nodes[b"d"], b"sub")
    refused(errno.ENOENT, ns, snapshot.id, b"sub/inner")
    run(Restore(ns, snapshot.id, b"sub"))
    assert ns.lookup(find(ns, b"d/sub"), b"inner")


def test_in_place_needs_the_directory_of_the_snapshot(ns: Namespace) -> None:
    d = directory(ns, ROOT, b"d")
    make(ns, d, b"x", b"data")
    snapshot = ns.snapshot_create(d, b"s")
    ns.unlink(d, b"x")
    ns.rmdir(ROOT, b"d")
    refused(errno.ENOENT, ns, snapshot.id)
    refused(errno.ENOENT, ns, snapshot.id, b"x")
    run(Restore(ns, snapshot.id, b"", (ROOT, b"again")))
    assert ns.read(find(ns, b"again/x"), 0, 9) == b"data"
    sound(ns)


def test_a_snapshot_that_is_deleted_meanwhile_ends_the_restore(ns: Namespace) -> None:
    nodes = populate(ns)
    snapshot = ns.snapshot_create(nodes[b"d"], b"s")
    wreck(ns, nodes)
    restore = Restore(ns, snapshot.id)
    assert restore.step(3)
    ns.snapshot_delete(snapshot.id)
    with pytest.raises(NotFound, match="deleted while"):
        restore.step(3)
    work_off(ns)
    sound(ns)


@pytest.mark.parametrize("good_steps", [0, 5, 12, 20])
def test_a_full_disk_is_one_clear_error_and_can_be_undone(ns: Namespace, good_steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = populate(ns)
    snapshot = ns.snapshot_create(nodes[b"d"], b"s")
    wreck(ns, nodes)
    wrecked = seen(ns, nodes[b"d"])
    restore = Restore(ns, snapshot.id)
    if good_steps:
        restore.step(good_steps)

    def full(size: int) -> None:
        raise NoSpace("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(ns.core, "room", full)
        patch.setattr(ns.volume, "room", full)
        with pytest.raises(NoSpace, match=r"part-way: the disk is full; restore snapshot \d+_before_restore to undo"):
            run(restore)
    sound(ns)
    assert restore.before is not None
    run(Restore(ns, restore.before.id))
    assert seen(ns, nodes[b"d"]) == wrecked
    sound(ns)


def test_a_restore_that_stopped_between_data_and_attributes_can_be_undone(ns: Namespace) -> None:
    d = directory(ns, ROOT, b"d")
    node = make(ns, d, b"file", b"old" * 5000)
    snapshot = ns.snapshot_create(d, b"s")
    ns.write(node, 0, b"new")
    restore = Restore(ns, snapshot.id)
    while ns.read(node, 0, 3) != b"old":
        assert restore.step(1)
    assert restore.before is not None
    assert ns.attributes(node).mtime != ns.attributes(ns.lookup(ns.snapshot_node(restore.before.id), b"file")[0]).mtime
    run(Restore(ns, restore.before.id))
    assert ns.read(node, 0, 6) == b"newold"
    sound(ns)


def test_too_many_links_is_one_clear_error(ns: Namespace) -> None:
    d = directory(ns, ROOT, b"d")
    node = make(ns, d, b"a", b"x")
    ns.link(node, d, b"b")
    snapshot = ns.snapshot_create(d, b"s")
    ns.unlink(d, b"b")
    for number in range(1023):
        ns.link(node, ROOT, b"n%d" % number)
    with pytest.raises(FilesystemError, match=r"stopped part-way.*before_restore") as caught:
        run(Restore(ns, snapshot.id))
    assert caught.value.errno == errno.EMLINK
    sound(ns)


# ------------------------------------------------------------------- crashes


@pytest.mark.parametrize("steps", [1, 4, 9, 14, 19, 25])
def test_a_crash_during_a_restore_leaves_a_valid_filesystem_that_a_second_restore_finishes(tmp_path: Path, steps: int) -> None:
    make_store(tmp_path / "store")
    with opened(tmp_path / "store") as ns:
        nodes = populate(ns)
        before = seen(ns, nodes[b"d"])
        snapshot = ns.snapshot_create(nodes[b"d"], b"s")
        wreck(ns, nodes)
        restore = Restore(ns, snapshot.id)
        restore.step(steps)
        ns.volume.commit().wait()
        shutil.copytree(tmp_path / "store", tmp_path / "crashed")
    with opened(tmp_path / "crashed") as ns:
        sound(ns)
        run(Restore(ns, snapshot.id))
        assert seen(ns, nodes[b"d"]) == before
        work_off(ns)
        sound(ns)


def test_changes_are_told_for_the_caches(ns: Namespace) -> None:
    d = directory(ns, ROOT, b"d")
    node = make(ns, d, b"a", b"old")
    gone = make(ns, d, b"gone", b"x")
    snapshot = ns.snapshot_create(d, b"s")
    ns.write(node, 0, b"new")
    ns.unlink(d, b"gone")
    later = make(ns, d, b"later")
    restore = run(Restore(ns, snapshot.id))
    changes = set(restore.take_changes())
    assert {(node, None), (d, None), (d, b"gone"), (d, b"later"), (later, None)} <= changes
    assert (gone, None) not in changes and restore.take_changes() == []
    assert isinstance(ns.attributes(find(ns, b"d/gone")), Inode)
