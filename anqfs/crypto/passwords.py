"""Passwords of the API's users: scrypt (RFC 7914), and digests of random tokens. Any thread; a derivation takes some 50 ms, 32 MiB."""

from __future__ import annotations

import hashlib
import hmac
import os

from cryptography.exceptions import InvalidKey
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

COST, BLOCK_SIZE, PARALLEL = 1 << 15, 8, 1
SALT_BYTES, HASH_BYTES, TOKEN_BYTES = 16, 32, 32
PASSWORD_MAX = 1024
"""Bytes of a password, at most."""


def hashed(password: bytes) -> bytes:
    """Return what is kept of a password: log2 of the cost 1 | block size 1 | parallel 1 | salt 16 | hash 32."""
    salt = os.urandom(SALT_BYTES)
    head = bytes((COST.bit_length() - 1, BLOCK_SIZE, PARALLEL))
    return head + salt + Scrypt(salt=salt, length=HASH_BYTES, n=COST, r=BLOCK_SIZE, p=PARALLEL).derive(password)


def is_password(password: bytes, kept: bytes) -> bool:
    """Tell whether `kept` was made of this password, in constant time."""
    log_cost, block_size, parallel = kept[:3]
    salt, expected = kept[3 : 3 + SALT_BYTES], kept[3 + SALT_BYTES :]
    try:
        Scrypt(salt=salt, length=HASH_BYTES, n=1 << log_cost, r=block_size, p=parallel).verify(password, expected)
    except InvalidKey:
        return False
    return True


def new_token() -> bytes:
    """Return the random part of a token. It has 256 bits, so that its digest needs no salt and no cost."""
    return os.urandom(TOKEN_BYTES)


def digest(token: bytes) -> bytes:
    """Return what is kept of a token."""
    return hashlib.sha256(token).digest()


def is_token(token: bytes, kept: bytes) -> bool:
    """Tell whether `kept` is a token's digest, in constant time."""
    return hmac.compare_digest(digest(token), kept)
