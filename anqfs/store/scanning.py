"""Range scans over the record store and the groups on top of it. Owner's thread."""

from __future__ import annotations

from typing import Any

from anqfs.store.group import MISSING, Group
from anqfs.store.interfaces import RecordStore


def merge(store: RecordStore, groups: list[Group], start: bytes, stop: bytes, limit: int) -> tuple[list[tuple[bytes, Any]], bytes | None]:
    """Return about `limit` of what is in start <= key < stop, in order, and the key to go on from, None at the end.

    A value is a record (from a group; the newest group comes first in `groups`) or sealed bytes (from the store). The answer may be
    empty although more follows: everything up to there was deleted.
    """
    items = store.items(start, stop, limit)
    bound, following = stop, None
    if len(items) >= limit:
        bound = following = items[-1][0] + b"\0"
    changed: list[tuple[Group, list[bytes]]] = []
    for group in groups:
        keys = group.index.between(start, bound, limit) if group.records else None
        if keys:
            changed.append((group, keys))
            if len(keys) >= limit:
                bound = following = keys[-1] + b"\0"
    if not changed:
        return items, following
    merged: dict[bytes, Any] = {key: sealed for key, sealed in items if key < bound}
    for group, keys in reversed(changed):
        for key in keys:
            if key < bound:
                record = group.records.get(key, MISSING)
                if record is not MISSING:
                    merged[key] = record
    return [(key, merged[key]) for key in sorted(merged) if merged[key] is not None], following
