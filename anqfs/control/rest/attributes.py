"""How a file looks in the API: ANQ's attributes of an inode, and `/v1/files/{ref}/info/attributes`.

Numbers of 64 bits are strings. An owner is ANQ's auth_id of a POSIX id (3 << 32 plus the uid, 4 << 32 plus the gid) and, in
`owner_details`, the id itself. Blocks are of 4,096 bytes; what anqfs needs for its records is not counted, so `metablocks` is 0.
"""

from __future__ import annotations

import os
import stat
from typing import Annotated, Any

import msgspec

from anqfs.control import wire
from anqfs.control.rest import etags, moments, refs
from anqfs.control.rest.faults import Refused
from anqfs.control.rest.routing import Answer, Call, Route
from anqfs.errors import UsageError
from anqfs.namespace.core import ROOT_CALLER
from anqfs.namespace.nodes import ino_of
from anqfs.namespace.reading import Reading
from anqfs.store.schema import Dirent, Inode, Snapshot, dirent_key, inode_key

Id = Annotated[int, msgspec.Meta(ge=1, le=(1 << 63) - 1)]
BLOCK = 4096
UID_BASE, GID_BASE = 3 << 32, 4 << 32
_ID_MAX = (1 << 32) - 2
_TYPES = {
    stat.S_IFREG: "FS_FILE_TYPE_FILE",
    stat.S_IFDIR: "FS_FILE_TYPE_DIRECTORY",
    stat.S_IFLNK: "FS_FILE_TYPE_SYMLINK",
    stat.S_IFIFO: "FS_FILE_TYPE_UNIX_PIPE",
    stat.S_IFCHR: "FS_FILE_TYPE_UNIX_CHARACTER_DEVICE",
    stat.S_IFBLK: "FS_FILE_TYPE_UNIX_BLOCK_DEVICE",
    stat.S_IFSOCK: "FS_FILE_TYPE_UNIX_SOCKET",
}
UNIX_TYPES = {name: kind for kind, name in _TYPES.items() if name.startswith("FS_FILE_TYPE_UNIX")}
"""The S_IFMT bits of the file types that CREATE_UNIX_FILE makes."""
_DOS = ("read_only", "hidden", "system", "archive", "temporary", "compressed", "not_content_indexed", "sparse_file", "offline")


class Owner(msgspec.Struct):
    """A POSIX id."""

    id_type: str
    id_value: str | int


class Attributes(msgspec.Struct):
    """What the API tells of a file."""

    path: str
    name: str
    num_links: int
    type: str
    major_minor_numbers: dict[str, int]
    symlink_target_type: str
    file_number: str
    id: str
    mode: str
    owner: str
    owner_details: Owner
    group: str
    group_details: Owner
    blocks: str
    datablocks: str
    metablocks: str
    size: str
    access_time: str
    modification_time: str
    change_time: str
    creation_time: str
    child_count: int
    extended_attributes: dict[str, bool]
    directory_entry_hash_policy: str | None
    data_revision: str | None
    user_metadata_revision: str
    lock: dict[str, Any] | None = None


class Changes(msgspec.Struct):
    """What can be changed of a file; what is missing or null stays. Other fields of Attributes may be there and are not looked at."""

    mode: str | None = None
    owner: str | None = None
    owner_details: Owner | None = None
    group: str | None = None
    group_details: Owner | None = None
    size: str | None = None
    access_time: str | None = None
    modification_time: str | None = None
    change_time: str | None = None
    creation_time: str | None = None
    extended_attributes: dict[str, bool] | None = None


class SnapshotQuery(msgspec.Struct):
    """`snapshot`: as it was then."""

    snapshot: Id | None = None


class AttributesQuery(msgspec.Struct, rename="kebab"):
    """`snapshot`: as it was then. `retrieve_file_lock`: also what keeps the file from being changed."""

    snapshot: Id | None = None
    retrieve_file_lock: bool = False


