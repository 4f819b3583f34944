"""Keyed hashes of names: where a name is kept, without saying what it is.

16 bytes: 5 of HMAC(folded name), then 11 of HMAC(exact name), so that an exact look-up is one get and a case-insensitive one is a range
of names that share 5 bytes. Called by `store/volume` for the namespace; pure.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache

from anqfs.crypto.digest import Mac

FOLDED_BYTES = 5
HASH_BYTES = 16
_FOLDED = b"\0"
_EXACT = b"\1"


def fold(name: bytes) -> bytes:
    """Return the form that names differing only in case (or in Unicode composition) share.

    Text is decomposed, case-folded and composed again (Unicode 3.13, D145); what is not UTF-8 has its ASCII letters lowered.
    """
    if name.isascii():
        return name.lower()
    try:
        text = name.decode("utf-8")
    except UnicodeDecodeError:
        return name.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", text).casefold()).encode("utf-8")


@lru_cache(maxsize=16)
def _mac(key: bytes) -> Mac:
    return Mac(key)


@lru_cache(maxsize=16384)
def name_hash(key: bytes, name: bytes) -> bytes:
    """Return the 16 bytes under which a directory keeps `name`."""
    mac = _mac(key)
    return mac(_FOLDED + fold(name))[:FOLDED_BYTES] + mac(_EXACT + name)[: HASH_BYTES - FOLDED_BYTES]


def folded_prefix(key: bytes, name: bytes) -> bytes:
    """Return the 5 bytes with which the hashes of all names that fold like `name` begin."""
    return _mac(key)(_FOLDED + fold(name))[:FOLDED_BYTES]
