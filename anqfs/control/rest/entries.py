"""`/v1/files/{ref}/entries/` and `/v1/files/{ref}`: listing a directory, and making, renaming and deleting what is in it."""

from __future__ import annotations

import errno
import fnmatch
import os
import re
import stat
from typing import Annotated, Any

import msgspec
import trio

from anqfs.control import wire
from anqfs.control.rest import refs
from anqfs.control.rest.acls import acl_of
from anqfs.control.rest.attributes import UNIX_TYPES, Attributes, Id, SnapshotQuery, answer, document, etag_of, path_of
from anqfs.control.rest.faults import Refused
from anqfs.control.rest.routing import Answer, Call, Route, limit_of, number_of
from anqfs.errors import FilesystemError, UsageError
from anqfs.namespace.core import ROOT_CALLER
from anqfs.namespace.namespace import Namespace
from anqfs.store.schema import ROOT_INO, Inode

_FILE_MODE, _DIRECTORY_MODE = 0o644, 0o755
_RENAME_NOREPLACE = 1
_SCANNED_MAX = 20_000
"""Entries that one page of a listing with a pattern looks at, at most."""
_AT_ONCE = 256
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]
Named = tuple[bytes, int, Inode | None, int]
"""An entry, as `Namespace.readdir` yields it."""
Path = Annotated[str, msgspec.Meta(max_length=32760)]


class ListQuery(msgspec.Struct, rename="kebab"):
    """One page of a directory; `after` comes from the page before."""

    after: str | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] | None = None
    snapshot: Id | None = None
    smb_pattern: Annotated[str, msgspec.Meta(max_length=255)] | None = None
    skip_atime_update: bool = False
    include_acls: bool = False


class Device(msgspec.Struct):
    """The numbers of a device file."""

    major: Annotated[int, msgspec.Meta(ge=0, lt=1 << 12)]
    minor: Annotated[int, msgspec.Meta(ge=0, lt=1 << 20)]


class Creation(msgspec.Struct):
    """What to make in a directory: `action` is one of ACTIONS."""

    name: Name
    action: str
    old_path: Path | None = None
    clobber: bool = False
    symlink_target_type: str | None = None
    unix_file_type: str | None = None
    major_minor_numbers: Device | None = None


class Listing(msgspec.Struct):
    """One page of a directory."""

    path: str
    id: str
    child_count: int
    files: list[Attributes]
    file_acls: dict[str, Any] | None
    paging: dict[str, str]


def _cookie(text: str | None) -> int:
    return 0 if not text else number_of(text, "after")


def _batch(namespace: Namespace, node: int, cookie: int, limit: int) -> tuple[list[Named], bool]:
    """Return the next entries of a directory, and whether they are the last."""
    found: list[Named] = []
    for one in namespace.readdir(node, cookie):
        if len(found) >= limit:
            return found, False
        found.append(one)
    return found, True


async def _list(call: Call) -> Any:
    """List a directory, one page at a time, in an order that stays while entries come and go."""
    query: ListQuery = call.query
    namespace, node = call.service.namespace, call.node(query.snapshot)
    top, directory = path_of(namespace, node), namespace.attributes(node)
    pattern = None if query.smb_pattern is None else re.compile(fnmatch.translate(query.smb_pattern), re.IGNORECASE)
    limit, cookie, scanned, is_over = limit_of(query.limit), _cookie(query.after), 0, False
    files: list[Attributes] = []
    acls: list[dict[str, Any]] = []
    while not is_over and len(files) < limit and scanned < _SCANNED_MAX:
        batch, is_over = _batch(namespace, node, cookie, min(_AT_ONCE, limit - len(files)))
        scanned += len(batch)
        for name, child, inode, following in batch:
            cookie = following
            if inode is None or (pattern is not None and not pattern.match(wire.text(name))):
                continue
            path = top + name + (b"/" if stat.S_ISDIR(inode.mode) else b"")
            files.append(document(child, inode, path, in_snapshot=query.snapshot is not None))
            if query.include_acls:
                acls.append(acl_of(inode))
        await trio.sleep(0)
    last = None if is_over else str(cookie)
    page = call.page(files, after=last, name="files")
    pooled = {"acl_pool": acls, "acl_indices": list(range(len(acls)))} if query.include_acls else None
    number = refs.shown_id(node, in_snapshot=query.snapshot is not None)
    head = {"path": wire.text(top), "id": number, "child_count": directory.size, "file_acls": pooled}
    return Answer({**head, **page}, etag=etag_of(node, directory))


# --- making


def _name(text: str) -> bytes:
    name = wire.raw(text)
    if b"/" in name:
        raise Refused(400, "fs_invalid_name_error", f"the name {text[:80]!a} holds a slash")
    return name


def _old(creation: Creation) -> str:
    if creation.old_path is None:
        raise UsageError(f"{creation.action} needs old_path")
    return creation.old_path


def _make_file(namespace: Namespace, parent: int, name: bytes, creation: Creation) -> int:
    return namespace.create(parent, name, _FILE_MODE, ROOT_CALLER)[0]


def _make_directory(namespace: Namespace, parent: int, name: bytes, creation: Creation) -> int:
    return namespace.mkdir(parent, name, _DIRECTORY_MODE, ROOT_CALLER)[0]


