"""A volume's records, extents and transaction groups, with nothing going wrong."""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from anqfs.crypto.secrets import Secret
from anqfs.errors import AnqfsError, Damaged, KeySlotError, ReadOnlyVolume, StoreExists, WrongKey
from anqfs.store import writer as writer_module
from anqfs.store.schema import (
    COUNTER_EXTENT,
    Counter,
    Dirent,
    Inode,
    Window,
    Xattr,
    dirent_key,
    inode_key,
    orphan_key,
    prefix_end,
    window_key,
    xattr_key,
)
from anqfs.store.volume import Volume

SECRET = Secret.from_passphrase("correct horse")
NEVER = 3600.0


def inode(number: int) -> Inode:
    return Inode(1, stat.S_IFREG | 0o644, 0, 0, 1, number, 0, 1, 2, 3, 4)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "store"
    Volume.create(path, SECRET, iterations=10)
    return path


@pytest.fixture
def volume(store: Path) -> Iterator[Volume]:
    opened = [Volume.open(store, SECRET, group_seconds=NEVER)]
    _reopened.clear()
    yield opened[0]
    for each in opened + _reopened:
        each.close()


_reopened: list[Volume] = []


def reopened(volume: Volume) -> Volume:
    """Close the volume and open it again; the fixture closes that one too."""
    volume.close()
    _reopened.append(Volume.open(volume.path, SECRET, group_seconds=NEVER))
    return _reopened[-1]


