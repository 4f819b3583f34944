"""Reading without stopping everyone: warm and cold extents, the extent cache, mapped memory, locks and read-only volumes."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from anqfs.crypto.sealing import CHUNK
from anqfs.crypto.secrets import Secret
from anqfs.errors import Damaged, ReadOnlyVolume, StoreInUse, StoreMissing
from anqfs.store import extents as extents_module
from anqfs.store import memory
from anqfs.store.cache import ExtentCache
from anqfs.store.lock import StoreLock
from anqfs.store.schema import Inode, inode_key
from anqfs.store.volume import Volume

SECRET = Secret.from_passphrase("reading")
MIB = 1 << 20
FAR = 20
"""Extents of 1 MiB at the start of a file, some of which the kernel reads ahead when LMDB reads the file's first page."""


def inode(number: int) -> Inode:
    return Inode(1, 0o100644, 0, 0, 1, number, 0, 1, 2, 3, 4)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "store"
    Volume.create(path, SECRET, iterations=10)
    return path


@pytest.fixture
def volume(store: Path) -> Iterator[Volume]:
    opened = Volume.open(store, SECRET)
    yield opened
    opened.close()


# Warm and cold


def drop_from_memory(path: Path) -> None:
    """Take a file's clean pages out of the kernel's cache."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def test_mincore_tells_which_pages_of_a_map_are_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(64 * mmap.PAGESIZE))
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped, memoryview(mapped) as view:
        assert memory.is_resident(view)
        with view[100:200] as part:
            assert memory.address(part) == memory.address(view) + 100
        memory.drop(memory.address(view), len(view))
        assert memory.is_resident(view), "dropping page table entries leaves the pages in the kernel's cache"
        assert bytes(view[:16]) == path.read_bytes()[:16]


def test_an_extent_in_a_group_or_just_written_is_warm_and_a_missing_one_does_not_block(volume: Volume) -> None:
    extent, _ = volume.write_extent(os.urandom(MIB))
    assert volume.extent_is_warm(extent, 0, MIB)
    volume.commit(to_stores=True).wait()
    volume._settle()
    assert volume.extent_is_warm(extent, 0, MIB)
    assert volume.extent_is_warm(extent, MIB + 5, 10)
    assert volume.extent_is_warm(extent + 1, 0, 1)


def test_an_extent_that_is_not_in_memory_is_cold_until_it_was_fetched(store: Path) -> None:
    volume = Volume.open(store, SECRET)
    data = os.urandom(MIB)
    pairs = [volume.write_extent(data) for _ in range(FAR + 8)][FAR:]
    volume.close()
    drop_from_memory(store / "extents" / "data.mdb")
    volume = Volume.open(store, SECRET)
    cold = [pair for pair in pairs if not volume.extent_is_warm(pair[0], 0, MIB)]
    if not on_tmpfs(store):
        assert len(cold) >= 6
    reader = threading.Thread(target=volume.fetch, args=([(extent, 0, MIB, number) for extent, number in pairs],))
    reader.start()
    reader.join()
    for extent, number in pairs:
        assert volume.extent_is_warm(extent, 0, MIB)
        assert volume.read_extent(extent, 0, MIB, number) == data
    assert volume.counters["extent_cache_hits"] == 8
    assert volume.counters["extent_cache_misses"] == 0
    volume.close()


def on_tmpfs(path: Path) -> bool:
    """Tell whether the path is on a tmpfs, whose files are always in memory."""
    return subprocess.run(["stat", "-f", "-c", "%T", str(path)], capture_output=True, check=True).stdout.strip() == b"tmpfs"


def test_a_cold_read_of_4_kib_reads_its_chunk_and_not_the_extent(store: Path) -> None:
    volume = Volume.open(store, SECRET)
    data = os.urandom(MIB)
    (checked, number), *_, (wanted, _) = (volume.write_extent(data) for _ in range(FAR))
    volume.close()
    drop_from_memory(store / "extents" / "data.mdb")
    volume = Volume.open(store, SECRET)
    assert volume.read_extent(checked, 0, 10, number) == data[:10]
    assert volume._extent_store._mapping._trusted, "LMDB's layout is the expected one"
    assert volume.read_extent(wanted, 8 * 65536, 4096, number) == data[8 * 65536 :][:4096]
    assert volume.extent_is_warm(wanted, 8 * 65536, CHUNK)
    if not on_tmpfs(store):
        assert not volume.extent_is_warm(wanted, 0, 4096)
        assert not volume.extent_is_warm(wanted, 12 * 65536, 4096)
    volume.close()


def test_an_extent_is_found_without_touching_it_when_one_beside_it_was(store: Path) -> None:
    volume = Volume.open(store, SECRET)
    (checked, number), *_, (wanted, _), (beside, _), _ = (volume.write_extent(os.urandom(MIB)) for _ in range(FAR))
    volume.close()
    drop_from_memory(store / "extents" / "data.mdb")
    volume = Volume.open(store, SECRET)
    volume.read_extent(checked, 0, 10, number)
    assert volume.extent_length(wanted) == MIB
    found = volume._extent_store._places[wanted.to_bytes(8, "big")]
    with volume._extent_store._mapping.view(found[0], found[1]) as value:
        assert on_tmpfs(store) or not memory.is_resident(value[:1])
        assert volume._extent_store._txn.get(wanted.to_bytes(8, "big")) == value
    volume.free_extent(beside)
    volume.commit(to_stores=True).wait()
    volume.put(inode_key(1), inode(1))
    volume.commit(to_stores=True).wait()
    assert (volume.extent_length(beside), volume.extent_length(wanted)) == (0, MIB)
    volume.close()


def test_extents_are_read_also_when_lmdb_lays_values_out_otherwise(store: Path, caplog: pytest.LogCaptureFixture) -> None:
    volume = Volume.open(store, SECRET)
    pairs = [volume.write_extent(os.urandom(size)) for size in (10, 3000, 300_000)]
    volume.commit(to_stores=True).wait()
    expected = [volume._groups[1].extents[extent][0] for extent, _ in pairs]
    volume._settle()
    volume._extent_store._mapping._page_size = 8192
    for (extent, number), data in zip(pairs, expected, strict=True):
        assert volume.read_extent(extent, 0, len(data), number) == data
    assert volume._extent_store._mapping._trusted is False
    assert "elsewhere than expected" in caplog.text
    volume.close()


def test_a_short_read_keeps_its_chunk_at_hand(volume: Volume) -> None:
    data = os.urandom(3 * 65536 + 100)
    extent, number = volume.write_extent(data)
    volume.commit(to_stores=True).wait()
    for offset in range(CHUNK, 2 * CHUNK, 1024):
        assert volume.read_extent(extent, offset, 1024, number) == data[offset : offset + 1024]
    assert (volume.counters["extent_cache_misses"], volume.counters["extent_cache_hits"]) == (1, CHUNK // 1024 - 1)
    assert volume.read_extent(extent, 3 * 65536 + 50, 50, number) == data[-50:]
    with pytest.raises(Damaged):
        volume.read_extent(extent, 3 * 65536 + 50, 51, number)


def test_a_small_extent_is_opened_whole(volume: Volume) -> None:
    data = os.urandom(extents_module.WHOLE)
    extent, number = volume.write_extent(data)
    volume.commit(to_stores=True).wait()
    for offset in range(0, len(data), 4096):
        assert volume.read_extent(extent, offset, 4096, number) == data[offset : offset + 4096]
    assert (volume.counters["extent_cache_misses"], volume.counters["extent_cache_hits"]) == (1, len(data) // 4096 - 1)


@pytest.mark.parametrize("answer", [errno.EOPNOTSUPP, errno.EIO])
def test_extents_are_read_where_the_filesystem_cannot_read_without_waiting(
    store: Path, monkeypatch: pytest.MonkeyPatch, answer: int
) -> None:
    preadv = os.preadv

    def refuse(descriptor: int, buffers: list[memoryview], at: int, flags: int = 0) -> int:
        if flags:
            raise OSError(answer, os.strerror(answer))
        return preadv(descriptor, buffers, at)

    volume = Volume.open(store, SECRET)
    data = os.urandom(MIB)
    extent, number = volume.write_extent(data)
    volume.commit(to_stores=True).wait()
    volume._settle()
    monkeypatch.setattr(os, "preadv", refuse)
    assert volume.extent_is_warm(extent, 0, MIB) is (answer == errno.EOPNOTSUPP)
    assert volume.read_extent(extent, 0, MIB, number) == data
    volume.close()


@pytest.mark.parametrize("short", [False, True])
def test_a_disk_that_does_not_read_is_damage(store: Path, monkeypatch: pytest.MonkeyPatch, short: bool) -> None:
    def fail(_descriptor: int, _buffers: list[memoryview], _at: int, flags: int = 0) -> int:
        if short:
            return 100
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    volume = Volume.open(store, SECRET)
    extent, number = volume.write_extent(os.urandom(MIB))
    volume.commit(to_stores=True).wait()
    volume._settle()
    monkeypatch.setattr(os, "preadv", fail)
    assert not volume.extent_is_warm(extent, 0, MIB)
    with pytest.raises(Damaged):
        volume.read_extent(extent, 0, MIB, number)
    with pytest.raises(Damaged):
        volume.verify_extent(extent, number)
    volume.fetch([(extent, 0, MIB, number)])
    with pytest.raises(Damaged):
        volume.read_extent(extent, 0, MIB, number)
    volume.close()


def test_fetching_by_many_threads_while_groups_are_committed(volume: Volume) -> None:
    data = [os.urandom(200_000) for _ in range(4)]
    pairs = [volume.write_extent(each) for each in data]
    volume.commit(to_stores=True).wait()
    errors: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            for turn in range(30):
                index = (seed + turn) % 4
                extent, number = pairs[index]
                volume._reader.cache.drop(extent)
                volume.fetch([(extent, 70_000, 100_000, number)])
                found = volume._reader.cache.find(extent, 70_000, 100_000)
                assert found is None or found == data[index][70_000:170_000]
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for number in range(20):
        volume.put(inode_key(number), inode(number))
        volume.write_extent(b"more")
        volume.commit(to_stores=True).wait()
    for thread in threads:
        thread.join()
    assert errors == []
    volume._reader.cache.drop(pairs[0][0])


def test_nothing_is_fetched_from_a_closed_volume(store: Path) -> None:
    volume = Volume.open(store, SECRET)
    extent, number = volume.write_extent(b"data")
    volume.close()
    with pytest.raises(ValueError, match="closed"):
        volume.fetch([(extent, 0, 4, number)])


# The extent cache


def test_the_extent_cache_forgets_what_was_not_used_for_longest() -> None:
    cache = ExtentCache(limit=10 * 1200)
    for extent in range(10):
        cache.add(extent, 0, bytes((extent,)) * 1000)
    assert cache.find(0, 0, 1000) == bytes(1000)
    cache.add(10, 0, b"x" * 1000)
    assert cache.find(1, 0, 1000) is None
    assert cache.find(0, 10, 5) == bytes(5)
    assert cache.size == 10 * 1200
    cache.add(11, 0, bytes(50_000))
    assert cache.size == 0 and cache.find(11, 0, 1) is None
    cache.clear()
    assert cache.size == 0


def test_the_extent_cache_answers_only_ranges_that_it_has_whole() -> None:
    cache = ExtentCache()
    cache.add(1, 100, b"abcdefgh")
    cache.add(1, 200, b"ijkl")
    assert cache.find(1, 100, 8) == b"abcdefgh"
    assert cache.find(1, 102, 3) == b"cde"
    assert cache.find(1, 201, 3) == b"jkl"
    for offset, length in ((99, 2), (107, 2), (150, 1), (203, 2)):
        assert cache.find(1, offset, length) is None
        assert not cache.holds(1, offset, length)
    cache.add(1, 90, b"x" * 200)
    assert cache.find(1, 100, 8) == b"x" * 8
    assert cache.size == 400
    cache.drop(1)
    assert cache.size == 0


def test_damage_is_told_once_and_then_looked_for_again() -> None:
    cache = ExtentCache()
    cache.note_damage(5, Damaged("rot"))
    assert cache.holds(5, 0, 1)
    with pytest.raises(Damaged, match="rot"):
        cache.find(5, 0, 1)
    assert cache.find(5, 0, 1) is None
    for extent in range(5000):
        cache.note_damage(extent, Damaged("rot"))
    assert len(cache._damaged) <= 1024


# Mapped memory


def test_maps_that_are_resident_are_dropped_above_a_bound(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(1, 20_000):
        volume.put(inode_key(number), inode(number))
    volume.commit(to_stores=True).wait()
    assert len(volume.raw_records(b"", 30_000)) >= 19_999
    base = memory.mapped_resident()
    monkeypatch.setattr(extents_module, "MAPPED_MAX", 0)
    volume._reader.trim()
    assert memory.mapped_resident() < base - MIB
    assert volume.counters["trims"] >= 1
    assert len(volume.raw_records(b"", 30_000)) >= 19_999


# Locks


def holder(store: Path, *options: str) -> subprocess.Popen[bytes]:
    """Start a process that opens the store and holds it until its standard input ends."""
    code = (
        "import sys; from anqfs.store.volume import Volume; from anqfs.crypto.secrets import Secret\n"
        "v = Volume.open(sys.argv[1], Secret.from_passphrase('reading'), read_only='ro' in sys.argv)\n"
        "print('open', flush=True); sys.stdin.read(); v.close()"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(store), *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"open\n"
    return process


def test_a_store_in_use_names_the_process_that_holds_it(store: Path) -> None:
    process = holder(store)
    try:
        for read_only in (False, True):
            with pytest.raises(StoreInUse, match=f"process {process.pid}$"):
                Volume.open(store, SECRET, read_only=read_only)
    finally:
        process.communicate(timeout=60)
    assert process.returncode == 0
    Volume.open(store, SECRET).close()


def test_the_lock_of_a_killed_process_is_gone(store: Path) -> None:
    process = holder(store)
    process.kill()
    process.communicate(timeout=60)
    volume = Volume.open(store, SECRET)
    with pytest.raises(StoreInUse, match=f"process {os.getpid()}$"):
        Volume.open(store, SECRET)
    volume.close()


def test_read_only_volumes_share_a_store_and_keep_writers_out(store: Path) -> None:
    process = holder(store, "ro")
    try:
        Volume.open(store, SECRET, read_only=True).close()
        with pytest.raises(StoreInUse):
            Volume.open(store, SECRET)
    finally:
        process.communicate(timeout=60)
    Volume.open(store, SECRET).close()


def test_one_process_opens_a_store_once(store: Path) -> None:
    volume = Volume.open(store, SECRET, read_only=True)
    with pytest.raises(StoreInUse, match="this process"):
        Volume.open(store, SECRET, read_only=True)
    volume.close()
    Volume.open(store, SECRET).close()


def test_a_failed_opening_lets_go_of_the_lock(store: Path) -> None:
    with pytest.raises(Exception, match="opens none"):
        Volume.open(store, Secret.from_passphrase("wrong"))
    (store / "extents" / "data.mdb").rename(store / "gone")
    with pytest.raises(Damaged):
        Volume.open(store, SECRET)
    (store / "gone").rename(store / "extents" / "data.mdb")
    Volume.open(store, SECRET).close()


def test_the_lock_is_not_handed_to_other_programs(store: Path) -> None:
    lock = StoreLock.acquire(os.fsencode(store), shared=False)
    assert fcntl.fcntl(lock._descriptor, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    lock.release()
    lock.release()


def test_a_lock_file_that_is_a_link_is_refused(store: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"precious")
    (store / "lock").unlink()
    (store / "lock").symlink_to(tmp_path / "precious")
    with pytest.raises(StoreMissing):
        Volume.open(store, SECRET)
    assert (tmp_path / "precious").read_bytes() == b"precious"


# Read-only


def test_a_read_only_volume_reads_everything_and_changes_nothing(store: Path) -> None:
    volume = Volume.open(store, SECRET)
    volume.put(inode_key(1), inode(1))
    extent, number = volume.write_extent(b"data")
    volume.commit(to_stores=True).wait()
    volume.free_extent(volume.write_extent(b"x")[0])
    volume.close()
    before = {path: path.read_bytes() for path in store.rglob("data.mdb")}
    volume = Volume.open(store, SECRET, read_only=True)
    hooks: list[int] = []
    volume.before_close.append(lambda: hooks.append(1))
    assert volume.get(inode_key(1)) == inode(1)
    assert list(volume.scan(b"I", b"J")) == [(inode_key(1), inode(1))]
    assert volume.read_extent(extent, 0, 4, number) == b"data"
    assert volume.recompute_root() == volume.root
    for change in (
        volume.begin,
        lambda: volume.put(inode_key(1), inode(2)),
        lambda: volume.delete(inode_key(1)),
        lambda: volume.write_extent(b"data"),
        lambda: volume.free_extent(extent),
        volume.rotate,
        lambda: volume.add_slot(SECRET, iterations=1),
    ):
        with pytest.raises(ReadOnlyVolume):
            change()
    assert volume.commit().done
    volume.close_group()
    assert volume.due() is None
    assert not volume.must_wait()
    volume.close()
    assert hooks == []
    assert {path: path.read_bytes() for path in store.rglob("data.mdb")} == before


def test_a_volume_on_a_read_only_disk_opens_read_only(store: Path, tmp_path: Path) -> None:
    volume = Volume.open(store, SECRET)
    volume.put(inode_key(1), inode(1))
    volume.close()
    place = tmp_path / "readonly"
    place.mkdir()
    subprocess.run(["mount", "--bind", str(store), str(place)], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(place)], check=True)
        volume = Volume.open(place, SECRET, read_only=True)
        assert volume.get(inode_key(1)) == inode(1)
        volume.close()
        with pytest.raises(StoreMissing, match="Read-only"):
            Volume.open(place, SECRET)
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)
