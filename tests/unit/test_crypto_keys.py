"""Secrets, key slots and the keyring."""

from __future__ import annotations

import hashlib
import hmac
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from anqfs.crypto import slots as slot_module
from anqfs.crypto.keyring import Keyring, derive
from anqfs.crypto.secrets import KEY_FILE_MAX, PASSPHRASE_MAX, Secret
from anqfs.crypto.slots import ITERATIONS_FLOOR, MAX_SLOTS, KeySlot, calibrate, free_number, make_slot, open_slots, without
from anqfs.errors import Damaged, KeySlotError, UsageError, WrongKey
from tests.places import open_temporary, secret_file

MASTER = bytes(range(32))
VOLUME = b"\xaa" * 16
PASSPHRASE = Secret.from_passphrase("correct horse")
KEY_FILE = Secret("key-file", b"k" * 64)
NOBODY = 65534


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A temporary directory that every user may enter."""
    path = open_temporary("anqfs-secrets-")
    yield path
    shutil.rmtree(path)


@contextmanager
def as_user(uid: int) -> Iterator[None]:
    """Do something with another user's rights."""
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)


def slot(number: int, secret: Secret, master: bytes = MASTER) -> KeySlot:
    return make_slot(number, secret, master, iterations=10, created=1)


def test_a_secret_does_not_show_itself() -> None:
    assert "correct" not in repr(PASSPHRASE)
    assert repr(PASSPHRASE) == "Secret(kind='passphrase')"


def test_composed_and_decomposed_passphrases_are_the_same() -> None:
    assert Secret.from_passphrase("se\u0301same") == Secret.from_passphrase("s\u00e9same")


@pytest.mark.parametrize("passphrase", ["", b"", "x" * (PASSPHRASE_MAX + 1)])
def test_empty_and_endless_passphrases_are_refused(passphrase: str | bytes) -> None:
    with pytest.raises(UsageError):
        Secret.from_passphrase(passphrase)


@pytest.mark.parametrize("content", [b"secret", b"secret\n", b"secret\r\n", b"secret\nsecond line\n"])
def test_a_passphrase_file_is_its_first_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "pass"
    secret_file(path, content)
    assert Secret.from_passphrase_file(path) == Secret.from_passphrase("secret")


def test_a_passphrase_file_need_not_be_text(tmp_path: Path) -> None:
    path = tmp_path / "pass"
    secret_file(path, b"\xff\xfe\n")
    assert Secret.from_passphrase_file(path).material == b"\xff\xfe"


@pytest.mark.parametrize("content", [b"", b"\n", b"\r\nsecret\n"])
def test_an_empty_passphrase_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "pass"
    secret_file(path, content)
    with pytest.raises(UsageError, match="empty"):
        Secret.from_passphrase_file(path)


def test_a_key_file_is_all_of_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "key"
    secret_file(path, b"\n" + bytes(31))
    assert Secret.from_key_file(path) == Secret("key-file", b"\n" + bytes(31))


@pytest.mark.parametrize("who", [0, NOBODY])
def test_a_secret_that_is_not_its_owners_alone_is_refused(open_directory: Path, who: int) -> None:
    path = secret_file(open_directory / "it's a key", bytes(64))
    os.chown(path, who, -1)
    with as_user(who):
        for mode in (0o604, 0o644, 0o602, 0o601, 0o620, 0o755, 0o777):
            path.chmod(mode)
            for read in (Secret.from_key_file, Secret.from_passphrase_file):
                with pytest.raises(UsageError, match=rf"mode is {mode:04o}, .*: chmod 600 \"/.*/it's a key\"$"):
                    read(path)
        for mode in (0o400, 0o600, 0o640, 0o440):
            path.chmod(mode)
            assert Secret.from_key_file(path).material == bytes(64)


def test_a_secret_of_somebody_else_is_not_read(open_directory: Path) -> None:
    path = secret_file(open_directory / "key", bytes(64))
    with as_user(NOBODY), pytest.raises(UsageError, match="Permission denied"):
        Secret.from_key_file(path)


