"""Records to bytes and back, by the types in `schema` and `administration`. Pure; any thread."""

from __future__ import annotations

import msgspec

from anqfs.errors import Damaged
from anqfs.store.administration import SETTINGS, ApiUser, Hold, Policy, Quota, SecurityKey, Settings, TreeDelete
from anqfs.store.schema import (
    ROOT_DIGEST,
    SCRUB,
    Changed,
    CloneJob,
    Counter,
    Dead,
    Dirent,
    Frees,
    Inode,
    Mark,
    Orphan,
    OwnerTotals,
    Record,
    References,
    RootDigest,
    ScrubState,
    SealingKey,
    Snapshot,
    Usage,
    View,
    ViewNumber,
    Window,
    Xattr,
)

TYPES: dict[int, type[Record]] = {
    **dict.fromkeys(b"Ii", Inode),
    **dict.fromkeys(b"Dd", Dirent),
    **dict.fromkeys(b"Ww", Window),
    **dict.fromkeys(b"Xx", Xattr),
    **dict.fromkeys(b"Uu", Usage),
    ord("S"): Snapshot,
    ord("s"): Mark,
    ord("L"): Dead,
    ord("N"): Changed,
    ord("R"): References,
    ord("V"): View,
    ord("v"): ViewNumber,
    ord("O"): Orphan,
    ord("Q"): Quota,
    ord("T"): TreeDelete,
    ord("J"): CloneJob,
    ord("G"): OwnerTotals,
    ord("A"): ApiUser,
    ord("P"): Policy,
    ord("Y"): SecurityKey,
    ord("B"): Hold,
    ord("C"): Counter,
    ord("K"): SealingKey,
    ord("F"): Frees,
}
"""The type of a record by its key's first letter."""

SPECIAL_TYPES: dict[bytes, type[Record]] = {ROOT_DIGEST: RootDigest, SCRUB: ScrubState, SETTINGS: Settings}
"""The types of the `C` records that are not a Counter, by whole key."""

_decoders: dict[int, msgspec.msgpack.Decoder[Record]] = {letter: msgspec.msgpack.Decoder(kind) for letter, kind in TYPES.items()}
_special: dict[bytes, msgspec.msgpack.Decoder[Record]] = {key: msgspec.msgpack.Decoder(kind) for key, kind in SPECIAL_TYPES.items()}
_SPECIAL_LETTERS = frozenset(key[0] for key in SPECIAL_TYPES)

encode = msgspec.msgpack.Encoder().encode
"""Return the MessagePack array of a record."""


def decode(key: bytes, encoded: bytes) -> Record:
    """Return the record whose key is `key`. Raises Damaged when the bytes are not a record of the key's type."""
    try:
        if key[0] in _SPECIAL_LETTERS and key in _special:
            return _special[key].decode(encoded)
        return _decoders[key[0]].decode(encoded)
    except (msgspec.DecodeError, KeyError, IndexError) as error:
        raise Damaged(f"record {key.hex()} does not decode") from error
