"""Random operations with snapshots of any directory: each snapshot stays what it was, and nothing is kept that none shows."""

from __future__ import annotations

import random
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import Any

import pytest

from anqfs.errors import FilesystemError
from anqfs.namespace import ROOT, Namespace
from anqfs.namespace import files as files_module
from anqfs.namespace import reclaim as reclaim_module
from anqfs.namespace.references import extents_of
from anqfs.store.schema import Window, live_key, window_key
from tests.unit.namespace_volume import make_store, opened, work_off

Tree = dict[bytes, Any]
WINDOW = 1 << 20


def tree(ns: Namespace, node: int, path: bytes = b"") -> Tree:
    """Return everything below a node by path: attributes, xattrs and data."""
    found: Tree = {}
    for name, child, inode, _ in ns.readdir(node, 0):
        assert inode is not None
        here = path + b"/" + name
        data: Any = None
        if S_ISREG(inode.mode):
            data = [ns.read(child, at, 8192) for at in (0, WINDOW)]
        xattrs = {each: ns.getxattr(child, each) for each in ns.listxattr(child)}
        found[here] = (inode.mode, inode.uid, inode.size, inode.mtime, inode.allocated, data, xattrs)
        if S_ISDIR(inode.mode):
            found.update(tree(ns, child, here))
    return found


class Player:
    """Plays random operations on a namespace and knows what each snapshot must show."""

    def __init__(self, ns: Namespace, seed: int) -> None:
        self.ns = ns
        self.random = random.Random(seed)
        self.snapshots: dict[int, Tree] = {}

    def names(self) -> list[tuple[int, bytes, int, bool]]:
        """Return (parent, name, ino, is directory) of everything live."""
        found, waiting = [], [1]
        while waiting:
            parent = waiting.pop()
            for name, child, inode, _ in self.ns.readdir(parent, 0):
                assert inode is not None
                found.append((parent, name, child, S_ISDIR(inode.mode)))
                if S_ISDIR(inode.mode):
                    waiting.append(child)
        return found

    def step(self) -> None:
        """Do one operation; those that cannot be answer an errno and change nothing."""
        pick, ns = self.random, self.ns
        names = self.names()
        directories = [1] + [ino for _, _, ino, is_directory in names if is_directory]
        files = [each for each in names if not each[3]]
        at, name, chance = pick.choice(directories), b"n%d" % pick.randrange(6), pick.random()
        try:
            if chance < 0.12:
                ns.mkdir(at, name, 0o755, ROOT)
            elif chance < 0.30:
                node, _ = ns.create(at, name, 0o644, ROOT)
                ns.write(node, 0, bytes((pick.randrange(256),)) * pick.choice((10, 9000)))
            elif chance < 0.45 and files:
                offset = pick.choice((0, 1000, 6000, WINDOW - 100, WINDOW))
                ns.write(pick.choice(files)[2], offset, bytes((pick.randrange(256),)) * pick.choice((10, 200, 5000)))
            elif chance < 0.49 and files:
                ns.set_attributes(pick.choice(files)[2], size=pick.choice((0, 5, 4000, 7000, WINDOW + 5)), caller=ROOT)
            elif chance < 0.53 and names:
                ns.setxattr(pick.choice(names)[2], b"user.x%d" % pick.randrange(2), b"%d" % pick.random().__hash__(), 0, ROOT)
            elif chance < 0.60 and files:
                ns.unlink(*pick.choice(files)[:2])
            elif chance < 0.64 and names:
                ns.rmdir(*pick.choice(names)[:2])
            elif chance < 0.76 and names:
                ns.rename(*pick.choice(names)[:2], at, name, pick.choice((0, 1, 0, 2)))
            elif chance < 0.82 and files:
                ns.link(pick.choice(files)[2], at, name)
            elif chance < 0.90:
                snapshot = ns.snapshot_create(at, b"s")
                self.snapshots[snapshot.id] = tree(ns, at)
            elif chance < 0.95 and self.snapshots:
                number = pick.choice(list(self.snapshots))
                del self.snapshots[number]
                ns.snapshot_delete(number)
            else:
                ns.work(3)
        except FilesystemError as error:
            assert error.errno not in (5, 116), error

    def check(self) -> None:
        """Compare every snapshot with what was there when it was taken."""
        for number, expected in self.snapshots.items():
            assert tree(self.ns, self.ns.snapshot_node(number)) == expected


