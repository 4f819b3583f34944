"""`/v1/files/{ref}/aggregates/`, `recursive-aggregates/`: what is below a directory, without a walk.

The totals of each directory are kept up to date by every change (`namespace/usage`), live and in snapshots, so an answer takes as long as
its entries are many, however large the trees below them. Capacity is what quotas count: bytes of data held, and as metadata 4,096 for each
name below.
"""

from __future__ import annotations

import heapq
import stat
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

import msgspec
import trio

from anqfs.control import wire
from anqfs.control.rest import refs
from anqfs.control.rest.attributes import Id, path_of, type_of
from anqfs.control.rest.faults import Refused
from anqfs.control.rest.routing import Call, Route
from anqfs.errors import UsageError
from anqfs.namespace.namespace import Namespace
from anqfs.namespace.quota_accounts import ENTRY_CAPACITY, capacity_below
from anqfs.store.schema import Inode, Usage

_ENTRIES, _ENTRIES_MAX = 1000, 5000
_DEPTH, _DEPTH_MAX = 10, 5000
_DIRECTORIES_MAX = 1000
"""Directories in one answer to recursive-aggregates."""
_SMALL = 10
"""recursive-aggregates leaves out what is less than this part (one in ten) of its directory."""
_AT_ONCE = 256

_ORDERS: dict[str, Callable[[Usage], int]] = {
    "total_blocks": lambda total: total.allocated,
    "total_datablocks": lambda total: total.allocated,
    "total_named_stream_datablocks": lambda total: 0,
    "total_metablocks": lambda total: 0,
    "total_files": lambda total: total.files,
    "total_directories": lambda total: total.directories,
    "total_symlinks": lambda total: total.symlinks,
    "total_other": lambda total: total.others,
    "total_named_streams": lambda total: 0,
    "total_external_objects": lambda total: 0,
    "total_external_object_bytes": lambda total: 0,
}


class AggregatesQuery(msgspec.Struct, rename="kebab"):
    """How many entries, how deep, the largest by what, and as of which snapshot."""

    max_entries: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] | None = None
    max_depth: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] | None = None
    order_by: str = "total_blocks"
    snapshot: Id | None = None


class Child(msgspec.Struct):
    """An entry of a directory and all below it. Numbers are strings."""

    id: str
    name: str
    type: str
    capacity_usage: str
    data_usage: str
    meta_usage: str
    named_stream_data_usage: str
    num_files: str
    num_directories: str
    num_symlinks: str
    num_other_objects: str
    num_named_streams: str


class Aggregates(msgspec.Struct):
    """A directory, all below it, and its largest entries. Numbers are strings."""

    path: str
    id: str
    total_capacity: str
    total_data: str
    total_meta: str
    total_named_stream_data: str
    total_files: str
    total_directories: str
    total_symlinks: str
    total_other_objects: str
    total_named_streams: str
    files: list[Child]


def _child(node: int, name: bytes, inode: Inode, total: Usage, in_snapshot: bool) -> Child:
    names = capacity_below(total) - total.allocated + (ENTRY_CAPACITY if stat.S_ISDIR(inode.mode) else 0)
    return Child(
        id=refs.shown_id(node, in_snapshot=in_snapshot),
        name=wire.text(name),
        type=type_of(inode),
        capacity_usage=str(total.allocated + names),
        data_usage=str(total.allocated),
        meta_usage=str(names),
        named_stream_data_usage="0",
        num_files=str(total.files),
        num_directories=str(total.directories),
        num_symlinks=str(total.symlinks),
        num_other_objects=str(total.others),
        num_named_streams="0",
    )


async def _entries(namespace: Namespace, node: int) -> AsyncIterator[tuple[bytes, int, Inode, Usage]]:
    """Yield the entries of a directory with what is below each, giving way now and then."""
    cookie, more = 0, True
    while more:
        more, batch = False, []
        for number, (name, child, inode, following) in enumerate(namespace.readdir(node, cookie)):
            if number >= _AT_ONCE:
                more = True
                break
            cookie = following
            if inode is not None:
                batch.append((name, child, inode, namespace.usage(child)))
        for one in batch:
            yield one
        await trio.sleep(0)


async def _aggregates(call: Call, node: int, entries: int, is_shown: Callable[[Usage, Usage], bool]) -> tuple[Aggregates, list[int]]:
    """Return the aggregates of a directory, and the directories among the entries that are shown."""
    query: AggregatesQuery = call.query
    namespace, in_snapshot = call.service.namespace, query.snapshot is not None
    order = _ORDERS[query.order_by]
    total = namespace.usage(node)
    kept: list[tuple[int, bytes, int, Inode, Usage]] = []
    async for name, child, inode, below in _entries(namespace, node):
        if not is_shown(below, total):
            continue
        one = (order(below), name, child, inode, below)
        if len(kept) < entries:
            heapq.heappush(kept, one)
        else:
            heapq.heappushpop(kept, one)
    kept.sort(key=lambda one: (-one[0], one[1]))
    shown = Aggregates(
        path=wire.text(path_of(namespace, node)),
        id=refs.shown_id(node, in_snapshot=in_snapshot),
        total_capacity=str(capacity_below(total)),
        total_data=str(total.allocated),
        total_meta=str(capacity_below(total) - total.allocated),
        total_named_stream_data="0",
        total_files=str(total.files),
        total_directories=str(total.directories),
        total_symlinks=str(total.symlinks),
        total_other_objects=str(total.others),
        total_named_streams="0",
        files=[_child(child, name, inode, below, in_snapshot) for _, name, child, inode, below in kept],
    )
    return shown, [child for _, _, child, inode, _ in kept if stat.S_ISDIR(inode.mode)]


def _checked(call: Call) -> int:
    """Return the directory that is asked about. Raises Refused, UsageError."""
    if call.query.order_by not in _ORDERS:
        raise UsageError(f"order-by is one of {', '.join(_ORDERS)}")
    node = call.node(call.query.snapshot)
    if not stat.S_ISDIR(call.service.namespace.attributes(node).mode):
        raise Refused(400, "fs_not_a_directory_error", "only directories have aggregates")
    return node


async def _get(call: Call) -> Any:
    """Return what is below a directory and below each of its largest entries."""
    node = _checked(call)
    shown, _ = await _aggregates(call, node, min(call.query.max_entries or _ENTRIES, _ENTRIES_MAX), lambda below, total: True)
    return shown


async def _get_recursive(call: Call) -> Any:
    """Return the aggregates of a directory and of the large ones below it, breadth first."""
    top = _checked(call)
    entries = min(call.query.max_entries or _ENTRIES, _ENTRIES_MAX)
    depth = min(call.query.max_depth or _DEPTH, _DEPTH_MAX)
    found: list[Aggregates] = []
    waiting = deque([(top, 1)])
    while waiting and len(found) < _DIRECTORIES_MAX and entries > 0:
        node, level = waiting.popleft()
        shown, below = await _aggregates(call, node, entries, lambda part, total: part.allocated * _SMALL >= total.allocated)
        found.append(shown)
        entries -= len(shown.files)
        if level < depth:
            waiting.extend((child, level + 1) for child in below)
    return found


ROUTES = [
    Route("GET", "/v1/files/{ref}/aggregates/", _get, query=AggregatesQuery, answer=Aggregates),
    Route("GET", "/v1/files/{ref}/recursive-aggregates/", _get_recursive, query=AggregatesQuery, answer=list[Aggregates]),
]
