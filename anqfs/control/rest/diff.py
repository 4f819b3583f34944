"""What differs between snapshots, and what deleting them gives back.

`/v2|v3/snapshots/{newer}/changes-since/{older}` and `/v1/snapshots/total-used-capacity` have ANQ's shapes. A path is absolute, and that of
a directory ends in a slash; a rename is a DELETE and a CREATE. Below `/anqfs/v1` is what ANQ does not have: the live tree as the newer of
the two, renames, ids and types, and the bytes that come back when a set of snapshots is deleted.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from stat import S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFREG, S_IFSOCK, S_ISREG
from typing import Annotated, Any

import msgspec
import trio

from anqfs.control import wire
from anqfs.control.rest.routing import Call, Route, limit_of, number_of
from anqfs.errors import FilesystemError
from anqfs.namespace.diff import Diff, Difference, compared
from anqfs.namespace.nodes import ino_of
from anqfs.namespace.reclaimable import Freed, Reclaimable
from anqfs.namespace.regions import FileRegions, Region
from anqfs.namespace.trees import Tree

_STEPS = 256
"""Names, windows or records that are looked at before others get their turn."""
_SNAPSHOTS_MAX = 40_000
_TYPES = {
    S_IFREG: "FS_FILE_TYPE_FILE",
    S_IFDIR: "FS_FILE_TYPE_DIRECTORY",
    S_IFLNK: "FS_FILE_TYPE_SYMLINK",
    S_IFIFO: "FS_FILE_TYPE_UNIX_PIPE",
    S_IFSOCK: "FS_FILE_TYPE_UNIX_SOCKET",
    S_IFCHR: "FS_FILE_TYPE_UNIX_CHARACTER_DEVICE",
    S_IFBLK: "FS_FILE_TYPE_UNIX_BLOCK_DEVICE",
}


class PageQuery(msgspec.Struct):
    """`limit`: entries of a page; `after`: from an earlier page's `next`."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=1 << 32)] | None = None
    after: Annotated[str, msgspec.Meta(max_length=100)] | None = None


class ChangesQuery(PageQuery):
    """`newer`: a snapshot, the live tree without it; `renames`: tell of them as such; `exact`: leave out blocks that hold the same."""

    newer: Annotated[int, msgspec.Meta(ge=1, le=(1 << 63) - 1)] | None = None
    renames: bool = True
    exact: bool = False


class Change(msgspec.Struct):
    """A path that differs. `op`: CREATE, MODIFY or DELETE."""

    op: str
    path: str


class OwnChange(msgspec.Struct):
    """A path that differs. `op` may be RENAME: from `old_path`; `modified` tells whether more than the name differs."""

    op: str
    path: str
    id: str
    type: str
    old_path: str | None = None
    modified: bool = False


class TypedRegion(msgspec.Struct):
    """A part of a file that differs: FILE_REGION_DATA or FILE_REGION_HOLE. Numbers are strings."""

    type: str
    offset: str
    size: str


class OpRegion(msgspec.Struct):
    """A part of a file that differs: CREATE, MODIFY or DELETE. Numbers are strings."""

    op: str
    offset: str
    size: str


class Selection(msgspec.Struct, forbid_unknown_fields=True):
    """Ids of snapshots; without it, all."""

    snapshots: Annotated[list[int], msgspec.Meta(max_length=_SNAPSHOTS_MAX)] | None = None


class Capacity(msgspec.Struct):
    """Bytes, as a string."""

    bytes: str


class Back(msgspec.Struct):
    """What a deletion would give back: bytes of file data, and the extents that hold them."""

    bytes: str
    extents: int


# --- trees


async def page_of(diff: Diff, limit: int) -> tuple[list[Difference], str | None]:
    """Return a page of differences and where the next begins, None at the end; gives way now and then."""
    found: list[Difference] = []
    while len(found) < limit and not diff.finished:
        found += diff.take(limit - len(found), _STEPS)
        await trio.sleep(0)
    cursor = diff.cursor
    while not diff.finished:
        if diff.take(1, _STEPS):
            return found, cursor
        await trio.sleep(0)
    return found, None


async def _get_changes(call: Call) -> Any:
    """List the paths that differ between two snapshots of a directory."""
    diff = Diff(call.service.namespace, call.number("older"), call.number("newer"), after=call.query.after)
    found, after = await page_of(diff, limit_of(call.query.limit))
    return call.page([Change(one.op, wire.text(one.path)) for one in found], after=after)


async def _get_own_changes(call: Call) -> Any:
    """List the paths that differ between a snapshot and a newer one, or the live tree, with renames."""
    query: ChangesQuery = call.query
    if query.newer is None:
        await _bring_in(call)
    diff = Diff(call.service.namespace, call.number("id"), query.newer, renames=query.renames, after=query.after)
    found, after = await page_of(diff, limit_of(query.limit))
    return call.page([_own(one) for one in found], after=after)


