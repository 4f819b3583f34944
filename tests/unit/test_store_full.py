"""A full disk or a full map is NoSpace, early when room is asked for, and there is room left to delete."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from anqfs.crypto.secrets import Secret
from anqfs.errors import NoSpace, ReadOnlyVolume, StoreInUse
from anqfs.store import space
from anqfs.store.lmdb_store import LmdbExtents
from anqfs.store.lock import StoreLock
from anqfs.store.schema import Inode, inode_key
from anqfs.store.volume import Volume

SECRET = Secret.from_passphrase("full")
MIB = 1 << 20


def inode(number: int) -> Inode:
    return Inode(1, 0o100644, 0, 0, 1, number, 0, 1, 2, 3, 4)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 24 MiB."""
    path = tmp_path / "disk"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m,mode=0700", "tmpfs", str(path)], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


@pytest.fixture
def store(disk: Path) -> Path:
    Volume.create(disk / "store", SECRET, iterations=10)
    return disk / "store"


def fill(disk: Path) -> Path:
    """Take every byte that is left on the disk."""
    path = disk / "ballast"
    with open(path, "wb", buffering=0) as file:
        size = MIB
        while size:
            try:
                file.write(bytes(size))
            except OSError as error:
                assert error.errno == errno.ENOSPC
                size //= 2
    return path


def write_until_full(volume: Volume, size: int) -> list[tuple[int, int, bytes]]:
    """Write extents of `size` bytes, asking for room first, until there is none; returns (extent, key number, first 8 bytes)."""
    written = []
    while True:
        try:
            volume.room(size)
        except NoSpace:
            if not volume.dirty_bytes():
                return written
            volume.commit(to_stores=True).wait()
            continue
        data = os.urandom(size)
        written.append((*volume.write_extent(data), data[:8]))
        if volume.dirty_bytes() > 2 * MIB:
            volume.commit(to_stores=True).wait()


def test_writing_until_there_is_no_room_never_fails_a_commit(store: Path) -> None:
    volume = Volume.open(store, SECRET)
    written = write_until_full(volume, 300_000)
    volume.commit(to_stores=True).wait()
    assert volume.failed is None
    assert len(written) * 300_000 > 12 * MIB
    with pytest.raises(NoSpace):
        volume.room(300_000)
    for extent, number, head in written:
        assert volume.read_extent(extent, 0, 8, number) == head
    volume.close()


def wait_for_room(volume: Volume, size: int) -> None:
    """Do what the mount's timer does until there is room: close the group whenever it is due."""
    for _ in range(50):
        try:
            volume.room(size)
        except NoSpace:
            due = volume.due()
            assert due is not None
            assert volume.due() == due, "a time that moves away is never reached"
            volume.close_group()
            volume.commit(to_stores=True).wait()
        else:
            return
    raise AssertionError("what was deleted never became room")


def test_what_is_deleted_on_a_full_disk_becomes_room_again(store: Path) -> None:
    """Rounds of deleting at random and refilling with another size, without one failed commit."""
    volume = Volume.open(store, SECRET)
    written = write_until_full(volume, 200_000)
    for size in (30_000, MIB, 4000, 500_000):
        volume.commit(to_stores=True).wait()
        for extent, _, _ in written[::2] + written[1::4]:
            volume.free_extent(extent)
        written = [each for index, each in enumerate(written) if index % 4 == 3]
        volume.commit(to_stores=True).wait()
        wait_for_room(volume, size)
        more = write_until_full(volume, size)
        assert more
        written += more
    volume.commit(to_stores=True).wait()
    assert volume.failed is None
    assert volume.counters["sliced_batches"] > 0
    for extent, number, head in written:
        assert volume.read_extent(extent, 0, 8, number) == head
    volume.close()
    volume = Volume.open(store, SECRET)
    assert volume.raw_extent_ids(0, 100_000) == [extent for extent, _, _ in written]
    volume.close()


