"""Usage and quotas as extended attributes, with the names that tools for CephFS read. Called by `virtual_xattrs` and the facade.

Of directories, live and in snapshots; ENODATA of anything else. Everything but the quota is read-only.

| name                                    | value                                                                               |
|-----------------------------------------|-------------------------------------------------------------------------------------|
| ceph.dir.entries, .files, .subdirs      | names in the directory: all, those that are no directories, directories              |
| ceph.dir.rentries, .rfiles, .rsubdirs   | the same of all that is below, the directory itself not counted                      |
| ceph.dir.rbytes                         | the sizes of all regular files below, in bytes                                      |
| ceph.dir.rctime                         | the newest change time of the directory and all below, `SECONDS.NANOSECONDS`         |
| ceph.quota.max_bytes                    | the directory's own quota in bytes, live only; root may set it, and 0 removes it     |
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from functools import partial
from stat import S_ISDIR
from typing import TYPE_CHECKING

from anqfs.errors import FilesystemError
from anqfs.namespace.core import Caller
from anqfs.namespace.nodes import is_door
from anqfs.store.schema import INO_BITS, Inode, Usage

if TYPE_CHECKING:
    from anqfs.namespace.reading import Reading

MAX_BYTES = b"ceph.quota.max_bytes"
_SECOND = 10**9
_DIGITS_MAX = 19


def _newest_change(inode: Inode, usage: Usage) -> bytes:
    return b"%d.%09d" % divmod(max(inode.ctime, usage.changed), _SECOND)


def _files(usage: Usage) -> int:
    return usage.files + usage.symlinks + usage.others


VALUES: dict[bytes, Callable[[Inode, Usage], bytes]] = {
    b"ceph.dir.entries": lambda inode, _usage: b"%d" % inode.size,
    b"ceph.dir.files": lambda inode, _usage: b"%d" % (inode.size - (inode.nlink - 2)),
    b"ceph.dir.subdirs": lambda inode, _usage: b"%d" % (inode.nlink - 2),
    b"ceph.dir.rentries": lambda _inode, usage: b"%d" % (_files(usage) + usage.directories),
    b"ceph.dir.rfiles": lambda _inode, usage: b"%d" % _files(usage),
    b"ceph.dir.rsubdirs": lambda _inode, usage: b"%d" % usage.directories,
    b"ceph.dir.rbytes": lambda _inode, usage: b"%d" % usage.size,
    b"ceph.dir.rctime": _newest_change,
}


def _usage(name: bytes, namespace: Reading, node: int, _argument: bytes) -> bytes:
    """Return a total of a directory, exact at this moment. Raises ENODATA for anything else, ESTALE."""
    inode = namespace.attributes(node)
    if not S_ISDIR(inode.mode) or is_door(node):
        raise FilesystemError(errno.ENODATA)
    return VALUES[name](inode, namespace.usage(node))


def _limit(namespace: Reading, node: int, _argument: bytes) -> bytes:
    """Return a live directory's own quota. Raises ENODATA without one."""
    limit = None if node >> INO_BITS else namespace.quotas.limit(node)
    if limit is None:
        raise FilesystemError(errno.ENODATA)
    return b"%d" % limit


ANSWERS: dict[bytes, Callable[[Reading, int, bytes], bytes]] = {
    **{name: partial(_usage, name) for name in VALUES},
    MAX_BYTES: _limit,
}


def set_limit(namespace: Reading, node: int, value: bytes, caller: Caller) -> None:
    """Set the quota of a live directory from decimal digits; 0 or nothing removes it.

    Raises EPERM for anybody but root, EINVAL for what is no number, ENOTDIR, EROFS in snapshots.
    """
    if node >> INO_BITS:
        raise FilesystemError(errno.EROFS)
    if caller.uid != 0:
        raise FilesystemError(errno.EPERM)
    digits = value.strip() or b"0"
    if not digits.isdigit() or len(digits) > _DIGITS_MAX:
        raise FilesystemError(errno.EINVAL)
    if int(digits):
        namespace.quotas.set(node, int(digits))
    elif namespace.quotas.limit(node) is not None:
        namespace.quotas.remove(node)
