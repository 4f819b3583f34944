"""`/v1/files/{ref}/data`, `copy-chunk`, `punch-hole`, `streams/`: what is in a file.

Bodies are streamed, at most PART bytes at a time, so a file of any size takes little memory. Each part is one atomic write; the answer
comes when all of it is durable. A write that is cut off has changed the file as far as it came, as with any client.
"""

from __future__ import annotations

import logging
import stat
from collections.abc import AsyncIterator
from typing import Annotated, Any

import msgspec
import trio

from anqfs.control import wire
from anqfs.control.rest import etags, refs
from anqfs.control.rest.attributes import Attributes, Id, SnapshotQuery, answer, etag_of
from anqfs.control.rest.faults import Refused
from anqfs.control.rest.routing import Answer, Call, CutShort, Route
from anqfs.control.service import Service
from anqfs.errors import AnqfsError, UsageError
from anqfs.namespace.core import ROOT_CALLER
from anqfs.namespace.files import check_regular
from anqfs.store.schema import WINDOW

_log = logging.getLogger("anqfs.control.rest.data")

PART = WINDOW
"""Bytes that are read or written in one go."""
COPIED_AT_ONCE = 64 * WINDOW
"""Most bytes that one copy-chunk copies: the client asks again with what is left."""
_STREAM = b"user.DosStream."
Number = Annotated[str, msgspec.Meta(max_length=19, pattern="^[0-9]+$")]
Offset = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


class ReadQuery(msgspec.Struct, rename="kebab"):
    """Which bytes, and as of which snapshot."""

    offset: Offset = 0
    length: Offset | None = None
    snapshot: Id | None = None
    skip_atime_update: bool = False


class WriteQuery(msgspec.Struct):
    """Where the body goes."""

    offset: Offset


class Copy(msgspec.Struct):
    """What to copy into the file that the path names. The answer to a copy that is not finished is the next one's body."""

    source_id: Annotated[str, msgspec.Meta(max_length=19)] | None = None
    source_path: Annotated[str, msgspec.Meta(max_length=32760)] | None = None
    source_snapshot: Id | Number | None = None
    source_stream_id: str | None = None
    source_etag: str | None = None
    source_offset: Number | None = None
    target_offset: Number | None = None
    length: Number | None = None


class Hole(msgspec.Struct):
    """Bytes to make a hole of."""

    offset: Number
    size: Number


# --- reading


async def read(service: Service, node: int, offset: int, size: int) -> bytes:
    """Return bytes of a file; those that may have to come from the disk are fetched by a reader thread."""
    cold = service.namespace.cold(node, offset, size)
    if cold:
        await service.session.readers.fetch(cold)
    return service.namespace.read(node, offset, size)


async def _parts(service: Service, node: int, first: bytes, offset: int, end: int) -> AsyncIterator[bytes]:
    """Yield a file from `offset` to `end`; `first` was read already."""
    with service.kernel.holding(node):
        part = first
        while part:
            yield part
            offset += len(part)
            try:
                part = await read(service, node, offset, min(PART, end - offset)) if offset < end else b""
            except AnqfsError as error:
                _log.error("an answer is cut short: %s", error)
                raise CutShort from error
        if offset < end:
            raise CutShort


async def _get(call: Call) -> Any:
    """Return the bytes of a file, or the target of a symbolic link. Beyond the end there is nothing, which is no error."""
    query: ReadQuery = call.query
    service, node = call.service, call.node(query.snapshot)
    await service.kernel.brought_in(node)
    inode = service.namespace.attributes(node)
    etag = etag_of(node, inode)
    if stat.S_ISLNK(inode.mode):
        first = service.namespace.readlink(node)[query.offset :][: query.length]
        return Answer(parts=_once(first), etag=etag, headers={"Content-Length": str(len(first))})
    check_regular(inode)
    end = inode.size if query.length is None else min(inode.size, query.offset + query.length)
    size = max(0, end - query.offset)
    first = await read(service, node, query.offset, min(PART, size)) if size else b""
    return Answer(parts=_parts(service, node, first, query.offset, end), etag=etag, headers={"Content-Length": str(size)})


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data


# --- writing


async def _write(call: Call, node: int, offset: int) -> None:
    """Write the body from `offset` on, one part at a time."""
    service = call.service
    buffer = bytearray()
    async for part in call.stream():
        buffer += part
        while len(buffer) >= PART - offset % PART:
            count = PART - offset % PART
            await _put(service, node, offset, bytes(buffer[:count]))
            del buffer[:count]
            offset += count
    if buffer:
        await _put(service, node, offset, bytes(buffer))


async def _put(service: Service, node: int, offset: int, data: bytes) -> None:
    if service.volume.must_wait():
        await service.session.durability.room()
    await service.kernel.to_ourselves(node)
    service.namespace.write(node, offset, data)
    service.session.changed()
    service.session.durability.written()


async def _told(call: Call, node: int) -> Any:
    """Tell the kernel of a file's new content, wait until it is durable, and return its attributes."""
    await call.service.tell([node], [])
    await call.service.durable()
    return answer(call, node)


async def _writable(call: Call) -> int:
    """Return the regular file that is to be written. Raises what forbids it."""
    node = refs.live(call.node())
    call.service.must_be_writable()
    check_regular(call.service.namespace.attributes(node))
    await call.service.kernel.to_ourselves(node)
    call.must_match(etag_of(node, call.service.namespace.attributes(node)))
    return node


