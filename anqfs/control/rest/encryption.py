"""`/v1/encryption`, `/v2/encryption`: the state of encryption at rest, and rotating its keys.

The master key is wrapped by the volume's key slots; there is no external key management, so the key store is always "Local". A rotation
makes a new generation of data keys for what is written next, as ANQ's does: no data is rewritten.
"""

from __future__ import annotations

from typing import Any

import msgspec

from anqfs.control.rest.faults import Refused
from anqfs.control.rest.routing import Answer, Call, Route


class Rotation(msgspec.Struct):
    """`key_id` names a key of an external key store, of which there is none here."""

    key_id: str | None = None


class StatusV1(msgspec.Struct):
    """ANQ's first shape of the status."""

    status: str
    type: str
    last_key_rotation_time: str


class KeyStoreStatus(msgspec.Struct):
    """ANQ's second shape of the status."""

    type: str
    status: str
    ca_cert_expiry: str | None
    client_cert_expiry: str | None
    last_key_rotation_time: str | None
    last_status_update_time: str | None


async def _get_status_v1(call: Call) -> Any:
    """Return the state of encryption at rest."""
    return StatusV1("Encrypted", "Local", call.service.last_rotation() or "")


async def _get_status(call: Call) -> Any:
    """Return the state of the key store."""
    return KeyStoreStatus("Local", "Encrypted", None, None, call.service.last_rotation(), None)


async def _get_key_store(call: Call) -> Any:
    """Return where the master key is kept."""
    return {"type": "Local", "local_store": {"status": "Encrypted"}, "kms_store": None}


async def _post_rotate(call: Call) -> Any:
    """Make a new generation of keys for what is written next."""
    if call.body.key_id is not None:
        raise Refused(400, "encryption_config_error", "there is no external key store: rotate without a key_id")
    await call.service.key_rotate()
    return Answer()


ROUTES = [
    Route("GET", "/v1/encryption/status", _get_status_v1, answer=StatusV1),
    Route("POST", "/v1/encryption/rotate-keys", _post_rotate, body=Rotation),
    Route("GET", "/v2/encryption/key-store", _get_key_store),
    Route("GET", "/v2/encryption/key-store/status", _get_status, answer=KeyStoreStatus),
    Route("POST", "/v2/encryption/rotate-keys", _post_rotate, body=Rotation),
]
