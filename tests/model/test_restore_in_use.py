"""A restore in place over files that are in use: the tree becomes what the snapshot shows, and who has a changed file keeps that one."""

from __future__ import annotations

import random
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from anqfs.crypto.secrets import Secret
from anqfs.namespace.namespace import Namespace
from anqfs.namespace.restore import Restore

from .driver import CALLER, Run, compare, ordered_by_seed
from .reference import ROOT
from .test_restore_among_changes import content, meddle, without_identity

InUse = Callable[[int], bool]


def files_below(namespace: Namespace, top: int) -> set[int]:
    found, waiting = set(), [top]
    while waiting:
        for _, node, inode, _ in namespace.readdir(waiting.pop(), 0):
            assert inode is not None
            if stat.S_ISDIR(inode.mode):
                waiting.append(node)
            elif stat.S_ISREG(inode.mode):
                found.add(node)
    return found


def everything(namespace: Namespace, node: int) -> tuple[bytes, int, int, int]:
    inode = namespace.attributes(node)
    return namespace.read(node, 0, inode.size + 1), inode.mode, inode.uid, inode.mtime


def uses(seed: int) -> InUse:
    """Tell of each inode at random, but always the same, whether it is in use; or of all; or of some only from a moment on."""
    chance = random.Random(seed)
    asked = 0

    def later(ino: int) -> bool:
        nonlocal asked
        asked += 1
        return asked > 2 and chance.random() < 0.7

    return (lambda ino: True, lambda ino: (ino * 7 + seed) % 3 == 0, later)[seed % 3]


@pytest.mark.parametrize("seed", range(12))
def test_a_restore_over_files_in_use_equals_the_snapshot(seed: int, tmp_path: Path) -> None:
    with ordered_by_seed(seed):
        run = Run(seed, tmp_path / "run", Secret("key-file", b"k" * 32))
        for step in range(120):
            run.step(step)
        for name in (b"kept%d" % number for number in range(6)):
            node = run.namespace.create(ROOT, name, stat.S_IFREG | 0o644, CALLER)[0]
            for window in range(5):
                run.namespace.write(node, window << 20, name)
        number = run.namespace.snapshot_create(ROOT, b"then").id
        for _ in range(80):
            meddle(run)
        for node in files_below(run.namespace, ROOT):
            run.namespace.write(node, 0, b"written since")
        try:
            replaced, before = restored_over_files_in_use(run, number, seed)
            undone, _ = restored_over_files_in_use(run, before, seed)
            assert replaced + undone, "no file in use had changed"
        finally:
            run.volume.close()


def restored_over_files_in_use(run: Run, number: int, seed: int) -> tuple[int, int]:
    """Restore a snapshot of the root; returns how many files in use were replaced, and the snapshot of what was there before."""
    namespace = run.namespace
    files = files_below(namespace, ROOT)
    for node in files:
        namespace.hold(node)
    before = {node: everything(namespace, node) for node in files}
    restore = Restore(namespace, number, in_use=uses(seed))
    wishes: set[int] = set()
    while restore.step(1):
        run.now += 1
        wishes.update(restore.take_wishes())
    now, then = content(run), without_identity(run.real_tree(namespace.snapshot_node(number)))
    then[b""] = replace(then[b""], mtime=now[b""].mtime)  # shown there is when the snapshot was taken
    compare(f"snapshot {number}", now, then)
    replaced = 0
    for node in files:
        unnamed = not namespace.attributes(node).nlink
        replaced += unnamed and node in wishes
        if seed % 3 == 0 or (unnamed and seed % 3 == 1):
            assert everything(namespace, node) == before[node]
        namespace.drop(node)
    run.check()
    assert restore.before is not None
    return replaced, restore.before.id
