"""The do-nothing filesystem of tools/bench, mounted: it does what the benchmark's scenarios need, and returns what they wrote."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import bench_peers
from bench_peers import Noop
from bench_rows import ROWS, SCENARIOS, Sizes
from bench_run import WITHOUT

TINY = Sizes(
    files=40, synced=20, small_writes=600, tree=300, source=40, stream=20 << 20, random_file=3 << 20,
    random_operations=60, inserts=30, studies=2, slices=3,
)  # fmt: skip


@pytest.fixture
def noop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Noop]:
    monkeypatch.setattr(bench_peers, "cold_caches", lambda: None)  # the caches are those of the whole machine
    peer = Noop(tmp_path)
    try:
        peer.set_up()
        yield peer
        peer.take_down()
    finally:
        peer.kill()


@pytest.mark.parametrize("scenario", [name for name in SCENARIOS if name not in WITHOUT["noop"]])
def test_it_takes_part_in(noop: Noop, scenario: str) -> None:
    work = noop.root / "work"
    work.mkdir()
    figures = dict(SCENARIOS[scenario](noop, work, TINY))
    assert figures
    assert set(figures) <= set(ROWS)


def test_it_keeps_what_programs_make(noop: Noop) -> None:
    root = noop.root
    data = os.urandom(3_000_000)
    (root / "file").write_bytes(data)
    with (root / "file").open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # so that the daemon is asked
        assert file.read() == data
    os.truncate(root / "file", 100)
    os.truncate(root / "file", 5_000)
    assert (root / "file").read_bytes() == data[:100] + bytes(4_900)
    (root / "other").write_bytes(b"other")
    os.rename(root / "other", root / "file")
    assert (root / "file").read_bytes() == b"other"
    os.link(root / "file", root / "again")
    os.symlink("file", root / "link")
    os.unlink(root / "file")
    assert (root / "again").read_bytes() == b"other"
    assert (os.stat(root / "again").st_nlink, os.readlink(root / "link")) == (1, "file")
    os.chmod(root / "again", 0o640)
    os.utime(root / "again", ns=(5, 7))
    found = os.stat(root / "again")
    assert (found.st_mode & 0o777, found.st_atime_ns, found.st_mtime_ns) == (0o640, 5, 7)
    for number in range(300):
        (root / f"directory-{number}").mkdir()
    assert os.stat(root).st_nlink == 302
    assert len(os.listdir(root)) == 302
    shutil.rmtree(root / "directory-7")
    with pytest.raises(FileNotFoundError):
        os.stat(root / "directory-7")
