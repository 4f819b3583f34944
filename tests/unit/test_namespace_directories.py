"""Names: making, finding, listing, linking, renaming and removing them; inodes that lost theirs."""

from __future__ import annotations

import errno
import shutil
from functools import partial
from pathlib import Path
from stat import S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFMT, S_IFREG, S_IFSOCK

import pytest

from anqfs.errors import Damaged, FilesystemError, StoreExists
from anqfs.namespace import ROOT, Caller, Namespace
from anqfs.namespace import reclaim as reclaim_module
from anqfs.namespace.directories import COOKIES_RESERVED
from anqfs.store.schema import WINDOW, dirent_key, inode_key, orphan_key
from tests.unit.namespace_volume import answer, make_store, opened, work_off

USER = Caller(1000, 100, frozenset((7,)), 0o022)
EXCHANGE, NOREPLACE = 2, 1


def names(ns: Namespace, node: int) -> set[bytes]:
    return {name for name, _, _, _ in ns.readdir(node, 0)}


def a_file(ns: Namespace, parent: int, name: bytes) -> int:
    return ns.create(parent, name, 0o644, USER)[0]


def a_directory(ns: Namespace, parent: int, name: bytes) -> int:
    return ns.mkdir(parent, name, 0o755, USER)[0]


class TestMaking:
    def test_a_new_file(self, ns: Namespace) -> None:
        node, inode = ns.create(1, b"f", 0o6666, USER)
        assert (inode.mode, inode.uid, inode.gid, inode.nlink, inode.size) == (S_IFREG | 0o6644, 1000, 100, 1, 0)
        assert inode.atime == inode.mtime == inode.ctime == inode.btime
        assert ns.lookup(1, b"f") == (node, inode)
        above = ns.attributes(1)
        assert (above.size, above.mtime, above.ctime) == (1, inode.btime, inode.btime)

    def test_a_directory_counts_its_subdirectories(self, ns: Namespace) -> None:
        node = a_directory(ns, 1, b"d")
        a_directory(ns, node, b"e")
        a_file(ns, node, b"f")
        assert (ns.attributes(node).nlink, ns.attributes(node).size, ns.attributes(1).nlink) == (3, 2, 3)
        ns.rmdir(node, b"e")
        assert (ns.attributes(node).nlink, ns.attributes(node).size) == (2, 1)

    @pytest.mark.parametrize("kind", [S_IFIFO, S_IFSOCK, S_IFCHR, S_IFBLK, S_IFREG])
    def test_special_files(self, ns: Namespace, kind: int) -> None:
        _, inode = ns.mknod(1, b"x", kind | 0o600, 0x801, USER)
        assert S_IFMT(inode.mode) == kind
        assert inode.rdev == (0x801 if kind in (S_IFCHR, S_IFBLK) else 0)

    def test_what_mknod_does_not_make(self, ns: Namespace) -> None:
        assert answer(lambda: ns.mknod(1, b"x", S_IFDIR | 0o600, 0, USER)) == errno.EPERM
        assert answer(lambda: ns.mknod(1, b"x", 0o170000, 0, USER)) == errno.EINVAL

    def test_symlinks(self, ns: Namespace) -> None:
        node, inode = ns.symlink(1, b"l", b"t" * 4095, USER)
        assert (ns.readlink(node), inode.size, inode.mode & 0o777) == (b"t" * 4095, 4095, 0o777)
        assert answer(lambda: ns.symlink(1, b"m", b"t" * 4096, USER)) == errno.ENAMETOOLONG
        assert answer(lambda: ns.symlink(1, b"m", b"", USER)) == errno.ENOENT
        assert answer(lambda: ns.readlink(1)) == errno.EINVAL

    @pytest.mark.parametrize("name", [b"x" * 256, b"", b"a/b", b"a\0b", b".", b"..", b".snapshot"])
    def test_names_that_cannot_be(self, ns: Namespace, name: bytes) -> None:
        expected = errno.ENAMETOOLONG if len(name) > 255 else errno.EEXIST if name[:1] == b"." else errno.EINVAL
        node = a_file(ns, 1, b"f")
        for call in (
            lambda: ns.create(1, name, 0o644, USER),
            lambda: ns.mkdir(1, name, 0o755, USER),
            lambda: ns.symlink(1, name, b"t", USER),
            lambda: ns.link(node, 1, name),
        ):
            assert answer(call) == expected

    def test_names_are_any_bytes(self, ns: Namespace) -> None:
        for name in (b"\xff\xfe", b"new\nline", b"x" * 255, "Grüße".encode(), b".hidden", b"..."):
            node = a_file(ns, 1, name)
            assert ns.lookup(1, name)[0] == node
        assert len(names(ns, 1)) == 6

    def test_in_what_is_no_directory_or_gone(self, ns: Namespace) -> None:
        node = a_file(ns, 1, b"f")
        assert answer(lambda: ns.create(node, b"x", 0o644, USER)) == errno.ENOTDIR
        assert answer(lambda: ns.lookup(node, b"x")) == errno.ENOTDIR
        assert answer(lambda: list(ns.readdir(node, 0))) == errno.ENOTDIR
        assert answer(lambda: ns.create(99, b"x", 0o644, USER)) == errno.ESTALE
        gone = a_directory(ns, 1, b"d")
        ns.hold(gone)
        ns.rmdir(1, b"d")
        other = a_file(ns, 1, b"other")
        for call in (
            lambda: ns.create(gone, b"x", 0o644, USER),
            lambda: ns.mkdir(gone, b"x", 0o755, USER),
            lambda: ns.link(other, gone, b"x"),
            lambda: ns.rename(1, b"other", gone, b"x", 0),
            lambda: ns.lookup(gone, b"x"),
            lambda: ns.lookup(gone, b".snapshot"),
            lambda: ns.snapshot_create(gone),
        ):
            assert answer(call) == errno.ENOENT
        assert list(ns.readdir(gone, 0)) == []
        ns.drop(gone)
        assert answer(lambda: ns.attributes(gone)) == errno.ESTALE

    def test_dots(self, ns: Namespace) -> None:
        one = a_directory(ns, 1, b"one")
        two = a_directory(ns, one, b"two")
        node = a_file(ns, two, b"f")
        assert ns.lookup(node, b".")[0] == node
        assert ns.lookup(two, b".")[0] == two
        assert ns.lookup(two, b"..") == (one, ns.attributes(one))
        assert ns.lookup(1, b"..")[0] == 1
        assert answer(lambda: ns.lookup(node, b"..")) == errno.ENOTDIR

    def test_a_setgid_directory_gives_its_group(self, ns: Namespace) -> None:
        node = a_directory(ns, 1, b"d")
        ns.set_attributes(node, gid=55, caller=ROOT)
        ns.set_attributes(node, mode=0o2775, caller=ROOT)
        _, below = ns.mkdir(node, b"sub", 0o755, USER)
        assert (below.gid, below.mode & 0o7777) == (55, 0o2755)
        _, inode = ns.create(node, b"f", 0o2755, USER)
        assert (inode.gid, inode.mode & 0o7777) == (55, 0o755)
        _, inode = ns.create(node, b"g", 0o2755, Caller(1000, 100, lambda: frozenset((55,)), 0))
        assert inode.mode & 0o7777 == 0o2755


