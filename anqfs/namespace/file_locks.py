"""File locks (WORM): a retention that only grows, and a legal hold. Called by `control/` and `mount/`, on the trio thread.

While a lock holds, nothing about the file changes: neither data nor attributes nor names, for whomever and through whichever way, because
every change of an inode goes through `Core.put_inode`, which refuses it. What is above the file may be renamed. When the retention is over
and no hold is on it, the file is as any other. Time is the system's clock.
"""

from __future__ import annotations

import errno
from stat import S_ISREG

from msgspec.structs import replace

from anqfs.errors import FilesystemError, UsageError
from anqfs.namespace.core import Core, check_unlocked, is_locked, operation
from anqfs.store.schema import Inode

RETAINED_MAX = (1 << 63) - 1


class FileLocks:
    """The locks of all files."""

    def __init__(self, core: Core) -> None:
        self.core = core

    @operation
    def change(self, node: int, *, retained: int | None = None, legal_hold: bool | None = None) -> Inode:
        """Lock a live regular file until `retained` (ns since 1970), put a legal hold on it or take that off; None leaves as it is.

        What programs wrote must have been brought in before. Raises UsageError for anything but a regular file and for a retention that
        is over already, FilesystemError EPERM for one that ends before the present one, EROFS in snapshots, ESTALE.
        """
        core = self.core
        ino, inode = core.writable(node)
        if not S_ISREG(inode.mode):
            raise UsageError("only regular files can be locked")
        now = core.clock()
        new = inode
        if retained is not None:
            if not now < retained <= RETAINED_MAX:
                raise UsageError("the retention would be over already: give a later time")
            if retained < inode.retained:
                raise FilesystemError(errno.EPERM, "a retention can only be made longer")
            new = replace(new, retained=retained)
        if legal_hold is not None:
            new = replace(new, legal_hold=legal_hold)
        if new != inode:
            core.put_rearranged(ino, inode, replace(new, birth=core.versions.epoch))
        return new

    def is_locked(self, inode: Inode) -> bool:
        """Tell whether a lock holds now."""
        return is_locked(inode, self.core.clock())

    def check(self, node: int) -> Inode:
        """Return the inode of a live file that is about to be opened for writing. Raises EPERM when it is locked, ESTALE."""
        inode = self.core.inode(node)
        if inode.retained or inode.legal_hold:
            check_unlocked(inode, self.core.clock())
        return inode
