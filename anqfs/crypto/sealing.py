"""Sealing and opening of records and extents with AES-256-GCM.

A record: format version 1 | sealing key number 4 | sequence 8 | ciphertext | tag 16. Nonce: sequence | 4 zero bytes.
An extent: chunks of 16 or 64 KiB of plaintext, as the volume's superblock says, each ciphertext | tag 16, one after the other. Nonce:
extent id 8 | chunk 4.
What a thing is and where it belongs is authenticated with it (the associated data), so that nothing opens in another's place.
Sealing is done by the store's writer thread only; opening by any thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from struct import Struct
from struct import error as StructError

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from anqfs.errors import Damaged

FORMAT_VERSION = 1
TAG = 16
CHUNK = 1 << 14
"""Bytes of plaintext in a chunk of an extent, in new volumes: a chunk is the least that can be read."""
FIRST_CHUNK = 1 << 16
"""The same in volumes whose superblock does not tell."""
EXTENT_MAX = 1 << 20
"""Bytes of plaintext in the largest extent."""
SEALED_EXTENT_MAX = EXTENT_MAX + EXTENT_MAX // min(CHUNK, FIRST_CHUNK) * TAG
"""Bytes of the largest sealed extent of any volume."""

_HEADER = Struct(">BIQ")
RECORD_OVERHEAD = _HEADER.size + TAG
_SEQUENCE_MAX = (1 << 64) - 1
_RECORD_NONCE = Struct(">Q4x")
_EXTENT_NONCE = Struct(">QI")
_EXTENT_PLACE = Struct(">QII")

Buffer = bytes | bytearray | memoryview


class RecordSealer:
    """Seals records with the key chosen by `use`; opens those of any key that `lookup` knows.

    Arguments: `volume` is the uuid's 16 bytes; `lookup` returns the record key of a sealing key number or raises Damaged.
    """

    def __init__(self, volume: bytes, lookup: Callable[[int], bytes]) -> None:
        self._place = volume + b"record" + bytes((FORMAT_VERSION,))
        self._lookup = lookup
        self._ciphers: dict[int, AESGCM] = {}
        self._used: set[int] = set()
        self._number = -1
        self._sequence = 0
        self._encrypt: Callable[[bytes, bytes, bytes], bytes] | None = None

    @property
    def number(self) -> int:
        """The sealing key number in use; -1 before the first `use`."""
        return self._number

    def use(self, number: int) -> None:
        """Seal what follows with sealing key `number`. A number is used once in a sealer's life, as its sequence starts at 0."""
        if number in self._used:
            raise ValueError(f"sealing key {number} was used before")
        cipher = self._cipher(number)
        self._used.add(number)
        self._number, self._sequence, self._encrypt = number, 0, cipher.encrypt

    def seal(self, key: bytes, plaintext: bytes) -> bytes:
        """Return the sealed record value that opens under the record key `key` only."""
        if self._encrypt is None:
            raise ValueError("no sealing key is in use")
        sequence = self._sequence
        if sequence >= _SEQUENCE_MAX:
            raise ValueError("the sealing key is used up")
        self._sequence = sequence + 1
        return _HEADER.pack(FORMAT_VERSION, self._number, sequence) + self._encrypt(
            _RECORD_NONCE.pack(sequence), plaintext, self._place + key
        )

    def open(self, key: bytes, sealed: bytes) -> bytes:
        """Return the plaintext of a sealed record value. Raises Damaged when it is not what was sealed under `key`."""
        try:
            version, number, sequence = _HEADER.unpack_from(sealed)
        except StructError as error:
            raise Damaged(f"record {key.hex()} is cut") from error
        if version != FORMAT_VERSION:
            raise Damaged(f"record {key.hex()} has an unknown format")
        cipher = self._ciphers.get(number) or self._cipher(number)
        try:
            return cipher.decrypt(_RECORD_NONCE.pack(sequence), sealed[_HEADER.size :], self._place + key)
        except (InvalidTag, ValueError) as error:
            raise Damaged(f"record {key.hex()} is damaged: its tag does not hold") from error

    def _cipher(self, number: int) -> AESGCM:
        return self._ciphers.setdefault(number, AESGCM(self._lookup(number)))


