"""A store that was altered, cut, mixed up or taken from an older copy: Damaged, WrongKey or RolledBack, never wrong bytes."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import lmdb
import msgspec
import pytest
from msgspec.structs import replace

from anqfs.crypto.keyring import Keyring
from anqfs.crypto.sealing import CHUNK, FIRST_CHUNK
from anqfs.crypto.secrets import Secret
from anqfs.errors import Damaged, RolledBack, StoreMissing, UnsupportedFormat, WrongKey
from anqfs.store import superblock
from anqfs.store.lmdb_store import LmdbRecords
from anqfs.store.schema import COUNTER_EXTENT, ROOT_DIGEST, Dirent, Inode, Window, dirent_key, inode_key, window_key
from anqfs.store.volume import Volume

SECRET = Secret.from_passphrase("correct horse")
NAME = b"PATIENT_NAME_Doe_Jane"
DATA = b"PATIENT DATA in clear "


def inode(number: int) -> Inode:
    return Inode(1, 0o100644, 0, 0, 1, number, 0, 1, 2, 3, 4)


class Store:
    """A store on disk with two inodes, a name and two extents, and means to meddle with it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        Volume.create(path, SECRET, iterations=10)
        with_data = Volume.open(path, SECRET)
        for number in (1, 2):
            with_data.put(inode_key(number), inode(number))
        with_data.put(dirent_key(1, with_data.name_hash(NAME)), Dirent(1, NAME, 2, 0))
        with_data.put(window_key(2, 0), Window(1, DATA * 10))
        self.first, self.number = with_data.write_extent(DATA * 10_000)
        self.second, _ = with_data.write_extent(DATA * 10_000)
        with_data.close()
        self.opened: list[Volume] = []

    def open(self, **options: object) -> Volume:
        volume = Volume.open(self.path, SECRET, **options)  # type: ignore[arg-type]
        self.opened.append(volume)
        return volume

    def change(self, room: str, change: Callable[[lmdb.Transaction], None]) -> None:
        with lmdb.open(str(self.path / room), map_size=1 << 30) as environment, environment.begin(write=True) as txn:
            change(txn)

    def flip(self, room: str, key: bytes, position: int) -> None:
        def change(txn: lmdb.Transaction) -> None:
            value = bytearray(txn.get(key) or b"")
            value[position] ^= 0x10
            txn.put(key, bytes(value))

        self.change(room, change)

    @property
    def superblock(self) -> Path:
        return self.path / "superblock"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path / "store")
    yield made
    for volume in made.opened:
        volume.close()


# What is on the disk


def test_nothing_readable_is_in_the_files(store: Store) -> None:
    master = Volume.open(store.path, SECRET)
    keys = [master._keys._keyring.master, master._keys.name_hash_key, master._keys.digest_key]
    keys += [master._keys.data_key(0), master._keys.record_key(0), *master._keys._keyring._generations]
    master.close()
    secrets = [NAME, NAME[8:], DATA, DATA[:10], SECRET.material, *keys]
    files = [path for path in store.path.rglob("*") if path.is_file()]
    assert len(files) == 6
    for path in files:
        content = path.read_bytes()
        for secret in secrets:
            assert secret not in content, path


def test_the_same_data_twice_looks_different(store: Store) -> None:
    volume = store.open()
    with volume._extent_store.reading() as reading:
        first, second = reading.find(store.first), reading.find(store.second)
        assert first is not None and second is not None
        assert len(first) == len(second)
        begins = [bytearray(64), bytearray(64)]
        first.read(0, memoryview(begins[0]))
        second.read(0, memoryview(begins[1]))
        assert begins[0] != begins[1]


# Records


@pytest.mark.parametrize("position", [0, 4, 12, 13, 20, -1])
def test_an_altered_record_is_damaged_and_the_others_are_not(store: Store, position: int) -> None:
    store.flip("records", inode_key(1), position)
    volume = store.open()
    for _ in range(2):
        with pytest.raises(Damaged):
            volume.get(inode_key(1))
    assert volume.get(inode_key(2)) == inode(2)
    with pytest.raises(Damaged):
        list(volume.scan(b"I", b"J"))
    assert list(volume.scan_keys(b"I", b"J")) == [inode_key(1), inode_key(2)]
    assert volume.recompute_root() != volume.root


