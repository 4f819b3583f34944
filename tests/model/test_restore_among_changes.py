"""A restore ends, and leaves a sound filesystem, whatever others do to the tree between its steps."""

from __future__ import annotations

from pathlib import Path

import pytest

from anqfs.crypto.secrets import Secret
from anqfs.errors import AnqfsError
from anqfs.namespace.restore import Restore

from .driver import Run, ordered_by_seed

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
        run.namespace.snapshot_create(1, b"last")
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