def test_a_full_disk_still_lets_everything_be_deleted(store: Path, disk: Path) -> None:
    volume = Volume.open(store, SECRET)
    for number in range(2000):
        volume.put(inode_key(number), inode(number))
    written = write_until_full(volume, 100_000)
    volume.commit(to_stores=True).wait()
    with pytest.raises(NoSpace):
        volume.room(100_000)
    for extent, _, _ in written:
        volume.free_extent(extent)
    for number in range(2000):
        volume.delete(inode_key(number))
    volume.commit(to_stores=True).wait()
    wait_for_room(volume, 8 * MIB)
    volume.close()
    volume = Volume.open(store, SECRET)
    assert volume.raw_extent_ids(0, 10) == []
    volume.close()


def test_a_disk_that_others_fill_fails_the_commit_with_no_space(store: Path, disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    volume = Volume.open(store, SECRET)
    volume.put(inode_key(1), inode(1))
    volume.commit(to_stores=True).wait()
    ballast = fill(disk)
    with pytest.raises(NoSpace):
        volume.room(1)
    volume.put(inode_key(1), inode(2))
    volume.write_extent(bytes(MIB))
    with pytest.raises(NoSpace):
        volume.commit(to_stores=True).wait(60)
    assert isinstance(volume.failed, NoSpace)
    with pytest.raises(ReadOnlyVolume):
        volume.put(inode_key(1), inode(3))
    assert volume.get(inode_key(1)) == inode(2)
    volume.close()
    for read_only in (True, False):
        volume = Volume.open(store, SECRET, read_only=read_only)
        assert volume.get(inode_key(1)) == inode(1)
        volume.close()
    ballast.unlink()
    volume = Volume.open(store, SECRET)
    volume.put(inode_key(1), inode(4))
    volume.close()


@pytest.mark.parametrize("crash", [False, True])
def test_what_was_logged_before_others_filled_the_disk_reaches_the_stores(store: Path, disk: Path, tmp_path: Path, crash: bool) -> None:
    """The half of the log that is not used is the room that its content needs."""
    volume = Volume.open(store, SECRET, group_seconds=1e6)
    volume.put(inode_key(1), inode(1))
    volume.commit(to_stores=True).wait()
    written = []
    while volume.counters["commits"] == 1:
        data = os.urandom(10_000)
        written.append((*volume.write_extent(data), data))
        for ino in range(10):
            volume.put(inode_key(len(written) * 10 + ino), inode(7))
        volume.commit().wait()
    assert volume.counters["groups_logged"] > 5
    for _ in range(len(written) - 1):
        data = os.urandom(10_000)
        written.append((*volume.write_extent(data), data))
        volume.commit().wait()
    assert volume.counters["commits"] == 2
    if crash:
        copy = tmp_path / "copy"
        shutil.copytree(store, copy)
        volume.close()
        shutil.rmtree(store)
        shutil.copytree(copy, store)
    fill(disk)
    if crash:
        volume = Volume.open(store, SECRET)
        assert volume.replayed
    volume.close()
    assert not (store / "log").exists()
    with contextlib.closing(Volume.open(store, SECRET, read_only=True)) as again:
        assert not again.replayed
        for extent, number, data in written:
            assert again.read_extent(extent, 0, len(data), number) == data


def test_a_full_disk_opens_closes_and_can_be_deleted_from(store: Path, disk: Path) -> None:
    volume = Volume.open(store, SECRET)
    written = write_until_full(volume, 100_000)
    for number in range(200):
        volume.put(inode_key(number), inode(number))
    volume.close()
    fill(disk)
    os.truncate(store / "lock", 0)
    volume = Volume.open(store, SECRET)
    with pytest.raises(NoSpace):
        volume.rotate()
    with pytest.raises(NoSpace):
        volume.add_slot(SECRET, iterations=1)
    assert len(volume.slots()) == 1
    assert len(list(volume.scan(b"I", b"J"))) == 200
    extent, number, head = written[0]
    assert volume.read_extent(extent, 0, 8, number) == head
    volume.close()


def test_making_a_volume_on_a_full_disk_leaves_nothing(disk: Path) -> None:
    fill(disk)
    with pytest.raises(NoSpace):
        Volume.create(disk / "new", SECRET, iterations=10)
    assert [path.name for path in disk.iterdir()] == ["ballast"]


def test_a_pid_that_cannot_be_written_does_not_keep_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, data: bytes, offset: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    store = os.fsencode(tmp_path)
    monkeypatch.setattr(os, "pwrite", full)
    lock = StoreLock.acquire(store, shared=False)
    with pytest.raises(StoreInUse, match="another process"):
        StoreLock.acquire(store, shared=False)
    lock.release()


def test_a_full_map_is_no_space(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Volume.create(tmp_path / "store", SECRET, iterations=10)
    volume = Volume.open(tmp_path / "store", SECRET, map_size=4 * MIB, map_limit=4 * MIB)
    volume.put(inode_key(1), inode(1))
    for _ in range(6):
        volume.write_extent(bytes(MIB))
    with pytest.raises(NoSpace):
        volume.commit(to_stores=True).wait(60)
    volume.close()
    volume = Volume.open(tmp_path / "store", SECRET)
    assert volume.get(inode_key(1)) is None
    volume.close()


def test_maps_grow_when_half_full_even_while_others_read(tmp_path: Path) -> None:
    Volume.create(tmp_path / "store", SECRET, iterations=10)
    volume = Volume.open(tmp_path / "store", SECRET, map_size=2 * MIB)
    extents = []
    stop = threading.Event()
    errors: list[BaseException] = []

    def read() -> None:
        while not stop.is_set():
            try:
                volume.fetch([(extent, 0, 1000, number) for extent, number in extents[-3:]])
                volume.raw_records(b"", 10)
            except BaseException as error:
                errors.append(error)
                return

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for round_number in range(12):
            volume.put(inode_key(round_number), inode(round_number))
            pair = volume.write_extent(os.urandom(MIB))
            volume.commit(to_stores=True).wait()
            extents.append(pair)
    finally:
        stop.set()
        reader.join()
    assert errors == []
    assert volume.counters["map_growths"] >= 2
    for extent, number in extents:
        assert volume.verify_extent(extent, number) == MIB
    assert len(list(volume.scan(b"I", b"J"))) == 12
    volume.close()


def test_the_reserve_is_2_percent_between_4_and_64_mib() -> None:
    assert space.reserve(10 * MIB) == 4 * MIB
    assert space.reserve(1000 * MIB) == 20 * MIB
    assert space.reserve(1 << 40) == 64 * MIB


def test_what_is_on_its_way_counts_as_taken(store: Path) -> None:
    volume = Volume.open(store, SECRET)
    volume.room(8 * MIB)
    for _ in range(12):
        volume.write_extent(bytes(MIB))
    volume._allowance = 0
    with pytest.raises(NoSpace):
        volume.room(8 * MIB)
    volume.close()


def test_sliced_extents_are_read_listed_and_deleted_like_whole_ones(tmp_path: Path) -> None:
    Volume.create(tmp_path / "store", SECRET, iterations=10)
    volume = Volume.open(tmp_path / "store", SECRET)
    data = [os.urandom(size) for size in (1, 4080, 300_000, MIB)]
    pairs = [volume.write_extent(each) for each in data]
    volume.commit(to_stores=True).wait()
    with volume._extent_store.reading() as reading:
        sealed = {}
        for extent, _ in pairs[1:]:
            found = reading.find(extent)
            assert found is not None
            sealed[extent] = bytearray(len(found))
            found.read(0, memoryview(sealed[extent]))
    volume.close()
    extents = LmdbExtents(os.fsencode(tmp_path / "store" / "extents"), map_size=64 * MIB)
    batch = extents.begin()
    for extent, value in sealed.items():
        batch.remove(extent)
        batch.put(extent, memoryview(value), sliced=True)
    batch.commit()
    extents.close()
    volume = Volume.open(tmp_path / "store", SECRET)
    ids = [extent for extent, _ in pairs]
    assert volume.raw_extent_ids(0, 10) == ids
    assert volume.raw_extent_ids(ids[0], 2) == ids[1:3]
    assert volume.raw_extent_ids(ids[1], 10) == ids[2:]
    for (extent, number), each in zip(pairs, data, strict=True):
        assert volume.read_extent(extent, 0, len(each), number) == each
        assert volume.verify_extent(extent, number) == len(each)
        assert volume.extent_is_warm(extent, 0, len(each))
    for extent in ids[1:3]:
        volume.free_extent(extent)
    volume.close()
    volume = Volume.open(tmp_path / "store", SECRET)
    assert volume.raw_extent_ids(0, 10) == [ids[0], ids[3]]
    assert volume.write_extent(b"next")[0] == ids[3] + 1
    volume.close()
