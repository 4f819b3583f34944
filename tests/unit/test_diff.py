"""Comparisons of snapshots against a full walk of both trees, on random trees with everything that a tree can suffer."""

from __future__ import annotations

import random
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import Any, NamedTuple

import pytest

from anqfs.errors import FilesystemError, NotFound, UsageError
from anqfs.namespace import ROOT, Namespace, change_index
from anqfs.namespace import files as files_module
from anqfs.namespace import reclaim as reclaim_module
from anqfs.namespace.check import check
from anqfs.namespace.diff import Diff, Difference
from anqfs.namespace.regions import BLOCK, FileRegions
from anqfs.store.schema import COUNTER_CHANGES, Counter
from tests.unit.namespace_volume import make_store, opened, work_off
from tests.unit.test_namespace_snapshot_rules import Player

WINDOW = 1 << 20


class Thing(NamedTuple):
    """One path of a tree."""

    ino: int
    is_directory: bool
    link: tuple[int, bytes]
    attributes: tuple[Any, ...]
    """All that MODIFY tells of."""
    content: tuple[Any, ...]
    """The same without what names change: ctime and nlink."""
    same: bool = False


Things = dict[bytes, Thing]


def things(ns: Namespace, node: int, path: bytes) -> Things:
    """Return a tree by path, directories with a slash at their end."""
    found: Things = {}

    def add(child: int, here: bytes, link: tuple[int, bytes]) -> None:
        inode = ns.attributes(child)
        real = ns._inode(child)[1]  # the time of a snapshot's door is not the directory's
        data: Any = None
        if S_ISREG(inode.mode):
            data = [ns.read(child, at, 3 * BLOCK) for at in (0, WINDOW - BLOCK)]
        xattrs = tuple((each, ns.getxattr(child, each)) for each in sorted(ns.listxattr(child)))
        content = (real.mode, real.uid, real.gid, real.size, real.atime, real.mtime, real.target, data, xattrs)
        attributes = (*content, real.nlink, real.ctime)
        found[here] = Thing(child & (1 << 40) - 1, S_ISDIR(inode.mode), link, attributes, content)
        if S_ISDIR(inode.mode):
            for name, below, entry, _ in ns.readdir(child, 0):
                assert entry is not None
                add(below, here + name + (b"/" if S_ISDIR(entry.mode) else b""), (child & (1 << 40) - 1, name))

    add(node, path, (0, b""))
    return found


