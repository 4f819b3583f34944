"""`/anqfs/v1/snapshots/{id}/holds`: who needs a snapshot. ANQ shows owners and has no request for them, so this is on the host only."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from anqfs.control import wire
from anqfs.control.rest.routing import Answer, Call, Route
from anqfs.namespace.snapshot_locks import OWNER_MAX


class HoldRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Who needs the snapshot."""

    owner: Annotated[str, msgspec.Meta(min_length=1, max_length=OWNER_MAX)]


class Held(msgspec.Struct):
    """A hold: its number, and since when who needs the snapshot."""

    hold: int
    owner: str
    created: str | None


def _listed(call: Call, snapshot: int) -> list[Held]:
    holds = call.service.namespace.snapshot_locks.holds(snapshot)
    return [Held(number, hold.owner, wire.moment(hold.created)) for number, hold in sorted(holds.items())]


async def _get(call: Call) -> Any:
    """List the holds of a snapshot."""
    return _listed(call, call.service.existing(call.number("id")).id)


async def _post(call: Call) -> Any:
    """Hold a snapshot: until the hold is released it is neither deleted nor changed, and outlives its expiration."""
    service = call.service
    service.must_be_writable()
    snapshot = service.existing(call.number("id")).id
    number = service.namespace.snapshot_locks.hold(snapshot, call.body.owner)
    await service.durable()
    return next(one for one in _listed(call, snapshot) if one.hold == number)


async def _delete(call: Call) -> Any:
    """Release a hold."""
    service = call.service
    service.must_be_writable()
    service.namespace.snapshot_locks.release(service.existing(call.number("id")).id, call.number("hold"))
    await service.durable()
    return Answer()


ROUTES = [
    Route("GET", "/anqfs/v1/snapshots/{id}/holds", _get, answer=list, local=True),
    Route("POST", "/anqfs/v1/snapshots/{id}/holds", _post, body=HoldRequest, answer=Held, local=True),
    Route("DELETE", "/anqfs/v1/snapshots/{id}/holds/{hold}", _delete, local=True),
]
