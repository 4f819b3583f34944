"""Opening costs the same whatever files the volume holds and however it was left: it reads a bounded number of records, and no extent.

Snapshots are the exception: each has a record that is read.
"""

from __future__ import annotations

import mmap
import os
import shutil
import threading
import time
from pathlib import Path

import pytest
from namespace_volume import make_store, opened

from anqfs.crypto.sealing import ExtentSealer, RecordSealer
from anqfs.namespace.core import ROOT_CALLER as ROOT
from anqfs.namespace.namespace import Namespace
from anqfs.store.data_file import read_in
from anqfs.store.lmdb_store import LmdbRecords
from anqfs.store.memory import is_resident


def fill(ns: Namespace, directories: int, files: int) -> None:
    """Make directories of files, the first two with a snapshot, in groups, the last of which is left open."""
    for number in range(directories):
        place, _ = ns.mkdir(1, b"d%d" % number, 0o755, ROOT)
        for at in range(files):
            node, _ = ns.create(place, b"f%d" % at, 0o100644, ROOT)
            ns.write(node, 0, b"content" * 3000)
        if number < 2:
            ns.snapshot_create(place)
        ns.volume.commit().wait()
    ns.create(1, b"not committed", 0o100644, ROOT)


def reads_of_opening(path: Path, patch: pytest.MonkeyPatch) -> tuple[int, int]:
    """Open a volume, look its root up and a name in it; return how many records and extents were opened on the way."""
    records: list[bytes] = []
    extents: list[int] = []
    open_record, open_chunks = RecordSealer.open, ExtentSealer.open_chunks

    def count_record(sealer: RecordSealer, key: bytes, sealed: bytes) -> bytes:
        records.append(key)
        return open_record(sealer, key, sealed)

    def count_extent(sealer: ExtentSealer, *arguments: object) -> object:
        extents.append(1)
        return open_chunks(sealer, *arguments)  # type: ignore[arg-type]

    with patch.context() as inner:
        inner.setattr(RecordSealer, "open", count_record)
        inner.setattr(ExtentSealer, "open_chunks", count_extent)
        with opened(path, read_only=True) as ns:
            ns.attributes(1)
            assert ns.lookup(1, b"d1")[0] > 1
    return len(records), len(extents)


@pytest.mark.parametrize("left", ["unmounted", "killed"])
def test_opening_reads_as_much_of_a_large_volume_as_of_a_small_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: str) -> None:
    found = []
    for directories, files in ((2, 4), (20, 60)):
        path = tmp_path / f"store{directories}"
        make_store(path)
        with opened(path) as ns:
            fill(ns, directories, files)
            if left == "killed":
                shutil.copytree(path, copied := tmp_path / f"copy{directories}")
        found.append(reads_of_opening(copied if left == "killed" else path, monkeypatch))
    (few, _), (many, extents) = found
    assert 0 < many <= few + 8
    assert many < 64
    assert extents == 0


def test_a_commit_does_not_wait_for_records_that_are_read_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    may_end = threading.Event()
    ended: list[bool] = []
    make_store(tmp_path / "store")
    monkeypatch.setattr(LmdbRecords, "read_ahead", lambda records, wanted: ended.append(may_end.wait(20)))
    with opened(tmp_path / "store") as ns:
        ns.volume.read_ahead()
        ns.create(1, b"name", 0o100644, ROOT)
        ns.volume.commit().wait()
        assert ended == []
        may_end.set()
    assert ended == [True]


def test_reading_ahead_reads_all_that_it_is_to_read(tmp_path: Path) -> None:
    """However little the kernel reads for one request, and no more than asked for."""
    most, size = 24 << 20, 32 << 20
    path = tmp_path / "file"
    path.write_bytes(os.urandom(size))
    with path.open("rb") as file, mmap.mmap(file.fileno(), size, prot=mmap.PROT_READ) as mapped, memoryview(mapped) as view:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        if any(is_resident(view[at : at + (1 << 20)]) for at in range(0, size, 1 << 20)):
            pytest.skip("this filesystem keeps its files in memory")
        answers = iter([True, True, False])
        read_in(os.fsencode(path), most, lambda: next(answers))
        read_in(os.fsencode(path), most, lambda: True)
        with view[:most] as wanted, view[most + (1 << 20) :] as rest:
            deadline = time.monotonic() + 30
            while not is_resident(wanted):
                assert time.monotonic() < deadline
                time.sleep(0.01)
            assert not is_resident(rest)
