"""`/v3/snapshots`, `/v3|v4/snapshots/status`: snapshots.

A snapshot's name is `{id}_{name}`, as its directory in `.snapshot` is called. Its id is a JSON number, as ANQ has it; the file's id is a
string. One that is being deleted is shown with `in_delete` until its space is all back.
"""

from __future__ import annotations

import logging
from typing import Annotated, Any

import msgspec
import trio

from anqfs.control import wire
from anqfs.control.rest import etags, moments, refs
from anqfs.control.rest.faults import Refused
from anqfs.control.rest.routing import Answer, Call, Route
from anqfs.errors import Damaged, UsageError
from anqfs.namespace.snapshots import label
from anqfs.store.schema import ROOT_INO, Snapshot, snapshot_key

_log = logging.getLogger("anqfs.control.rest.snapshots")

_AT_ONCE = 256
"""Snapshots that are looked at before others get their turn: there may be 40,000."""
_LONGEST_NAME = 255


class Entry(msgspec.Struct):
    """A snapshot, as `/v3/snapshots/` shows it."""

    id: int
    name: str
    timestamp: str
    directory_name: str
    source_file_id: str
    policy_name: str | None
    expiration: str
    in_delete: bool
    lock_key: str | None


class Status(msgspec.Struct):
    """A snapshot, as `/v4/snapshots/status/` shows it: also where, and who holds it."""

    id: int
    name: str
    timestamp: str
    directory_name: str
    source_file_id: str
    source_file_path: str
    policy_name: str | None
    policy_id: int | None
    expiration: str
    in_delete: bool
    lock_key: str | None
    owners: list[dict[str, str]]


class Entries(msgspec.Struct):
    """Snapshots, by id."""

    entries: list[Entry]


class Statuses(msgspec.Struct):
    """Snapshots, by id."""

    entries: list[Status]


class Creation(msgspec.Struct, forbid_unknown_fields=True):
    """A snapshot to take, of the root when no directory is named. No expiration, or an empty one: never."""

    name_suffix: Annotated[str, msgspec.Meta(max_length=_LONGEST_NAME)] | None = None
    expiration: str | None = None
    source_file_id: Annotated[str, msgspec.Meta(max_length=32760)] | None = None


class Change(msgspec.Struct, forbid_unknown_fields=True):
    """What can be changed of a snapshot."""

    expiration: str | None = None


class Replacement(msgspec.Struct):
    """A whole snapshot with another expiration: what cannot be changed is not looked at."""

    expiration: str


class ListQuery(msgspec.Struct):
    """`filter`: all, exclude_in_delete or only_in_delete."""

    filter: str = "all"


class StatusQuery(msgspec.Struct):
    """`filter`: any of FILTERS, with commas between."""

    filter: str = ""


FILTERS = {
    "api_snapshots_exclude_in_delete": ("in_delete", False),
    "api_snapshots_exclude_not_in_delete": ("in_delete", True),
    "api_snapshots_exclude_locked": ("is_locked", False),
    "api_snapshots_exclude_not_locked": ("is_locked", True),
}
"""What is wanted of a snapshot, by ANQ's name of the filter."""
_LIST_FILTERS: dict[str, bool | None] = {"all": None, "exclude_in_delete": False, "only_in_delete": True}


def entry(call: Call, snapshot: Snapshot) -> Entry:
    """Return a snapshot as `/v3/snapshots/` shows it."""
    name = wire.text(label(snapshot))
    policy = call.service.namespace.policies.name_of(snapshot.policy)
    return Entry(
        id=snapshot.id,
        name=name,
        timestamp=moments.shown(snapshot.created),
        directory_name=name,
        source_file_id=str(snapshot.root),
        policy_name=None if policy is None else wire.text(policy),
        expiration=moments.shown_expiration(snapshot.expires),
        in_delete=snapshot.state != 0,
        lock_key=str(snapshot.lock_key) if snapshot.lock_key else None,
    )


def status(call: Call, snapshot: Snapshot, path: str | None = None) -> Status:
    """Return a snapshot as `/v4/snapshots/status/` shows it. `path`: its directory's, when it is known already."""
    brief = entry(call, snapshot)
    return Status(
        id=brief.id,
        name=brief.name,
        timestamp=brief.timestamp,
        directory_name=brief.directory_name,
        source_file_id=brief.source_file_id,
        source_file_path=path_of(call, snapshot.root) if path is None else path,
        policy_name=brief.policy_name,
        policy_id=snapshot.policy if brief.policy_name is not None else None,
        expiration=brief.expiration,
        in_delete=brief.in_delete,
        lock_key=brief.lock_key,
        owners=[{"id": owner} for owner in call.service.namespace.snapshot_locks.owners(snapshot.id)],
    )


def is_locked(call: Call, snapshot: Snapshot) -> bool:
    """Tell whether a snapshot is locked."""
    return snapshot.lock_key != 0


def path_of(call: Call, ino: int) -> str:
    """Return the path of a directory, with a slash at its end; an empty string when it is gone or cannot be told."""
    try:
        path = call.service.namespace.path_of(ino)
    except Damaged as error:
        _log.error("the path of inode %d: %s", ino, error)
        return ""
    return "" if path is None else wire.text(path.rstrip(b"/") + b"/")


