"""Usage and quotas against brute force: a walk of the tree is the truth, after every operation of random histories and after crashes."""

from __future__ import annotations

import errno
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from stat import S_ISDIR, S_ISLNK, S_ISREG

import pytest
from msgspec.structs import replace

from anqfs.errors import Damaged, FilesystemError, NotFound
from anqfs.namespace import ROOT, Namespace
from anqfs.namespace.check import check
from anqfs.namespace.core import Caller
from anqfs.namespace.quota_accounts import ENTRY_CAPACITY
from anqfs.namespace.usage import CHANGED_LAG
from anqfs.store.administration import Quota, quota_key
from anqfs.store.schema import usage_key
from tests.unit.damaged_volume import Damage, Facts
from tests.unit.namespace_volume import Clock, make_store, opened, work_off

USER = Caller(1000, 1000, frozenset(), 0o022)


class Walked:
    """What a walk below a directory finds."""

    def __init__(self, ns: Namespace, node: int) -> None:
        self.size = self.allocated = self.files = self.directories = self.symlinks = self.others = 0
        self.newest = 0
        self._walk(ns, node)

    def _walk(self, ns: Namespace, node: int) -> None:
        for _, child, inode, _ in ns.readdir(node, 0):
            assert inode is not None
            self.newest = max(self.newest, inode.ctime)
            if S_ISDIR(inode.mode):
                self.directories += 1
                self._walk(ns, child)
            elif S_ISREG(inode.mode):
                self.files += 1
                self.size += inode.size
                self.allocated += inode.allocated
            elif S_ISLNK(inode.mode):
                self.symlinks += 1
            else:
                self.others += 1

    @property
    def totals(self) -> tuple[int, ...]:
        return self.size, self.allocated, self.files, self.directories, self.symlinks, self.others

    @property
    def capacity(self) -> int:
        return self.allocated + ENTRY_CAPACITY * (self.files + self.directories + self.symlinks + self.others)


def totals(ns: Namespace, node: int) -> tuple[int, ...]:
    found = ns.usage(node)
    return found.size, found.allocated, found.files, found.directories, found.symlinks, found.others


def refused(call: Callable[[], object]) -> str:
    with pytest.raises((FilesystemError, Damaged)) as caught:
        call()
    return errno.errorcode[caught.value.errno]


