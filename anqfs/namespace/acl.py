"""POSIX ACLs as the kernel's xattr form (linux/posix_acl_xattr.h): checks, what they make of a mode, inheritance. Pure functions.

The value is a version (2, 4 bytes), then for each entry tag 2, permissions 2, id 4 bytes, all little-endian.
"""

from __future__ import annotations

import errno
from struct import Struct as _Packer
from typing import NamedTuple

from anqfs.errors import FilesystemError

ACCESS = b"system.posix_acl_access"
DEFAULT = b"system.posix_acl_default"
USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 1, 2, 4, 8, 16, 32
_VERSION = 2
_NO_ID = 0xFFFFFFFF
_HEAD = _Packer("<I")
_ENTRY = _Packer("<HHI")


class Entry(NamedTuple):
    """One entry: tag, permission bits, user or group id."""

    tag: int
    permissions: int
    id: int


def parse(value: bytes) -> list[Entry]:
    """Return the entries of a well-formed ACL (acl(5): sorted, one of each base entry, a mask if anybody is named). Raises EINVAL."""
    if len(value) < _HEAD.size or (len(value) - _HEAD.size) % _ENTRY.size:
        raise FilesystemError(errno.EINVAL)
    if _HEAD.unpack_from(value)[0] != _VERSION:
        raise FilesystemError(errno.EOPNOTSUPP)
    entries = [Entry(*each) for each in _ENTRY.iter_unpack(value[_HEAD.size :])]
    tags = [entry.tag for entry in entries]
    named = [(entry.tag, entry.id) for entry in entries if entry.tag in (USER, GROUP)]
    sound = (
        tags == sorted(tags)
        and all(tag in (USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER) for tag in tags)
        and all(tags.count(tag) == 1 for tag in (USER_OBJ, GROUP_OBJ, OTHER))
        and tags.count(MASK) <= 1
        and (MASK in tags or not named)
        and len(set(named)) == len(named)
        and all(entry.permissions <= 7 for entry in entries)
        and all(ident != _NO_ID for _, ident in named)
    )
    if not sound:
        raise FilesystemError(errno.EINVAL)
    return entries


def is_empty(value: bytes) -> bool:
    """Tell whether a value has no entries: setting it means removing the ACL."""
    return value == _HEAD.pack(_VERSION)


def pack(entries: list[Entry]) -> bytes:
    """Return the xattr value of entries."""
    return _HEAD.pack(_VERSION) + b"".join(_ENTRY.pack(*entry) for entry in entries)


def mode_of(entries: list[Entry]) -> int:
    """Return the nine permission bits that an ACL shows: the mask, if there is one, in place of the group's."""
    found = {entry.tag: entry.permissions for entry in entries}
    return found[USER_OBJ] << 6 | found.get(MASK, found[GROUP_OBJ]) << 3 | found[OTHER]


def is_minimal(entries: list[Entry]) -> bool:
    """Tell whether an ACL says no more than a mode does."""
    return len(entries) == 3


def with_mode(entries: list[Entry], mode: int) -> list[Entry]:
    """Return an ACL after chmod: owner, other, and the mask (without one the group's entry) take the mode's bits."""
    group = MASK if any(entry.tag == MASK for entry in entries) else GROUP_OBJ
    bits = {USER_OBJ: mode >> 6 & 7, group: mode >> 3 & 7, OTHER: mode & 7}
    return [entry._replace(permissions=bits.get(entry.tag, entry.permissions)) for entry in entries]


def inherited(default: list[Entry], mode: int) -> tuple[int, list[Entry]]:
    """Return the permission bits and access ACL of what is created with `mode` in a directory with this default ACL (acl(5))."""
    group = MASK if any(entry.tag == MASK for entry in default) else GROUP_OBJ
    bits = {USER_OBJ: mode >> 6 & 7, group: mode >> 3 & 7, OTHER: mode & 7}
    entries = [entry._replace(permissions=entry.permissions & bits.get(entry.tag, 7)) for entry in default]
    return mode_of(entries), entries