class Scene:
    """Two states of one directory."""

    def __init__(self, ns: Namespace, older: int, newer: int | None, old: Things, new: Things) -> None:
        self.ns, self.older, self.newer = ns, older, newer
        self.old, self.new = old, new

    def differences(self, renames: bool, limit: int = 1 << 30) -> list[Difference]:
        """Return the comparison, taken in pages of `limit`, each by a new Diff that goes on where the one before ended."""
        found: list[Difference] = []
        after: str | None = None
        while True:
            diff = Diff(self.ns, self.older, self.newer, renames=renames, after=after)
            page: list[Difference] = []
            while not page and not diff.finished:
                page = diff.take(limit, budget=7 if limit < 100 else 1 << 30)
            found += page
            if diff.finished:
                return found
            after = diff.cursor

    def same(self, path: bytes) -> bool:
        """Tell whether a path leads through the same inodes in both trees."""
        parts = path.rstrip(b"/").split(b"/")
        ways = [b"/".join(parts[:count]) + b"/" for count in range(len(self.root.rstrip(b"/").split(b"/")), len(parts))] + [path]
        return all(way in self.old and way in self.new and self.old[way].ino == self.new[way].ino for way in ways)

    @property
    def root(self) -> bytes:
        return min(self.old, key=len)

    def check_plain(self) -> None:
        """What is told is what a full comparison finds, and can be applied in order."""
        found = self.differences(False)
        deleted = {path for path in self.old if not self.same(path)}
        created = {path for path in self.new if not self.same(path)}
        modified = {path for path in self.old if self.same(path) and self.old[path].attributes != self.new[path].attributes}
        assert sorted(each.path for each in found if each.op == "DELETE") == sorted(deleted)
        assert sorted(each.path for each in found if each.op == "CREATE") == sorted(created)
        assert sorted(each.path for each in found if each.op == "MODIFY") == sorted(modified)
        state = set(self.old)
        for each in found:
            if each.op == "DELETE":
                assert not each.path.endswith(b"/") or not any(path.startswith(each.path) and path != each.path for path in state)
                state.remove(each.path)
            elif each.op == "CREATE":
                assert each.path not in state
                assert each.path.rstrip(b"/").rpartition(b"/")[0] + b"/" in state
                state.add(each.path)
            else:
                assert each.path in state
        assert state == set(self.new)

    def check_renames(self) -> None:
        """Each inode that is in both trees under another name is a rename, and nothing is told twice."""
        found = self.differences(True)
        gone, came = set[bytes](), set[bytes]()
        modified: set[bytes] = set()
        links = [{(thing.ino, thing.link) for thing in side.values()} for side in (self.old, self.new)]
        for path, thing in self.old.items():
            if (thing.ino, thing.link) not in links[1]:
                gone.add(path)
        by_ino = {thing.ino: thing for thing in self.old.values()}
        for path, thing in self.new.items():
            if (thing.ino, thing.link) not in links[0]:
                came.add(path)
            elif by_ino[thing.ino].attributes != thing.attributes:
                modified.add(path)
        renamed = [each for each in found if each.op == "RENAME"]
        assert sorted([each.path for each in found if each.op == "DELETE"] + [each.old_path or b"" for each in renamed]) == sorted(gone)
        assert sorted([each.path for each in found if each.op == "CREATE"] + [each.path for each in renamed]) == sorted(came)
        assert sorted(each.path for each in found if each.op == "MODIFY") == sorted(modified)
        for each in renamed:
            assert self.old[each.old_path or b""].ino == self.new[each.path].ino == each.ino
            assert each.modified == (self.old[each.old_path or b""].content != self.new[each.path].content)
        for ino in {thing.ino for thing in self.new.values()}:
            counts = [
                sum(path in side for path, thing in tree.items() if thing.ino == ino) for tree, side in ((self.old, gone), (self.new, came))
            ]
            assert sum(each.ino == ino for each in renamed) == min(counts)

    def check_pages(self, pick: random.Random) -> None:
        """Pages of any size, each asked for anew, are together the whole."""
        for renames in (False, True):
            assert self.differences(renames, pick.choice((1, 2, 3, 17))) == self.differences(renames)

    def check_regions(self) -> None:
        """Regions cover every block that differs; the exact ones no other."""
        for ino in {thing.ino for thing in self.new.values() if not thing.is_directory}:
            self.check_file(ino)

    def check_file(self, ino: int) -> None:
        diff = Diff(self.ns, self.older, self.newer)
        old = diff.old.inode(ino) if diff.old.shows(ino) else None
        new = diff.new.inode(ino)
        assert new is not None
        if not S_ISREG(new.mode):
            return
        files = self.ns.files
        data = b"" if old is None else files.read(ino, old, diff.old.epoch, 0, old.size)
        now = files.read(ino, new, diff.new.epoch, 0, new.size)
        data = data[: len(now)].ljust(len(now), b"\0")
        differing = {at for at in range(0, len(now), BLOCK) if now[at : at + BLOCK] != data[at : at + BLOCK]}
        for exact in (True, False):
            regions = FileRegions(self.ns, diff.old, diff.new, ino, exact=exact)
            found = []
            while not regions.finished:
                found += regions.take(3, budget=2)
            ends = [each.offset + each.size for each in found]
            assert all(each.offset >= end for each, end in zip(found[1:], ends, strict=False))
            told = {at for each in found for at in range(each.offset, each.offset + each.size, BLOCK)}
            assert {at for at in told if at < len(now)} >= differing
            if exact:
                assert {at for at in told if at < len(now)} == differing
            assert all(each.op == "DELETE" for each in found if each.offset >= len(now))
            for end in ends:
                rest = FileRegions(self.ns, diff.old, diff.new, ino, after=end, exact=exact).take(1 << 30, 1 << 30)
                assert rest == [each for each in found if each.offset >= end]