class History:
    """Random operations on one volume, which may be refused for any reason; what a quota refuses is seen to be rightly refused."""

    def __init__(self, ns: Namespace, seed: int) -> None:
        self.ns = ns
        self.random = random.Random(seed)
        self.refusals = self.changes = 0

    def nodes(self) -> tuple[list[int], list[tuple[int, bytes, int]]]:
        """Return all directories, and (directory, name, node) of all names."""
        directories, names = [1], []
        for node in directories:
            for name, child, inode, _ in self.ns.readdir(node, 0):
                assert inode is not None
                names.append((node, name, child))
                if S_ISDIR(inode.mode):
                    directories.append(child)
        return directories, names

    def operation(self) -> Callable[[], object]:
        ns, draw = self.ns, self.random
        directories, names = self.nodes()
        parent, name = draw.choice(directories), b"%d" % draw.randrange(6)
        if not names:
            return lambda: ns.mkdir(parent, name, 0o755, ROOT)
        where, old, node = draw.choice(names)
        length = draw.choice([0, 3000, 1_100_000])
        size = draw.choice([10, 4096, 5000, 70_000, 1_200_000])
        offset = draw.choice([0, 0, 100, 5000, 2_000_000])
        flags = draw.choice([0, 0, 0, 1, 2])
        return draw.choice(
            [
                lambda: ns.mkdir(parent, name, 0o755, ROOT),
                lambda: ns.mkdir(parent, name, 0o755, ROOT),
                lambda: ns.create(parent, name, 0o644, ROOT),
                lambda: ns.create(parent, name, 0o644, ROOT),
                lambda: ns.symlink(parent, name, b"target", ROOT),
                lambda: ns.mknod(parent, name, 0o010644, 0, ROOT),
                lambda: ns.write(node, offset, b"w" * size),
                lambda: ns.write(node, offset, b"w" * size),
                lambda: ns.write(node, offset, b"w" * size),
                lambda: ns.set_attributes(node, size=length, caller=ROOT),
                lambda: ns.set_attributes(node, mode=0o600, caller=ROOT),
                lambda: ns.setxattr(node, b"user.x", b"%d" % size, 0, ROOT),
                lambda: ns.link(node, parent, name),
                lambda: ns.rename(where, old, parent, name, flags),
                lambda: ns.rename(where, old, parent, name, flags),
                lambda: ns.rename(where, old, parent, name, flags),
                lambda: ns.unlink(where, old),
                lambda: ns.rmdir(where, old),
            ]
        )

    def quotas(self) -> dict[int, tuple[int, int]]:
        """Return (limit, capacity by a walk) of each quota."""
        found = {}
        for key, record in self.ns.volume.scan(quota_key(0), quota_key(1 << 40)):
            assert isinstance(record, Quota)
            ino = int.from_bytes(key[1:], "big")
            found[ino] = (record.limit, Walked(self.ns, ino).capacity)
        return found

    def step(self) -> None:
        """Do one operation and see that the quotas decided rightly."""
        before, call = self.quotas(), self.operation()
        try:
            call()
        except FilesystemError as error:
            if error.errno == errno.EDQUOT:
                self.see_that_it_would_exceed(before, call)
            return
        self.changes += 1
        for ino, (limit, capacity) in self.quotas().items():
            assert capacity <= max(limit, before[ino][1]), (ino, limit, capacity, before)
            assert self.ns.core.quotas.account(ino).used == capacity

    def see_that_it_would_exceed(self, before: dict[int, tuple[int, int]], call: Callable[[], object]) -> None:
        """Do what a quota refused without asking the quotas: one that was above it is exceeded by it."""
        accounts = self.ns.core.quotas
        assert self.quotas() == before
        self.refusals += 1
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(accounts, "admit", lambda: None)
            call()
        accounts._accounts.clear()
        accounts.forget()
        after = self.quotas()
        assert any(capacity > limit and capacity > before[ino][1] for ino, (limit, capacity) in after.items())

    def change_a_quota(self) -> None:
        directories, _ = self.nodes()
        node = self.random.choice(directories)
        if self.random.random() < 0.3 and self.ns.quotas.limit(node) is not None:
            self.ns.quotas.remove(node)
        else:
            self.ns.quotas.set(node, self.random.choice([0, 50_000, 400_000, 3_000_000, 6_000_000]))

    def see_all(self) -> None:
        """Compare every directory's totals, and every quota's, with a walk."""
        directories, _ = self.nodes()
        for node in directories:
            walked, found = Walked(self.ns, node), self.ns.usage(node)
            assert totals(self.ns, node) == walked.totals
            assert found.changed >= walked.newest
        assert {each.ino: (each.limit, each.used) for each in self.ns.quotas.listing()} == self.quotas()


