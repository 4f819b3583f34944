"""Virtual extended attributes: answers to questions that other programs put as getxattr(2). Called by `reading`; trio thread.

They are computed when asked for, never kept, never listed, and cannot be set, but for the quota. The kernel lets those ask who may read
the inode (it has no rule of its own for these namespaces), so nothing here tells more than a listing of the directory would.

- `ceph.snap.btime`, of everything in a snapshot: when Previous Versions says the snapshot was taken, as `SECONDS.NANOSECONDS`. Samba's
  vfs_ceph_snapshots asks for it.
- `glusterfs.get_real_filename:NAME`, of a directory: the name there that differs from NAME at most in case, and a NUL. Samba's
  vfs_glusterfs_fuse asks for it, where it would read the whole directory otherwise.
- `user.DOSATTRIB`, of `.snapshot`: hidden and system, in Samba's form.
- `ceph.dir.*` and `ceph.quota.max_bytes`: see `usage_xattrs`.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

from anqfs.errors import FilesystemError
from anqfs.namespace import usage_xattrs

if TYPE_CHECKING:
    from anqfs.namespace.reading import Reading

Answer = Callable[["Reading", int, bytes], bytes]
"""Returns the value for (namespace, node, what follows the colon of the name). Raises ENODATA when this node has no such attribute."""

_SECOND = 10**9
_DOS_ATTRIBUTES = b"user.DOSATTRIB"
_HIDDEN, _SYSTEM, _DIRECTORY = 0x02, 0x04, 0x10
_HIDDEN_SYSTEM_DIRECTORY = struct.pack("<HHIIIQ", 0, 5, 5, 1, _HIDDEN | _SYSTEM | _DIRECTORY, 0)
"""Samba's xattr_DOSATTRIB: no text form, version 5 (twice), only the attributes are valid, the attributes (MS-FSCC 2.6), no time."""


def find(name: bytes) -> tuple[Answer, bytes] | None:
    """Return who answers for an attribute and what follows the colon of its name; None when it is an ordinary attribute."""
    head, colon, argument = name.partition(b":")
    answer = ANSWERS.get(head + colon)
    return None if answer is None else (answer, argument)


def of_door(name: bytes) -> bytes:
    """Return an attribute of `.snapshot` or of the `@GMT` in it. Raises ENODATA."""
    if name != _DOS_ATTRIBUTES:
        raise FilesystemError(errno.ENODATA)
    return _HIDDEN_SYSTEM_DIRECTORY


def snapshot_time(namespace: Reading, node: int, _argument: bytes) -> bytes:
    """Return the time under which Previous Versions finds the snapshot that `node` is in. Raises ENODATA for live ones, ESTALE."""
    shown = namespace.version_time(node)
    if shown is None:
        raise FilesystemError(errno.ENODATA)
    return b"%d.%09d" % divmod(shown, _SECOND)


def real_name(namespace: Reading, node: int, name: bytes) -> bytes:
    """Return the name in a directory that differs from `name` at most in case, and a NUL.

    The exact name comes first, then the first of the others by its bytes. The cost does not depend on the directory's size. In `.snapshot`
    the names are those of the snapshots. Raises ENODATA when there is none, ENOTDIR, ENAMETOOLONG, EINVAL, ESTALE.
    """
    found = namespace.name_in_any_case(node, name)
    if found is None:
        raise FilesystemError(errno.ENODATA)
    return found + b"\0"


ANSWERS: dict[bytes, Answer] = {
    b"ceph.snap.btime": snapshot_time,
    b"glusterfs.get_real_filename:": real_name,
    **usage_xattrs.ANSWERS,
}
"""By name; one that takes an argument ends in a colon."""
