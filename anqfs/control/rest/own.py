"""What ANQ has no shape for, under `/anqfs/v1` and on the Unix socket only: status, restores, jobs, scrub, key slots, the end.

| request | body | answer |
|---|---|---|
| GET status?latency=1 | | facts of the volume and the daemon |
| GET snapshots?inode=N, snapshots/ID | | snapshots that concern a directory, or all; one; as the mount shows them |
| snapshots/ID/holds | | in `snapshot_holds` |
| POST restores | snapshot, path, in_place or parent + name | the job |
| POST clones | source, parent, name | the job |
| GET jobs/N, DELETE jobs/N | | the job; cancelling |
| GET, POST, DELETE scrub | POST: rate | the scrub's state |
| GET usage?inode=N | | recursive totals |
| GET, POST keys, DELETE keys/SLOT | POST: kind, material (base64) | the slots |
| GET, PATCH settings | PATCH: snapshot_directory_mode | the volume's settings |
| POST stop | | unmounts; answers when everything is durable |
"""

from __future__ import annotations

from typing import Any

import msgspec

from anqfs.control.requests import CloneRequest, KeyRequest, Node, RestoreRequest, ScrubRequest, SettingsRequest
from anqfs.control.rest.routing import Call, Route


class StatusQuery(msgspec.Struct):
    """`latency`: also how long requests took."""

    latency: bool = False


class InodeQuery(msgspec.Struct):
    """A directory, or a file."""

    inode: Node


class DirectoryQuery(msgspec.Struct):
    """Only what concerns this directory."""

    inode: Node | None = None


async def _get_status(call: Call) -> Any:
    """Return facts of the volume and its daemon."""
    return await call.service.status(latency=call.query.latency)


async def _get_snapshots(call: Call) -> Any:
    """Return snapshots: all, or those that concern a directory."""
    return await call.service.snapshots(call.query.inode)


async def _get_snapshot(call: Call) -> Any:
    """Return a snapshot and where it is found in the mount."""
    return call.service.snapshot(call.number("id"))


async def _post_restore(call: Call) -> Any:
    """Start a restore and return its job."""
    return await call.service.making.restore(call.body)


async def _post_clone(call: Call) -> Any:
    """Start a clone and return its job."""
    return await call.service.making.clone(call.body)


async def _get_job(call: Call) -> Any:
    """Return a job."""
    return call.service.job(call.number("number"))


async def _delete_job(call: Call) -> Any:
    """Cancel a job."""
    return call.service.cancel(call.number("number"))


async def _get_scrub(call: Call) -> Any:
    """Return the scrub's state."""
    return call.service.scrubbing.state()


async def _post_scrub(call: Call) -> Any:
    """Start a scrub, or go on with one."""
    return await call.service.scrubbing.start(call.body)


async def _delete_scrub(call: Call) -> Any:
    """Stop the scrub."""
    return call.service.scrubbing.cancel()


async def _get_usage(call: Call) -> Any:
    """Return the recursive totals below a node."""
    return call.service.usage(call.query.inode)


async def _get_settings(call: Call) -> Any:
    """Return what an administrator chose for the volume."""
    return call.service.settings()


async def _patch_settings(call: Call) -> Any:
    """Change settings of the volume."""
    return await call.service.settings_change(call.body)


async def _get_keys(call: Call) -> Any:
    """Return the key slots."""
    return call.service.keys()


async def _post_key(call: Call) -> Any:
    """Add a key slot."""
    return await call.service.key_add(call.body)


async def _delete_key(call: Call) -> Any:
    """Remove a key slot."""
    return await call.service.key_remove(call.number("slot"))


async def _post_stop(call: Call) -> Any:
    """Unmount; the answer comes when everything is durable."""
    return await call.service.stop()


ROUTES = [
    Route("GET", "/anqfs/v1/status", _get_status, query=StatusQuery, local=True),
    Route("GET", "/anqfs/v1/snapshots", _get_snapshots, query=DirectoryQuery, local=True),
    Route("GET", "/anqfs/v1/snapshots/{id}", _get_snapshot, local=True),
    Route("POST", "/anqfs/v1/restores", _post_restore, body=RestoreRequest, local=True),
    Route("POST", "/anqfs/v1/clones", _post_clone, body=CloneRequest, local=True),
    Route("GET", "/anqfs/v1/jobs/{number}", _get_job, local=True),
    Route("DELETE", "/anqfs/v1/jobs/{number}", _delete_job, local=True),
    Route("GET", "/anqfs/v1/scrub", _get_scrub, local=True),
    Route("POST", "/anqfs/v1/scrub", _post_scrub, body=ScrubRequest, local=True),
    Route("DELETE", "/anqfs/v1/scrub", _delete_scrub, local=True),
    Route("GET", "/anqfs/v1/usage", _get_usage, query=InodeQuery, local=True),
    Route("GET", "/anqfs/v1/settings", _get_settings, local=True),
    Route("PATCH", "/anqfs/v1/settings", _patch_settings, body=SettingsRequest, local=True),
    Route("GET", "/anqfs/v1/keys", _get_keys, local=True),
    Route("POST", "/anqfs/v1/keys", _post_key, body=KeyRequest, local=True),
    Route("DELETE", "/anqfs/v1/keys/{slot}", _delete_key, local=True),
    Route("POST", "/anqfs/v1/stop", _post_stop, local=True),
]