class Restless(Player):
    """Also changes modes, owners and times, replaces files by renames, and snapshots fewer directories more often."""

    def step(self) -> None:
        pick, ns = self.random, self.ns
        if pick.random() < 0.75:
            super().step()
            return
        names = self.names()
        if not names:
            return
        parent, name, ino, is_directory = pick.choice(names)
        try:
            chance = pick.random()
            if chance < 0.3:
                ns.set_attributes(ino, mode=pick.choice((0o600, 0o711)), caller=ROOT)
            elif chance < 0.4:
                ns.set_attributes(ino, uid=pick.randrange(3), mtime=pick.randrange(10**18), caller=ROOT)
            elif chance < 0.7 and not is_directory:
                node, _ = ns.create(parent, b"new", 0o644, ROOT)
                ns.write(node, 0, pick.randbytes(9000))
                ns.rename(parent, b"new", parent, name, 0)
            elif chance < 0.9:
                snapshot = ns.snapshot_create(1, b"whole")
                self.snapshots[snapshot.id] = {}
            else:
                ns.symlink(parent, b"l%d" % pick.randrange(3), b"to", ROOT)
        except FilesystemError as error:
            assert error.errno not in (5, 116), error

    def check(self) -> None:
        """What snapshots show is another test's."""


def scenes(player: Restless) -> list[Scene]:
    """Return some pairs of states to compare."""
    ns, pick = player.ns, player.random
    by_root: dict[int, list[int]] = {}
    for snapshot in ns.snapshots():
        by_root.setdefault(snapshot.root, []).append(snapshot.id)
    found = []
    for root, numbers in by_root.items():
        path = ns.path_of(root)
        if path is None:
            continue
        path = path.rstrip(b"/") + b"/"
        older, newer = sorted(pick.choice(numbers) for _ in range(2))
        states = [things(ns, ns.snapshot_node(number), path) for number in (older, newer)]
        found.append(Scene(ns, older, newer, *states))
        found.append(Scene(ns, older, None, states[0], things(ns, root, path)))
    return found