class Held:
    """Stops the writer inside a commit until `release`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entered, self.gate = threading.Event(), threading.Event()
        real = writer_module.Writer._commit

        def held(writer: writer_module.Writer, group: writer_module.Group) -> None:
            self.entered.set()
            assert self.gate.wait(60)
            real(writer, group)

        monkeypatch.setattr(writer_module.Writer, "_commit", held)

    def release(self) -> None:
        self.gate.set()


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    holding = Held(monkeypatch)
    yield holding
    holding.release()


# Making a volume


def test_a_store_is_for_its_owner_only(store: Path) -> None:
    for path in (store, *store.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    assert sorted(entry.name for entry in store.iterdir()) == ["extents", "lock", "records", "superblock"]


def test_an_empty_directory_may_become_a_store(tmp_path: Path) -> None:
    path = tmp_path / "empty"
    path.mkdir(mode=0o755)
    Volume.create(path, SECRET, iterations=10)
    Volume.open(path, SECRET).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_nothing_is_made_where_something_is(tmp_path: Path, store: Path) -> None:
    with pytest.raises(StoreExists):
        Volume.create(store, SECRET, iterations=10)
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(StoreExists):
        Volume.create(tmp_path / "file", SECRET, iterations=10)
    assert (tmp_path / "file").read_bytes() == b"mine"


def test_a_failed_creation_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object, **options: object) -> None:
        raise OSError(5, "no luck")

    monkeypatch.setattr("anqfs.store.keys.format_store", broken)
    (tmp_path / "empty").mkdir()
    for name in ("new", "empty"):
        with pytest.raises(OSError, match="no luck"):
            Volume.create(tmp_path / name, SECRET, iterations=10)
    assert [entry.name for entry in tmp_path.iterdir()] == ["empty"]
    assert not list((tmp_path / "empty").iterdir())


@pytest.mark.parametrize("name", [b"new\nline", b"quote'\"s", b"\xff\xfe not text", b"-o x", "schön".encode()])
def test_a_store_path_may_hold_any_bytes(tmp_path: Path, name: bytes) -> None:
    path = os.path.join(os.fsencode(tmp_path), name)
    Volume.create(path, SECRET, iterations=10)
    volume = Volume.open(path, SECRET)
    volume.put(inode_key(1), inode(1))
    volume.close()
    volume = Volume.open(path, SECRET)
    assert volume.get(inode_key(1)) == inode(1)
    assert os.fsencode(volume.path) == path
    volume.close()


# Records


def test_records_are_seen_at_once_and_after_reopening(volume: Volume) -> None:
    assert volume.get(inode_key(1)) is None
    volume.put(inode_key(1), inode(1))
    volume.put(inode_key(2), inode(2))
    volume.delete(inode_key(2))
    volume.delete(inode_key(3))
    for _ in range(3):
        assert volume.get(inode_key(1)) == inode(1)
        assert volume.get(inode_key(2)) is None
        volume = reopened(volume)
    volume.close()


def test_every_kind_of_record_comes_back(volume: Volume) -> None:
    records = {
        dirent_key(1, b"h" * 16): Dirent(1, b"name", 7, stat.S_IFREG),
        window_key(7, 3): Window(1, b"inline"),
        window_key(7, 4): Window(1, b"", ((0, 5, 9, 0, 1),)),
        xattr_key(7, b"h" * 16): Xattr(1, b"user.x", b"value"),
        b"Cino": Counter(8),
    }
    for key, record in records.items():
        volume.put(key, record)
    volume = reopened(volume)
    for key, record in records.items():
        assert volume.get(key) == record
    volume.close()


def test_a_group_is_read_while_it_is_being_written(volume: Volume, held: Held) -> None:
    volume.put(inode_key(1), inode(1))
    extent, number = volume.write_extent(b"data")
    ticket = volume.commit()
    assert held.entered.wait(60)
    volume._cache.turn()
    volume._cache.turn()
    volume._young = volume._cache.young
    assert volume.get(inode_key(1)) == inode(1)
    assert volume.read_extent(extent, 1, 2, number) == b"at"
    assert volume.extent_is_warm(extent, 0, 4)
    volume.put(inode_key(1), inode(9))
    assert list(volume.scan(b"I", b"J")) == [(inode_key(1), inode(9))]
    assert not ticket.done
    held.release()
    assert ticket.wait(60)


def test_the_cache_is_bounded(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anqfs.store.cache.RECORDS_MAX", 100)
    for number in range(1000):
        volume.begin()
        volume.put(inode_key(number), inode(number))
        volume.finish()
        volume.get(inode_key(5000 + number))
    assert len(volume._cache.young) + len(volume._cache.old) < 120
    volume.commit(to_stores=True).wait()
    for number in range(1000):
        assert volume.get(inode_key(number)) == inode(number)
    assert len(volume._cache.young) + len(volume._cache.old) < 120


# Scans


def test_a_scan_merges_the_store_and_both_groups(volume: Volume, held: Held) -> None:
    held.release()
    for number in range(0, 300, 3):
        volume.put(inode_key(number), inode(number))
    volume.commit(to_stores=True).wait()
    held.gate.clear()
    held.entered.clear()
    for number in range(1, 300, 3):
        volume.put(inode_key(number), inode(number))
    volume.delete(inode_key(0))
    volume.commit()
    assert held.entered.wait(60)
    for number in range(2, 300, 3):
        volume.put(inode_key(number), inode(number))
    volume.delete(inode_key(1))
    volume.delete(inode_key(298))
    volume.put(inode_key(0), inode(1000))
    expected = [(inode_key(0), inode(1000))] + [(inode_key(n), inode(n)) for n in range(2, 300) if n != 298]
    assert list(volume.scan(b"I", b"J")) == expected
    assert list(volume.scan_keys(b"I", b"J")) == [key for key, _ in expected]
    assert list(volume.scan(inode_key(100), inode_key(103))) == [(inode_key(n), inode(n)) for n in (100, 101, 102)]
    held.release()
    volume.commit(to_stores=True).wait()
    assert list(volume.scan(b"I", b"J")) == expected


def test_a_scan_of_deleted_records_comes_to_an_end(volume: Volume) -> None:
    for number in range(1000):
        volume.put(inode_key(number), inode(number))
    volume.commit(to_stores=True).wait()
    for number in range(1000):
        volume.delete(inode_key(number))
    assert list(volume.scan(b"I", b"J")) == []
    volume.put(inode_key(999), inode(1))
    assert list(volume.scan_keys(b"I", b"J")) == [inode_key(999)]


def test_the_caller_may_change_records_while_scanning(volume: Volume) -> None:
    for number in range(500):
        volume.put(inode_key(number), inode(number))
    volume.commit(to_stores=True).wait()
    seen = []
    for key, _ in volume.scan(b"I", b"J"):
        seen.append(key)
        volume.delete(key)
        volume.put(orphan_key(len(seen)), Counter(1))
        if len(seen) == 100:
            volume.commit(to_stores=True).wait()
    assert seen == [inode_key(number) for number in range(500)]
    assert list(volume.scan_keys(b"I", b"J")) == []


def test_scans_of_many_directories_stay_in_their_range(volume: Volume) -> None:
    hashes = [bytes((number,)) * 16 for number in (0, 1, 127, 255)]
    for parent in (1, 2, 255, 256, 1 << 39):
        for each in hashes:
            volume.put(dirent_key(parent, each), Dirent(1, each, parent, 0))
    for _ in range(2):
        for parent in (1, 2, 255, 256, 1 << 39):
            start = dirent_key(parent, b"")[:9]
            assert list(volume.scan_keys(start, prefix_end(start))) == [dirent_key(parent, each) for each in hashes]
            assert list(volume.scan_keys(dirent_key(parent, hashes[1]), dirent_key(parent, hashes[2]))) == [dirent_key(parent, hashes[1])]
        assert len(list(volume.scan_keys(b"D", b"E"))) == 20
        assert len(list(volume.scan_keys(dirent_key(2, hashes[2]), dirent_key(256, hashes[1])))) == 7
        volume.commit(to_stores=True).wait()


def test_a_scan_does_not_sort_the_whole_group_each_time(volume: Volume) -> None:
    """Creating a name and listing two names of a directory made in this group costs about the same however large it is."""
    compared = 0

    class Counting(bytes):
        def __lt__(self, other: bytes) -> bool:
            nonlocal compared
            compared += 1
            return bytes.__lt__(self, other)

    def costs(count: int, parent: int) -> int:
        nonlocal compared
        for number in range(count):
            volume.put(Counting(dirent_key(parent, (number * 7919 % count).to_bytes(16, "big"))), Dirent(1, b"", 1, 0))
        start = dirent_key(parent, b"")[:9]
        assert len(list(volume.scan_keys(start, prefix_end(start)))) == count
        compared = 0
        for number in range(10):
            volume.put(Counting(dirent_key(parent, (count + number).to_bytes(16, "big"))), Dirent(1, b"", 1, 0))
            low = dirent_key(parent, (count // 2).to_bytes(16, "big"))
            high = dirent_key(parent, (count // 2 + 2).to_bytes(16, "big"))
            assert len(list(volume.scan_keys(low, high))) == 2
        return compared

    small, large = costs(1000, 1), costs(20_000, 2)
    assert 0 < large < 3 * small


# Operations


def test_undo_takes_back_everything_since_begin(volume: Volume) -> None:
    volume.put(inode_key(1), inode(1))
    kept, number = volume.write_extent(b"kept")
    volume.commit(to_stores=True).wait()
    volume.put(inode_key(2), inode(2))
    open_extent, _ = volume.write_extent(bytearray(b"open"))
    before = volume.dirty_bytes()
    volume.begin()
    volume.put(inode_key(1), inode(10))
    volume.put(inode_key(1), inode(11))
    volume.delete(inode_key(2))
    volume.put(inode_key(3), inode(3))
    volume.put(window_key(1, 0), Window(1, b"x" * 4000))
    gone, _ = volume.write_extent(b"x" * 5000)
    volume.free_extent(kept)
    volume.free_extent(open_extent)
    volume.free_extent(gone)
    volume.undo()
    assert volume.dirty_bytes() == before
    assert volume.get(inode_key(1)) == inode(1)
    assert volume.get(inode_key(2)) == inode(2)
    assert volume.get(inode_key(3)) is None
    assert volume.get(window_key(1, 0)) is None
    assert list(volume.scan_keys(b"I", b"J")) == [inode_key(1), inode_key(2)]
    assert volume.dirty_extent(open_extent) == b"open"
    assert volume.dirty_extent(gone) is None
    volume = reopened(volume)
    assert volume.raw_extent_ids(0, 10) == [kept, open_extent]
    assert volume.read_extent(kept, 0, 4, number) == b"kept"
    volume.close()


def test_undo_does_not_bring_back_what_the_cache_had_before(volume: Volume, held: Held) -> None:
    """The older half of the cache may hold a value that was replaced long since."""
    volume.put(inode_key(1), inode(1))
    volume._cache.turn()
    volume._young = volume._cache.young
    volume.put(inode_key(1), inode(2))
    volume.commit()
    assert held.entered.wait(60)
    volume.begin()
    volume.put(inode_key(1), inode(3))
    volume.undo()
    assert volume.get(inode_key(1)) == inode(2)


def test_operations_do_not_nest_and_groups_do_not_close_inside_one(volume: Volume) -> None:
    volume.begin()
    for forbidden in (volume.begin, volume.close_group, volume.commit):
        with pytest.raises(RuntimeError):
            forbidden()
    volume.finish()
    with pytest.raises(RuntimeError):
        volume.undo()


def test_closing_inside_an_operation_takes_it_back(volume: Volume) -> None:
    volume.put(inode_key(1), inode(1))
    volume.begin()
    volume.put(inode_key(1), inode(2))
    volume = reopened(volume)
    assert volume.get(inode_key(1)) == inode(1)
    volume.close()


# Extents


def test_extents_are_read_from_the_group_and_from_the_store(volume: Volume) -> None:
    data = os.urandom(1 << 20)
    extent, number = volume.write_extent(data)
    for _ in range(2):
        for offset, length in ((0, 1 << 20), (5, 10), (65530, 12), (0, 0), ((1 << 20) - 1, 1)):
            assert volume.read_extent(extent, offset, length, number) == data[offset : offset + length]
        with pytest.raises(Damaged):
            volume.read_extent(extent, (1 << 20) - 1, 2, number)
        volume = reopened(volume)
    with pytest.raises(Damaged, match="missing"):
        volume.read_extent(extent + 1, 0, 1, number)
    volume.close()


@pytest.mark.parametrize("size", [0, (1 << 20) + 1])
def test_an_extent_holds_1_byte_to_1_mib(volume: Volume, size: int) -> None:
    with pytest.raises(ValueError, match="an extent of"):
        volume.write_extent(bytes(size))


def test_an_extent_of_the_open_group_is_changed_in_place(volume: Volume) -> None:
    first, number = volume.write_extent(bytearray(b"hello"))
    second, _ = volume.write_extent(b"bytes")
    buffer = volume.dirty_extent(first)
    assert buffer is not None
    buffer[0:1] = b"J"
    buffer.extend(b" world" * 1000)
    other = volume.dirty_extent(second)
    assert isinstance(other, bytearray)
    other[:] = b"BYTES!"
    size = volume.dirty_bytes()
    volume.dirty_extent(first)
    assert volume.dirty_bytes() == size + 6000
    assert volume.read_extent(first, 0, 11, number) == b"Jello world"
    volume.commit(to_stores=True).wait()
    assert volume.dirty_extent(first) is None
    volume = reopened(volume)
    assert volume.read_extent(first, 0, 11, number) == b"Jello world"
    assert volume.read_extent(second, 0, 6, number) == b"BYTES!"
    volume.close()


def test_an_extent_freed_in_its_own_group_is_never_written(volume: Volume) -> None:
    extent, _ = volume.write_extent(b"short-lived")
    volume.put(inode_key(1), inode(1))
    volume.free_extent(extent)
    volume.commit(to_stores=True).wait()
    assert volume.raw_extent_ids(0, 10) == []
    assert volume.counters["extents_written"] == 0
    assert volume.counters["fsyncs"] == 1


def test_a_freed_extent_is_deleted_by_the_group_after_the_one_that_freed_it(volume: Volume) -> None:
    extent, _ = volume.write_extent(b"data")
    volume.commit(to_stores=True).wait()
    volume.free_extent(extent)
    volume.commit(to_stores=True).wait()
    assert volume.raw_extent_ids(0, 10) == [extent]
    assert [key[:1] for key, _ in volume.raw_records(b"F", 1)] == [b"F"]
    due = volume.due()
    assert due is not None
    volume.close_group()
    volume.commit(to_stores=True).wait()
    assert volume.raw_extent_ids(0, 10) == []
    assert all(key[:1] != b"F" for key, _ in volume.raw_records(b"", 100))
    assert volume.due() is None


def test_a_group_that_frees_is_followed_up_even_when_nobody_writes_any_more(volume: Volume, held: Held) -> None:
    """A timer that asks while the group is still being written must not be told that there is nothing to come."""
    held.release()
    extent, _ = volume.write_extent(b"data")
    volume.commit(to_stores=True).wait()
    held.gate.clear()
    held.entered.clear()
    volume.free_extent(extent)
    ticket = volume.commit(to_stores=True)
    assert held.entered.wait(60)
    assert volume.due() is not None
    held.release()
    ticket.wait()
    due = volume.due()
    assert due is not None
    assert volume.due() == due, "a time that moves away is never reached"
    volume.close_group()
    volume.commit(to_stores=True).wait()
    assert volume.raw_extent_ids(0, 10) == []


def test_closing_the_volume_deletes_what_was_freed(volume: Volume) -> None:
    extents = [volume.write_extent(b"data")[0] for _ in range(5000)]
    volume.commit(to_stores=True).wait()
    for extent in extents[1:]:
        volume.free_extent(extent)
    volume = reopened(volume)
    assert volume.raw_extent_ids(0, 10_000) == extents[:1]
    assert all(key[:1] != b"F" for key, _ in volume.raw_records(b"", 100))
    volume.close()


def test_extent_ids_are_never_used_again(volume: Volume) -> None:
    seen = set()
    for _ in range(4):
        for _ in range(3):
            extent, _ = volume.write_extent(b"data")
            assert extent not in seen
            seen.add(extent)
            volume.free_extent(extent)
        extent, _ = volume.write_extent(b"data")
        assert extent not in seen
        seen.add(extent)
        volume.commit(to_stores=True).wait()
        volume.free_extent(extent)
        volume = reopened(volume)
    volume.close()


# Groups


def test_a_group_without_extents_and_frees_commits_the_records_only(volume: Volume) -> None:
    volume.put(inode_key(1), inode(1))
    volume.commit(to_stores=True).wait()
    assert (volume.counters["commits"], volume.counters["fsyncs"]) == (1, 1)
    volume.write_extent(b"data")
    volume.commit(to_stores=True).wait()
    assert (volume.counters["commits"], volume.counters["fsyncs"]) == (2, 3)


def test_a_commit_of_nothing_is_durable_at_once(volume: Volume) -> None:
    assert volume.commit().done
    assert volume.counters["fsyncs"] == 0
    assert volume.due() is None


def test_all_that_waits_for_the_disk_runs_on_the_writer_thread(volume: Volume) -> None:
    calls: list[tuple[str, int]] = []
    volume.put(inode_key(1), inode(1))
    ticket = volume.commit()
    ticket.add_done_callback(lambda _: calls.append(("early", threading.get_native_id())))
    ticket.wait()
    deadline = time.monotonic() + 60
    while not calls and time.monotonic() < deadline:
        time.sleep(0.001)
    late: list[int] = []
    ticket.add_done_callback(lambda _: late.append(threading.get_native_id()))
    assert late == [threading.get_native_id()]
    assert calls[0][1] in (volume.counters["writer_thread"], threading.get_native_id())
    assert volume.counters["writer_thread"] != threading.get_native_id()


def test_a_group_that_is_stored_after_the_view_was_renewed_is_still_looked_in(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    """The view shows what was committed before it was renewed, and the writer may be between committing a group and saying so."""
    volume.put(inode_key(1), inode(1))
    volume.commit(to_stores=True).wait()
    may_commit, may_tell, stored = threading.Semaphore(0), threading.Semaphore(0), threading.Event()
    commit, settle = writer_module.Writer._commit, writer_module.Writer._settle

    def commit_later(writer: writer_module.Writer, group: writer_module.Group) -> None:
        assert may_commit.acquire(timeout=60)
        commit(writer, group)

    def tell_later(writer: writer_module.Writer, group: writer_module.Group, error: AnqfsError | None) -> None:
        stored.set()
        assert may_tell.acquire(timeout=60)
        settle(writer, group, error)

    monkeypatch.setattr(writer_module.Writer, "_commit", commit_later)
    monkeypatch.setattr(writer_module.Writer, "_settle", tell_later)
    tickets = []
    for ino in (2, 3):
        volume.put(inode_key(ino), inode(ino))
        tickets.append(volume.commit(to_stores=True))
        while volume._writer.queued is not None and ino == 2:
            time.sleep(0.001)
    may_commit.release()
    may_tell.release()
    assert tickets[0].wait(60)
    stored.clear()
    refresh = volume._extent_store.refresh

    def refresh_and_be_overtaken() -> bool:
        renewed = refresh()
        may_commit.release()
        assert stored.wait(60)
        return renewed

    monkeypatch.setattr(volume._extent_store, "refresh", refresh_and_be_overtaken)
    volume._settle()
    seen = list(volume.scan_keys(b"I", b"J"))
    may_tell.release()
    assert tickets[1].wait(60)
    assert seen == [inode_key(ino) for ino in (1, 2, 3)]


def test_what_is_committed_while_the_writer_is_busy_becomes_one_group(volume: Volume, held: Held) -> None:
    volume.put(inode_key(1), inode(1))
    first = volume.commit(to_stores=True)
    assert held.entered.wait(60)
    tickets = []
    extent, _ = volume.write_extent(b"data")
    for size in range(20):
        volume.put(inode_key(2), inode(size))
        volume.put(inode_key(100 + size), inode(size))
        tickets.append(volume.commit(to_stores=True))
    assert len(set(map(id, tickets))) == 1
    volume.free_extent(extent)
    assert volume.commit(to_stores=True) is tickets[0]
    assert not first.done
    held.release()
    assert first.wait(60)
    assert all(ticket.wait(60) for ticket in tickets)
    assert volume.counters["commits"] == 2
    assert volume.counters["extents_written"] == 0
    volume = reopened(volume)
    assert volume.get(inode_key(2)) == inode(19)
    assert len(list(volume.scan_keys(b"I", b"J"))) == 22
    volume.close()


def test_close_group_does_nothing_while_the_writer_is_busy(volume: Volume, held: Held) -> None:
    volume.put(inode_key(1), inode(1))
    volume.close_group()
    assert held.entered.wait(60)
    volume.put(inode_key(2), inode(2))
    volume.close_group()
    assert volume._writer.queued is None
    held.release()


def test_writers_wait_when_the_open_group_is_full_and_the_writer_busy(store: Path, held: Held) -> None:
    volume = Volume.open(store, SECRET, group_bytes=1 << 20)
    volume.write_extent(bytes(1 << 20))
    volume.write_extent(bytes(1 << 20))
    assert not volume.must_wait()
    due = volume.due()
    assert due is not None and due <= time.monotonic()
    volume.close_group()
    assert held.entered.wait(60)
    assert not volume.must_wait()
    volume.write_extent(bytes(1 << 20))
    volume.write_extent(b"x")
    assert volume.must_wait()
    due = volume.due()
    assert due is not None and due > time.monotonic() - 1
    held.release()
    volume.commit(to_stores=True).wait()
    assert not volume.must_wait()
    volume.close()


def test_a_group_is_due_after_its_time(store: Path) -> None:
    volume = Volume.open(store, SECRET, group_seconds=1000.0)
    before = time.monotonic()
    volume.begin()
    volume.put(inode_key(1), inode(1))
    volume.finish()
    due = volume.due()
    assert due is not None
    assert before + 1000 <= due <= time.monotonic() + 1000
    volume.close()


def test_hooks_add_to_the_group_that_is_about_to_close(volume: Volume) -> None:
    calls = []

    def hook() -> None:
        calls.append(1)
        volume.begin()
        volume.put(b"Cino", Counter(len(calls)))
        volume.finish()

    volume.before_close.append(hook)
    volume.put(inode_key(1), inode(1))
    volume.commit(to_stores=True).wait()
    assert volume.get(b"Cino") == Counter(1)
    volume = reopened(volume)
    assert volume.get(b"Cino") == Counter(2)
    volume.close()


def test_closing_twice_is_harmless_and_a_closed_volume_takes_nothing(volume: Volume) -> None:
    volume.close()
    volume.close()
    with pytest.raises(ReadOnlyVolume):
        volume.put(inode_key(1), inode(1))


def test_a_raising_callback_does_not_stop_the_writer(volume: Volume, caplog: pytest.LogCaptureFixture, held: Held) -> None:
    def broken(ticket: object) -> None:
        raise RuntimeError("a bug above")

    volume.put(inode_key(1), inode(1))
    ticket = volume.commit()
    ticket.add_done_callback(broken)
    held.release()
    ticket.wait()
    volume.put(inode_key(2), inode(2))
    assert volume.commit(to_stores=True).wait(60)
    assert "a bug above" in caplog.text


# The root digest


def test_the_root_digest_is_that_of_all_records(volume: Volume) -> None:
    assert volume.root == "0:" + "0" * 64
    roots = set()
    for number in range(5):
        volume.put(inode_key(number), inode(number))
        volume.put(inode_key(1), inode(100 + number))
        volume.delete(inode_key(max(0, number - 2)))
        extent, _ = volume.write_extent(b"data")
        volume.commit(to_stores=True).wait()
        volume.free_extent(extent)
        volume.commit(to_stores=True).wait()
        assert volume.root == volume.recompute_root()
        roots.add(volume.root.split(":")[1])
    assert len(roots) == 5
    assert volume.last_commit[0] == int(volume.root.split(":")[0]) == 10
    assert abs(volume.last_commit[1] - time.time_ns()) < 10**12
    expected = volume.last_commit[0] + 1
    volume = reopened(volume)
    assert volume.last_commit[0] == expected
    assert volume.root == volume.recompute_root()
    volume.close()


def test_recomputing_tells_its_progress(volume: Volume) -> None:
    for number in range(3000):
        volume.put(inode_key(number), inode(number))
    volume.commit(to_stores=True).wait()
    told: list[int] = []
    volume.recompute_root(told.append)
    assert told == sorted(told)
    assert told[-1] == 3003


# Keys


def test_slots_come_and_go(volume: Volume, tmp_path: Path) -> None:
    key_file = Secret("key-file", os.urandom(64))
    assert volume.add_slot(key_file, label="backup") == 1
    assert [(slot.number, slot.kind, slot.label) for slot in volume.slots()] == [(0, "passphrase", ""), (1, "key-file", "backup")]
    volume.put(inode_key(1), inode(1))
    volume.remove_slot(0)
    with pytest.raises(KeySlotError):
        volume.remove_slot(1)
    volume.close()
    with pytest.raises(WrongKey):
        Volume.open(volume.path, SECRET)
    volume = Volume.open(volume.path, key_file)
    assert volume.get(inode_key(1)) == inode(1)
    volume.close()


def test_a_rotation_seals_what_follows_with_a_new_generation(volume: Volume) -> None:
    volume.put(inode_key(1), inode(1))
    before, first = volume.write_extent(b"before")
    volume.commit(to_stores=True).wait()
    old = dict(volume.raw_records(b"", 100))[inode_key(1)]
    pending, same = volume.write_extent(b"pending")
    name = volume.name_hash(b"name")
    second = volume.rotate()
    after, number = volume.write_extent(b"after")
    volume.put(inode_key(2), inode(2))
    volume = reopened(volume)
    assert (same, number) == (first, second)
    assert second != first
    raw = dict(volume.raw_records(b"", 100))
    assert raw[inode_key(1)] == old
    assert [int.from_bytes(raw[inode_key(each)][1:5], "big") for each in (1, 2)] == [first, second]
    assert volume._keys.generations() == 2
    assert volume.name_hash(b"name") == name
    for extent, key, data in ((before, first, b"before"), (pending, first, b"pending"), (after, second, b"after")):
        assert volume.read_extent(extent, 0, len(data), key) == data
        assert volume.verify_extent(extent, key) == len(data)
    with pytest.raises(Damaged):
        volume.verify_extent(after, first)
    volume.close()


def test_a_rotation_during_a_commit_is_safe(volume: Volume, held: Held) -> None:
    volume.put(inode_key(1), inode(1))
    volume.write_extent(b"data")
    volume.commit()
    assert held.entered.wait(60)
    volume.rotate()
    volume.rotate()
    volume.put(inode_key(2), inode(2))
    held.release()
    volume = reopened(volume)
    assert [volume.get(inode_key(number)) for number in (1, 2)] == [inode(1), inode(2)]
    volume.close()


def test_every_opening_for_writing_seals_with_its_own_key(volume: Volume) -> None:
    """So no nonce repeats, even when ids and sequences do."""
    salts, nonces = [], set()
    for _ in range(4):
        volume.put(inode_key(1), inode(1))
        volume.commit(to_stores=True).wait()
        raw = dict(volume.raw_records(b"", 100))
        nonces.add(raw[inode_key(1)][:13])
        salts = [value for key, value in raw.items() if key[:1] == b"K"]
        volume = reopened(volume)
    volume.close()
    assert len(nonces) == 4
    assert len(set(salts)) == len(salts) == 4


# For check


def test_raw_records_and_extents_come_in_slices(volume: Volume) -> None:
    for number in range(10):
        volume.put(inode_key(number), inode(number))
    extents = [volume.write_extent(bytes((number + 1,)) * (number + 1)) for number in range(10)]
    volume.commit(to_stores=True).wait()
    seen, after = [], b""
    while items := volume.raw_records(after, 3):
        seen += items
        after = items[-1][0]
    assert [volume.open_record(key, sealed) for key, sealed in seen if key[:1] == b"I"] == [inode(number) for number in range(10)]
    assert volume.open_record(*next(item for item in seen if item[0] == COUNTER_EXTENT)) == Counter(11)
    assert [key for key, _ in seen] == sorted(key for key, _ in seen)
    for key, sealed in seen:
        volume.open_record(key, sealed)
    assert volume.raw_extent_ids(0, 3) + volume.raw_extent_ids(3, 100) == [extent for extent, _ in extents]
    assert [volume.verify_extent(*extent) for extent in extents] == list(range(1, 11))


def test_the_capacity_is_that_of_the_disk(volume: Volume) -> None:
    before = volume.capacity()
    disk = os.statvfs(volume.path)
    assert before.total == disk.f_blocks * disk.f_frsize
    volume.write_extent(os.urandom(1 << 20))
    volume.commit(to_stores=True).wait()
    assert volume.capacity().used >= before.used + (1 << 20)


def test_closing_ends_the_threads(store: Path) -> None:
    before = threading.active_count()
    volume = Volume.open(store, SECRET)
    assert threading.active_count() == before + 1
    volume.read_ahead()
    volume.close()
    assert threading.active_count() == before
