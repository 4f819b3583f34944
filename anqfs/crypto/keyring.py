"""The keys of an opened volume, all derived from its master key.

master key -> HKDF-SHA-256 (salt: the volume's uuid) -> name-hash, digest, superblock and generation-wrapping keys, which last as long
as the volume. A *generation* is a random secret of its own, kept wrapped in the superblock; a rotation adds one. A data or record key
is derived from a generation and the random salt of one opening for writing (a `SealingKey` record), so that no two openings ever
share one, whatever happens to the counters behind the nonces. Called by `store/`, any thread; immutable apart from `add_generation`.
"""

from __future__ import annotations

import os

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap, aes_key_wrap

from anqfs.errors import Damaged

KEY_BYTES = 32
SALT_BYTES = 32


def derive(material: bytes, salt: bytes, purpose: str) -> bytes:
    """Return 32 bytes of HKDF-SHA-256 (RFC 5869) with info "anqfs <purpose> 1"."""
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=salt, info=f"anqfs {purpose} 1".encode()).derive(material)


class Keyring:
    """Derives every key of one volume."""

    def __init__(self, master: bytes, volume: bytes, wrapped: tuple[bytes, ...] = ()) -> None:
        """Make the keyring of the volume with uuid bytes `volume`. Raises Damaged when a wrapped generation does not open."""
        self.master = master
        self.name_hash_key = derive(master, volume, "name hash")
        self.digest_key = derive(master, volume, "root digest")
        self.superblock_key = derive(master, volume, "superblock")
        self._wrapping_key = derive(master, volume, "generation wrapping")
        try:
            self._generations = [aes_key_unwrap(self._wrapping_key, each) for each in wrapped]
        except (InvalidUnwrap, ValueError) as error:
            raise Damaged("a key generation in the superblock does not open") from error

    def __repr__(self) -> str:
        return f"Keyring({len(self._generations)} generations)"

    @property
    def newest(self) -> int:
        """The number of the newest generation, which seals what is written next."""
        return len(self._generations) - 1

    def new_generation(self) -> tuple[bytes, bytes]:
        """Return (secret, wrapped secret) of a new generation, not yet part of the keyring."""
        secret = os.urandom(KEY_BYTES)
        return secret, aes_key_wrap(self._wrapping_key, secret)

    def add_generation(self, secret: bytes) -> int:
        """Append a generation once it is durable in the superblock; returns its number."""
        self._generations.append(secret)
        return self.newest

    def data_key(self, generation: int, salt: bytes) -> bytes:
        """Return the key that seals extents. Raises Damaged when the volume has no such generation."""
        return derive(self._secret(generation), salt, "data")

    def record_key(self, generation: int, salt: bytes) -> bytes:
        """Return the key that seals records. Raises Damaged when the volume has no such generation."""
        return derive(self._secret(generation), salt, "record")

    def _secret(self, generation: int) -> bytes:
        if not 0 <= generation < len(self._generations):
            raise Damaged(f"key generation {generation} is not in the superblock")
        return self._generations[generation]
