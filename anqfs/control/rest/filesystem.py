"""`/v1/file-system`: the room on the volume."""

from __future__ import annotations

from typing import Any

import msgspec

from anqfs.control.rest.diff import reclaimable
from anqfs.control.rest.routing import Call, Route

_BLOCK = 4096


class Statistics(msgspec.Struct):
    """Bytes, as strings; those of snapshots are of file data that only snapshots hold."""

    block_size_bytes: int
    total_size_bytes: str
    free_size_bytes: str
    snapshot_size_bytes: str


async def _get(call: Call) -> Any:
    """Return how much room there is."""
    capacity = call.service.volume.capacity()
    held = await reclaimable(call, None)
    return Statistics(_BLOCK, str(capacity.total), str(capacity.available), str(held.bytes))


ROUTES = [
    Route("GET", "/v1/file-system", _get, answer=Statistics),
]