def _in_deletion(call: Call) -> list[Snapshot]:
    """Return the snapshots whose space is coming back."""
    found = (call.service.volume.get(snapshot_key(number)) for number in call.service.namespace.snapshots_in_deletion())
    return [one for one in found if isinstance(one, Snapshot)]


async def _chosen(call: Call, in_delete: bool | None, locked: bool | None = None) -> list[Snapshot]:
    """Return the snapshots that are wanted, by id, giving way now and then."""
    namespace = call.service.namespace
    every = ([] if in_delete else namespace.snapshots()) + ([] if in_delete is False else _in_deletion(call))
    chosen = []
    for number, one in enumerate(sorted(every, key=lambda one: one.id)):
        if number % _AT_ONCE == _AT_ONCE - 1:
            await trio.sleep(0)
        if locked is None or is_locked(call, one) == locked:
            chosen.append(one)
    return chosen


def found(call: Call) -> Snapshot:
    """Return the snapshot that the path names, also one in deletion. Raises NotFound."""
    number = call.number("id")
    dropped = next((one for one in _in_deletion(call) if one.id == number), None)
    return call.service.existing(number) if dropped is None else dropped


async def _get_all(call: Call) -> Any:
    """List snapshots."""
    if call.query.filter not in _LIST_FILTERS:
        raise UsageError(f"the filter {call.query.filter[:40]!a} is none of {', '.join(_LIST_FILTERS)}")
    return {"entries": [entry(call, one) for one in await _chosen(call, _LIST_FILTERS[call.query.filter])]}


async def _get_statuses(call: Call) -> Any:
    """List snapshots with their directories and holders."""
    wanted: dict[str, bool] = {}
    for name in filter(None, call.query.filter.split(",")):
        if name not in FILTERS:
            raise UsageError(f"the filter {name[:40]!a} is none of {', '.join(FILTERS)}")
        wanted.update([FILTERS[name]])
    paths: dict[int, str] = {}
    statuses = []
    for number, one in enumerate(await _chosen(call, wanted.get("in_delete"), wanted.get("is_locked"))):
        if number % _AT_ONCE == _AT_ONCE - 1:
            await trio.sleep(0)
        if one.root not in paths:
            paths[one.root] = path_of(call, one.root)
        statuses.append(status(call, one, paths[one.root]))
    return {"entries": statuses}


async def _get_one(call: Call) -> Any:
    """Return a snapshot."""
    snapshot = found(call)
    return Answer(entry(call, snapshot), etag=etags.of(snapshot))


async def _get_status(call: Call) -> Any:
    """Return a snapshot with its directory and holders."""
    snapshot = found(call)
    return Answer(status(call, snapshot), etag=etags.of(snapshot))


async def _create(call: Call) -> Any:
    """Take a snapshot of a directory; it is durable when the answer comes."""
    wanted: Creation = call.body
    directory = ROOT_INO
    if wanted.source_file_id is not None:
        directory = refs.node_of(call.service, wire.raw(wanted.source_file_id), None)
    name = None if wanted.name_suffix is None else wire.raw(wanted.name_suffix)
    snapshot = await call.service.snapshot_create(directory, name, moments.expiration(wanted.expiration or ""))
    return Answer(entry(call, snapshot), etag=etags.of(snapshot))


async def _modify(call: Call) -> Any:
    """Change when a snapshot expires."""
    service = call.service
    service.must_be_writable()
    snapshot = service.existing(call.number("id"))
    call.must_match(etags.of(snapshot))
    if call.body.expiration is not None:
        snapshot = service.namespace.snapshot_modify(snapshot.id, moments.expiration(call.body.expiration))
        service.session.changed()
        await service.session.durable()
    return Answer(entry(call, snapshot), etag=etags.of(snapshot))


async def _delete(call: Call) -> Any:
    """Delete a snapshot: it is gone at once, its space comes back in the background."""
    snapshot = found(call)
    if snapshot.state:
        raise Refused(409, "snapshot_in_delete_error", f"snapshot {snapshot.id} is being deleted already")
    call.must_match(etags.of(snapshot))
    await call.service.snapshot_delete(snapshot.id)
    return Answer(status=202)


ROUTES = [
    Route("GET", "/v3/snapshots/", _get_all, query=ListQuery, answer=Entries),
    Route("POST", "/v3/snapshots/", _create, body=Creation, answer=Entry),
    Route("GET", "/v3/snapshots/status/", _get_statuses, query=StatusQuery, answer=Statuses),
    Route("GET", "/v3/snapshots/status/{id}", _get_status, answer=Status),
    Route("GET", "/v3/snapshots/{id}", _get_one, answer=Entry),
    Route("PUT", "/v3/snapshots/{id}", _modify, body=Replacement, answer=Entry),
    Route("PATCH", "/v3/snapshots/{id}", _modify, body=Change, answer=Entry),
    Route("DELETE", "/v3/snapshots/{id}", _delete, status=202),
    Route("GET", "/v4/snapshots/status/", _get_statuses, query=StatusQuery, answer=Statuses),
    Route("GET", "/v4/snapshots/status/{id}", _get_status, answer=Status),
]
