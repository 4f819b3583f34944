"""A volume whose root directory's inode or one of whose counters is lost: the rest stays usable, and what is lost is told."""

from __future__ import annotations

import errno
import logging
import shutil
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from damaged_volume import Damage, Facts
from namespace_volume import SECRET, answer, make_store, opened, work_off

from anqfs.errors import AnqfsError, Damaged
from anqfs.namespace import Namespace, acl
from anqfs.namespace.check import check
from anqfs.namespace.core import ROOT_CALLER as ROOT
from anqfs.namespace.restore import Restore
from anqfs.namespace.scrub import Scrub
from anqfs.store.administration import COUNTER_HOLD, COUNTER_POLICY, SETTINGS, Schedule, Settings
from anqfs.store.schema import (
    COUNTER_CHANGES,
    COUNTER_DEAD,
    COUNTER_EPOCH,
    COUNTER_INO,
    COUNTER_SNAPSHOT,
    COUNTER_VIEW,
    OWNERS,
    SCRUB,
    inode_key,
    snapshot_key,
)
from anqfs.store.volume import Volume

Harm = Callable[[Damage, bytes], object]
HARMS: tuple[Harm, ...] = (Damage.drop_record, Damage.flip_record)
COUNTERS = (COUNTER_INO, COUNTER_EPOCH, COUNTER_SNAPSHOT, COUNTER_VIEW, COUNTER_DEAD, COUNTER_POLICY, COUNTER_HOLD, COUNTER_CHANGES)
ROOT_KEY = inode_key(1)


@pytest.fixture
def damage(tmp_path: Path) -> Damage:
    """/d/f and /top; snapshots 1 and 2 of /, the first with another content of /d/f and another mode of /; one of /d, held; a policy."""
    make_store(tmp_path / "store")
    with opened(tmp_path / "store") as ns:
        d = ns.mkdir(1, b"d", 0o755, ROOT)[0]
        f = ns.create(d, b"f", 0o644, ROOT)[0]
        ns.write(f, 0, b"first")
        ns.setxattr(1, b"user.note", b"on the root", 0, ROOT)
        ns.set_attributes(1, mode=0o750, mtime=5, caller=ROOT)
        ns.snapshot_create(1, b"one")
        ns.write(f, 0, b"SECOND")
        ns.set_attributes(1, mode=0o711, caller=ROOT)
        ns.create(1, b"top", 0o644, ROOT)
        ns.snapshot_create(1, b"two")
        ns.snapshot_locks.hold(ns.snapshot_create(d, b"of d").id, "somebody")
        ns.policies.create(b"daily", d, Schedule(1))
        ns.settings.change(cluster_name="theirs")
        for snapshot in ns.snapshots():
            ns.lookup(ns.lookup(snapshot.root, b".snapshot")[0], b"%d_%s" % (snapshot.id, snapshot.name))
    return Damage(tmp_path / "store", Facts())


def find(ns: Namespace, path: bytes) -> int:
    """Return the node of a path."""
    node = 1
    for name in path.split(b"/"):
        node = ns.lookup(node, name)[0]
    return node


def content(ns: Namespace, path: bytes) -> bytes:
    """Return what a file holds."""
    return ns.read(find(ns, path), 0, 100)


def findings(damage: Damage) -> dict[bytes, str]:
    """Return what the check names, and the last fault of each."""
    volume = Volume.open(damage.store, SECRET, read_only=True)
    try:
        return {finding.path: finding.what for finding in check(volume).findings}
    finally:
        volume.close()


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("read_only", [False, True])
def test_without_its_root_inode_a_volume_is_read_and_told_of(
    damage: Damage, harm: Harm, read_only: bool, caplog: pytest.LogCaptureFixture
) -> None:
    harm(damage, ROOT_KEY)
    with caplog.at_level(logging.ERROR), opened(damage.store, read_only=read_only) as ns:
        assert "root directory" in caplog.text
        assert content(ns, b"d/f") == b"SECOND"
        assert content(ns, b".snapshot/1_one/d/f") == b"first"
        assert content(ns, b".snapshot/2_two/d/f") == b"SECOND"
        assert content(ns, b"d/.snapshot/3_of d/f") == b"SECOND"
        assert [name for name, *_ in ns.readdir(find(ns, b".snapshot"), 0)] == [b"1_one", b"2_two"]
        assert {name for name, *_ in ns.readdir(1, 0)} == {b"d", b"top"}
        assert {name for name, *_ in ns.readdir(find(ns, b".snapshot/1_one"), 0)} == {b"d"}
        assert ns.getxattr(1, b"user.note") == b"on the root"
        root, then = ns.attributes(1), ns.attributes(find(ns, b".snapshot/1_one"))
        assert (root.mode, root.mtime, root.nlink) == (stat.S_IFDIR | 0o750, 5, 1)
        assert (then.mode, then.nlink, then.size) == (stat.S_IFDIR | 0o750, 3, 1)
        assert ns.path_of(find(ns, b"d/f")) == b"/d/f"
        assert ns.usage(1).files == 2
    assert b"/" in findings(damage)