def test_swapped_records_are_damaged(store: Store) -> None:
    def swap(txn: lmdb.Transaction) -> None:
        one, two = txn.get(inode_key(1)), txn.get(inode_key(2))
        txn.put(inode_key(1), two)
        txn.put(inode_key(2), one)

    store.change("records", swap)
    volume = store.open()
    for number in (1, 2):
        with pytest.raises(Damaged):
            volume.get(inode_key(number))


@pytest.mark.parametrize("length", [1, 12, 13, 28, 40])
def test_a_cut_record_is_damaged(store: Store, length: int) -> None:
    store.change("records", lambda txn: txn.put(inode_key(1), (txn.get(inode_key(1)) or b"")[:length]))
    with pytest.raises(Damaged):
        store.open().get(inode_key(1))


def test_a_record_of_another_volume_is_damaged(store: Store, tmp_path: Path) -> None:
    other = Store(tmp_path / "other")
    foreign: list[bytes] = []
    other.change("records", lambda txn: foreign.append(txn.get(inode_key(1)) or b""))
    store.change("records", lambda txn: txn.put(inode_key(1), foreign[0]))
    with pytest.raises(Damaged):
        store.open().get(inode_key(1))


def test_an_altered_salt_opens_nothing_and_its_number_is_not_used_again(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    key = b"K" + bytes(4)
    store.change("records", lambda txn: txn.put(key, b"rot"))
    with caplog.at_level(logging.CRITICAL):
        volume = store.open()
    with pytest.raises(Damaged):
        volume.get(inode_key(1))
    with pytest.raises(Damaged):
        volume.read_extent(store.first, 0, 1, store.number)
    volume.put(inode_key(3), inode(3))
    volume.close()
    raw: dict[bytes, bytes] = {}
    store.change("records", lambda txn: raw.update(txn.cursor()))
    assert raw[key] == b"rot"
    assert raw[inode_key(3)][1:5] == (1).to_bytes(4, "big")


def test_a_missing_sealing_key_is_damage(store: Store) -> None:
    store.change("records", lambda txn: txn.delete(b"K" + bytes(4)))
    volume = store.open(read_only=True)
    with pytest.raises(Damaged, match="sealing key 0 is missing"):
        volume.get(inode_key(1))


def test_a_record_that_does_not_decode_is_damaged(store: Store) -> None:
    volume = store.open()
    volume.put(inode_key(1), Dirent(1, b"not an inode", 1, 0))
    volume.close()
    with pytest.raises(Damaged, match="does not decode"):
        store.open().get(inode_key(1))


@pytest.mark.parametrize("key", [ROOT_DIGEST, COUNTER_EXTENT])
@pytest.mark.parametrize("missing", [True, False])
def test_damaged_bookkeeping_keeps_nothing_else_from_being_read(
    store: Store, key: bytes, missing: bool, caplog: pytest.LogCaptureFixture
) -> None:
    if missing:
        store.change("records", lambda txn: txn.delete(key))
    else:
        store.flip("records", key, -1)
    with caplog.at_level(logging.CRITICAL):
        volume = store.open()
        assert volume.get(inode_key(1)) == inode(1)
        extent, _ = volume.write_extent(b"new")
        assert extent > store.second
        volume.commit(to_stores=True).wait()
        assert volume.raw_extent_ids(0, 10) == [store.first, store.second, extent]
        assert (volume.recompute_root() == volume.root) == (key == ROOT_DIGEST)
        volume.close()
    volume = store.open()
    assert volume.read_extent(store.first, 0, len(DATA), store.number) == DATA


def test_a_damaged_frees_record_frees_nothing(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    store.change("records", lambda txn: txn.put(b"F" + bytes(8), b"\x01" + bytes(60)))
    with caplog.at_level(logging.CRITICAL):
        volume = store.open()
    volume.put(inode_key(3), inode(3))
    volume.close()
    volume = store.open()
    assert volume.raw_extent_ids(0, 10) == [store.first, store.second]


# Extents


@pytest.mark.parametrize("fetched", [False, True])
@pytest.mark.parametrize("position", [0, CHUNK - 1, CHUNK, CHUNK + 4464, -1])
def test_an_altered_extent_is_damaged_where_it_was_altered(store: Store, position: int, fetched: bool) -> None:
    store.flip("extents", store.first.to_bytes(8, "big"), position)
    volume = store.open()
    length = len(DATA) * 10_000
    good = 0
    for offset in range(0, length, CHUNK):
        wanted = (store.first, offset, 10, store.number)
        if fetched:
            volume.fetch([wanted])
            assert volume.extent_is_warm(*wanted[:3])
        try:
            assert volume.read_extent(*wanted) == (DATA * 10_000)[offset : offset + 10]
        except Damaged:
            continue
        good += 1
    assert good == length // CHUNK
    for read in (lambda: volume.read_extent(store.first, 0, length, store.number), lambda: volume.verify_extent(store.first, store.number)):
        with pytest.raises(Damaged):
            read()
    assert volume.verify_extent(store.second, store.number) == length


def test_swapped_extents_are_damaged(store: Store) -> None:
    def swap(txn: lmdb.Transaction) -> None:
        keys = [each.to_bytes(8, "big") for each in (store.first, store.second)]
        one, two = (txn.get(key) for key in keys)
        txn.put(keys[0], two)
        txn.put(keys[1], one)

    store.change("extents", swap)
    volume = store.open()
    for extent in (store.first, store.second):
        with pytest.raises(Damaged):
            volume.read_extent(extent, 0, 10, store.number)


@pytest.mark.parametrize("length", [1, 16, 17, CHUNK + 15, CHUNK + 16, CHUNK + 32, CHUNK + 33, 2 * (CHUNK + 16)])
def test_a_cut_extent_is_damaged(store: Store, length: int) -> None:
    key = store.first.to_bytes(8, "big")
    store.change("extents", lambda txn: txn.put(key, (txn.get(key) or b"")[:length]))
    volume = store.open()
    with pytest.raises(Damaged):
        volume.read_extent(store.first, 0, 10, store.number)
    assert volume.extent_is_warm(store.first, 200_000, 10) in (True, False)
    with pytest.raises(Damaged):
        volume.read_extent(store.first, 200_000, 10, store.number)


@pytest.mark.parametrize("page", [1 << 20, 1 << 50, (1 << 64) - 1])
def test_an_extent_beside_another_that_lies_past_the_end_of_the_file_is_damaged(store: Store, page: int) -> None:
    """Places of extents are taken from whole pages of the database, and what an altered one says must not be touched."""
    path = store.path / "extents" / "data.mdb"
    content, node = path.read_bytes(), store.first.to_bytes(8, "big")
    at = content.rindex(node, 0, 64 << 10) + len(node)
    path.write_bytes(content[:at] + page.to_bytes(8, "little") + content[at + 8 :])
    volume = store.open()
    assert volume.read_extent(store.second, 0, 10, store.number) == DATA[:10]
    assert volume.extent_is_warm(store.first, 0, 10)
    with pytest.raises(Damaged, match="past its end"):
        volume.read_extent(store.first, 0, 10, store.number)


def test_a_deleted_extent_is_damage(store: Store) -> None:
    store.change("extents", lambda txn: txn.delete(store.first.to_bytes(8, "big")))
    volume = store.open()
    volume.fetch([(store.first, 0, 10, store.number), (store.second, 0, 10, store.number)])
    for _ in range(2):
        with pytest.raises(Damaged, match="missing"):
            volume.read_extent(store.first, 0, 10, store.number)
    assert volume.read_extent(store.second, 0, 10, store.number) == DATA[:10]


@pytest.mark.parametrize("room", ["records", "extents"])
def test_a_cut_database_is_damaged_at_opening(store: Store, room: str) -> None:
    volume = store.open()
    for number in range(100):
        volume.put(inode_key(number), inode(number))
        volume.write_extent(os.urandom(100_000))
        volume.put(window_key(number, 0), Window(1, os.urandom(4000)))
    for number in range(1000):
        volume.put(window_key(1000 + number, 0), Window(1, os.urandom(4096)))
    volume.close()
    path = store.path / room / "data.mdb"
    os.truncate(path, path.stat().st_size // 4)
    for read_only in (False, True):
        with pytest.raises(Damaged, match="cut"):
            store.open(read_only=read_only)


@pytest.mark.parametrize("content", [b"", b"not a database" * 1000])
def test_a_database_that_is_none_is_damaged(store: Store, content: bytes) -> None:
    (store.path / "records" / "data.mdb").write_bytes(content)
    if content:
        with pytest.raises(Damaged):
            store.open()
    for read_only in (True, False):
        (store.path / "extents" / "data.mdb").unlink(missing_ok=True)
        with pytest.raises(Damaged):
            store.open(read_only=read_only)


# An older copy


def test_an_older_copy_is_told_by_its_root(store: Store, tmp_path: Path) -> None:
    shutil.copytree(store.path, tmp_path / "older")
    volume = store.open()
    older = volume.root
    volume.put(inode_key(3), inode(3))
    volume.close()
    volume = store.open()
    root = volume.root
    volume.close()
    assert root != older
    store.open(expect_root=root).close()
    with pytest.raises(RolledBack, match=older):
        Volume.open(tmp_path / "older", SECRET, expect_root=root)
    with pytest.raises(RolledBack):
        store.open(expect_root=older, read_only=True)
    Volume.open(tmp_path / "older", SECRET, expect_root=older).close()


def test_one_record_taken_from_an_older_copy_is_told_by_the_recomputed_root(store: Store) -> None:
    old: list[bytes] = []
    store.change("records", lambda txn: old.append(txn.get(inode_key(1)) or b""))
    volume = store.open()
    volume.put(inode_key(1), inode(99))
    volume.close()
    store.change("records", lambda txn: txn.put(inode_key(1), old[0]))
    volume = store.open()
    assert volume.get(inode_key(1)) == inode(1)
    assert volume.recompute_root() != volume.root


# The superblock


def test_a_wrong_secret_opens_nothing(store: Store) -> None:
    for wrong in (Secret.from_passphrase("correct Horse"), Secret("key-file", b"x" * 64)):
        with pytest.raises(WrongKey):
            Volume.open(store.path, wrong)
    store.open()


def test_there_is_no_store_here(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_bytes(b"")
    for name in ("missing", "empty", "file"):
        with pytest.raises(StoreMissing):
            Volume.open(tmp_path / name, SECRET)
    assert not list((tmp_path / "empty").iterdir())


def test_a_superblock_cut_anywhere_is_refused(store: Store) -> None:
    content = store.superblock.read_bytes()
    for length in (0, 4, 8, 12, 16, 40, len(content) // 2, len(content) - 1):
        store.superblock.write_bytes(content[:length])
        with pytest.raises((Damaged, StoreMissing, UnsupportedFormat)):
            store.open()
    store.superblock.write_bytes(content + b"\0")
    with pytest.raises(Damaged):
        store.open()
    store.superblock.write_bytes(bytes(superblock.SIZE_MAX + 1))
    with pytest.raises(Damaged):
        store.open()


def test_a_superblock_with_any_byte_altered_is_refused(store: Store) -> None:
    content = store.superblock.read_bytes()
    for position in range(0, len(content), 3):
        altered = bytearray(content)
        altered[position] ^= 1
        store.superblock.write_bytes(bytes(altered))
        with pytest.raises((Damaged, StoreMissing, UnsupportedFormat)):
            store.open()


def test_a_newer_format_is_told_apart_from_damage(store: Store) -> None:
    content = store.superblock.read_bytes()
    store.superblock.write_bytes(content[:8] + (3).to_bytes(4, "big") + content[12:])
    with pytest.raises(UnsupportedFormat, match="format 3"):
        store.open()


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("chunk", [-1, 0, 1, CHUNK - 1, 2 * CHUNK, FIRST_CHUNK + 1, 1 << 20, 1 << 63])
def test_a_superblock_with_another_size_of_chunks_is_refused(store: Store, version: int, chunk: int) -> None:
    body = superblock.unpack(store.superblock.read_bytes())
    store.superblock.write_bytes(written_as(version, replace(body, chunk=chunk)))
    with pytest.raises(Damaged, match="no chunks of"):
        store.open()


def test_each_format_has_its_own_size_of_chunks(store: Store) -> None:
    """A program that knows format 1 only would not see the size: format 1 must not have any but that of format 1."""
    body = superblock.unpack(store.superblock.read_bytes())
    assert (body.format, body.chunk) == (2, CHUNK)
    for version, chunk in ((1, CHUNK), (2, FIRST_CHUNK)):
        store.superblock.write_bytes(written_as(version, replace(body, chunk=chunk)))
        with pytest.raises(Damaged, match=f"format {version} has no chunks of {chunk}"):
            store.open()


def written_as(version: int, body: superblock.Superblock) -> bytes:
    """Return a superblock file with a checksum that holds, as somebody without the keys can make it."""
    encoded = msgspec.msgpack.encode(body)
    content = superblock.MAGIC + version.to_bytes(4, "big") + len(encoded).to_bytes(4, "big") + encoded + bytes(32)
    return content + hashlib.sha256(content).digest()


def test_the_other_size_of_chunks_is_not_the_volumes_own(store: Store) -> None:
    """A superblock of format 1 with a fitting checksum, made without the keys from that of a volume of format 2, is refused as altered."""
    body = superblock.unpack(store.superblock.read_bytes())
    store.superblock.write_bytes(written_as(1, replace(body, chunk=FIRST_CHUNK)))
    with pytest.raises(Damaged, match="altered"):
        store.open()


def test_a_forged_superblock_with_a_fitting_checksum_is_refused(store: Store) -> None:
    """An attacker can compute the checksum but not the code: a slot or a generation slipped in is noticed."""
    body = superblock.unpack(store.superblock.read_bytes())
    forger = Keyring(os.urandom(32), body.uuid)
    changed = superblock.Superblock(body.uuid, body.created + 1, body.slots, body.generations)
    store.superblock.write_bytes(superblock.pack(changed, forger))
    with pytest.raises(Damaged, match="altered"):
        store.open()
    emptied = superblock.Superblock(body.uuid, body.created, (), body.generations)
    store.superblock.write_bytes(superblock.pack(emptied, forger))
    with pytest.raises(WrongKey):
        store.open()
    other = superblock.Superblock(bytes(16), body.created, body.slots, body.generations)
    store.superblock.write_bytes(superblock.pack(other, forger))
    with pytest.raises(Damaged):
        store.open()


def test_a_superblock_is_replaced_whole_or_not_at_all(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    before = store.superblock.read_bytes()
    volume = store.open()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(Exception, match="the disk is full"):
            volume.rotate()
    assert store.superblock.read_bytes() == before
    assert sorted(os.listdir(store.path)) == ["extents", "lock", "records", "superblock"]
    number = volume._keys.current
    volume.rotate()
    assert volume._keys.current == number + 1
    volume.close()
    store.open()


def test_what_an_altered_page_puts_out_of_order_is_not_taken_for_what_was_asked_for(tmp_path: Path) -> None:
    """A search that meets a key which is too large lands before what it looks for, and went on from there with others' records."""
    with lmdb.open(str(tmp_path)) as environment, environment.begin(write=True) as transaction:
        for number in range(100):
            transaction.put(b"key-%03d" % number, b"%d" % number)
    data = tmp_path / "data.mdb"
    data.write_bytes(data.read_bytes().replace(b"key-049", b"key-zzz"))
    records = LmdbRecords(bytes(tmp_path), map_size=1 << 20, read_only=True)
    try:
        for look in (records.items, records.keys, lambda start, _stop, limit: records.current_items(start, limit)):
            with pytest.raises(Damaged, match="not in order"):
                look(b"key-060", b"key-zzzz", 1000)
        assert records.items(b"key-010", b"key-013", 1000) == [(b"key-%03d" % number, b"%d" % number) for number in (10, 11, 12)]
    finally:
        records.close()
