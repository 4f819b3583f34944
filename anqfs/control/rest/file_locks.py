"""`/v1/files/{ref}/file-lock`: the retention and the legal hold of a file. They are shown with its attributes (`retrieve-file-lock`)."""

from __future__ import annotations

import errno
from typing import Any

import msgspec

from anqfs.control.rest import moments, refs
from anqfs.control.rest.attributes import Attributes, answer, etag_of
from anqfs.control.rest.routing import Call, Route
from anqfs.errors import FilesystemError


class LockChange(msgspec.Struct):
    """What changes of a file's lock; what is missing or null stays. `retention_period` is when the retention ends."""

    retention_period: str | None = None
    legal_hold: bool | None = None


async def _patch(call: Call) -> Any:
    """Lock a file until a time, put a legal hold on it, or take that off."""
    service, wanted = call.service, call.body
    retained = None if wanted.retention_period is None else moments.parsed(wanted.retention_period)
    service.must_be_writable()
    node = refs.live(call.node())
    await _written_back(call, node)
    call.must_match(etag_of(node, service.namespace.attributes(node)))
    service.namespace.file_locks.change(node, retained=retained, legal_hold=wanted.legal_hold)
    await service.durable()
    return answer(call, node, with_lock=True)


async def _written_back(call: Call, node: int) -> None:
    """Return when nobody has the file open for writing and the kernel holds nothing of it back. Raises FilesystemError EBUSY."""
    session = call.service.session
    await session.flush()
    if node in session.operations.handles.written():
        raise FilesystemError(errno.EBUSY, "a program has the file open for writing: close it first, then lock it")


ROUTES = [
    Route("PATCH", "/v1/files/{ref}/file-lock", _patch, body=LockChange, answer=Attributes),
]
