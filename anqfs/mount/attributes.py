"""From the namespace's records to what FUSE wants, and from FUSE's request context to a Caller. Trio thread; pure but for /proc."""

from __future__ import annotations

from pathlib import Path
from time import clock_gettime_ns
from typing import TYPE_CHECKING

import pyfuse3

from ..namespace import Caller
from ..namespace.nodes import SNAPSHOTS, view_of

if TYPE_CHECKING:
    from ..store.schema import Inode
    from ..store.space import Capacity

FOREVER = 365 * 86400.0
"""Seconds. This daemon is the only writer: the kernel may keep names and attributes until it is told otherwise."""
BRIEFLY = 1.0
"""Seconds that names stay on kernels that cannot be told to forget them all."""
BLOCK = 4096
"""st_blksize and f_frsize, as on ext4. A larger one would make stdio read 128 KiB where a program wants a file's header."""
INODES = 1 << 40
NAME_MAX = 255


_CLOCK_REALTIME_COARSE = 5
"""linux/time.h; Python has no name for it."""


def kernel_time() -> int:
    """Return the time (ns) that the kernel puts on files: that of its last tick.

    A new file that has it needs no new time when it is written within the same tick, so the kernel sends none, and most small files
    are written with one request less.
    """
    return clock_gettime_ns(_CLOCK_REALTIME_COARSE)


def is_live(node: int) -> bool:
    """Tell whether `node` is of the live tree: everything else is read-only."""
    return view_of(node) == 0


def is_snapshot_directory(node: int) -> bool:
    """Tell whether `node` is a `.snapshot`."""
    return view_of(node) == SNAPSHOTS


def entry_of(node: int, inode: Inode, name_timeout: float = 0.0) -> pyfuse3.EntryAttributes:
    """Return the attributes of `node`; the kernel may keep the name for `name_timeout` seconds."""
    entry = pyfuse3.EntryAttributes()
    entry.st_ino = node
    entry.entry_timeout = name_timeout
    entry.attr_timeout = FOREVER
    entry.st_mode = inode.mode
    entry.st_nlink = inode.nlink
    entry.st_uid = inode.uid
    entry.st_gid = inode.gid
    entry.st_size = inode.size
    entry.st_blocks = (inode.allocated + 511) >> 9
    entry.st_atime_ns = inode.atime
    entry.st_mtime_ns = inode.mtime
    entry.st_ctime_ns = inode.ctime
    if inode.rdev:
        entry.st_rdev = inode.rdev
    return entry


def unknown_entry() -> pyfuse3.EntryAttributes:
    """Return what a listing gives along with a name whose inode is damaged: nothing that the kernel would keep."""
    entry = pyfuse3.EntryAttributes()
    entry.st_ino = 0
    return entry


def show_as_snapshots_of(entry: pyfuse3.EntryAttributes, directory: Inode) -> None:
    """Let a `.snapshot` belong to its directory's owner, and be writable for whom the directory is: the kernel decides by that who may
    take and drop snapshots. Everybody may look."""
    entry.st_mode |= directory.mode & 0o222
    entry.st_uid = directory.uid
    entry.st_gid = directory.gid


def absent(timeout: float) -> pyfuse3.EntryAttributes:
    """Return the reply that lets the kernel remember for `timeout` seconds that a name does not exist."""
    entry = pyfuse3.EntryAttributes()
    entry.st_ino = 0
    entry.entry_timeout = timeout
    return entry


def statvfs_of(capacity: Capacity) -> pyfuse3.StatvfsData:
    """Return statfs figures: those of the disk below, in blocks of BLOCK bytes. Inode numbers do not run out."""
    data = pyfuse3.StatvfsData()
    data.f_bsize = data.f_frsize = BLOCK
    data.f_blocks = capacity.total // BLOCK
    data.f_bfree = capacity.free // BLOCK
    data.f_bavail = capacity.available // BLOCK
    data.f_files = data.f_ffree = data.f_favail = INODES
    data.f_namemax = NAME_MAX
    return data


def caller_of(context: pyfuse3.RequestContext) -> Caller:
    """Return who made a request. The supplementary groups are read only when someone asks."""
    pid = context.pid
    return Caller(context.uid, context.gid, lambda: supplementary_groups(pid), context.umask)


def supplementary_groups(pid: int) -> frozenset[int]:
    """Return the groups of the process or thread `pid`; none when it is gone or in another pid namespace. Source: proc(5)."""
    try:
        status = Path(f"/proc/{pid}/status").read_bytes()
    except OSError:
        return frozenset()
    for line in status.split(b"\n"):
        if line.startswith(b"Groups:"):
            return frozenset(int(group) for group in line.split()[1:])
    return frozenset()
