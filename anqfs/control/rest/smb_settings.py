"""`/v1/smb/settings`: the one of ANQ's SMB settings that belongs to the volume, how `.snapshot` shows. Samba's own are the export's."""

from __future__ import annotations

from typing import Any

import msgspec

from anqfs.control.rest import etags
from anqfs.control.rest.routing import Answer, Call, Route


class SmbSettings(msgspec.Struct, forbid_unknown_fields=True):
    """`snapshot_directory_mode`: VISIBLE (listed in a share's root), HIDDEN (found by name) or DISABLED; what is missing or null stays."""

    snapshot_directory_mode: str | None = None


def _answer(call: Call) -> Answer:
    settings = SmbSettings(call.service.namespace.settings.read().snapshot_directory_mode.upper())
    return Answer(settings, etag=etags.of(settings))


async def _get(call: Call) -> Any:
    """Return how SMB shows `.snapshot`."""
    return _answer(call)


async def _change(call: Call) -> Any:
    """Change how SMB shows `.snapshot`."""
    call.service.must_be_writable()
    call.must_match(_answer(call).etag or "")
    mode = call.body.snapshot_directory_mode
    call.service.namespace.settings.change(snapshot_directory_mode=None if mode is None else mode.lower())
    await call.service.durable()
    return _answer(call)


ROUTES = [
    Route("GET", "/v1/smb/settings", _get, answer=SmbSettings),
    Route("PATCH", "/v1/smb/settings", _change, body=SmbSettings, answer=SmbSettings),
    Route("PUT", "/v1/smb/settings", _change, body=SmbSettings, answer=SmbSettings),
]
