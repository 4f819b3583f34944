"""After a crash at any point the volume is a whole number of operations, with everything that was acknowledged."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from anqfs.crypto.secrets import Secret
from anqfs.errors import CommitFailed, Damaged, ReadOnlyVolume
from anqfs.store import writer as writer_module
from anqfs.store.group import Group
from anqfs.store.lmdb_store import LmdbRecords
from anqfs.store.schema import Counter, Inode, Window, inode_key, window_key
from anqfs.store.volume import Volume

SECRET = Secret.from_passphrase("crash")


def inode(number: int) -> Inode:
    return Inode(1, 0o100644, 0, 0, 1, number, 0, 1, 2, 3, 4)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "store"
    Volume.create(path, SECRET, iterations=10)
    return path


def copied_between_the_commits(monkeypatch: pytest.MonkeyPatch, store: Path, copy: Path) -> None:
    """Copy the store when a group's extents are durable and its records are not: what a crash there leaves."""
    real = writer_module.Writer._commit_records

    def copying(writer: writer_module.Writer, group: Group, applied: list[bytes]) -> None:
        if not copy.exists():
            shutil.copytree(store, copy)
        real(writer, group, applied)

    monkeypatch.setattr(writer_module.Writer, "_commit_records", copying)


def test_extents_without_their_records_are_dropped_at_the_next_opening(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = Volume.open(store, SECRET)
    kept, number = volume.write_extent(b"kept")
    volume.put(inode_key(1), inode(1))
    volume.commit(to_stores=True).wait()
    with monkeypatch.context() as patch:
        copied_between_the_commits(patch, store, tmp_path / "copy")
        lost = [volume.write_extent(b"lost " * 100)[0] for _ in range(3)]
        volume.put(inode_key(1), inode(2))
        volume.commit(to_stores=True).wait()
    volume.close()

    volume = Volume.open(tmp_path / "copy", SECRET)
    assert volume.raw_extent_ids(0, 10) == [kept, *lost]
    assert volume.get(inode_key(1)) == inode(1)
    assert volume.read_extent(kept, 0, 4, number) == b"kept"
    new, new_number = volume.write_extent(b"new")
    assert new not in lost
    volume.commit(to_stores=True).wait()
    assert volume.raw_extent_ids(0, 10) == [kept, new]
    volume.close()
    volume = Volume.open(tmp_path / "copy", SECRET)
    assert volume.read_extent(new, 0, 3, new_number) == b"new"
    assert volume.recompute_root() == volume.root
    volume.close()


def test_dropping_what_a_crash_left_needs_no_write_to_open_and_happens_without_other_work(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = Volume.open(store, SECRET)
    copied_between_the_commits(monkeypatch, store, tmp_path / "copy")
    volume.write_extent(b"lost")
    volume.close()
    volume = Volume.open(tmp_path / "copy", SECRET, read_only=True)
    assert volume.raw_extent_ids(0, 10) == [1]
    assert volume.get(inode_key(1)) is None
    volume.close()
    volume = Volume.open(tmp_path / "copy", SECRET)
    assert volume.due() is not None
    volume.close()
    volume = Volume.open(tmp_path / "copy", SECRET)
    assert volume.raw_extent_ids(0, 10) == []
    assert volume.due() is None
    volume.close()


def test_ids_reused_after_a_crash_are_sealed_with_another_key(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The crash loses the counter: the same id, and so the same nonce, comes again under a fresh salt."""
    volume = Volume.open(store, SECRET)
    volume.put(inode_key(1), inode(1))
    volume.commit(to_stores=True).wait()
    copied_between_the_commits(monkeypatch, store, tmp_path / "copy")
    extent, number = volume.write_extent(b"same plaintext")
    volume.close()
    sealed = {}
    for path in (store, tmp_path / "copy"):
        volume = Volume.open(path, SECRET)
        if path != store:
            volume.put(inode_key(1), inode(1))
            volume.close()
            volume = Volume.open(path, SECRET)
            assert volume.raw_extent_ids(0, 10) == []
            assert volume.write_extent(b"same plaintext")[0] == extent
            volume.commit(to_stores=True).wait()
        with volume._extent_store.reading() as reading:
            found = reading.find(extent)
            assert found is not None
            value = bytearray(len(found))
            found.read(0, memoryview(value))
            sealed[path] = bytes(value)
        volume.close()
    assert len(set(sealed.values())) == 2
    assert number == 0


def test_frees_are_applied_after_a_crash_that_came_before_they_were(store: Path, tmp_path: Path) -> None:
    volume = Volume.open(store, SECRET)
    extents = [volume.write_extent(b"data")[0] for _ in range(3000)]
    volume.commit(to_stores=True).wait()
    for extent in extents[1:]:
        volume.free_extent(extent)
    volume.commit(to_stores=True).wait()
    shutil.copytree(store, tmp_path / "copy")
    volume.close()
    volume = Volume.open(tmp_path / "copy", SECRET)
    assert volume.raw_extent_ids(0, 5000) == extents
    volume.put(inode_key(1), inode(1))
    volume.commit(to_stores=True).wait()
    assert volume.raw_extent_ids(0, 5000) == extents[:1]
    assert not [key for key, _ in volume.raw_records(b"", 100) if key[:1] == b"F"]
    assert volume.recompute_root() == volume.root
    volume.close()


def test_frees_half_applied_are_applied_again(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The crash comes after the extents were deleted and before the record that lists them was."""
    volume = Volume.open(store, SECRET)
    kept, number = volume.write_extent(b"kept")
    freed, _ = volume.write_extent(b"freed")
    volume.commit(to_stores=True).wait()
    volume.free_extent(freed)
    volume.commit(to_stores=True).wait()
    copied_between_the_commits(monkeypatch, store, tmp_path / "copy")
    volume.write_extent(b"more")
    volume.close()
    volume = Volume.open(tmp_path / "copy", SECRET)
    assert [key[:1] for key, _ in volume.raw_records(b"F", 1)] == [b"F"]
    volume.close()
    volume = Volume.open(tmp_path / "copy", SECRET)
    assert volume.raw_extent_ids(0, 10) == [kept]
    assert volume.read_extent(kept, 0, 4, number) == b"kept"
    assert not [key for key, _ in volume.raw_records(b"", 100) if key[:1] == b"F"]
    assert volume.recompute_root() == volume.root
    volume.close()


def test_an_extent_freed_by_a_group_that_is_not_durable_is_still_there(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = Volume.open(store, SECRET)
    extent, number = volume.write_extent(b"data")
    volume.put(window_key(1, 0), Window(1, b"", ((0, 4, extent, 0, number),)))
    volume.commit(to_stores=True).wait()
    copied_between_the_commits(monkeypatch, store, tmp_path / "copy")
    volume.delete(window_key(1, 0))
    volume.free_extent(extent)
    volume.write_extent(b"other")
    volume.close()
    volume = Volume.open(tmp_path / "copy", SECRET)
    assert volume.get(window_key(1, 0)) is not None
    assert volume.read_extent(extent, 0, 4, number) == b"data"
    volume.close()
    volume = Volume.open(tmp_path / "copy", SECRET)
    assert volume.read_extent(extent, 0, 4, number) == b"data"
    volume.close()


WRITER = """
import sys
from anqfs.crypto.secrets import Secret
from anqfs.store.schema import Counter, Window, window_key
from anqfs.store.volume import Volume
volume = Volume.open(sys.argv[1], Secret.from_passphrase("crash"))
start = int(sys.argv[2])
held = {}
for number in range(start, start + 100_000):
    volume.begin()
    data = number.to_bytes(8, "big") * (1 + number % 9000)
    extent, key = volume.write_extent(data)
    slot = number % 7
    old = volume.get(window_key(1, slot))
    if old is not None:
        volume.free_extent(old.pieces[0][2])
    volume.put(window_key(1, slot), Window(number, b"", ((0, len(data), extent, 0, key),)))
    volume.put(b"Cx", Counter(number))
    volume.finish()
    if number % 3 == 0:
        ticket = volume.commit()
        if number % 2:
            ticket.wait()
            print(number, flush=True)
"""


def killed_writer(store: Path, start: int, acknowledgements: int) -> int:
    """Run WRITER until it acknowledged so many commits, kill it, and return the last number it acknowledged."""
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(store), str(start)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        lines = [process.stdout.readline() for _ in range(acknowledgements)]
    finally:
        process.send_signal(signal.SIGKILL)
        rest = process.stdout.read().splitlines(keepends=True)
        process.stdout.close()
        process.wait(60)
    return int([line for line in lines + rest if line.endswith(b"\n")][-1])


def test_a_killed_process_leaves_whole_operations_and_all_that_it_acknowledged(store: Path) -> None:
    start = 1
    for acknowledgements in (1, 2, 5, 9):
        acknowledged = killed_writer(store, start, acknowledgements)
        volume = Volume.open(store, SECRET)
        counter = volume.get(b"Cx")
        assert isinstance(counter, Counter)
        assert counter.value >= acknowledged
        referred = set()
        windows = list(volume.scan(window_key(1, 0), window_key(2, 0)))
        assert {window.birth for _, window in windows if isinstance(window, Window)} == set(
            range(max(1, counter.value - 6), counter.value + 1)
        )
        for _, window in windows:
            assert isinstance(window, Window)
            _, length, extent, _, number = window.pieces[0]
            assert volume.read_extent(extent, 0, length, number) == window.birth.to_bytes(8, "big") * (1 + window.birth % 9000)
            referred.add(extent)
        assert volume.recompute_root() == volume.root
        volume.close()
        volume = Volume.open(store, SECRET)
        assert set(volume.raw_extent_ids(0, 1000)) == referred
        volume.close()
        start = counter.value + 1


# A commit that fails


Break = Callable[[pytest.MonkeyPatch], None]


def broken_records(patch: pytest.MonkeyPatch) -> None:
    def failing(store: LmdbRecords) -> object:
        raise CommitFailed("the disk answers with an error")

    patch.setattr(LmdbRecords, "begin", failing)


def broken_sealing(patch: pytest.MonkeyPatch) -> None:
    def failing(writer: writer_module.Writer, group: Group, frees: list[int]) -> int:
        raise ZeroDivisionError("a bug")

    patch.setattr(writer_module.Writer, "_commit_extents", failing)


@pytest.mark.parametrize("breaking", [broken_records, broken_sealing])
def test_after_a_failed_commit_reads_go_on_and_writes_are_refused(
    store: Path, monkeypatch: pytest.MonkeyPatch, breaking: Break, caplog: pytest.LogCaptureFixture
) -> None:
    volume = Volume.open(store, SECRET)
    volume.put(inode_key(1), inode(1))
    volume.commit(to_stores=True).wait()
    root = volume.root
    breaking(monkeypatch)
    volume.put(inode_key(1), inode(2))
    extent, number = volume.write_extent(b"data")
    first = volume.commit(to_stores=True)
    with pytest.raises(CommitFailed):
        first.wait(60)
    assert isinstance(volume.failed, CommitFailed)
    assert "read-only from now on" in caplog.text
    for change in (
        volume.begin,
        lambda: volume.put(inode_key(2), inode(2)),
        lambda: volume.delete(inode_key(1)),
        lambda: volume.write_extent(b"data"),
        lambda: volume.free_extent(extent),
    ):
        with pytest.raises(ReadOnlyVolume):
            change()
    with pytest.raises(CommitFailed):
        volume.commit(to_stores=True).wait()
    assert volume.commit().error is volume.failed
    volume.close_group()
    assert volume.due() is None
    assert volume.get(inode_key(1)) == inode(2)
    assert volume.read_extent(extent, 0, 4, number) == b"data"
    assert volume.root == root
    volume.close()
    monkeypatch.undo()
    volume = Volume.open(store, SECRET)
    assert volume.get(inode_key(1)) == inode(1)
    assert volume.root == root
    with pytest.raises(Damaged):
        volume.read_extent(extent + 1, 0, 4, number)
    volume.close()


def test_all_who_wait_for_a_failed_group_are_told(store: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    volume = Volume.open(store, SECRET)
    broken_records(monkeypatch)
    tickets, told = [], []
    for number in range(5):
        try:
            volume.put(inode_key(number), inode(number))
        except ReadOnlyVolume:
            break
        tickets.append(volume.commit())
        tickets[-1].add_done_callback(lambda ticket: told.append(ticket.error))
    for ticket in tickets:
        with pytest.raises(CommitFailed):
            ticket.wait(60)
    volume.close()
    assert len(told) == len(tickets)
    assert all(isinstance(error, CommitFailed) for error in told)


def test_closing_tells_of_a_commit_that_fails_and_lets_go_of_the_store(
    store: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    volume = Volume.open(store, SECRET)
    volume.put(inode_key(1), inode(1))
    broken_records(monkeypatch)
    with pytest.raises(CommitFailed):
        volume.close()
    volume.close()
    monkeypatch.undo()
    Volume.open(store, SECRET).close()
    assert os.listdir(store)
