"""`/v1/tree-delete/jobs/`: directories that are deleted in the background, by the directory's id. A job is gone when it is done."""

from __future__ import annotations

from typing import Any

import msgspec

from anqfs.control import wire
from anqfs.control.rest import moments, refs
from anqfs.control.rest.routing import Answer, Call, Route
from anqfs.namespace.tree_deletes import Deletion


class Creation(msgspec.Struct):
    """The directory's id, or its path."""

    id: str


class CreationQuery(msgspec.Struct, rename="kebab"):
    """`dry_run`: only tell what would be deleted."""

    dry_run: bool = False


class Job(msgspec.Struct):
    """A deletion: what there was at its beginning and what is left. Numbers are strings."""

    id: str
    create_time: str
    mode: str
    initial_path: str
    initial_capacity: str
    initial_directories: str
    initial_files: str
    remaining_capacity: str
    remaining_directories: str
    remaining_files: str
    last_error_message: str | None


class Jobs(msgspec.Struct):
    """All deletions."""

    jobs: list[Job]


def _job(one: Deletion) -> Job:
    record = one.record
    return Job(
        id=str(one.ino),
        create_time=moments.shown(record.created),
        mode="IN_PLACE",
        initial_path=wire.text(record.path.rstrip(b"/") + b"/"),
        initial_capacity=str(record.capacity),
        initial_directories=str(record.directories),
        initial_files=str(record.files),
        remaining_capacity=str(one.capacity),
        remaining_directories=str(one.directories),
        remaining_files=str(one.files),
        last_error_message=wire.text(record.error) if record.error else None,
    )


async def _get_all(call: Call) -> Any:
    """List the deletions that are not done."""
    return Jobs([_job(one) for one in call.service.namespace.tree_deletes.listing()])


async def _get(call: Call) -> Any:
    """Return a deletion; there is none any more when it is done."""
    return _job(call.service.namespace.tree_deletes.status(call.number("id")))


async def _create(call: Call) -> Any:
    """Delete a directory with all below it, in the background; restarts do not stop it."""
    service = call.service
    service.must_be_writable()
    node = refs.node_of(service, wire.raw(call.body.id), None)
    deletions = service.namespace.tree_deletes
    if call.query.dry_run:
        return Answer(_job(deletions.preview(node)), 200)
    deletions.start(node)
    one = deletions.status(node)
    await _go_on(call)
    return Answer(_job(one), 202)


async def _cancel(call: Call) -> Any:
    """End a deletion; what is not deleted yet stays."""
    call.service.must_be_writable()
    call.service.namespace.tree_deletes.cancel(call.number("id"))
    await call.service.durable()
    return None


async def _restart(call: Call) -> Any:
    """Let a deletion go on that had stopped."""
    call.service.must_be_writable()
    node = call.number("id")
    call.service.namespace.tree_deletes.restart(node)
    one = call.service.namespace.tree_deletes.status(node)
    await _go_on(call)
    return Answer(_job(one), 202)


async def _go_on(call: Call) -> None:
    await call.service.durable()
    call.service.session.background.kick()


ROUTES = [
    Route("GET", "/v1/tree-delete/jobs/", _get_all, answer=Jobs),
    Route("POST", "/v1/tree-delete/jobs/", _create, body=Creation, query=CreationQuery, answer=Job, status=202),
    Route("GET", "/v1/tree-delete/jobs/{id}", _get, answer=Job),
    Route("DELETE", "/v1/tree-delete/jobs/{id}", _cancel),
    Route("POST", "/v1/tree-delete/jobs/restart/{id}", _restart, answer=Job, status=202),
]
