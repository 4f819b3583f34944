"""`/v1|v2/files/{ref}/info/acl`: the permissions of a file as an ACL, made from its POSIX mode.

Three entries allow what the mode allows: to the owner, to the owning group, to everyone. An ACL that says the same as some mode can be
set; one that names others is refused, because POSIX ACLs (over NFS and the mount) and NT ACLs (over SMB) are set where they belong.
"""

from __future__ import annotations

import stat
from typing import Any

import msgspec

from anqfs.control.rest.attributes import Changes, SnapshotQuery, answer, change, etag_of
from anqfs.control.rest.faults import Refused
from anqfs.control.rest.routing import Answer, Call, Route
from anqfs.store.schema import Inode

FILE_OWNER, FILE_GROUP, EVERYONE = str(0xFFFFFFFE00000001), str(0xFFFFFFFE00000002), str(0x200000000)
"""ANQ's auth_ids of a file's owner, its group, and everybody."""
_SHIFTS = {FILE_OWNER: 6, FILE_GROUP: 3, EVERYONE: 0}
_NAMES = {FILE_OWNER: "File Owner", FILE_GROUP: "File Group Owner", EVERYONE: "Everyone"}
_READ = ("READ", "READ_EA", "READ_ATTR", "READ_ACL")
_WRITE = ("WRITE_EA", "WRITE_ATTR", "MODIFY", "EXTEND")
_WRITE_DIRECTORY = ("ADD_FILE", "ADD_SUBDIR", "DELETE_CHILD")
_EXECUTE = ("EXECUTE",)
_SPECIAL = {"SET_UID": stat.S_ISUID, "SET_GID": stat.S_ISGID, "STICKY_BIT": stat.S_ISVTX}
_ALWAYS = ("READ_ATTR", "READ_ACL", "SYNCHRONIZE")


class Ace(msgspec.Struct):
    """One entry of an ACL."""

    type: str
    trustee: Any
    rights: list[str]
    flags: list[str] = []
    trustee_details: Any = None


class Acl(msgspec.Struct):
    """An ACL."""

    aces: list[Ace]
    control: list[str] = []
    posix_special_permissions: list[str] = []
    generated: bool = False


def _rights(bits: int, is_directory: bool) -> list[str]:
    rights = list(_ALWAYS)
    if bits & 4:
        rights += _READ
    if bits & 2:
        rights += (*_WRITE, *_WRITE_DIRECTORY) if is_directory else _WRITE
    if bits & 1:
        rights += _EXECUTE
    return list(dict.fromkeys(rights))


def acl_of(inode: Inode) -> dict[str, Any]:
    """Return the ACL that says what a mode says."""
    is_directory = stat.S_ISDIR(inode.mode)
    aces = [
        {
            "type": "ALLOWED",
            "flags": [],
            "trustee": {"domain": "API_INTERNAL_DOMAIN", "auth_id": who, "uid": None, "gid": None, "sid": None, "name": _NAMES[who]},
            "trustee_details": {"id_type": "INTERNAL", "id_value": _NAMES[who]},
            "rights": _rights(inode.mode >> shift & 7, is_directory),
        }
        for who, shift in _SHIFTS.items()
    ]
    special = [name for name, bit in _SPECIAL.items() if inode.mode & bit]
    return {"control": ["PRESENT"], "posix_special_permissions": special, "aces": aces, "generated": True}


def mode_of(acl: Acl) -> int:
    """Return the mode that says what an ACL says. Raises Refused when none does."""
    mode = 0
    for ace in acl.aces:
        who = ace.trustee.get("auth_id") if isinstance(ace.trustee, dict) else ace.trustee
        shift = _SHIFTS.get(str(who))
        if shift is None or ace.type != "ALLOWED" or ace.flags:
            raise Refused(400, "fs_invalid_acl_error", "only an ACL that says the same as a POSIX mode can be set here")
        rights = set(ace.rights)
        mode |= (4 * ("READ" in rights) | 2 * ("MODIFY" in rights) | 1 * ("EXECUTE" in rights)) << shift
    for name in acl.posix_special_permissions:
        if name not in _SPECIAL:
            raise Refused(400, "fs_invalid_acl_error", f"{name[:40]!a} is no special permission")
        mode |= _SPECIAL[name]
    return mode


async def _get(call: Call) -> Any:
    """Return the permissions of a file as an ACL."""
    node = call.node(call.query.snapshot)
    inode = call.service.namespace.attributes(node)
    return Answer(acl_of(inode), etag=etag_of(node, inode))


async def _put(call: Call) -> Any:
    """Set the permissions of a file from an ACL that says what a mode says."""
    node = call.node()
    await change(call, node, Changes(mode=f"{mode_of(call.body):o}"))
    return Answer(acl_of(call.service.namespace.attributes(node)), etag=answer(call, node).etag)


ROUTES = [
    Route("GET", "/v1/files/{ref}/info/acl", _get, query=SnapshotQuery, answer=Acl),
    Route("PUT", "/v1/files/{ref}/info/acl", _put, body=Acl, answer=Acl),
    Route("GET", "/v2/files/{ref}/info/acl", _get, query=SnapshotQuery, answer=Acl),
    Route("PUT", "/v2/files/{ref}/info/acl", _put, body=Acl, answer=Acl),
]
