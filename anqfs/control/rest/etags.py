"""Versions of what the API shows: an ETag changes whenever the thing does. Pure."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec


def of(*facts: Any) -> str:
    """Return the ETag, quotes included, of a thing with these facts: anything msgspec can encode."""
    return '"' + hashlib.blake2b(msgspec.msgpack.encode(facts), digest_size=12).hexdigest() + '"'


def matches(wanted: str, etag: str) -> bool:
    """Tell whether an If-Match header names this ETag. `*` matches anything; quotes may be missing. Source: RFC 9110, 13.1.1."""
    names = {part.strip().removeprefix("W/").strip('"') for part in wanted.split(",")}
    return "*" in names or etag.strip('"') in names
