"""The keys of an opened volume: superblock, key slots, generations, and the sealing keys of its openings. Any thread.

Each opening for writing, and each rotation, makes a new sealing key: a number and a random salt. Its `K` record is committed with the
first group, so everything durable has its key durable with it.
"""

from __future__ import annotations

import os
import threading
import time
from typing import NamedTuple

from msgspec.structs import replace

from anqfs.crypto.keyring import SALT_BYTES, Keyring
from anqfs.crypto.sealing import CHUNK
from anqfs.crypto.secrets import Secret
from anqfs.crypto.slots import MASTER_KEY_BYTES, calibrate, free_number, make_slot, open_slots, without
from anqfs.errors import Damaged, ReadOnlyVolume
from anqfs.store import superblock as superblocks
from anqfs.store.schema import SealingKey
from anqfs.store.superblock import Superblock


class SlotInfo(NamedTuple):
    """What may be told of a key slot. `created` is ns since 1970."""

    number: int
    kind: str
    iterations: int
    created: int
    label: str


def format_store(store: bytes, uuid: bytes, secret: Secret, *, iterations: int | None) -> None:
    """Write the superblock of a new volume: a random master key in one slot, one generation."""
    master = os.urandom(MASTER_KEY_BYTES)
    now = time.time_ns()
    keyring = Keyring(master, uuid)
    _, wrapped = keyring.new_generation()
    slot = make_slot(0, secret, master, iterations=_iterations(secret, iterations), created=now)
    superblocks.save(store, superblocks.pack(Superblock(uuid, now, (slot,), (wrapped,), chunk=CHUNK), keyring))


def _iterations(secret: Secret, iterations: int | None) -> int:
    if iterations is not None:
        return iterations
    return calibrate() if secret.kind == "passphrase" else 1


class VolumeKeys:
    """Everything about the keys of one opened volume."""

    def __init__(self, store: bytes, body: Superblock, keyring: Keyring, *, read_only: bool) -> None:
        self._store = store
        self._body = body
        self._keyring = keyring
        self._read_only = read_only
        self._lock = threading.Lock()
        self._sealing: dict[int, SealingKey] = {}
        self._undurable: dict[int, SealingKey] = {}
        self._highest = -1
        self.current = -1
        """The number of the sealing key for what is written next; -1 when opened read-only."""

    @classmethod
    def open(cls, store: bytes, secret: Secret, *, read_only: bool) -> VolumeKeys:
        """Open the superblock with a secret. Raises StoreMissing, UnsupportedFormat, WrongKey or Damaged."""
        content = superblocks.load(store)
        body = superblocks.unpack(content)
        keyring = Keyring(open_slots(body.slots, secret), body.uuid, body.generations)
        superblocks.authenticate(content, keyring)
        return cls(store, body, keyring, read_only=read_only)

    @property
    def uuid(self) -> bytes:
        """The volume's uuid, 16 bytes."""
        return self._body.uuid

    @property
    def created(self) -> int:
        """When the volume was made, ns since 1970."""
        return self._body.created

    @property
    def chunk(self) -> int:
        """Bytes of plaintext in a chunk of an extent."""
        return self._body.chunk

    @property
    def name_hash_key(self) -> bytes:
        """The key of name hashes."""
        return self._keyring.name_hash_key

    @property
    def digest_key(self) -> bytes:
        """The key of the root digest."""
        return self._keyring.digest_key

    def learn(self, number: int, key: SealingKey | None) -> None:
        """Take a committed sealing key from its record; None when the record is damaged, whose number is not used again."""
        self._highest = max(self._highest, number)
        if key is not None:
            self._sealing[number] = key

    def new_sealing_key(self) -> int:
        """Make a new sealing key of the newest generation, current from now on; returns its number."""
        with self._lock:
            number = self._highest = self._highest + 1
            key = SealingKey(self._keyring.newest, os.urandom(SALT_BYTES))
            self._undurable[number] = self._sealing[number] = key
            self.current = number
            return number

    def undurable(self) -> dict[int, SealingKey]:
        """Return the sealing keys that no durable record holds yet."""
        with self._lock:
            return dict(self._undurable)

    def durable(self, numbers: dict[int, SealingKey]) -> None:
        """Note that the records of these sealing keys are durable."""
        with self._lock:
            for number in numbers:
                self._undurable.pop(number, None)

    def data_key(self, number: int) -> bytes:
        """Return the extent key of a sealing key number. Raises Damaged when it is unknown."""
        key = self._key(number)
        return self._keyring.data_key(key.generation, key.salt)

    def record_key(self, number: int) -> bytes:
        """Return the record key of a sealing key number. Raises Damaged when it is unknown."""
        key = self._key(number)
        return self._keyring.record_key(key.generation, key.salt)

    def _key(self, number: int) -> SealingKey:
        try:
            return self._sealing[number]
        except KeyError:
            raise Damaged(f"sealing key {number} is missing from the store") from None

    def slots(self) -> list[SlotInfo]:
        """Return the key slots."""
        return [SlotInfo(slot.number, slot.kind, slot.iterations, slot.created, slot.label) for slot in self._body.slots]

    def add_slot(self, secret: Secret, *, iterations: int | None, label: str) -> int:
        """Let `secret` open the volume too; returns the slot's number. Takes the time of PBKDF2. Raises KeySlotError, NoSpace."""
        count = _iterations(secret, iterations)
        with self._lock:
            number = free_number(self._body.slots)
            slot = make_slot(number, secret, self._keyring.master, iterations=count, created=time.time_ns(), label=label)
            slots = tuple(sorted((*self._body.slots, slot), key=lambda each: each.number))
            self._save(replace(self._body, slots=slots))
            return number

    def remove_slot(self, number: int) -> None:
        """Take a slot away. Raises KeySlotError for the last one or an unknown number."""
        with self._lock:
            slots = without(self._body.slots, number)
            self._save(replace(self._body, slots=slots))

    def rotate(self) -> int:
        """Add a key generation, durably, and seal with it from now on; returns the new sealing key's number."""
        with self._lock:
            secret, wrapped = self._keyring.new_generation()
            self._save(replace(self._body, generations=(*self._body.generations, wrapped), rotated=time.time_ns()))
            self._keyring.add_generation(secret)
        return self.new_sealing_key()

    @property
    def rotated(self) -> int:
        """When the keys were rotated last, ns since 1970; 0: never."""
        return self._body.rotated

    def generations(self) -> int:
        """Return how many key generations there are."""
        return len(self._body.generations)

    def _save(self, body: Superblock) -> None:
        if self._read_only:
            raise ReadOnlyVolume("the volume was opened read-only")
        superblocks.save(self._store, superblocks.pack(body, self._keyring))
        self._body = body
