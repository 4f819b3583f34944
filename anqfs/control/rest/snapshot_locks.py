"""`/v3/snapshots/{id}/lock|unlock|unlock-challenge`: locking a snapshot with a security key, and unlocking it with a signature."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import msgspec

from anqfs.control.rest import etags
from anqfs.control.rest.routing import Answer, Call, Route
from anqfs.control.rest.security_keys import Challenge
from anqfs.control.rest.snapshots import Entry, entry
from anqfs.store.schema import Snapshot

_Text = Annotated[str, msgspec.Meta(max_length=4096)]


class Lock(msgspec.Struct, forbid_unknown_fields=True):
    """The security key, by id or name."""

    lock_key_ref: _Text


class Unlock(msgspec.Struct, forbid_unknown_fields=True):
    """A signature over the unlock challenge, base64."""

    signature: _Text


async def _lock(call: Call) -> Any:
    """Lock a snapshot: until it is unlocked it is deleted by nobody and can only be made to expire later."""
    locks, key = call.service.namespace.snapshot_locks, call.body.lock_key_ref
    return await _change(call, lambda number: locks.lock(number, key))


async def _unlock(call: Call) -> Any:
    """Unlock a snapshot."""
    locks, signature = call.service.namespace.snapshot_locks, call.body.signature
    return await _change(call, lambda number: locks.unlock(number, signature))


async def _change(call: Call, change: Callable[[int], Snapshot]) -> Answer:
    """Change the snapshot that is asked for, if it is the version that the client saw, and show it when that is durable."""
    service = call.service
    service.must_be_writable()
    snapshot = service.existing(call.number("id"))
    call.must_match(etags.of(snapshot))
    snapshot = change(snapshot.id)
    await service.durable()
    return Answer(entry(call, snapshot), etag=etags.of(snapshot))


async def _get_challenge(call: Call) -> Any:
    """Return what unlocks a snapshot once the key that locks it has signed it."""
    return Challenge(call.service.namespace.snapshot_locks.challenge(call.service.existing(call.number("id")).id))


ROUTES = [
    Route("POST", "/v3/snapshots/{id}/lock", _lock, body=Lock, answer=Entry),
    Route("POST", "/v3/snapshots/{id}/unlock", _unlock, body=Unlock, answer=Entry),
    Route("GET", "/v3/snapshots/{id}/unlock-challenge", _get_challenge, answer=Challenge),
]