@pytest.mark.parametrize("harm", HARMS)
def test_without_any_older_version_the_root_is_a_plain_directory_of_root(tmp_path: Path, harm: Harm) -> None:
    make_store(tmp_path / "store")
    entries = b"".join((b"\2\0\0\0", b"\1\0\7\0", b"\xff" * 4, b"\4\0\5\0", b"\xff" * 4, b"\x20\0\0\0", b"\xff" * 4))
    with opened(tmp_path / "store") as ns:
        ns.mkdir(1, b"d", 0o755, ROOT)
        ns.setxattr(1, acl.DEFAULT, entries, 0, ROOT)
    harm(Damage(tmp_path / "store", Facts()), ROOT_KEY)
    with opened(tmp_path / "store") as ns:
        root = ns.attributes(1)
        assert (root.mode, root.uid, root.gid, root.mtime, root.ctime) == (stat.S_IFDIR | 0o755, 0, 0, 0, 0)
        assert ns.getxattr(1, acl.DEFAULT) == entries


@pytest.mark.parametrize("harm", HARMS)
def test_without_its_root_inode_a_volume_is_written_below_and_snapshots_keep_what_they_show(damage: Damage, harm: Harm) -> None:
    harm(damage, ROOT_KEY)
    with opened(damage.store) as ns:
        d = find(ns, b"d")
        assert [
            answer(lambda: ns.create(1, b"new", 0o644, ROOT)),
            answer(lambda: ns.mkdir(1, b"new", 0o755, ROOT)),
            answer(lambda: ns.unlink(1, b"top")),
            answer(lambda: ns.rmdir(1, b"d")),
            answer(lambda: ns.rename(1, b"top", d, b"top", 0)),
            answer(lambda: ns.rename(1, b"top", 1, b"d", 2)),
            answer(lambda: ns.link(find(ns, b"top"), 1, b"other")),
            answer(lambda: ns.set_attributes(1, mode=0o700, caller=ROOT)),
            answer(lambda: ns.setxattr(1, b"user.note", b"another", 0, ROOT)),
        ] == [errno.EIO, errno.EIO, errno.EIO, errno.ENOTEMPTY] + [errno.EIO] * 5
        ns.write(find(ns, b"d/f"), 0, b"third!")
        ns.write(find(ns, b"top"), 0, b"of the root")
        ns.create(d, b"new", 0o644, ROOT)
        snapshot = ns.snapshot_create(1, b"four")
        ns.write(find(ns, b"d/f"), 0, b"FOURTH")
        ns.rename(d, b"new", d, b"newer", 0)
        restore = Restore(ns, 1, b"d", (d, b"restored"))
        while restore.step():
            pass
        work_off(ns)
        ns.volume.commit().wait()
        assert content(ns, b".snapshot/1_one/d/f") == b"first"
        assert ns.usage(1).files == 4
    with opened(damage.store) as ns:
        assert (content(ns, b"d/f"), content(ns, b"top"), content(ns, b"d/restored/f")) == (b"FOURTH", b"of the root", b"first")
        for name, wanted in ((b"1_one", b"first"), (b"2_two", b"SECOND"), (b"%d_four" % snapshot.id, b"third!")):
            assert content(ns, b".snapshot/" + name + b"/d/f") == wanted
        assert {name for name, *_ in ns.readdir(find(ns, b".snapshot/%d_four/d" % snapshot.id), 0)} == {b"f", b"new"}
        ns.snapshot_delete(2)
        work_off(ns)
        assert content(ns, b".snapshot/1_one/d/f") == b"first"
        assert content(ns, b".snapshot/%d_four/d/f" % snapshot.id) == b"third!"
    assert b"/" in findings(damage)


@pytest.mark.parametrize("harm", HARMS)
def test_scrub_names_a_lost_root_in_every_pass(damage: Damage, harm: Harm) -> None:
    harm(damage, ROOT_KEY)
    with opened(damage.store) as ns:
        for _ in range(2):
            scrub = Scrub(ns)
            while scrub.step():
                pass
            assert b"/" in {finding.path for finding in scrub.findings}


def test_a_volume_that_never_had_a_tree_does_not_open(tmp_path: Path) -> None:
    Volume.create(tmp_path / "store", SECRET, iterations=1)
    with pytest.raises(Damaged, match="no root directory"), opened(tmp_path / "store"):
        pass


