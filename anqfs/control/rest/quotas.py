"""`/v1/files/quotas/`: quotas of directories, by the directory's id. Numbers of bytes are strings."""

from __future__ import annotations

from contextlib import suppress
from itertools import islice
from typing import Annotated, Any

import msgspec

from anqfs.control import wire
from anqfs.control.rest import etags, refs
from anqfs.control.rest.attributes import path_of
from anqfs.control.rest.routing import Answer, Call, Route, limit_of, number_of
from anqfs.errors import Damaged, QuotaExists
from anqfs.namespace.quotas import QuotaStatus


class Quota(msgspec.Struct):
    """A directory's id and how many bytes all below it may take."""

    id: str
    limit: str


class Status(msgspec.Struct):
    """A quota with its directory's path and the bytes that are taken."""

    id: str
    path: str
    limit: str
    capacity_usage: str


class PageQuery(msgspec.Struct):
    """`after`: the id that the page goes on behind."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] | None = None
    after: str = "0"


class Paging(msgspec.Struct):
    """Where the next page is; empty on the last."""

    next: str


class Quotas(msgspec.Struct):
    """A page of quotas."""

    quotas: list[Quota]
    paging: Paging


class Statuses(msgspec.Struct):
    """A page of quotas with what is taken."""

    quotas: list[Status]
    paging: Paging


def _quota(one: QuotaStatus) -> Quota:
    return Quota(str(one.ino), str(one.limit))


def _status(call: Call, one: QuotaStatus) -> Status:
    return Status(str(one.ino), wire.text(path_of(call.service.namespace, one.ino)), str(one.limit), str(one.used))


def _answer(one: QuotaStatus, status: int = 200) -> Answer:
    return Answer(_quota(one), status, etag=etags.of(one.ino, one.limit))


def _page(call: Call) -> tuple[list[QuotaStatus], str | None]:
    """Return the quotas of a page, and what the next one begins behind."""
    most = limit_of(call.query.limit)
    found = list(islice(call.service.namespace.quotas.listing(number_of(call.query.after, "after")), most + 1))
    return found[:most], str(found[most - 1].ino) if len(found) > most else None


async def _get_all(call: Call) -> Any:
    """List quotas."""
    found, after = _page(call)
    return call.page([_quota(one) for one in found], after=after, name="quotas")


async def _get_statuses(call: Call) -> Any:
    """List quotas with what is taken."""
    found, after = _page(call)
    return call.page([_status(call, one) for one in found], after=after, name="quotas")


async def _get(call: Call) -> Any:
    """Return a directory's quota."""
    return _answer(call.service.namespace.quotas.status(call.number("id")))


async def _get_status(call: Call) -> Any:
    """Return a directory's quota with what is taken."""
    one = call.service.namespace.quotas.status(call.number("id"))
    return Answer(_status(call, one), etag=etags.of(one.ino, one.limit))


async def _create(call: Call) -> Any:
    """Give a directory a quota; it takes effect at once, whatever is in it already."""
    service = call.service
    service.must_be_writable()
    node = refs.node_of(service, wire.raw(call.body.id), None)
    quotas = service.namespace.quotas
    if quotas.limit(node) is not None:
        raise QuotaExists("the directory has a quota already: change that")
    return await _set(call, node)


async def _update(call: Call) -> Any:
    """Change the limit of a directory's quota."""
    call.service.must_be_writable()
    node = call.number("id")
    with suppress(Damaged):  # of what is damaged nobody knows a version
        call.must_match(_answer(call.service.namespace.quotas.status(node)).etag or "")
    return await _set(call, node)


async def _set(call: Call, node: int) -> Answer:
    quotas = call.service.namespace.quotas
    quotas.set(node, number_of(call.body.limit, "the limit"))
    one = quotas.status(node)
    await call.service.durable()
    return _answer(one)


async def _delete(call: Call) -> Any:
    """Remove a directory's quota."""
    call.service.must_be_writable()
    node = call.number("id")
    quotas = call.service.namespace.quotas
    with suppress(Damaged):  # of what is damaged nobody knows a version
        call.must_match(_answer(quotas.status(node)).etag or "")
    quotas.remove(node)
    await call.service.durable()
    return None


ROUTES = [
    Route("GET", "/v1/files/quotas/", _get_all, query=PageQuery, answer=Quotas),
    Route("POST", "/v1/files/quotas/", _create, body=Quota, answer=Quota),
    Route("GET", "/v1/files/quotas/status/", _get_statuses, query=PageQuery, answer=Statuses),
    Route("GET", "/v1/files/quotas/status/{id}", _get_status, answer=Status),
    Route("GET", "/v1/files/quotas/{id}", _get, answer=Quota),
    Route("PUT", "/v1/files/quotas/{id}", _update, body=Quota, answer=Quota),
    Route("DELETE", "/v1/files/quotas/{id}", _delete),
]