def type_of(inode: Inode) -> str:
    """Return ANQ's name of a file's type."""
    return _TYPES[stat.S_IFMT(inode.mode)]


def etag_of(node: int, inode: Inode) -> str:
    """Return the version of a file: its data and all that stat tells, but not when it was read."""
    facts: tuple[int, ...] = (inode.mode, inode.uid, inode.gid, inode.nlink, inode.size, inode.mtime, inode.ctime, inode.btime, inode.flags)
    if inode.retained or inode.legal_hold:
        facts = (*facts, inode.retained, inode.legal_hold)
    return etags.of(node, *facts)


def path_of(namespace: Reading, node: int) -> bytes:
    """Return an absolute path of a node, as the API writes it: the live one, or the one it had in its snapshot; empty when it has none."""
    snapshot = namespace.snapshot_of(node)
    path = namespace.path_of(ino_of(node)) if snapshot is None else _path_then(namespace, ino_of(node), snapshot)
    if not path:
        return b""
    return path.rstrip(b"/") + b"/" if stat.S_ISDIR(namespace.attributes(node).mode) else path


def _path_then(namespace: Reading, ino: int, snapshot: Snapshot) -> bytes | None:
    """Return the path that an inode had when a snapshot was taken, below where the snapshot's directory is now."""
    at = namespace.core.versions.at
    names: list[bytes] = []
    while ino != snapshot.root:
        inode: Inode | None = at(inode_key(ino), snapshot.epoch)
        if inode is None or not inode.links:
            return None
        parent, name_hash = inode.links[0]
        dirent: Dirent | None = at(dirent_key(parent, name_hash), snapshot.epoch)
        if dirent is None:
            return None
        names.append(dirent.name)
        ino = parent
    above = namespace.path_of(ino)
    return None if above is None else above.rstrip(b"/") + b"/" + b"/".join(reversed(names))