def over_retained(ns: Namespace) -> list[bytes]:
    """Return the past records that no live snapshot shows."""
    versions, found = ns.core.versions, []
    for letter in (b"d", b"i", b"u", b"w", b"x"):
        for key, record in ns.volume.scan(letter, letter + b"\xff"):
            last, ino = live_key(key)[1], int.from_bytes(key[1:9], "big")
            birth = getattr(record, "birth", 0)
            if not any(birth <= each.epoch <= last and versions.visible(ino, each.epoch, each.root) for each in versions.live):
                found.append(key)
    return found


def check_references(ns: Namespace) -> None:
    """Every extent is counted exactly as often as window versions use it."""
    uses: dict[int, int] = {}
    for letter in (b"W", b"w"):
        for _, record in ns.volume.scan(letter, letter + b"\xff"):
            assert isinstance(record, Window)
            for extent in extents_of(record):
                uses[extent] = uses.get(extent, 0) + 1
    recorded = {int.from_bytes(key[1:], "big"): getattr(record, "count", 0) for key, record in ns.volume.scan(b"R", b"S")}
    assert recorded == {extent: count for extent, count in uses.items() if count > 1}
    ns.volume.commit(to_stores=True).wait()
    work = ns.volume.raw_extent_ids(0, 1 << 20)
    assert set(uses) <= set(work)


def check_live(ns: Namespace) -> None:
    """Totals, link counts and sizes agree with a walk of the tree."""
    totals: dict[int, list[int]] = {}
    names: dict[int, int] = {}

    def walk(node: int) -> list[int]:
        sums, subdirectories, count = [0, 0, 0, 0], 0, 0
        for _, child, inode, _ in ns.readdir(node, 0):
            assert inode is not None
            count += 1
            names[child] = names.get(child, 0) + 1
            if S_ISDIR(inode.mode):
                subdirectories += 1
                below = walk(child)
                sums = [one + other for one, other in zip(sums, below, strict=True)]
                sums[3] += 1
            else:
                held = 0
                for key, record in ns.volume.scan(window_key(child, 0), window_key(child, 1 << 40)):
                    assert isinstance(record, Window) and len(key) == 17
                    held += len(record.inline) + sum(piece[1] for piece in record.pieces)
                assert held == inode.allocated
                sums = [sums[0] + inode.size, sums[1] + inode.allocated, sums[2] + 1, sums[3]]
        inode = ns.attributes(node)
        assert (inode.nlink, inode.size) == (2 + subdirectories, count)
        totals[node] = sums
        return sums

    walk(1)
    for ino, count in names.items():
        inode = ns.attributes(ino)
        assert S_ISDIR(inode.mode) or inode.nlink == count == len(inode.links)
    for node, sums in totals.items():
        usage = ns.usage(node)
        assert [usage.size, usage.allocated, usage.files, usage.directories] == sums


@pytest.mark.parametrize("seed", range(12))
def test_snapshots_stay_what_they_were(tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With odd seeds every truncation leaves windows to the background, and every removal of a file is one of an orphan."""
    if seed % 2:
        monkeypatch.setattr(files_module, "REMOVE_NOW", 0)
        monkeypatch.setattr(reclaim_module, "STEP", 0)
    make_store(tmp_path / "store")
    with opened(tmp_path / "store") as ns:
        player = Player(ns, seed)
        for number in range(160):
            player.step()
            if number % 8 == 7:
                player.check()
        check_live(ns)
        work_off(ns)
        player.check()
        assert over_retained(ns) == []
        check_references(ns)
        expected = tree(ns, 1)
    with opened(tmp_path / "store") as ns:
        assert tree(ns, 1) == expected
        player.ns = ns
        player.check()
        for number in list(player.snapshots):
            ns.snapshot_delete(number)
        work_off(ns, budget=5)
        assert over_retained(ns) == []
        assert list(ns.volume.scan_keys(b"a", b"z")) == []
        assert list(ns.volume.scan_keys(b"L", b"M")) == []
        assert tree(ns, 1) == expected
        check_references(ns)
