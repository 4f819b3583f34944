"""Deleting a directory in the background: it all goes, whatever happens meanwhile, and nothing else does."""

from __future__ import annotations

import errno
import random
import shutil
from pathlib import Path
from stat import S_ISDIR

import pytest

from anqfs.errors import FilesystemError, NotFound
from anqfs.namespace import ROOT, Namespace
from anqfs.namespace.check import check
from anqfs.store.administration import tree_delete_key
from tests.unit.damaged_volume import Damage, Facts
from tests.unit.namespace_volume import make_store, opened, work_off


def grow(ns: Namespace, top: int, draw: random.Random, count: int) -> None:
    """Make `count` files and directories somewhere below a directory."""
    directories = [top]
    for number in range(count):
        parent, name = draw.choice(directories), b"%d" % number
        kind = draw.randrange(4)
        if kind == 0:
            directories.append(ns.mkdir(parent, name, 0o755, ROOT)[0])
        elif kind == 1:
            ns.symlink(parent, name, b"target", ROOT)
        else:
            node, _ = ns.create(parent, name, 0o644, ROOT)
            ns.write(node, 0, b"x" * draw.choice([10, 5_000, 80_000]))
            ns.setxattr(node, b"user.x", b"1", 0, ROOT)


def tree(ns: Namespace, node: int) -> list[tuple[bytes, int]]:
    """Return (path, size) of all that is below a node."""
    found = []
    for name, child, inode, _ in ns.readdir(node, 0):
        assert inode is not None
        found.append((name, inode.size))
        if S_ISDIR(inode.mode):
            found += [(name + b"/" + below, size) for below, size in tree(ns, child)]
    return sorted(found)


def below(ns: Namespace, node: int) -> int:
    found = ns.usage(node)
    return found.files + found.directories + found.symlinks + found.others


def refused(call: object, *arguments: object) -> str:
    assert callable(call)
    with pytest.raises(FilesystemError) as caught:
        call(*arguments)
    return errno.errorcode[caught.value.errno]