class TestNumbers:
    def test_inode_numbers_are_not_used_again_after_a_crash(self, tmp_path: Path) -> None:
        make_store(tmp_path / "store")
        with opened(tmp_path / "store") as ns:
            shutil.copytree(tmp_path / "store", tmp_path / "crashed")
            lost = a_file(ns, 1, b"lost")
        with opened(tmp_path / "crashed") as ns:
            assert names(ns, 1) == set()
            assert a_file(ns, 1, b"next") > lost

    def test_a_lease_is_renewed_before_it_ends(self, ns: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("anqfs.namespace.core._INO_LEASE", 8)
        ns.core._leased_ino = ns.core._next_ino + 8
        found = [a_file(ns, 1, b"%d" % number) for number in range(50)]
        assert len(set(found)) == 50
        assert ns.core._leased_ino - ns.core._next_ino >= 3


class TestLinks:
    def test_a_file_of_two_names(self, ns: Namespace) -> None:
        node = a_file(ns, 1, b"a")
        _, inode = ns.link(node, 1, b"b")
        assert inode.nlink == 2
        assert inode.ctime == ns.attributes(1).mtime > inode.mtime
        ns.unlink(1, b"a")
        assert ns.attributes(node).nlink == 1
        assert ns.lookup(1, b"b")[0] == node
        assert ns.path_of(node) == b"/b"

    def test_1024_names_at_most(self, ns: Namespace) -> None:
        node = a_file(ns, 1, b"0")
        for number in range(1, 1024):
            ns.link(node, 1, b"%d" % number)
        assert answer(lambda: ns.link(node, 1, b"more")) == errno.EMLINK
        ns.unlink(1, b"5")
        ns.link(node, 1, b"more")

    def test_refused(self, ns: Namespace) -> None:
        node, directory = a_file(ns, 1, b"f"), a_directory(ns, 1, b"d")
        assert answer(lambda: ns.link(directory, 1, b"x")) == errno.EPERM
        assert answer(lambda: ns.link(node, 1, b"d")) == errno.EEXIST
        ns.hold(node)
        ns.unlink(1, b"f")
        assert answer(lambda: ns.link(node, 1, b"x")) == errno.ENOENT


class TestRemoving:
    def test_errors(self, ns: Namespace) -> None:
        a_file(ns, 1, b"f")
        a_file(ns, a_directory(ns, 1, b"d"), b"x")
        assert answer(lambda: ns.unlink(1, b"d")) == errno.EISDIR
        assert answer(lambda: ns.unlink(1, b".snapshot")) == errno.EISDIR
        assert answer(lambda: ns.unlink(1, b"none")) == errno.ENOENT
        assert answer(lambda: ns.rmdir(1, b"f")) == errno.ENOTDIR
        assert answer(lambda: ns.rmdir(1, b"d")) == errno.ENOTEMPTY
        assert answer(lambda: ns.rmdir(1, b"none")) == errno.ENOENT
        assert answer(lambda: ns.rmdir(1, b".snapshot")) == errno.EBUSY
        assert answer(lambda: ns.rmdir(1, b".")) == errno.EINVAL

    def test_what_nobody_holds_is_stale_at_once(self, ns: Namespace) -> None:
        node, directory = a_file(ns, 1, b"f"), a_directory(ns, 1, b"d")
        ns.setxattr(node, b"user.a", b"b", 0, ROOT)
        ns.unlink(1, b"f")
        ns.rmdir(1, b"d")
        for gone in (node, directory):
            assert answer(lambda gone=gone: ns.attributes(gone)) == errno.ESTALE  # type: ignore[misc]
            assert answer(lambda gone=gone: ns.lookup(gone, b".")) == errno.ESTALE  # type: ignore[misc]
        assert list(ns.volume.scan_keys(b"X", b"Y")) == []
        assert list(ns.volume.scan_keys(b"U", b"V")) in ([], [b"U" + bytes(7) + b"\1"])

    def test_a_held_file_lives_on_without_a_name(self, ns: Namespace) -> None:
        node = a_file(ns, 1, b"f")
        ns.write(node, 0, b"content" * 1000)
        ns.hold(node)
        ns.hold(node)
        ns.unlink(1, b"f")
        assert ns.attributes(node).nlink == 0
        ns.write(node, 0, b"CONTENT")
        assert ns.read(node, 0, 14) == b"CONTENTcontent"
        assert ns.usage(1).size == 0
        ns.drop(node)
        assert ns.path_of(node) is None
        ns.drop(node)
        assert answer(lambda: ns.attributes(node)) == errno.ESTALE
        ns.volume.commit().wait()
        assert ns.volume.get(inode_key(node)) is None
        assert ns.volume.get(orphan_key(node)) is None

    def test_small_files_that_nobody_holds_any_more_go_before_the_group_closes(self, ns: Namespace) -> None:
        """However they come: each alone in a group without changes, some when their group closes, or many at once."""
        nodes = [a_file(ns, 1, b"f%d" % number) for number in range(70)]
        for node in nodes:
            ns.write(node, 0, b"content")
            ns.hold(node)
        ns.unlink(1, b"f0")
        ns.volume.commit(to_stores=True).wait()
        ns.drop(nodes[0])
        assert ns.volume.get(inode_key(nodes[0])) is None
        for number in range(1, 70):
            ns.unlink(1, b"f%d" % number)
            ns.drop(nodes[number])
        left = [node for node in nodes if ns.volume.get(inode_key(node)) is not None]
        assert len(left) == ns.reclaim.waiting < 64
        ns.volume.commit().wait()
        assert ns.reclaim.waiting == 0
        assert not any(ns.volume.get(key(node)) for node in nodes for key in (inode_key, orphan_key))
        assert not list(ns.volume.scan_keys(b"W", b"X"))

    def test_a_damaged_one_among_them_keeps_none_of_the_others(self, ns: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
        nodes = [a_file(ns, 1, b"f%d" % number) for number in range(3)]
        for number, node in enumerate(nodes):
            ns.hold(node)
            ns.unlink(1, b"f%d" % number)
            ns.drop(node)
        remove = ns.files.remove_windows

        def damaged(ino: int, *rest: object) -> object:
            if ino == nodes[1]:
                raise Damaged("for the test")
            return remove(ino, *rest)  # type: ignore[arg-type]

        monkeypatch.setattr(ns.files, "remove_windows", damaged)
        ns.volume.commit().wait()
        assert [ns.volume.get(inode_key(node)) is None for node in nodes] == [True, False, True]

    def test_a_large_file_goes_in_steps(self, ns: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(reclaim_module, "STEP", 4)
        node = a_file(ns, 1, b"f")
        for number in range(20):
            ns.write(node, number * WINDOW, b"x" * 5000)
        ns.unlink(1, b"f")
        assert answer(lambda: ns.attributes(node)) == errno.ESTALE
        assert ns.usage(1).size == 0
        assert ns.work(4)
        work_off(ns, 4)
        assert ns.volume.get(inode_key(node)) is None
        assert list(ns.volume.scan_keys(b"W", b"X")) == []
        assert list(ns.volume.scan_keys(b"O", b"P")) == []

    def test_orphans_are_reclaimed_after_a_crash(self, tmp_path: Path) -> None:
        make_store(tmp_path / "store")
        with opened(tmp_path / "store") as ns:
            node = a_file(ns, 1, b"f")
            ns.write(node, 0, b"x" * 9000)
            ns.hold(node)
            ns.unlink(1, b"f")
            ns.volume.commit().wait()
            shutil.copytree(tmp_path / "store", tmp_path / "crashed")
        with opened(tmp_path / "crashed") as ns:
            assert answer(lambda: ns.attributes(node)) == errno.ESTALE
            work_off(ns)
            assert ns.volume.get(inode_key(node)) is None
            assert list(ns.volume.scan_keys(b"O", b"P")) == []


class TestRenaming:
    def test_times_and_counts(self, ns: Namespace) -> None:
        one, two = a_directory(ns, 1, b"one"), a_directory(ns, 1, b"two")
        node = a_directory(ns, one, b"d")
        ns.rename(one, b"d", two, b"e", 0)
        inode = ns.attributes(node)
        for parent, nlink, size in ((one, 2, 0), (two, 3, 1)):
            found = ns.attributes(parent)
            assert (found.nlink, found.size, found.mtime, found.ctime) == (nlink, size, inode.ctime, inode.ctime)
        assert inode.mtime < inode.ctime
        assert ns.parent(node) == two

    def test_replaces(self, ns: Namespace) -> None:
        node, victim = a_file(ns, 1, b"a"), a_file(ns, 1, b"b")
        assert ns.rename(1, b"a", 1, b"b", 0) == victim
        assert names(ns, 1) == {b"b"}
        assert ns.lookup(1, b"b")[0] == node
        assert answer(lambda: ns.attributes(victim)) == errno.ESTALE
        assert ns.attributes(1).size == 1

    def test_replaces_an_empty_directory(self, ns: Namespace) -> None:
        top = a_directory(ns, 1, b"top")
        node = a_directory(ns, top, b"a")
        a_file(ns, node, b"inside")
        a_directory(ns, 1, b"b")
        ns.rename(top, b"a", 1, b"b", 0)
        assert ns.lookup(1, b"b")[0] == node
        assert (ns.attributes(1).nlink, ns.attributes(top).nlink) == (4, 2)
        assert ns.usage(1).directories == 2
        assert ns.usage(top).files == 0

    def test_two_names_of_one_file_stay(self, ns: Namespace) -> None:
        node = a_file(ns, 1, b"a")
        ns.link(node, 1, b"b")
        before = ns.attributes(1), ns.attributes(node)
        for flags in (0, EXCHANGE):
            ns.rename(1, b"a", 1, b"b", flags)
            ns.rename(1, b"a", 1, b"a", flags)
        assert (ns.attributes(1), ns.attributes(node)) == before

    def test_errors(self, ns: Namespace) -> None:
        top = a_directory(ns, 1, b"top")
        sub = a_directory(ns, top, b"sub")
        a_file(ns, sub, b"x")
        a_file(ns, 1, b"f")
        a_directory(ns, 1, b"empty")
        for old, new, expected in (
            ((1, b"top"), (top, b"y"), errno.EINVAL),
            ((1, b"top"), (sub, b"y"), errno.EINVAL),
            ((1, b"top"), (sub, b"x"), errno.EINVAL),
            ((top, b"sub"), (1, b"f"), errno.ENOTDIR),
            ((1, b"f"), (1, b"empty"), errno.EISDIR),
            ((1, b"empty"), (top, b"sub"), errno.ENOTEMPTY),
            ((sub, b"x"), (1, b"top"), errno.ENOTEMPTY),
            ((1, b"none"), (1, b"f"), errno.ENOENT),
            ((1, b"f"), (1, b".snapshot"), errno.EBUSY),
            ((1, b".snapshot"), (1, b"g"), errno.EBUSY),
            ((1, b"f"), (1, b"x" * 256), errno.ENAMETOOLONG),
            ((1, b"f"), (sub - 1 + 99, b"x"), errno.ESTALE),
        ):
            assert answer(partial(ns.rename, old[0], old[1], new[0], new[1], 0)) == expected, (old, new)
        assert answer(lambda: ns.rename(1, b"f", 1, b"top", NOREPLACE)) == errno.EEXIST
        assert answer(lambda: ns.rename(1, b"f", 1, b"none", EXCHANGE)) == errno.ENOENT
        assert answer(lambda: ns.rename(1, b"top", sub, b"none", EXCHANGE)) == errno.ENOENT
        assert answer(lambda: ns.rename(1, b"f", 1, b"g", 4)) == errno.EINVAL
        assert answer(lambda: ns.rename(1, b"f", 1, b"g", 3)) == errno.EINVAL
        assert answer(lambda: ns.rename(1, b"top", sub, b"x", EXCHANGE)) == errno.EINVAL
        assert answer(lambda: ns.rename(sub, b"x", 1, b"top", EXCHANGE)) == errno.EINVAL
        assert names(ns, 1) == {b"top", b"f", b"empty"}

    def test_exchange_of_a_directory_and_a_file(self, ns: Namespace) -> None:
        one, two = a_directory(ns, 1, b"one"), a_directory(ns, 1, b"two")
        directory, node = a_directory(ns, one, b"x"), a_file(ns, two, b"y")
        ns.write(a_file(ns, directory, b"inside"), 0, b"12345")
        ns.write(node, 0, b"123")
        ns.rename(one, b"x", two, b"y", EXCHANGE)
        assert (ns.lookup(one, b"x")[0], ns.lookup(two, b"y")[0]) == (node, directory)
        assert (ns.attributes(one).nlink, ns.attributes(two).nlink) == (2, 3)
        assert (ns.usage(one).size, ns.usage(two).size, ns.usage(two).directories) == (3, 5, 1)
        assert ns.parent(directory) == two
        assert ns.path_of(node) == b"/one/x"
        ns.rename(1, b"one", 1, b"two", EXCHANGE)
        assert ns.path_of(node) == b"/two/x"


class TestListing:
    def test_goes_on_while_entries_come_and_go(self, ns: Namespace) -> None:
        for number in range(100):
            a_file(ns, 1, b"%d" % number)
        seen: list[bytes] = []
        cookie = 0
        while entry := next(ns.readdir(1, cookie), None):
            name, _, _, cookie = entry
            seen.append(name)
            if name.isdigit():
                ns.unlink(1, name)
                a_file(ns, 1, b"new" + name)
        assert {name for name in seen if name.isdigit()} == {b"%d" % number for number in range(100)}
        assert len(seen) == len(set(seen))

    def test_cookies_are_positive_and_above_those_of_the_dots(self, ns: Namespace) -> None:
        for number in range(50):
            a_file(ns, 1, b"%d" % number)
        cookies = [cookie for _, _, _, cookie in ns.readdir(1, 0)]
        assert cookies == sorted(set(cookies))
        assert all(COOKIES_RESERVED <= cookie < 1 << 63 for cookie in cookies)
        assert len(list(ns.readdir(1, 2))) == 50

    @pytest.mark.parametrize("first", [0, 5, 1 << 20, (1 << 64) - 2, (1 << 64) - 1])
    def test_names_with_one_cookie_are_all_listed(self, ns: Namespace, monkeypatch: pytest.MonkeyPatch, first: int) -> None:
        def collide(name: bytes) -> bytes:
            place = first if name[:1] == b"c" else max(0, first - 2) if name[:1] == b"b" else min(first + 2, (1 << 64) - 1)
            return place.to_bytes(8, "big") + name.rjust(8, b"\0")

        monkeypatch.setattr(ns.volume, "name_hash", collide)
        expected = [b"%c%d" % (letter, number) for letter in b"abc" for number in range(5)]
        for name in expected:
            a_file(ns, 1, name)
        found, cookie = [], 0
        while entry := next(ns.readdir(1, cookie), None):
            found.append(entry[0])
            cookie = entry[3]
            assert 2 < cookie < 1 << 63
        assert sorted(found) == expected
        listed = [entry[0] for entry in ns.readdir(1, 0)]
        assert sorted(listed) == expected
        survivors, cookie = [], 0
        while entry := next(ns.readdir(1, cookie), None):
            survivors.append(entry[0])
            cookie = entry[3]
            ns.unlink(1, entry[0])
        assert sorted(survivors) == expected

    def test_a_damaged_inode_does_not_hide_the_others(self, ns: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
        bad = a_file(ns, 1, b"bad")
        a_file(ns, 1, b"good")
        get = ns.volume.get

        def damaged(key: bytes) -> object:
            if key == inode_key(bad):
                raise Damaged("the tag does not hold")
            return get(key)

        monkeypatch.setattr(ns.core, "get", damaged)
        listed = {name: inode for name, _, inode, _ in ns.readdir(1, 0)}
        assert listed[b"bad"] is None
        assert listed[b"good"] is not None
        assert answer(lambda: ns.lookup(1, b"bad")) == errno.EIO

    def test_a_hash_of_another_name_is_not_the_name(self, ns: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
        a_file(ns, 1, b"a")
        name_hash = ns.volume.name_hash(b"a")
        monkeypatch.setattr(ns.volume, "name_hash", lambda _: name_hash)
        assert answer(lambda: ns.lookup(1, b"b")) == errno.ENOENT
        assert answer(lambda: ns.create(1, b"b", 0o644, USER)) == errno.EEXIST
        assert ns.volume.get(dirent_key(1, name_hash)) is not None


def test_an_operation_that_fails_late_leaves_nothing(ns: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = a_directory(ns, 1, b"d")
    node = a_file(ns, directory, b"f")
    before = (ns.attributes(1), ns.attributes(directory), ns.attributes(node), ns.usage(1))

    def fail(*_: object, **__: object) -> None:
        raise FilesystemError(errno.EIO)

    with monkeypatch.context() as patch:
        patch.setattr(ns.core.versions, "settle", fail)
        for call in (
            lambda: ns.create(1, b"x", 0o644, USER),
            lambda: ns.unlink(directory, b"f"),
            lambda: ns.rename(directory, b"f", 1, b"g", 0),
            lambda: ns.link(node, 1, b"g"),
            lambda: ns.snapshot_create(1),
            lambda: ns.write(node, 0, b"x" * 10000),
        ):
            assert answer(call) == errno.EIO
    assert before == (ns.attributes(1), ns.attributes(directory), ns.attributes(node), ns.usage(1))
    assert ns.snapshots() == []
    assert names(ns, 1) == {b"d"}
    assert ns.snapshot_create(1).epoch == 1


def test_totals_of_a_very_deep_tree(ns: Namespace) -> None:
    nodes = [1]
    for _ in range(3000):
        nodes.append(a_directory(ns, nodes[-1], b"d"))
    ns.write(a_file(ns, nodes[-1], b"f"), 0, b"12345")
    for depth in (0, 1500, 3000):
        usage = ns.usage(nodes[depth])
        assert (usage.size, usage.files, usage.directories) == (5, 1, 3000 - depth)
    number = ns.snapshot_create(1).id
    ns.rename(nodes[10], b"d", 1, b"moved", 0)
    assert ns.usage(nodes[5]).size == 0
    assert ns.usage(1).directories == 3000
    ns.unlink(nodes[-1], b"f")
    assert ns.usage(ns.snapshot_node(number)).size == 5
    path = ns.path_of(nodes[-1])
    assert path is not None
    assert path.count(b"/") == 2990


def test_a_volume_is_formatted_once(ns: Namespace) -> None:
    with pytest.raises(StoreExists):
        Namespace.format(ns.volume)
