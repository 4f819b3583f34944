"""Changing an inode's attributes, and what changes of content or owner take away. Called by the facade inside an operation.

As ext4: chown clears setuid, and setgid of what its group may execute, on everything but directories, whoever asks; writing and truncating
do so unless root asks. Each of them drops `security.capability` (linux/fs/attr.c, FUSE_HANDLE_KILLPRIV_V2).
"""

from __future__ import annotations

from stat import S_IMODE, S_ISDIR, S_ISGID, S_ISREG, S_ISUID, S_IXGRP

from msgspec.structs import replace

from anqfs.namespace.core import Caller, Core
from anqfs.namespace.files import Files
from anqfs.namespace.xattrs import Xattrs
from anqfs.store.schema import HAS_ACCESS_ACL, HAS_CAPABILITY, Inode


def without_privileges(mode: int) -> int:
    """Return a mode without setuid, and without setgid if the group may execute."""
    mode &= ~S_ISUID
    return mode & ~S_ISGID if mode & S_IXGRP else mode


class Attributes:
    """Sets attributes."""

    def __init__(self, core: Core, files: Files, xattrs: Xattrs) -> None:
        self._core = core
        self._files = files
        self._xattrs = xattrs

    def set(
        self,
        ino: int,
        old: Inode,
        mode: int | None,
        uid: int | None,
        gid: int | None,
        size: int | None,
        atime: int | None,
        mtime: int | None,
        ctime: int | None,
        btime: int | None,
        caller: Caller,
    ) -> Inode:
        """Set what is not None; times in ns. Returns the new inode. Raises what `Files.resize` does, NoSpace never."""
        core = self._core
        now = core.clock()
        new = old
        if size is not None:
            new = self._files.resize(ino, old, size)
            new = replace(new, mtime=now, mode=new.mode if caller.uid == 0 else without_privileges(new.mode))
        owner_given = uid is not None or gid is not None
        if owner_given:
            kept = new.mode if S_ISDIR(new.mode) else without_privileges(new.mode)
            new = replace(new, uid=new.uid if uid is None else uid, gid=new.gid if gid is None else gid, mode=kept)
        if (size is not None or owner_given) and old.flags & HAS_CAPABILITY and S_ISREG(old.mode):
            new = replace(new, flags=self._xattrs.drop_capability(ino, old).flags)
        if mode is not None:
            new = replace(new, mode=self._chmod(ino, old, new, mode, caller))
        new = replace(
            new,
            birth=core.versions.epoch,
            atime=new.atime if atime is None else atime,
            mtime=new.mtime if mtime is None else mtime,
            ctime=now if ctime is None else ctime,
            btime=new.btime if btime is None else btime,
        )
        core.put_inode(ino, old, new)
        return new

    def _chmod(self, ino: int, old: Inode, new: Inode, mode: int, caller: Caller) -> int:
        mode = S_IMODE(mode)
        if mode & S_ISGID and caller.uid != 0 and not caller.in_group(new.gid):
            mode &= ~S_ISGID
        if old.flags & HAS_ACCESS_ACL:
            self._xattrs.chmod(ino, old, mode)
        return new.mode & ~0o7777 | mode

    def written(self, ino: int, old: Inode, new: Inode, kill_privileges: bool) -> Inode:
        """Return the inode after a write: without the privileges that its old content had."""
        if kill_privileges and new.mode & (S_ISUID | S_ISGID):
            new = replace(new, mode=without_privileges(new.mode))
        if old.flags & HAS_CAPABILITY:
            new = replace(new, flags=self._xattrs.drop_capability(ino, old).flags)
        return new
