"""The simulated disk itself: a program that syncs loses nothing at any cut, and one that does not is caught."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from . import disk, preload
from .content import File, pattern
from .preload import Kind

PROGRAM = """
import os, sys
sys.path.insert(0, sys.argv[3])
from tests.crash.preload import Marks
from pathlib import Path
root, marks = sys.argv[1], Marks(Path(sys.argv[2]))
for number in range(20):
    temporary = os.path.join(root, "new")
    with open(temporary, "wb") as file:
        file.write(bytes([number]) * 3000)
        file.flush()
        os.fsync(file.fileno())
    os.rename(temporary, os.path.join(root, "value"))
    directory = os.open(root, os.O_RDONLY)
    {sync}
    os.close(directory)
    marks.append(number)
"""
REPOSITORY = Path(__file__).resolve().parents[2]


def _losses(tmp_path: Path, sync: str, *, nosync: bool = False) -> tuple[int, int]:
    """Run the program under the log, cut everywhere; return (cuts, cuts that lost something acknowledged or show mixed bytes)."""
    root, base, log = tmp_path / "disk", tmp_path / "base", tmp_path / "log"
    root.mkdir()
    shutil.copytree(root, base)
    simulated = disk.Disk(root, base, disk.snapshot(root))
    environment = {**os.environ, **preload.environment(root, log=log, nosync=nosync)}
    command = [sys.executable, "-c", PROGRAM.format(sync=sync), str(root), str(log), str(REPOSITORY)]
    subprocess.run(command, env=environment, check=True, stdin=subprocess.DEVNULL)
    rng = random.Random(1)
    acknowledged, cuts, losses = -1, 0, 0
    for entry in preload.entries(log):
        if entry.kind == Kind.MARK:
            acknowledged = json.loads(entry.data)
        else:
            simulated.apply(entry)
        image = tmp_path / "image"
        simulated.cut(image, rng)
        cuts += 1
        value = (image / "value").read_bytes() if (image / "value").exists() else b""
        whole = len(value) == 3000 and len(set(value)) == 1
        losses += acknowledged >= 0 and not (whole and value[0] >= acknowledged)
        shutil.rmtree(image)
    return cuts, losses


def test_a_program_that_syncs_file_and_directory_loses_nothing(tmp_path: Path) -> None:
    cuts, losses = _losses(tmp_path, "os.fsync(directory)")
    assert cuts > 100
    assert losses == 0


@pytest.mark.parametrize(
    ("sync", "nosync"), [("pass", False), ("os.fsync(directory)", True)], ids=["no directory sync", "syncs do nothing"]
)
def test_a_program_that_does_not_sync_is_caught(tmp_path: Path, sync: str, nosync: bool) -> None:
    _, losses = _losses(tmp_path, sync, nosync=nosync)
    assert losses > 0


LMDB_PROGRAM = """
import sys
sys.path.insert(0, sys.argv[3])
import lmdb
from tests.crash.preload import Marks
from pathlib import Path
marks = Marks(Path(sys.argv[2]))
environment = lmdb.open(sys.argv[1] + "/env", map_size=1 << 28)
for number in range(30):
    with environment.begin(write=True) as transaction:
        for part in range(5):
            transaction.put(b"%d.%d" % (number, part), bytes([number]) * 5000)
    marks.append(number)
"""


def test_lmdb_commits_survive_every_cut(tmp_path: Path) -> None:
    """The engine below the store keeps its promise on this disk: what the other tests find is then the store's doing."""
    import lmdb

    root, log = tmp_path / "disk", tmp_path / "log"
    root.mkdir()
    simulated = disk.Disk(root, root, disk.snapshot(root))
    command = [sys.executable, "-c", LMDB_PROGRAM, str(root), str(log), str(REPOSITORY)]
    subprocess.run(command, env={**os.environ, **preload.environment(root, log=log)}, check=True, stdin=subprocess.DEVNULL)
    rng = random.Random(2)
    acknowledged, cuts = -1, 0
    for entry in preload.entries(log):
        if entry.kind != Kind.MARK:
            simulated.apply(entry)
            continue
        acknowledged = json.loads(entry.data)
        image = tmp_path / "image"
        simulated.cut(image, rng)
        if not (image / "env" / "data.mdb").exists():
            # LMDB does not sync the directory of a new file: the store must.
            assert acknowledged < 30
            shutil.rmtree(image)
            continue
        with lmdb.open(str(image / "env"), map_size=1 << 28) as environment, environment.begin() as transaction:
            for number in range(acknowledged + 1):
                assert transaction.get(b"%d.4" % number) == bytes([number]) * 5000
        cuts += 1
        shutil.rmtree(image)
    assert acknowledged == 29
    assert simulated.barriers >= 30
    assert cuts > 0


def test_faults_are_injected_and_counted(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    faults = preload.Faults(tmp_path / "fault")
    faults.arm({Kind.WRITE}, errno.ENOSPC, after=2)
    program = """
import os, sys
file = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY)
for number in range(9):
    try:
        os.write(file, b"x" * 10)
    except OSError as error:
        print(number, error.errno)
"""
    environment = {**os.environ, **preload.environment(tmp_path / "disk", fault=faults.path)}
    command = [sys.executable, "-c", program, str(tmp_path / "disk" / "file")]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.stdout.split()[0] == "2"
    assert done.stdout.count(str(errno.ENOSPC)) == 7
    assert faults.hits == 7
    faults.close()


_OLD, _NEW = pattern(1, 1, 1, 0, 20_000), pattern(1, 1, 2, 0, 9_000)


@pytest.mark.parametrize(
    ("make", "allowed"),
    [
        (lambda: _OLD, True),
        (lambda: _NEW + _OLD[9_000:], True),
        (lambda: _NEW[:4096] + _OLD[4096:], True),
        (lambda: _OLD[:4096] + _NEW[4096:8192] + _OLD[8192:], True),
        (lambda: _NEW[:1000] + _OLD[1000:], False),
        (lambda: _OLD[:8192] + pattern(1, 2, 1, 8192, 20_000 - 8192), False),
        (lambda: _OLD[:19_000], False),
        (lambda: _OLD[:12_288] + bytes(4096) + _OLD[16_384:], False),
    ],
    ids=["old", "new", "first page new", "second page new", "half a page", "another file's", "cut", "zeros in a synced page"],
)
def test_the_judge_of_content(make: Callable[[], bytes], allowed: bool) -> None:
    file = File(bytearray(_OLD))
    file.write(0, _NEW)
    assert (file.fault(make()) is None) == allowed
