"""`/v1/file-system`: the room on the volume."""

from __future__ import annotations

from typing import Any

import msgspec

from anqfs.control.rest.routing import Call, Route
from anqfs.store.schema import ROOT_INO

_BLOCK = 4096


class Statistics(msgspec.Struct):
    """Bytes, as strings. What the live tree does not hold of what the store uses is held by snapshots, or is the store's own."""

    block_size_bytes: int
    total_size_bytes: str
    free_size_bytes: str
    snapshot_size_bytes: str


class UsedCapacity(msgspec.Struct):
    """Bytes, as a string."""

    bytes: str


def snapshot_bytes(call: Call) -> int:
    """Return the bytes in the store that the live tree does not account for: what only snapshots hold, and the records."""
    return max(0, call.service.volume.capacity().used - call.service.namespace.usage(ROOT_INO).allocated)


async def _get(call: Call) -> Any:
    """Return how much room there is."""
    capacity = call.service.volume.capacity()
    return Statistics(_BLOCK, str(capacity.total), str(capacity.available), str(snapshot_bytes(call)))


async def _get_used(call: Call) -> Any:
    """Return the bytes that snapshots take beyond the live tree."""
    return UsedCapacity(str(snapshot_bytes(call)))


ROUTES = [
    Route("GET", "/v1/file-system", _get, answer=Statistics),
    Route("GET", "/v1/snapshots/total-used-capacity", _get_used, answer=UsedCapacity),
]
