"""A restore ends, and leaves a sound filesystem, whatever others do between its steps; and wherever it stops, it can be undone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from anqfs.crypto.secrets import Secret
from anqfs.errors import AnqfsError
from anqfs.namespace.restore import Restore

from .driver import Run, compare, ordered_by_seed
from .reference import ROOT, Tree

SPECIAL = ("restore_in_place", "restore_beside", "snapshot_delete")


def meddle(run: Run) -> None:
    """Carry out a random operation on the namespace alone; that it may fail does not matter."""
    kind, *arguments = run.chooser.choose(run.model)
    operation = getattr(run, f"real_{kind}", None)
    if operation is None or kind in SPECIAL:
        return
    try:
        operation(*arguments)
    except AnqfsError as error:
        assert error.errno, error


@pytest.mark.parametrize("seed", range(8))
def test_a_restore_among_changes_ends_and_leaves_a_sound_filesystem(seed: int, tmp_path: Path) -> None:
    with ordered_by_seed(seed):
        run = Run(seed, tmp_path / "run", Secret("key-file", b"k" * 32))
        for step in range(120):
            run.step(step)
        run.namespace.snapshot_create(ROOT, b"last")
        try:
            for snapshot in run.namespace.snapshots():
                if run.namespace.path_of(snapshot.root) is None:
                    continue
                restore = Restore(run.namespace, snapshot.id)
                while restore.step(1):
                    run.now += 1
                    meddle(run)
                    run.namespace.work(3)
                run.check()
        finally:
            run.volume.close()


def without_identity(tree: Tree) -> Tree:
    """Return a tree without change times, and without links, because a file may have names outside what is restored."""
    return {path: replace(seen, ctime=0, nlink=0, same=b"") for path, seen in tree.items()}


def content(run: Run) -> Tree:
    """Return the live tree, so."""
    return without_identity(run.real_tree(ROOT))


@pytest.mark.parametrize("seed", range(8))
def test_a_restore_that_stops_anywhere_can_be_undone(seed: int, tmp_path: Path) -> None:
    with ordered_by_seed(seed):
        run = Run(seed, tmp_path / "run", Secret("key-file", b"k" * 32))
        for step in range(120):
            run.step(step)
        namespace = run.namespace
        try:
            for stop in (1, 2, 4, 7, 11, 16, 30, 60):
                namespace.snapshot_create(ROOT, b"now")
                for _ in range(12):
                    meddle(run)
                before = content(run)
                snapshot = next(one for one in namespace.snapshots() if namespace.path_of(one.root) == b"/")
                restore = Restore(namespace, snapshot.id)
                for _ in range(stop):
                    if not restore.step(1):
                        break
                assert restore.before is not None
                undo = Restore(namespace, restore.before.id)
                while undo.step(5):
                    run.now += 1
                compare(f"undone after {stop} steps", content(run), before)
                run.check()
        finally:
            run.volume.close()