def _make_symlink(namespace: Namespace, parent: int, name: bytes, creation: Creation) -> int:
    return namespace.symlink(parent, name, wire.raw(_old(creation)), ROOT_CALLER)[0]


def _make_link(namespace: Namespace, parent: int, name: bytes, creation: Creation) -> int:
    source = refs.walk(namespace, ROOT_INO, refs.components(wire.raw(_old(creation))))
    return namespace.link(source, parent, name)[0]


def _make_unix_file(namespace: Namespace, parent: int, name: bytes, creation: Creation) -> int:
    kind = UNIX_TYPES.get(creation.unix_file_type or "")
    if kind is None:
        raise Refused(400, "fs_invalid_file_type_error", f"unix_file_type is one of {', '.join(UNIX_TYPES)}")
    numbers = creation.major_minor_numbers
    if (numbers is not None) != (kind in (stat.S_IFCHR, stat.S_IFBLK)):
        raise UsageError("major_minor_numbers belong to devices, and only to them")
    device = 0 if numbers is None else os.makedev(numbers.major, numbers.minor)
    return namespace.mknod(parent, name, kind | _FILE_MODE, device, ROOT_CALLER)[0]


ACTIONS = {
    "CREATE_FILE": _make_file,
    "CREATE_DIRECTORY": _make_directory,
    "CREATE_SYMLINK": _make_symlink,
    "CREATE_LINK": _make_link,
    "CREATE_UNIX_FILE": _make_unix_file,
}


async def _create(call: Call) -> Any:
    """Make a file, directory, symlink, link or special file in a directory, or rename something into it.

    If-Match names the version of the directory, whatever the action.
    """
    creation: Creation = call.body
    service, parent = call.service, call.node()
    service.must_be_writable()
    call.must_match(etag_of(parent, service.namespace.attributes(parent)))
    name = _name(creation.name)
    if creation.action == "RENAME":
        return await _rename(call, parent, name, creation)
    make = ACTIONS.get(creation.action)
    if make is None:
        raise UsageError(f"the action {creation.action[:40]!a} is none of {', '.join(ACTIONS)}, RENAME")
    node = make(service.namespace, refs.live(parent), name, creation)
    await service.tell([parent, node], [(parent, name)])
    await service.durable()
    return answer(call, node)


async def _rename(call: Call, parent: int, name: bytes, creation: Creation) -> Any:
    service, namespace = call.service, call.service.namespace
    old_parent, old_name = refs.parent_of(namespace, wire.raw(_old(creation)))
    node, _ = namespace.lookup(old_parent, old_name)
    replaced = namespace.rename(old_parent, old_name, parent, name, 0 if creation.clobber else _RENAME_NOREPLACE)
    nodes = [old_parent, parent, node, *([] if replaced is None else [replaced])]
    await service.tell(nodes, [(old_parent, old_name), (parent, name)])
    await service.durable()
    return answer(call, node)


# --- deleting


async def _remove(call: Call, parent: int, name: bytes) -> Any:
    """Remove one name, of whatever it is the name."""
    service, namespace = call.service, call.service.namespace
    service.must_be_writable()
    node, inode = namespace.lookup(refs.live(parent), name)
    call.must_match(etag_of(node, inode))
    if stat.S_ISDIR(inode.mode):
        namespace.rmdir(parent, name)
    else:
        namespace.unlink(parent, name)
    await service.tell([parent, node], [(parent, name)])
    await service.durable()
    return Answer()


async def _unlink(call: Call) -> Any:
    """Delete an entry of a directory by its name."""
    return await _remove(call, call.node(), _name(call.text("name")))


async def _delete(call: Call) -> Any:
    """Delete a file, or an empty directory. What has several names is deleted by one of its paths."""
    namespace, ref = call.service.namespace, call.raw("ref")
    if not ref.isdigit():
        return await _remove(call, *refs.parent_of(namespace, ref))
    node = refs.live(call.node())
    if node == ROOT_INO:
        raise FilesystemError(errno.EBUSY, "the volume's root cannot be deleted")
    names = namespace.names_of(node)
    if len(names) > 1:
        raise Refused(409, "fs_entry_hardlink_ambiguity_error", f"the file has {len(names)} names: delete it by the path of one")
    if not names:
        raise FilesystemError(errno.ESTALE, f"there is no file with the id {node}")
    return await _remove(call, *names[0])


# --- ids to paths


async def _resolve(call: Call) -> Any:
    """Return the paths of files by their ids."""
    found = []
    for count, one in enumerate(call.body):
        if count % _AT_ONCE == _AT_ONCE - 1:
            await trio.sleep(0)
        node = refs.node_of(call.service, wire.raw(one), call.query.snapshot)
        found.append({"id": one, "path": wire.text(path_of(call.service.namespace, node))})
    return found


ROUTES = [
    Route("GET", "/v1/files/{ref}/entries/", _list, query=ListQuery, answer=Listing),
    Route("POST", "/v1/files/{ref}/entries/", _create, body=Creation, answer=Attributes),
    Route("DELETE", "/v1/files/{ref}/entries/{name}", _unlink),
    Route("DELETE", "/v1/files/{ref}", _delete),
    Route(
        "POST", "/v1/files/resolve", _resolve, body=Annotated[list[str], msgspec.Meta(max_length=1000)], query=SnapshotQuery, answer=list
    ),
]
