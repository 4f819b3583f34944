"""HMAC-SHA-256 with the key's two hash states kept, and the volume root digest made of it.

`hmac.digest` sets up the key each time, which for a name or a record costs more than the hashing. Any thread; immutable.
"""

from __future__ import annotations

import hashlib
import hmac

from anqfs.errors import Damaged

_BLOCK = 64
_MODULUS_BITS = 256
_MASK = (1 << _MODULUS_BITS) - 1


class Mac:
    """HMAC-SHA-256 (RFC 2104) under one key."""

    __slots__ = ("_inner", "_outer")

    def __init__(self, key: bytes) -> None:
        padded = (hashlib.sha256(key).digest() if len(key) > _BLOCK else key).ljust(_BLOCK, b"\0")
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in padded))
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in padded))

    def __call__(self, message: bytes) -> bytes:
        """Return the 32 bytes of the message's code."""
        inner = self._inner.copy()
        inner.update(message)
        outer = self._outer.copy()
        outer.update(inner.digest())
        return outer.digest()

    def matches(self, message: bytes, code: bytes) -> bool:
        """Tell whether `code` is the message's, in constant time."""
        return hmac.compare_digest(self(message), code)


class RecordDigest:
    """The root digest's arithmetic: MSet-Add-Hash (Clarke et al., 2003), a sum mod 2**256 of one HMAC for each sealed record."""

    __slots__ = ("_mac",)

    def __init__(self, key: bytes) -> None:
        self._mac = Mac(key)

    def of(self, key: bytes, sealed: bytes) -> int:
        """Return the term of one record: HMAC(length of key, 2 bytes | key | sealed value)."""
        return int.from_bytes(self._mac(len(key).to_bytes(2, "big") + key + sealed), "big")

    @staticmethod
    def number(digest: bytes) -> int:
        """Return the sum that `digest` (32 bytes) stands for. Raises Damaged for another length."""
        if len(digest) != _MODULUS_BITS // 8:
            raise Damaged("the root digest has a wrong length")
        return int.from_bytes(digest, "big")

    @staticmethod
    def text(total: int) -> bytes:
        """Return the 32 bytes of a sum, reduced."""
        return (total & _MASK).to_bytes(_MODULUS_BITS // 8, "big")