async def _replace(call: Call) -> Any:
    """Replace all that is in a file."""
    node = await _writable(call)
    call.service.namespace.set_attributes(node, size=0, caller=ROOT_CALLER)
    with call.service.kernel.holding(node):
        await _write(call, node, 0)
        return await _told(call, node)


async def _patch(call: Call) -> Any:
    """Write bytes of a file from an offset on."""
    node = await _writable(call)
    with call.service.kernel.holding(node):
        await _write(call, node, call.query.offset)
        return await _told(call, node)


async def _punch(call: Call) -> Any:
    """Make a hole: the bytes read as zeros. The file's size stays."""
    node = await _writable(call)
    service, size = call.service, call.service.namespace.attributes(node).size
    offset = int(call.body.offset)
    end = min(offset + int(call.body.size), size)
    with service.kernel.holding(node):
        while offset < end:
            count = min(PART - offset % PART, end - offset)
            if count == PART:
                await service.kernel.to_ourselves(node)
                service.namespace.clear_window(node, offset // PART)
            elif any(await read(service, node, offset, count)):
                await _put(service, node, offset, bytes(count))
            offset += count
            await trio.sleep(0)
        return await _told(call, node)


# --- copying


def _source(call: Call) -> tuple[int, int]:
    """Return the node to copy from, and its size. Raises Refused (412) when it is not what the client saw."""
    copy: Copy = call.body
    if (copy.source_id is None) == (copy.source_path is None):
        raise UsageError("give source_id or source_path")
    if copy.source_stream_id not in (None, "0"):
        raise Refused(404, "fs_no_such_entry_error", "named streams are copied over SMB, not here")
    snapshot = None if copy.source_snapshot is None else int(copy.source_snapshot)
    ref = copy.source_id if copy.source_id is not None else copy.source_path
    node = refs.node_of(call.service, wire.raw(ref or ""), snapshot)
    inode = call.service.namespace.attributes(node)
    check_regular(inode)
    if copy.source_etag is not None and not etags.matches(copy.source_etag, etag_of(node, inode)):
        raise Refused(412, "fs_revision_mismatch_error", "the file to copy was changed meanwhile")
    return node, inode.size


async def _copy(call: Call) -> Any:
    """Copy a part of another file into this one, sharing its data; an empty answer says that all is copied."""
    copy: Copy = call.body
    service = call.service
    source, size = _source(call)
    await service.kernel.brought_in(source)
    target = await _writable(call)
    begin, place = int(copy.source_offset or 0), int(copy.target_offset or 0)
    left = max(0, size - begin) if copy.length is None else min(int(copy.length), max(0, size - begin))
    if source == target and abs(begin - place) < left:
        raise Refused(400, "fs_same_inode_error", "the two parts of the file overlap")
    count = min(left, COPIED_AT_ONCE)
    with service.kernel.holding(source), service.kernel.holding(target):
        await _copy_part(service, source, begin, target, place, count)
        told = await _told(call, target)
    if count == left:
        return Answer(etag=told.etag)
    rest = msgspec.structs.replace(
        copy, source_offset=str(begin + count), target_offset=str(place + count), length=None if copy.length is None else str(left - count)
    )
    return Answer(rest, etag=told.etag)


async def _copy_part(service: Service, source: int, begin: int, target: int, place: int, count: int) -> None:
    """Copy `count` bytes: whole windows, and the last one of the source at the end of the target, by sharing their data."""
    end, namespace = begin + count, service.namespace
    while begin < end:
        step = min(PART - place % PART, end - begin)
        is_last = begin + step >= namespace.attributes(source).size and place + step >= namespace.attributes(target).size
        if begin % PART == place % PART == 0 and (step == PART or is_last):
            await service.kernel.to_ourselves(target)
            copied = namespace.copy_window(source, begin // PART, target, place // PART)
            await trio.sleep(0)
        else:
            data = await read(service, source, begin, step)
            copied = len(data)
            await _put(service, target, place, data)
        if not copied:
            raise Refused(412, "fs_revision_mismatch_error", "the file to copy became shorter meanwhile")
        begin += copied
        place += copied


# --- named streams


async def _streams(call: Call) -> Any:
    """List the named streams of a file, which Samba keeps as extended attributes."""
    namespace, node = call.service.namespace, call.node(call.query.snapshot)
    names = [name for name in namespace.listxattr(node) if name.startswith(_STREAM)]
    return [_stream(name, len(namespace.getxattr(node, name))) for name in names]


def _stream(name: bytes, size: int) -> dict[str, str]:
    """Return one stream. Samba ends its data with a NUL byte. Source: vfs_streams_xattr(8)."""
    return {"id": wire.text(name), "name": wire.text(name[len(_STREAM) :].removesuffix(b":$DATA")), "size": str(max(0, size - 1))}


ROUTES = [
    Route("GET", "/v1/files/{ref}/data", _get, query=ReadQuery, private=True),
    Route("PUT", "/v1/files/{ref}/data", _replace, streams=True, answer=Attributes),
    Route("PATCH", "/v1/files/{ref}/data", _patch, query=WriteQuery, streams=True, answer=Attributes),
    Route("POST", "/v1/files/{ref}/copy-chunk", _copy, body=Copy, answer=Copy),
    Route("POST", "/v1/files/{ref}/punch-hole", _punch, body=Hole, answer=Attributes),
    Route("GET", "/v1/files/{ref}/streams/", _streams, query=SnapshotQuery),
]