def test_a_secret_may_come_through_a_pipe_of_any_mode(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    path.chmod(0o666)
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(path.write_bytes, bytes(64))
        assert Secret.from_key_file(path).material == bytes(64)
        writing.result()


@pytest.mark.parametrize(("size", "words"), [(0, "0 bytes"), (31, "31 bytes"), (KEY_FILE_MAX + 1, "larger")])
def test_short_and_huge_key_files_are_refused(tmp_path: Path, size: int, words: str) -> None:
    path = tmp_path / "key"
    secret_file(path, bytes(size))
    with pytest.raises(UsageError, match=words):
        Secret.from_key_file(path)


def test_a_missing_key_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no-such"):
        Secret.from_key_file(tmp_path / "no-such")


def test_each_slot_opens_with_its_own_secret() -> None:
    slots = (slot(0, PASSPHRASE), slot(1, KEY_FILE), slot(2, Secret.from_passphrase("other")))
    for secret in (PASSPHRASE, KEY_FILE, Secret.from_passphrase("other")):
        assert open_slots(slots, secret) == MASTER


def test_no_slot_opens_with_a_wrong_secret() -> None:
    slots = (slot(0, PASSPHRASE), slot(1, KEY_FILE))
    for wrong in (Secret.from_passphrase("correct Horse"), Secret("key-file", b"k" * 63), Secret("key-file", PASSPHRASE.material)):
        with pytest.raises(WrongKey):
            open_slots(slots, wrong)


def test_a_slot_never_holds_the_master_key_in_clear_and_no_two_are_alike() -> None:
    one, two = slot(0, PASSPHRASE), slot(0, PASSPHRASE)
    assert MASTER not in one.wrapped
    assert one.salt != two.salt
    assert one.wrapped != two.wrapped


def test_a_slot_with_absurd_iterations_does_not_hang() -> None:
    absurd = KeySlot(0, "passphrase", 1 << 60, b"s" * 32, b"w" * 40, 0)
    with pytest.raises(WrongKey):
        open_slots((absurd,), PASSPHRASE)


def test_slots_are_numbered_from_the_lowest_free() -> None:
    slots = tuple(slot(number, KEY_FILE) for number in (0, 2, 3))
    assert free_number(slots) == 1
    with pytest.raises(KeySlotError, match="in use"):
        free_number(tuple(slot(number, KEY_FILE) for number in range(MAX_SLOTS)))


def test_the_last_slot_stays() -> None:
    slots = (slot(0, PASSPHRASE), slot(5, KEY_FILE))
    assert [each.number for each in without(slots, 0)] == [5]
    with pytest.raises(KeySlotError, match="last"):
        without(slots[:1], 0)
    with pytest.raises(KeySlotError, match="no key slot 3"):
        without(slots, 3)


def test_calibration_never_goes_below_the_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    assert calibrate(0.0) == ITERATIONS_FLOOR
    clock = iter([0.0, 0.001])
    monkeypatch.setattr(slot_module.time, "perf_counter", lambda: next(clock))
    assert calibrate(0.5) == 25_000_000


def hkdf(material: bytes, salt: bytes, info: bytes) -> bytes:
    """RFC 5869 for one block, from the standard library."""
    return hmac.digest(hmac.digest(salt, material, "sha256"), info + b"\x01", "sha256")


def test_keys_are_derived_by_hkdf() -> None:
    assert derive(MASTER, VOLUME, "name hash") == hkdf(MASTER, VOLUME, b"anqfs name hash 1")
    keyring = Keyring(MASTER, VOLUME)
    assert keyring.name_hash_key == hkdf(MASTER, VOLUME, b"anqfs name hash 1")
    assert keyring.digest_key == hkdf(MASTER, VOLUME, b"anqfs root digest 1")
    assert keyring.superblock_key == hkdf(MASTER, VOLUME, b"anqfs superblock 1")


def test_a_wrapping_key_is_pbkdf2() -> None:
    made = slot(0, PASSPHRASE)
    key = hashlib.pbkdf2_hmac("sha256", b"correct horse", made.salt, 10, 32)
    assert slot_module.aes_key_unwrap(key, made.wrapped) == MASTER


def test_every_purpose_generation_and_salt_has_its_own_key() -> None:
    keyring = Keyring(MASTER, VOLUME)
    wrapped = []
    for _ in range(2):
        secret, each = keyring.new_generation()
        keyring.add_generation(secret)
        wrapped.append(each)
    keys = [keyring.name_hash_key, keyring.digest_key, keyring.superblock_key]
    for generation in (0, 1):
        for salt in (b"a" * 32, b"b" * 32):
            keys += [keyring.data_key(generation, salt), keyring.record_key(generation, salt)]
    assert len(set(keys)) == len(keys) == 11
    again = Keyring(MASTER, VOLUME, tuple(wrapped))
    assert again.newest == 1
    assert again.data_key(1, b"a" * 32) == keyring.data_key(1, b"a" * 32)


def test_a_generation_that_is_not_there_or_does_not_open_is_damaged() -> None:
    keyring = Keyring(MASTER, VOLUME)
    _, wrapped = keyring.new_generation()
    with pytest.raises(Damaged, match="generation 0"):
        keyring.data_key(0, b"s")
    with pytest.raises(Damaged, match="does not open"):
        Keyring(MASTER, b"\xbb" * 16, (wrapped,))
    assert "generations" in repr(keyring)