def test_the_records_of_another_volume_are_no_tree(damage: Damage, tmp_path: Path) -> None:
    make_store(tmp_path / "foreign")
    shutil.copy(tmp_path / "foreign" / "superblock", damage.store / "superblock")
    for read_only in (True, False):
        with pytest.raises(Damaged, match="no root directory"), opened(damage.store, read_only=read_only):
            pass


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("counter", COUNTERS, ids=bytes.decode)
def test_without_one_of_its_counters_a_volume_hands_out_no_number_twice(damage: Damage, harm: Harm, counter: bytes) -> None:
    harm(damage, counter)
    with opened(damage.store, read_only=True) as ns:
        assert content(ns, b".snapshot/1_one/d/f") == b"first"
    with opened(damage.store) as ns:
        d, inos = find(ns, b"d"), {find(ns, path) for path in (b"d", b"d/f", b"top")}
        views = {ns.snapshot_node(snapshot.id) >> 40 for snapshot in ns.snapshots()}
        assert ns.create(d, b"new", 0o644, ROOT)[0] not in inos
        assert ns.policies.create(b"hourly", d, Schedule(1)) not in (1,)
        assert ns.snapshot_locks.hold(3, "somebody else") != 1
        ns.write(find(ns, b"d/f"), 0, b"third!")
        taken = ns.snapshot_create(1, b"four")
        assert taken.id not in (1, 2, 3)
        assert ns.snapshot_node(taken.id) >> 40 not in views
        ns.write(find(ns, b"d/f"), 0, b"FOURTH")
        ns.volume.commit().wait()
    with opened(damage.store) as ns:
        for name, wanted in ((b"1_one", b"first"), (b"2_two", b"SECOND"), (b"%d_four" % taken.id, b"third!")):
            assert content(ns, b".snapshot/" + name + b"/d/f") == wanted
        assert content(ns, b"d/.snapshot/3_of d/f") == b"SECOND"
        for number in (1, 2):
            ns.snapshot_delete(number)
        work_off(ns)
        assert content(ns, b".snapshot/%d_four/d/f" % taken.id) == b"third!"
    found = findings(damage)
    assert set(found) == {b"volume"}
    assert "root digest" in found[b"volume"]


@pytest.mark.parametrize("letter", [b"V", b"v"])
@pytest.mark.parametrize("harm", HARMS)
def test_a_snapshot_whose_views_are_lost_is_entered_anew_and_can_be_deleted(damage: Damage, harm: Harm, letter: bytes) -> None:
    for key in damage.keys(letter):
        harm(damage, key)
    with opened(damage.store, read_only=True) as ns:
        assert content(ns, b".snapshot/1_one/d/f") == b"first"
        assert find(ns, b".snapshot/1_one/d") == find(ns, b".snapshot/1_one/d")
    with opened(damage.store) as ns:
        entered = find(ns, b".snapshot/1_one/d")
        assert content(ns, b".snapshot/1_one/d/f") == b"first"
        ns.volume.commit().wait()
    with opened(damage.store) as ns:
        assert find(ns, b".snapshot/1_one/d") == entered
        assert ns.attributes(entered).nlink == 2
        for number in (1, 2):
            ns.snapshot_delete(number)
        work_off(ns)
        assert ns.snapshots_in_deletion() == []
        assert list(ns.volume.scan_keys(b"S", b"T")) == [snapshot_key(3)]


def test_where_no_view_record_can_be_read_entering_a_snapshot_fails_soon(damage: Damage, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(damage.store) as ns:
        get = ns.core.get

        def unreadable(key: bytes) -> object:
            if key[:1] in b"Vv":
                raise Damaged("the record database cannot be read")
            return get(key)

        monkeypatch.setattr(ns.core, "get", unreadable)
        began = time.monotonic()
        with pytest.raises(Damaged):
            find(ns, b".snapshot/1_one/d")
        assert time.monotonic() - began < 1
        monkeypatch.undo()
        assert content(ns, b".snapshot/1_one/d/f") == b"first"


@pytest.mark.parametrize("harm", HARMS)
def test_lost_settings_are_the_defaults_until_they_are_set_again(damage: Damage, harm: Harm) -> None:
    harm(damage, SETTINGS)
    with opened(damage.store) as ns:
        assert ns.settings.read() == Settings()
        ns.settings.change(cluster_name="ours")
        assert ns.settings.read() == Settings(cluster_name="ours")


def test_any_other_single_value_may_be_damaged(damage: Damage) -> None:
    with opened(damage.store) as ns:
        ns.volume.put(SCRUB, Scrub(ns).state)
    for key in damage.keys(b"C"):
        damage.flip_record(key)
    with opened(damage.store) as ns:
        assert not ns.core.owners.kept
        assert content(ns, b".snapshot/1_one/d/f") == b"first"
        try:
            while Scrub(ns).step():
                pass
        except AnqfsError as error:
            pytest.fail(f"scrub: {error}")
    assert OWNERS in damage.keys(b"C")
