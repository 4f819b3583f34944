"""Records to bytes and back, by the types in `schema`. Pure; any thread."""

from __future__ import annotations

import msgspec

from anqfs.errors import Damaged
from anqfs.store.schema import SPECIAL_TYPES, TYPES, Record

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