def _own(one: Difference) -> OwnChange:
    old_path = None if one.old_path is None else wire.text(one.old_path)
    return OwnChange(one.op, wire.text(one.path), str(one.ino), _TYPES.get(one.kind, "FS_FILE_TYPE_UNKNOWN"), old_path, one.modified)


async def _bring_in(call: Call) -> None:
    """Let what programs wrote and the kernel still holds arrive, before the live tree is compared."""
    if call.service.is_writable():
        await call.service.session.flush()


# --- files


async def _regions(call: Call, older: int, newer: int | None, *, exact: bool = False) -> tuple[list[Region], str | None]:
    """Return a page of regions of the file that `{ref}` names in the newer tree, and where the next begins."""
    namespace = call.service.namespace
    first, second = compared(namespace, older, newer)
    ino = ino_of(call.node(newer))
    old, new = Tree(namespace, first.root, first), Tree(namespace, first.root, second)
    inode = new.inode(ino)
    if inode is not None and not S_ISREG(inode.mode):
        raise FilesystemError(errno.EISDIR, "it is no regular file")
    after = 0 if call.query.after is None else number_of(call.query.after, "after")
    limit = limit_of(call.query.limit)
    regions = FileRegions(namespace, old, new, ino, after=after, exact=exact)
    found: list[Region] = []
    while not regions.finished and len(found) <= limit:
        for number in (older, newer):
            if number is not None:
                namespace.snapshot(number)
        found += regions.take(limit + 1 - len(found), 8 if exact else _STEPS)
        await trio.sleep(0)
    page = found[:limit]
    return page, str(page[-1].offset + page[-1].size) if len(found) > limit else None


async def _get_typed_regions(call: Call) -> Any:
    """List the parts of a file that differ between two snapshots: data, or a hole."""
    page, after = await _regions(call, call.number("older"), call.number("newer"))
    kinds = {"DELETE": "FILE_REGION_HOLE"}
    return call.page([TypedRegion(kinds.get(op, "FILE_REGION_DATA"), str(offset), str(size)) for op, offset, size in page], after=after)


async def _get_regions(call: Call) -> Any:
    """List the parts of a file that differ between two snapshots: created, modified, deleted."""
    page, after = await _regions(call, call.number("older"), call.number("newer"))
    return _op_page(call, page, after)


async def _get_own_regions(call: Call) -> Any:
    """List the parts of a file that differ between a snapshot and a newer one, or the live file."""
    if call.query.newer is None:
        await _bring_in(call)
    page, after = await _regions(call, call.number("id"), call.query.newer, exact=call.query.exact)
    return _op_page(call, page, after)


def _op_page(call: Call, page: Sequence[Region], after: str | None) -> dict[str, Any]:
    return call.page([OpRegion(op, str(offset), str(size)) for op, offset, size in page], after=after)


# --- capacity


async def reclaimable(call: Call, snapshots: list[int] | None) -> Freed:
    """Return what deleting snapshots (None: all) would give back; gives way now and then. Raises NotFound."""
    question = Reclaimable(call.service.namespace, snapshots)
    while question.step(_STEPS):
        await trio.sleep(0)
    return question.freed or Freed()


async def _get_total(call: Call) -> Any:
    """Return the capacity that only snapshots hold."""
    return Capacity(str((await reclaimable(call, None)).bytes))


async def _post_reclaimable(call: Call) -> Any:
    """Tell what deleting exactly these snapshots would give back; nothing is deleted."""
    freed = await reclaimable(call, call.body.snapshots)
    return Back(str(freed.bytes), freed.extents)


_V2 = "/v2/snapshots/{newer}/changes-since/{older}"
_V3 = "/v3/snapshots/{newer}/changes-since/{older}"
ROUTES = [
    Route("GET", _V2, _get_changes, query=PageQuery, answer=dict[str, Any]),
    Route("GET", f"{_V2}/files/{{ref}}", _get_typed_regions, query=PageQuery, answer=dict[str, Any]),
    Route("GET", f"{_V3}/files/{{ref}}", _get_regions, query=PageQuery, answer=dict[str, Any]),
    Route("GET", "/v1/snapshots/total-used-capacity", _get_total, answer=Capacity),
    Route("GET", "/anqfs/v1/snapshots/{id}/changes", _get_own_changes, query=ChangesQuery, answer=dict[str, Any]),
    Route("GET", "/anqfs/v1/snapshots/{id}/changes/files/{ref}", _get_own_regions, query=ChangesQuery, answer=dict[str, Any]),
    Route("POST", "/anqfs/v1/reclaimable", _post_reclaimable, body=Selection, answer=Back, personal=True),
]
