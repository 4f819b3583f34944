"""STORE/superblock: what must be readable before there is a key, and the wrapped keys. Owner's thread, or any thread under `keys`' lock.

magic 8 | format version 4 | body length 4 | body | HMAC-SHA-256 32 under the superblock key | SHA-256 32 of all before it.
The checksum tells a rotten file (Damaged) from a wrong secret (WrongKey); the code tells tampering. The file is replaced whole:
written beside, fsynced, renamed, and the directory fsynced.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from struct import Struct

import msgspec

from anqfs.crypto.digest import Mac
from anqfs.crypto.keyring import Keyring
from anqfs.crypto.sealing import CHUNK, FIRST_CHUNK
from anqfs.crypto.slots import KeySlot
from anqfs.errors import Damaged, KeySlotError, NoSpace, StoreMissing, UnsupportedFormat

NAME = b"superblock"
MAGIC = b"ANQFS\r\n\x00"
CHUNKS = {1: FIRST_CHUNK, 2: CHUNK}
"""Bytes of plaintext in a chunk of an extent, by format version: a program that knows the first only must not open the second."""
SIZE_MAX = 1 << 20
_HEAD = Struct(">8sII")
_CODE = 32


class Superblock(msgspec.Struct, frozen=True, array_like=True):
    """The body: the volume's uuid (16 bytes), key slots, wrapped key generations; creation and last rotation (0: never), ns since 1970.

    `chunk`: bytes of plaintext in a chunk of an extent; one of CHUNKS.
    """

    uuid: bytes
    created: int
    slots: tuple[KeySlot, ...]
    generations: tuple[bytes, ...]
    rotated: int = 0
    chunk: int = FIRST_CHUNK

    @property
    def format(self) -> int:
        """The format version of a volume with this body."""
        return next(version for version, chunk in CHUNKS.items() if chunk == self.chunk)


def pack(superblock: Superblock, keyring: Keyring) -> bytes:
    """Return the bytes of the file."""
    body = msgspec.msgpack.encode(superblock)
    content = _HEAD.pack(MAGIC, superblock.format, len(body)) + body
    content += Mac(keyring.superblock_key)(content)
    return content + hashlib.sha256(content).digest()


def unpack(content: bytes) -> Superblock:
    """Return the body of a superblock file, not yet authenticated. Raises StoreMissing, UnsupportedFormat or Damaged."""
    if content[: len(MAGIC)] != MAGIC:
        raise StoreMissing("the superblock is not one of anqfs")
    if len(content) < _HEAD.size + 2 * _CODE:
        raise Damaged("the superblock is cut")
    _, version, length = _HEAD.unpack_from(content)
    if version not in CHUNKS:
        raise UnsupportedFormat(f"the store has format {version}; this program knows formats up to {max(CHUNKS)}")
    if len(content) != _HEAD.size + length + 2 * _CODE or hashlib.sha256(content[:-_CODE]).digest() != content[-_CODE:]:
        raise Damaged("the superblock is damaged: its checksum does not hold")
    try:
        body = msgspec.msgpack.decode(content[_HEAD.size : _HEAD.size + length], type=Superblock)
    except msgspec.DecodeError as error:
        raise Damaged("the superblock is damaged: it does not decode") from error
    if body.chunk != CHUNKS[version]:
        raise Damaged(f"the superblock is damaged: format {version} has no chunks of {body.chunk} bytes")
    return body


def authenticate(content: bytes, keyring: Keyring) -> None:
    """Raise Damaged when the file was not written by someone with the master key."""
    if not Mac(keyring.superblock_key).matches(content[: -2 * _CODE], content[-2 * _CODE : -_CODE]):
        raise Damaged("the superblock was altered: its code does not hold")


def load(store: bytes) -> bytes:
    """Return the content of the store's superblock file. Raises StoreMissing when there is none."""
    path = os.path.join(store, NAME)
    try:
        with open(path, "rb") as file:
            content = file.read(SIZE_MAX + 1)
    except OSError as error:
        raise StoreMissing(f"there is no anqfs store at {os.fsdecode(store)!r}: {error.strerror}") from error
    if len(content) > SIZE_MAX:
        raise Damaged("the superblock is too large")
    return content


def save(store: bytes, content: bytes) -> None:
    """Replace the store's superblock file, durably and atomically. Raises NoSpace, KeySlotError; the old one is untouched then."""
    if len(content) > SIZE_MAX:
        raise KeySlotError(f"the superblock would have more than {SIZE_MAX} bytes: the keys were rotated too often for this volume")
    temporary = os.path.join(store, NAME + b".new")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            view = memoryview(content)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.rename(temporary, os.path.join(store, NAME))
        sync_directory(store)
    except OSError as error:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace("the disk is full: the superblock was not changed") from error
        raise


def sync_directory(path: bytes) -> None:
    """Make the entries of a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