def sealed_length(length: int, chunk: int) -> int:
    """Return the bytes of the sealed form of an extent of `length` bytes, in chunks of `chunk` bytes of plaintext."""
    return length + -(-length // chunk) * TAG


def plain_length(sealed: int, chunk: int) -> int:
    """Return the plaintext bytes of an extent from its sealed length. Raises Damaged for a length no extent has."""
    chunks, rest = divmod(sealed, chunk + TAG)
    length = sealed - (chunks + (rest > 0)) * TAG
    if not 0 < length <= EXTENT_MAX or 0 < rest <= TAG:
        raise Damaged(f"an extent cannot have {sealed} bytes")
    return length


class ExtentSealer:
    """Seals and opens extents under one data key. `volume` is the uuid's 16 bytes, `chunk` the plaintext bytes of a chunk."""

    def __init__(self, volume: bytes, data_key: bytes, chunk: int) -> None:
        self._chunk = chunk
        cipher = AESGCM(data_key)
        self._encrypt_into = cipher.encrypt_into
        self._decrypt_into = cipher.decrypt_into
        self._place = volume + b"extent" + bytes((FORMAT_VERSION,))

    def seal_into(self, extent: int, plaintext: Buffer, buffer: Buffer) -> int:
        """Seal `plaintext` (1 byte to 1 MiB) as extent number `extent` into `buffer`; returns the bytes used of it."""
        length, size = len(plaintext), self._chunk
        if not 0 < length <= EXTENT_MAX:
            raise ValueError(f"an extent of {length} bytes")
        used = 0
        with memoryview(plaintext) as source, memoryview(buffer) as target:
            for chunk, start in enumerate(range(0, length, size)):
                stop = used + min(size, length - start) + TAG
                self._encrypt_into(
                    _EXTENT_NONCE.pack(extent, chunk),
                    source[start : start + size],
                    self._place + _EXTENT_PLACE.pack(extent, chunk, length),
                    target[used:stop],
                )
                used = stop
        return used

    def open_chunks(self, extent: int, total: int, start: int, sealed: Buffer, target: Buffer) -> None:
        """Open the whole chunks from byte `start` (where one begins) on that `sealed` consists of, into `target`.

        Arguments: `total` is the extent's plaintext length. Raises Damaged when a tag does not hold.
        """
        with memoryview(sealed) as source, memoryview(target) as view:
            at, filled, chunk = 0, 0, start // self._chunk
            while at < len(source):
                size = min(self._chunk, total - chunk * self._chunk)
                try:
                    self._decrypt_into(
                        _EXTENT_NONCE.pack(extent, chunk),
                        source[at : at + size + TAG],
                        self._place + _EXTENT_PLACE.pack(extent, chunk, total),
                        view[filled : filled + size],
                    )
                except (InvalidTag, ValueError) as error:
                    raise Damaged(f"extent {extent} is damaged: the tag of chunk {chunk} does not hold") from error
                at, filled, chunk = at + size + TAG, filled + size, chunk + 1


class SealerCache:
    """ExtentSealers by sealing key number, made when first needed; any thread."""

    def __init__(self, volume: bytes, lookup: Callable[[int], bytes], chunk: int) -> None:
        self.chunk = chunk
        """Bytes of plaintext in a chunk of this volume's extents."""
        self._volume = volume
        self._lookup = lookup
        self._sealers: dict[int, ExtentSealer] = {}
        self._lock = threading.Lock()

    def get(self, number: int) -> ExtentSealer:
        """Return the sealer of sealing key `number`. Raises Damaged when there is no such key."""
        sealer = self._sealers.get(number)
        if sealer is not None:
            return sealer
        with self._lock:
            return self._sealers.setdefault(number, ExtentSealer(self._volume, self._lookup(number), self.chunk))