@pytest.mark.parametrize("seed", range(3))
def test_it_goes_on_after_crashes_until_all_is_gone_and_snapshots_keep_theirs(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    path = tmp_path / "store"
    make_store(path)
    with opened(path) as ns:
        top, _ = ns.mkdir(1, b"top", 0o755, ROOT)
        kept, _ = ns.mkdir(1, b"kept", 0o755, ROOT)
        grow(ns, top, draw, 120)
        grow(ns, kept, draw, 20)
        file, _ = ns.create(top, b"linked", 0o644, ROOT)
        ns.write(file, 0, b"has another name")
        ns.link(file, kept, b"linked")
        ns.quotas.set(top, 1 << 30)
        snapshot = ns.snapshot_create(1)
        then, others = tree(ns, top), tree(ns, kept)
        started = ns.tree_deletes.start(top)
        assert (started.path, started.files + started.directories) == (b"/top", below(ns, top))
        ns.volume.commit().wait()
    for crash in range(4):
        with opened(path) as ns:
            (deletion,) = ns.tree_deletes.listing()
            assert (deletion.ino, deletion.files + deletion.directories) == (top, below(ns, top))
            for _ in range(3):
                assert ns.work(draw.randrange(1, 10))
            ns.volume.commit().wait()
            left = below(ns, top)
            ns.work(20)
            shutil.copytree(path, tmp_path / f"crashed{crash}")
        path = tmp_path / f"crashed{crash}"
        with opened(path) as ns:
            assert check(ns.volume).findings == []
            assert below(ns, top) == left < started.files + started.directories
    with opened(path) as ns:
        ns.create(top, b"somebody else's", 0o644, ROOT)
        work_off(ns)
        assert list(ns.tree_deletes.listing()) == [] and list(ns.quotas.listing()) == []
        assert refused(ns.lookup, 1, b"top") == "ENOENT"
        assert tree(ns, kept) == others
        assert tree(ns, ns.lookup(ns.snapshot_node(snapshot.id), b"top")[0]) == then
        ns.snapshot_delete(snapshot.id)
        work_off(ns)
        ns.volume.commit().wait()
        assert check(ns.volume).findings == []
        assert ns.read(ns.lookup(kept, b"linked")[0], 0, 100) == b"has another name"


def test_a_locked_file_stops_it_and_it_can_be_started_again(ns: Namespace) -> None:
    top, _ = ns.mkdir(1, b"top", 0o755, ROOT)
    grow(ns, top, random.Random(5), 40)
    deep, _ = ns.mkdir(top, b"deep", 0o755, ROOT)
    locked, _ = ns.create(deep, b"locked", 0o644, ROOT)
    ns.file_locks.change(locked, legal_hold=True)
    ns.tree_deletes.start(top)
    work_off(ns, 7)
    stopped = ns.tree_deletes.status(top)
    assert stopped.record.error == b"/top/deep/locked: the file is locked"
    assert stopped.files >= 1 and ns.attributes(locked).nlink == 1
    ns.tree_deletes.restart(top)
    work_off(ns)
    assert ns.tree_deletes.status(top).record.error
    ns.file_locks.change(locked, legal_hold=False)
    ns.tree_deletes.start(top)
    work_off(ns)
    with pytest.raises(NotFound):
        ns.tree_deletes.status(top)
    assert tree(ns, 1) == []


def test_quotas_above_get_their_space_back_with_each_step(ns: Namespace) -> None:
    above, _ = ns.mkdir(1, b"above", 0o755, ROOT)
    top, _ = ns.mkdir(above, b"top", 0o755, ROOT)
    ns.quotas.set(above, 1 << 30)
    grow(ns, top, random.Random(7), 60)
    ns.tree_deletes.start(top)
    account = ns.core.quotas.account(above)
    before = account.used
    while ns.work(5):
        assert account.used == ns.quotas.status(above).used < before
        before = account.used
        ns.core.quotas.forget()  # what is remembered of the quotas above a directory can go at any time
    assert ns.core.quotas.account(above) is account and account.used == 0


def test_a_deletion_that_stopped_stays_stopped_over_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "store"
    make_store(path)
    with opened(path) as ns:
        top, _ = ns.mkdir(1, b"top", 0o755, ROOT)
        locked, _ = ns.create(top, b"locked", 0o644, ROOT)
        ns.file_locks.change(locked, legal_hold=True)
        ns.tree_deletes.start(top)
        work_off(ns)
    with opened(path) as ns:
        assert not ns.work(10)
        assert ns.tree_deletes.status(top).record.error
        assert ns.attributes(locked).legal_hold


def test_cancelling_leaves_what_is_left(ns: Namespace) -> None:
    top, _ = ns.mkdir(1, b"top", 0o755, ROOT)
    for number in range(30):
        ns.create(top, b"%d" % number, 0o644, ROOT)
    ns.tree_deletes.start(top)
    assert refused(ns.tree_deletes.start, top) == "EALREADY"
    ns.work(10)
    ns.tree_deletes.cancel(top)
    work_off(ns)
    assert below(ns, top) == 20
    with pytest.raises(NotFound):
        ns.tree_deletes.cancel(top)


def test_it_follows_its_directory_and_ends_when_somebody_else_removes_it(ns: Namespace) -> None:
    top, _ = ns.mkdir(1, b"top", 0o755, ROOT)
    inner, _ = ns.mkdir(top, b"inner", 0o755, ROOT)
    for number in range(30):
        ns.create(inner, b"%d" % number, 0o644, ROOT)
    ns.tree_deletes.start(top)
    ns.work(10)
    ns.rename(top, b"inner", 1, b"saved", 0)
    ns.rename(1, b"top", inner, b"top", 0)
    work_off(ns)
    assert below(ns, 1) == 1 + 20
    empty, _ = ns.mkdir(1, b"empty", 0o755, ROOT)
    ns.tree_deletes.start(empty)
    ns.rmdir(1, b"empty")
    assert not ns.work(10) and list(ns.tree_deletes.listing()) == []


def test_only_live_directories_below_the_root_are_deleted(ns: Namespace) -> None:
    node, _ = ns.create(1, b"f", 0o644, ROOT)
    top, _ = ns.mkdir(1, b"top", 0o755, ROOT)
    snapshot = ns.snapshot_create(top)
    assert refused(ns.tree_deletes.start, 1) == "EBUSY"
    assert refused(ns.tree_deletes.start, node) == "ENOTDIR"
    assert refused(ns.tree_deletes.start, ns.snapshot_node(snapshot.id)) == "EROFS"
    assert not ns.tree_deletes.running


def test_what_the_kernel_knows_of_is_told_to_it(ns: Namespace) -> None:
    top, _ = ns.mkdir(1, b"top", 0o755, ROOT)
    known, _ = ns.create(top, b"known", 0o644, ROOT)
    ns.create(top, b"unknown", 0o644, ROOT)
    ns.hold(known)
    ns.hold(top)
    ns.tree_deletes.start(top)
    work_off(ns)
    changes = ns.tree_deletes.take_changes()
    assert {(top, b"known"), (known, None), (1, b"top"), (top, None), (1, None)} == set(changes)
    assert ns.attributes(known).nlink == 0
    assert ns.tree_deletes.take_changes() == []


@pytest.mark.parametrize("how", ["cancel", "start", "rmdir"])
def test_a_deletion_whose_record_is_damaged_is_in_nobodys_way(tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture) -> None:
    make_store(tmp_path / "store")
    with opened(tmp_path / "store") as ns:
        lost, other = (ns.mkdir(1, name, 0o755, ROOT)[0] for name in (b"lost", b"other"))
        for top in (lost, other):
            ns.create(top, b"f", 0o644, ROOT)
            ns.tree_deletes.start(top)
    Damage(tmp_path / "store", Facts()).flip_record(tree_delete_key(lost))
    with opened(tmp_path / "store") as ns:
        assert [one.ino for one in ns.tree_deletes.listing()] == [other]
        if how == "cancel":
            ns.tree_deletes.cancel(lost)
            with pytest.raises(NotFound):
                ns.tree_deletes.cancel(lost)
        elif how == "start":
            ns.tree_deletes.start(lost)
        else:
            ns.unlink(lost, b"f")
            ns.rmdir(1, b"lost")
        work_off(ns)
        assert [name for name, *_ in ns.readdir(1, 0)] == ([b"lost"] if how == "cancel" else [])
        assert list(ns.volume.scan_keys(b"T", b"U")) == []
    assert "does not go on" in caplog.text
