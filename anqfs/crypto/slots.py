"""Key slots: the master key, wrapped once for each secret that may open the volume.

A passphrase becomes a wrapping key by PBKDF2-HMAC-SHA-256 (SP 800-132), a key file by HKDF-SHA-256 (RFC 5869); the master key is
wrapped with it by AES-256 key wrap (RFC 3394), which also tells a wrong secret from the right one. Called by `store/superblock` on
any thread; deriving releases the interpreter lock.
"""

from __future__ import annotations

import hashlib
import os
import time

import msgspec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap, aes_key_wrap

from anqfs.crypto.secrets import Secret
from anqfs.errors import KeySlotError, WrongKey

MAX_SLOTS = 8
MASTER_KEY_BYTES = 32
ITERATIONS_FLOOR = 600_000
"""PBKDF2 iterations that a new passphrase slot has at least (OWASP's figure for HMAC-SHA-256)."""
ITERATIONS_MAX = 1 << 31
"""A slot that asks for more is damaged: it would hang every opening."""
_KEY_FILE_INFO = b"anqfs key-file slot"


class KeySlot(msgspec.Struct, frozen=True, array_like=True):
    """One wrapped copy of the master key. `kind` is that of the secret; `created` is ns since 1970."""

    number: int
    kind: str
    iterations: int
    salt: bytes
    wrapped: bytes
    created: int
    label: str = ""


def calibrate(seconds: float = 0.5) -> int:
    """Return the PBKDF2 iterations that take about `seconds` on this machine, at least ITERATIONS_FLOOR."""
    trial = 50_000
    began = time.perf_counter()
    hashlib.pbkdf2_hmac("sha256", b"calibration", b"calibration salt", trial)
    took = max(time.perf_counter() - began, 1e-6)
    return max(ITERATIONS_FLOOR, min(int(trial * seconds / took), ITERATIONS_MAX))


def make_slot(number: int, secret: Secret, master: bytes, *, iterations: int, created: int, label: str = "") -> KeySlot:
    """Return a slot that opens `master` with `secret`. `iterations` counts for passphrases only."""
    salt = os.urandom(32)
    count = iterations if secret.kind == "passphrase" else 1
    wrapped = aes_key_wrap(_wrapping_key(secret, salt, count), master)
    return KeySlot(number, secret.kind, count, salt, wrapped, created, label)


def open_slots(slots: tuple[KeySlot, ...], secret: Secret) -> bytes:
    """Return the master key from the first slot that `secret` opens. Raises WrongKey when none does."""
    for slot in slots:
        if slot.kind != secret.kind or not 0 < slot.iterations <= ITERATIONS_MAX:
            continue
        try:
            return aes_key_unwrap(_wrapping_key(secret, slot.salt, slot.iterations), slot.wrapped)
        except (InvalidUnwrap, ValueError):
            continue
    name = "passphrase" if secret.kind == "passphrase" else "key file"
    raise WrongKey(f"this {name} opens none of the {len(slots)} key slots")


def free_number(slots: tuple[KeySlot, ...]) -> int:
    """Return the lowest slot number not in use. Raises KeySlotError when all MAX_SLOTS are."""
    taken = {slot.number for slot in slots}
    for number in range(MAX_SLOTS):
        if number not in taken:
            return number
    raise KeySlotError(f"all {MAX_SLOTS} key slots are in use; remove one first")


def without(slots: tuple[KeySlot, ...], number: int) -> tuple[KeySlot, ...]:
    """Return the slots without slot `number`. Raises KeySlotError when there is no such slot or it is the last one."""
    rest = tuple(slot for slot in slots if slot.number != number)
    if len(rest) == len(slots):
        raise KeySlotError(f"there is no key slot {number}")
    if not rest:
        raise KeySlotError(f"key slot {number} is the last one; without it nothing opens the volume")
    return rest


def _wrapping_key(secret: Secret, salt: bytes, iterations: int) -> bytes:
    if secret.kind == "passphrase":
        return hashlib.pbkdf2_hmac("sha256", secret.material, salt, iterations, MASTER_KEY_BYTES)
    return HKDF(algorithm=SHA256(), length=MASTER_KEY_BYTES, salt=salt, info=_KEY_FILE_INFO).derive(secret.material)
