"""A real mount answers and shows what ext4 does, through snapshots, remounts and a killed daemon.

Each seed is one history of random operations; `pytest tests/model --mount-seeds N` runs more of them,
`--mount-first N --mount-seeds 1` repeats one, and `--mount-steps N` makes them longer.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mount.mounted import Mount, loop_ext4

from .conftest import QUICK_MOUNT_STEPS
from .mount_driver import Difference, Pair, Run, run_seed, thin
from .mount_operations import Chooser
from .mount_sides import Operation, Side


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    """A mount and ext4 for all histories."""
    with tempfile.TemporaryDirectory(prefix="anqfs-test-") as name:
        base = Path(name)
        base.chmod(0o755)
        mount = Mount(base)
        try:
            mount.make_store()
            with loop_ext4(base) as ext4:
                yield Pair(mount.start(), ext4)
        finally:
            mount.clean_up()
        assert mount.complaints() == [], mount.log_text()


def test_a_random_history_on_a_mount_equals_ext4(mount_seed: int, pair: Pair, pytestconfig: pytest.Config) -> None:
    run_seed(pair, mount_seed, pytestconfig.getoption("--mount-steps", QUICK_MOUNT_STEPS))


def test_most_operations_do_something(pair: Pair) -> None:
    """Random operations that mostly fail would compare nothing."""
    with pair.sides() as (ext4, here):
        chooser = Chooser(1)
        answers = []
        for _ in range(300):
            operation = chooser.choose(ext4)
            if hasattr(Run, f"special_{operation[0]}"):
                continue
            answers.append(ext4.do(operation))
            assert here.do(operation) == answers[-1]
        failed = sum(isinstance(answer, str) and answer[0] == "E" for answer in answers)
        assert failed < len(answers) / 2


def test_a_difference_is_found_and_thinned_out(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """A side that makes one directory with a wrong mode is caught, with the operations that matter and no others."""
    truthful = Side.do_mkdir

    def lying(side: Side, path: bytes, mode: int) -> None:
        truthful(side, path, mode & ~0o700 if b"/mnt/" in side.root and path == b"b" else mode)

    monkeypatch.setattr(Side, "do_mkdir", lying)
    log: list[Operation] = [("mkdir", 0, 0o22, b"a", 0o755), ("mkdir", 0, 0o22, b"b", 0o755), ("rmdir", 0, 0o22, b"a")]
    _, left = thin(pair, Difference(), log)
    assert left == log[1:2]
    with pytest.raises(Difference, match="mode"), pair.sides() as sides:
        Run(pair, *sides).step(log[1], True, False)