def document(node: int, inode: Inode, path: bytes, *, in_snapshot: bool = False) -> Attributes:
    """Return the attributes of a node. `path` as `path_of` returns it. In a snapshot that the request names, ids are those of inodes."""
    number = refs.shown_id(node, in_snapshot=in_snapshot)
    device = {"major": os.major(inode.rdev), "minor": os.minor(inode.rdev)}
    is_directory = stat.S_ISDIR(inode.mode)
    blocks = str(-(-inode.allocated // BLOCK))
    return Attributes(
        path=wire.text(path),
        name=wire.text(path.rstrip(b"/").rpartition(b"/")[2]),
        num_links=inode.nlink,
        type=type_of(inode),
        major_minor_numbers=device,
        symlink_target_type="FS_FILE_TYPE_UNKNOWN",
        file_number=number,
        id=number,
        mode=f"{stat.S_IMODE(inode.mode):04o}",
        owner=str(UID_BASE + inode.uid),
        owner_details=Owner("NFS_UID", str(inode.uid)),
        group=str(GID_BASE + inode.gid),
        group_details=Owner("NFS_GID", str(inode.gid)),
        blocks=blocks,
        datablocks=blocks,
        metablocks="0",
        size=str(0 if is_directory else inode.size),
        access_time=moments.shown(inode.atime),
        modification_time=moments.shown(inode.mtime),
        change_time=moments.shown(inode.ctime),
        creation_time=moments.shown(inode.btime),
        child_count=inode.size if is_directory else 0,
        extended_attributes=dict.fromkeys(_DOS, False),
        directory_entry_hash_policy="FS_DIRECTORY_HASH_VERSION_FOLDED" if is_directory else None,
        data_revision=None if is_directory else etag_of(node, inode).strip('"'),
        user_metadata_revision="0",
    )


def answer(call: Call, node: int, *, in_snapshot: bool = False, with_lock: bool = False) -> Answer:
    """Return the attributes of a node with their ETag, as the answer to a request."""
    namespace = call.service.namespace
    inode = namespace.attributes(node)
    shown = document(node, inode, path_of(namespace, node), in_snapshot=in_snapshot)
    if with_lock and stat.S_ISREG(inode.mode):
        retention = moments.shown(inode.retained) if inode.retained else None
        shown.lock = {"retention_period": retention, "legal_hold": inode.legal_hold}
    return Answer(shown, etag=etag_of(node, inode))


def _posix_id(auth_id: str | None, details: Owner | None, base: int, kinds: tuple[str, str]) -> int | None:
    """Return the uid or gid that a request names, None when it names none. Raises Refused."""
    if details is not None:
        text, offset = str(details.id_value), 0
        known = details.id_type in kinds
    elif auth_id is not None:
        text, offset = auth_id, base
        known = True
    else:
        return None
    number = int(text) - offset if text.isascii() and text.isdigit() and len(text) < 20 else -1
    if not known or not 0 <= number <= _ID_MAX:
        raise Refused(400, "cred_identity_not_supported_error", f"only POSIX ids can own files: {text[:40]!a} is none")
    return number


def _mode(text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 6 and not set(text) & {"8", "9"} and int(text, 8) <= 0o7777):
        raise UsageError(f"the mode {text[:40]!a} is not octal")
    return int(text, 8)


def _number(text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 19 and int(text) < 1 << 63):
        raise Refused(400, "fs_invalid_size_error", f"the size {text[:40]!a} is none")
    return int(text)


def _time(text: str | None) -> int | None:
    if text is None:
        return None
    when = moments.parsed(text)
    if not -(1 << 63) <= when < 1 << 63:
        raise UsageError(f"the time {text[:40]!a} is outside of the years 1678 to 2262")
    return when


async def change(call: Call, node: int, wanted: Changes) -> None:
    """Change attributes of a file, durably. Raises Refused, UsageError, FilesystemError."""
    service = call.service
    if any((wanted.extended_attributes or {}).values()):
        raise Refused(400, "fs_invalid_attrs_error", "DOS attributes are set over SMB, not here")
    size, mtime, ctime = _number(wanted.size), _time(wanted.modification_time), _time(wanted.change_time)
    uid = _posix_id(wanted.owner, wanted.owner_details, UID_BASE, ("NFS_UID", "LOCAL_USER"))
    gid = _posix_id(wanted.group, wanted.group_details, GID_BASE, ("NFS_GID", "LOCAL_GROUP"))
    mode, atime, btime = _mode(wanted.mode), _time(wanted.access_time), _time(wanted.creation_time)
    service.must_be_writable()
    if (size, mtime, ctime) != (None, None, None):
        await service.kernel.to_ourselves(node)
    namespace = service.namespace
    call.must_match(etag_of(node, namespace.attributes(node)))
    namespace.set_attributes(
        node, mode=mode, uid=uid, gid=gid, size=size, atime=atime, mtime=mtime, ctime=ctime, btime=btime, caller=ROOT_CALLER
    )
    await service.tell([node], [])
    await service.durable()


async def _get(call: Call) -> Any:
    """Return the attributes of a file, live or in a snapshot."""
    node = call.node(call.query.snapshot)
    await call.service.kernel.brought_in(node)
    return answer(call, node, in_snapshot=call.query.snapshot is not None, with_lock=call.query.retrieve_file_lock)


async def _patch(call: Call) -> Any:
    """Change attributes of a file."""
    node = call.node()
    await change(call, node, call.body)
    return answer(call, node)


ROUTES = [
    Route("GET", "/v1/files/{ref}/info/attributes", _get, query=AttributesQuery, answer=Attributes),
    Route("PATCH", "/v1/files/{ref}/info/attributes", _patch, body=Changes, answer=Attributes),
    Route("PUT", "/v1/files/{ref}/info/attributes", _patch, body=Changes, answer=Attributes),
]