@pytest.mark.parametrize("seed", range(6))
def test_random_histories_keep_totals_and_quotas_exact_also_over_a_crash(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "store"
    make_store(path)
    with opened(path) as ns:
        history = History(ns, seed)
        for number in range(260):
            history.step()
            if number % 9 == 0:
                history.change_a_quota()
            if number % 40 == 13:
                ns.volume.commit().wait()
            if number % 50 == 20:
                ns.snapshot_create(history.random.choice(history.nodes()[0]))
            if number % 65 == 64:
                history.see_all()
        ns.volume.commit().wait()
        expected = history.quotas()
        for _ in range(20):
            history.step()
        shutil.copytree(path, tmp_path / "crashed")
        assert history.changes > 40 and history.refusals, (history.changes, history.refusals)
        work_off(ns)
        history.see_all()
        ns.volume.commit().wait()
        assert check(ns.volume).findings == []
    with opened(tmp_path / "crashed") as ns:
        assert check(ns.volume).findings == []
        again = History(ns, seed)
        assert {ino: (ns.core.quotas.account(ino).limit, ns.core.quotas.account(ino).used) for ino in expected} == expected
        again.see_all()


def test_a_snapshot_keeps_the_totals_of_its_time(ns: Namespace) -> None:
    top, _ = ns.mkdir(1, b"top", 0o755, ROOT)
    below, _ = ns.mkdir(top, b"below", 0o755, ROOT)
    node, _ = ns.create(below, b"f", 0o644, ROOT)
    ns.write(node, 0, b"x" * 10_000)
    snapshot = ns.snapshot_create(top)
    seen = ns.snapshot_node(snapshot.id)
    then = {name: ns.getxattr(top, b"ceph.dir." + name) for name in (b"rbytes", b"rfiles", b"rsubdirs", b"rentries", b"entries", b"rctime")}
    assert then == {**then, b"rbytes": b"10000", b"rfiles": b"1", b"rsubdirs": b"1", b"rentries": b"2", b"entries": b"1"}
    ns.unlink(below, b"f")
    ns.mkdir(top, b"more", 0o755, ROOT)
    assert {name: ns.getxattr(seen, b"ceph.dir." + name) for name in then} == then
    assert ns.getxattr(top, b"ceph.dir.rbytes") == b"0"
    assert ns.getxattr(top, b"ceph.dir.entries") == b"2"


def test_the_newest_change_time_rises_to_every_directory_above(ns: Namespace) -> None:
    nodes = [1]
    for depth in range(5):
        nodes.append(ns.mkdir(nodes[-1], b"%d" % depth, 0o755, ROOT)[0])
    file, _ = ns.create(nodes[-1], b"f", 0o644, ROOT)
    other, _ = ns.mkdir(1, b"other", 0o755, ROOT)
    before = ns.usage(other)
    inode = ns.set_attributes(file, mode=0o600, caller=ROOT)
    seconds, nanoseconds = divmod(inode.ctime, 10**9)
    for node in nodes:
        assert ns.getxattr(node, b"ceph.dir.rctime") == b"%d.%09d" % (seconds, nanoseconds)
    assert ns.usage(other) == before
    ns.rename(1, b"0", other, b"moved", 0)
    assert ns.usage(other).changed >= inode.ctime


@contextmanager
def timed(path: Path) -> Iterator[tuple[Namespace, Clock, int]]:
    """Make a volume with one directory; yields the namespace, its clock and the directory."""
    make_store(path)
    with opened(path) as ns:
        clock = ns.core.clock
        assert isinstance(clock, Clock)
        yield ns, clock, ns.mkdir(1, b"top", 0o755, ROOT)[0]


def test_small_changes_alone_write_no_totals_for_a_second(tmp_path: Path) -> None:
    path = tmp_path / "store"
    with timed(path) as (ns, clock, top):
        node, _ = ns.create(top, b"f", 0o644, ROOT)
        ns.volume.commit().wait()
        recorded = ns.volume.get(usage_key(top))
        for _ in range(3):
            ns.set_attributes(node, mode=0o600, caller=ROOT)
            ns.volume.commit().wait()
        assert ns.volume.get(usage_key(top)) == recorded
        clock.now += CHANGED_LAG
        latest = ns.set_attributes(node, mode=0o640, caller=ROOT).ctime
        ns.volume.commit().wait()
        assert [ns.volume.get(usage_key(ino)).changed for ino in (top, 1)] == [latest, latest]  # type: ignore[union-attr]
        latest = ns.set_attributes(node, mode=0o644, caller=ROOT).ctime
        ns.volume.commit().wait()
    with opened(path) as ns:
        assert latest - CHANGED_LAG < ns.usage(top).changed < latest
        assert check(ns.volume).findings == []


def test_an_older_change_from_below_does_not_hide_a_newer_one_that_waits(tmp_path: Path) -> None:
    path = tmp_path / "store"
    with timed(path) as (ns, clock, top):
        below, _ = ns.mkdir(top, b"below", 0o755, ROOT)
        deep, _ = ns.create(below, b"deep", 0o644, ROOT)
        node, _ = ns.create(top, b"f", 0o644, ROOT)
        ns.volume.commit().wait()
        clock.now += CHANGED_LAG
        ns.set_attributes(node, mode=0o600, caller=ROOT)
        ns.volume.commit().wait()  # the record of `top` is young now, that of `below` is not
        older = ns.set_attributes(deep, mode=0o600, caller=ROOT).ctime
        newer = ns.set_attributes(node, mode=0o640, caller=ROOT).ctime
        ns.volume.commit().wait()
        assert older < newer
        assert (ns.usage(below).changed, ns.usage(top).changed, ns.usage(1).changed) == (older, newer, newer)


def test_check_finds_a_change_time_that_is_too_old(ns: Namespace) -> None:
    top, _ = ns.mkdir(1, b"top", 0o755, ROOT)
    node, _ = ns.create(top, b"f", 0o644, ROOT)
    ns.set_attributes(node, ctime=1_800_000_000_000_000_000, caller=ROOT)
    recorded = ns.usage(top)
    ns.volume.put(usage_key(top), replace(recorded, changed=recorded.changed - 2 * CHANGED_LAG))
    (finding,) = check(ns.volume).findings
    assert finding.path == b"/top" and "newest change" in finding.what


def test_every_quota_above_must_allow_it_and_the_nearest_alone_is_not_enough(ns: Namespace) -> None:
    outer, _ = ns.mkdir(1, b"outer", 0o755, ROOT)
    inner, _ = ns.mkdir(outer, b"inner", 0o755, ROOT)
    node, _ = ns.create(inner, b"f", 0o644, ROOT)
    ns.quotas.set(outer, 100_000)
    ns.quotas.set(inner, 1_000_000)
    ns.write(node, 0, b"x" * 80_000)
    assert refused(lambda: ns.write(node, 80_000, b"x" * 30_000)) == "EDQUOT"
    ns.quotas.set(outer, 1_000_000)
    ns.quotas.set(inner, 90_000)
    assert refused(lambda: ns.write(node, 80_000, b"x" * 30_000)) == "EDQUOT"
    ns.write(node, 0, b"y" * 80_000)
    assert ns.attributes(node).size == 80_000 and ns.read(node, 79_999, 9) == b"y"
    ns.quotas.remove(inner)
    assert ns.write(node, 80_000, b"x" * 30_000) == 30_000


def test_a_limit_below_what_is_there_is_allowed_and_lets_only_less_be_kept(ns: Namespace) -> None:
    top, _ = ns.mkdir(1, b"top", 0o755, ROOT)
    node, _ = ns.create(top, b"f", 0o644, ROOT)
    ns.write(node, 0, b"x" * 50_000)
    ns.quotas.set(top, 10_000)
    assert (ns.quotas.status(top).limit, ns.quotas.status(top).used) == (10_000, 50_000 + ENTRY_CAPACITY)
    for call in (
        lambda: ns.create(top, b"g", 0o644, ROOT),
        lambda: ns.symlink(top, b"g", b"t", ROOT),
        lambda: ns.mkdir(top, b"g", 0o755, ROOT),
        lambda: ns.link(node, top, b"g"),
        lambda: ns.write(node, 50_000, b"x"),
    ):
        assert refused(call) == "EDQUOT"
    ns.write(node, 100, b"other bytes")
    ns.set_attributes(node, size=1 << 40, caller=ROOT)  # a hole takes nothing
    ns.set_attributes(node, size=100, caller=ROOT)
    ns.rename(top, b"f", top, b"renamed", 0)
    assert ns.write(node, 100, b"x" * 5_000) == 5_000


def test_a_directory_takes_its_quota_along_and_what_moves_in_must_fit(ns: Namespace) -> None:
    full, _ = ns.mkdir(1, b"full", 0o755, ROOT)
    tree, _ = ns.mkdir(1, b"tree", 0o755, ROOT)
    node, _ = ns.create(tree, b"f", 0o644, ROOT)
    ns.write(node, 0, b"x" * 50_000)
    ns.quotas.set(full, 60_000)
    ns.quotas.set(tree, 70_000)
    other, _ = ns.create(full, b"g", 0o644, ROOT)
    ns.write(other, 0, b"x" * 20_000)
    assert refused(lambda: ns.rename(1, b"tree", full, b"tree", 0)) == "EDQUOT"
    ns.unlink(full, b"g")
    ns.rename(1, b"tree", full, b"tree", 0)
    assert ns.quotas.status(full).used == 50_000 + 2 * ENTRY_CAPACITY
    assert refused(lambda: ns.write(node, 50_000, b"x" * 10_000)) == "EDQUOT"
    ns.rename(full, b"tree", 1, b"elsewhere", 0)
    assert ns.quotas.status(full).used == 0
    assert refused(lambda: ns.write(node, 50_000, b"x" * 20_000)) == "EDQUOT"
    assert ns.write(node, 50_000, b"x" * 10_000) == 10_000


def test_a_refused_move_leaves_nothing_behind_in_what_is_remembered_for_snapshots(ns: Namespace) -> None:
    """What snapshots need is worked out while the operation goes on, and a quota refuses it only at its end."""
    full, _ = ns.mkdir(1, b"full", 0o755, ROOT)
    outside, _ = ns.mkdir(1, b"outside", 0o755, ROOT)
    tree, _ = ns.mkdir(outside, b"tree", 0o755, ROOT)
    node, _ = ns.create(tree, b"f", 0o644, ROOT)
    ns.write(node, 0, b"before" * 1000)
    ns.quotas.set(full, 1000)
    snapshot = ns.snapshot_create(outside)
    ns.snapshot_create(full)
    assert refused(lambda: ns.rename(outside, b"tree", full, b"tree", 0)) == "EDQUOT"
    versions = ns.core.versions
    remembered = versions.epoch, versions._dead, dict(versions._covers)
    versions.reload()
    assert (versions.epoch, versions._dead) == remembered[:2]
    assert {ino: cover for ino, cover in remembered[2].items() if versions.cover_directory(ino) != cover} == {}
    ns.write(node, 0, b"after!" * 1000)
    then, _ = ns.lookup(ns.lookup(ns.snapshot_node(snapshot.id), b"tree")[0], b"f")
    assert ns.read(then, 0, 6) == b"before"
    ns.volume.commit().wait()
    assert check(ns.volume).findings == []


def test_a_quota_goes_with_its_directory(ns: Namespace) -> None:
    gone, _ = ns.mkdir(1, b"gone", 0o755, ROOT)
    ns.quotas.set(gone, 1000)
    ns.rmdir(1, b"gone")
    assert list(ns.quotas.listing()) == []
    ns.volume.commit().wait()
    assert check(ns.volume).findings == []


def test_the_attribute_sets_and_removes_a_quota_for_root_alone(ns: Namespace) -> None:
    top, _ = ns.mkdir(1, b"top", 0o755, ROOT)
    name = b"ceph.quota.max_bytes"
    assert refused(lambda: ns.getxattr(top, name)) == "ENODATA"
    assert refused(lambda: ns.setxattr(top, name, b"5", 0, USER)) == "EPERM"
    assert refused(lambda: ns.setxattr(top, name, b"much", 0, ROOT)) == "EINVAL"
    node, _ = ns.create(top, b"f", 0o644, ROOT)
    assert refused(lambda: ns.setxattr(node, name, b"5", 0, ROOT)) == "ENOTDIR"
    assert refused(lambda: ns.getxattr(node, b"ceph.dir.rbytes")) == "ENODATA"
    ns.setxattr(top, name, b"123456", 0, ROOT)
    assert ns.getxattr(top, name) == b"123456" and ns.quotas.limit(top) == 123456
    assert ns.listxattr(top) == []
    snapshot = ns.snapshot_create(top)
    assert refused(lambda: ns.getxattr(ns.snapshot_node(snapshot.id), name)) == "ENODATA"
    assert refused(lambda: ns.setxattr(ns.snapshot_node(snapshot.id), name, b"5", 0, ROOT)) == "EROFS"
    ns.setxattr(top, name, b"0", 0, ROOT)
    assert refused(lambda: ns.getxattr(top, name)) == "ENODATA"
    ns.setxattr(top, name, b"1", 0, ROOT)
    ns.removexattr(top, name, ROOT)
    with pytest.raises(NotFound):
        ns.quotas.remove(top)


def test_quotas_are_listed_by_page(ns: Namespace) -> None:
    made = [ns.mkdir(1, b"%d" % number, 0o755, ROOT)[0] for number in range(5)]
    for node in made:
        ns.quotas.set(node, node * 1000)
    first = [each.ino for _, each in zip(range(2), ns.quotas.listing(), strict=False)]
    assert first == made[:2]
    assert [each.ino for each in ns.quotas.listing(first[-1])] == made[2:]


def test_a_damaged_quota_refuses_growth_alone_until_it_is_set_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "store"
    make_store(path)
    with opened(path) as ns:
        top, _ = ns.mkdir(1, b"top", 0o755, ROOT)
        below, _ = ns.mkdir(top, b"below", 0o755, ROOT)
        node, _ = ns.create(below, b"f", 0o644, ROOT)
        ns.write(node, 0, b"x" * 5000)
        ns.quotas.set(top, 100_000)
    Damage(path, Facts()).flip_record(quota_key(top))
    with opened(path) as ns:
        assert refused(lambda: ns.write(node, 5000, b"x" * 5000)) == "EIO"
        assert refused(lambda: ns.create(below, b"g", 0o644, ROOT)) == "EIO"
        ns.write(node, 0, b"y" * 5000)
        ns.unlink(below, b"f")
        ns.rmdir(top, b"below")
        assert [finding.path for finding in check(ns.volume).findings] == [b"/top"]
        ns.quotas.set(top, 100_000)
        ns.create(top, b"g", 0o644, ROOT)
        assert ns.quotas.status(top).used == ENTRY_CAPACITY
        ns.volume.commit().wait()
        assert {finding.path for finding in check(ns.volume).findings} == {b"volume"}  # the digest still tells of the damage
        ns.quotas.set(ns.mkdir(1, b"other", 0o755, ROOT)[0], 10)
    Damage(path, Facts()).flip_record(quota_key(top))
    with opened(path) as ns:
        assert [one.limit for one in ns.quotas.listing()] == [10]
        ns.quotas.remove(top)
        ns.create(top, b"h", 0o644, ROOT)
    assert "the quota of inode" in caplog.text