@pytest.mark.parametrize("seed", range(10))
def test_a_comparison_finds_what_a_full_walk_of_both_trees_finds(tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if seed % 2:
        monkeypatch.setattr(files_module, "REMOVE_NOW", 0)
        monkeypatch.setattr(reclaim_module, "STEP", 0)
    if seed % 3 == 0:
        monkeypatch.setattr(change_index, "_NOTED_MAX", 3)
    make_store(tmp_path / "store")
    with opened(tmp_path / "store") as ns:
        player = Restless(ns, seed)
        for number in range(150):
            player.step()
            if number % 15 == 14:
                for scene in scenes(player):
                    scene.check_plain()
                    scene.check_renames()
                    if number % 45 == 44:
                        scene.check_pages(player.random)
                        scene.check_regions()
        assert check(ns.volume).findings == []
        for snapshot in player.random.sample(ns.snapshots(), len(ns.snapshots()) // 2):
            ns.snapshot_delete(snapshot.id)
            ns.work(3)
            assert check(ns.volume).findings == []
        for scene in scenes(player):
            scene.check_plain()
        work_off(ns, budget=2)
        for scene in scenes(player):
            scene.check_plain()
            scene.check_renames()
        assert check(ns.volume).findings == []
        for snapshot in ns.snapshots():
            ns.snapshot_delete(snapshot.id)
        work_off(ns)
        assert list(ns.volume.scan_keys(b"N", b"O")) == []


def test_changes_that_were_not_recorded_are_found_by_walking(tmp_path: Path) -> None:
    """A snapshot from before the change index was kept is compared name by name."""
    make_store(tmp_path / "store")
    with opened(tmp_path / "store") as ns:
        player = Restless(ns, 77)
        for _ in range(150):
            player.step()
        ns.volume.put(COUNTER_CHANGES, Counter(ns.core.versions.epoch + 1))
        for key in list(ns.volume.scan_keys(b"N", b"O")):
            ns.volume.delete(key)
        ns.core.changes.forget()
        for scene in scenes(player):
            scene.check_plain()
            scene.check_renames()
            scene.check_pages(player.random)
            scene.check_regions()


def test_far_windows_of_a_file_are_found_through_the_index(tmp_path: Path) -> None:
    make_store(tmp_path / "store")
    with opened(tmp_path / "store") as ns:
        file, _ = ns.create(1, b"big", 0o644, ROOT)
        for window in range(0, 400, 2):
            ns.write(file, window * WINDOW, b"x" * 5000)
        first = ns.snapshot_create(1)
        for window in (3, 70, 71, 380):
            ns.write(file, window * WINDOW + 8192, b"y" * 4096)
        second = ns.snapshot_create(1)
        ns.set_attributes(file, size=390 * WINDOW + 100, caller=ROOT)
        third = ns.snapshot_create(1)
        expected = [("CREATE", window * WINDOW + 8192, 4096) for window in (3, 70, 71, 380)]
        old, middle, new = (Diff(ns, each.id, None).old for each in (first, second, third))
        assert [tuple(each) for each in FileRegions(ns, old, middle, file).take(100)] == expected
        shorter = [("DELETE", 390 * WINDOW + 4096, 4096), *(("DELETE", window * WINDOW, 8192) for window in (392, 394, 396))]
        shorter.append(("DELETE", 398 * WINDOW, 5000))
        assert [tuple(each) for each in FileRegions(ns, middle, new, file).take(100)] == shorter
        assert [tuple(each) for each in FileRegions(ns, old, new, file).take(100)] == [*expected, *shorter]
        numbers = list(ns.core.changes.between(file, first.epoch, third.epoch))
        assert numbers == [70, 71, 380, 390, 392, 394, 396, 398]


def test_a_comparison_looks_only_where_something_changed(tmp_path: Path) -> None:
    """The records read for one changed file are as many in a tree of thousands as in a small one."""
    make_store(tmp_path / "store")
    with opened(tmp_path / "store") as ns:
        reads = []
        for files in (10, 2000):
            top, _ = ns.mkdir(1, b"%d" % files, 0o755, ROOT)
            at = top
            for number in range(files):
                if number % 100 == 0:
                    at, _ = ns.mkdir(top, b"d%d" % number, 0o755, ROOT)
                file, _ = ns.create(at, b"f%d" % number, 0o644, ROOT)
            older, _ = ns.snapshot_create(top), ns.set_attributes(file, mode=0o600, caller=ROOT)
            diff = Diff(ns, older.id, ns.snapshot_create(top).id)
            steps = 0
            while not diff.finished:
                steps += 1
                diff.take(100, budget=1)
            reads.append(steps)
        assert reads[0] == reads[1]


def test_a_deep_change_is_found_whatever_moved_above_it(tmp_path: Path) -> None:
    """Moved out of the snapshotted directory, changed there, and moved back."""
    make_store(tmp_path / "store")
    with opened(tmp_path / "store") as ns:
        inside, _ = ns.mkdir(1, b"in", 0o755, ROOT)
        outside, _ = ns.mkdir(1, b"out", 0o755, ROOT)
        at, _ = ns.mkdir(inside, b"moving", 0o755, ROOT)
        for _ in range(30):
            at, _ = ns.mkdir(at, b"deep", 0o755, ROOT)
        file, _ = ns.create(at, b"file", 0o644, ROOT)
        older = ns.snapshot_create(inside)
        ns.rename(inside, b"moving", outside, b"away", 0)
        ns.snapshot_create(outside)
        ns.set_attributes(file, mode=0o600, caller=ROOT)
        ns.rename(outside, b"away", inside, b"moving", 0)
        found = Diff(ns, older.id, None).take(1000)
        assert [(each.op, each.path) for each in found if each.path.endswith(b"/file")] == [
            ("MODIFY", b"/in/moving" + 30 * b"/deep" + b"/file")
        ]
        assert [each.path for each in found] == [b"/in/", b"/in/moving/", b"/in/moving" + 30 * b"/deep" + b"/file"]


def test_a_snapshot_has_little_to_forget_however_much_changed_before_it(tmp_path: Path) -> None:
    make_store(tmp_path / "store")
    with opened(tmp_path / "store") as ns:
        top, _ = ns.mkdir(1, b"top", 0o755, ROOT)
        older = ns.snapshot_create(top)
        most = 0
        for number in range(9_000):
            ns.create(top, b"f%d" % number, 0o644, ROOT)
            most = max(most, len(ns.core.changes._noted) + len(ns.core.changes._owners))
        assert most < 9_000
        newer = ns.snapshot_create(top)
        diff, created = Diff(ns, older.id, newer.id), 0
        while not diff.finished:
            created += sum(each.op == "CREATE" for each in diff.take(1_000))
        assert created == 9_000


def test_what_cannot_be_compared_says_why(tmp_path: Path) -> None:
    make_store(tmp_path / "store")
    with opened(tmp_path / "store") as ns:
        one, _ = ns.mkdir(1, b"one", 0o755, ROOT)
        first, other, second = ns.snapshot_create(one), ns.snapshot_create(1), ns.snapshot_create(one)
        with pytest.raises(UsageError, match="different directories"):
            Diff(ns, first.id, other.id)
        with pytest.raises(UsageError, match="older"):
            Diff(ns, second.id, first.id)
        with pytest.raises(NotFound, match="no snapshot 99"):
            Diff(ns, first.id, 99)
        for cursor in ("", "?", "AAAA", "QUJD" * 20):
            with pytest.raises(UsageError, match="go on"):
                Diff(ns, first.id, second.id, after=cursor)
        ns.create(one, b"f", 0o644, ROOT)
        diff = Diff(ns, first.id, None)
        diff.take(2)
        with pytest.raises(UsageError, match="other form"):
            Diff(ns, first.id, None, renames=True, after=diff.cursor)
        with pytest.raises(FilesystemError, match="begin anew"):
            Diff(ns, first.id, second.id, after=diff.cursor)
        ns.snapshot_delete(first.id)
        with pytest.raises(NotFound):
            diff.take(1)


@pytest.mark.parametrize("what", ["entry", "entry above", "stray entry", "dead list"])
def test_check_finds_faults_of_the_change_index(tmp_path: Path, what: str) -> None:
    make_store(tmp_path / "store")
    with opened(tmp_path / "store") as ns:
        above, _ = ns.mkdir(1, b"above", 0o755, ROOT)
        file, _ = ns.create(above, b"file", 0o644, ROOT)
        ns.snapshot_create(1)
        ns.set_attributes(file, mode=0o600, caller=ROOT)
        assert check(ns.volume).findings == []
        entries = list(ns.volume.scan_keys(b"N", b"O"))
        assert [int.from_bytes(key[17:], "big") for key in entries] == [above, file]
        if what.startswith("entry"):
            ns.volume.delete(entries[what == "entry"])
        elif what == "stray entry":
            ns.volume.put(entries[1][:16] + b"\x09" + entries[1][17:], ns.volume.get(entries[1]))  # type: ignore[arg-type]
        else:
            for key, record in list(ns.volume.scan(b"L", b"M")):
                if getattr(record, "key", b"")[:1] == b"N":
                    ns.volume.delete(key)
        assert check(ns.volume).findings != []
