"""Extended attributes and ACLs. Called by the facade inside an operation; `directories` asks for what a new inode inherits.

The namespaces are user (files and directories), trusted, security, and the two POSIX ACLs. A value has at most 64 KiB, the names of an
inode together too (what listxattr can answer). An access ACL that says no more than the mode is not kept.
"""

from __future__ import annotations

import errno
from stat import S_ISDIR, S_ISGID, S_ISLNK, S_ISREG

from msgspec.structs import replace

from anqfs.errors import FilesystemError
from anqfs.namespace import acl
from anqfs.namespace.core import NAME_MAX, RECORD_ROOM, Caller, Core
from anqfs.store.schema import (
    HAS_ACCESS_ACL,
    HAS_CAPABILITY,
    HAS_DEFAULT_ACL,
    HAS_XATTRS,
    Inode,
    Xattr,
    prefix_end,
    xattr_key,
)

VALUE_MAX = 65536
NAMES_MAX = 65536
CREATE, REPLACE = 1, 2
CAPABILITY = b"security.capability"
_FIRST, _LAST = bytes(16), b"\xff" * 16
_FLAGS = {acl.ACCESS: HAS_ACCESS_ACL, acl.DEFAULT: HAS_DEFAULT_ACL, CAPABILITY: HAS_CAPABILITY}


def check_kind(name: bytes, inode: Inode) -> None:
    """Raise what ext4 answers for a name that this kind of inode cannot have: EOPNOTSUPP, EPERM, EINVAL, ERANGE."""
    if len(name) > NAME_MAX:
        raise FilesystemError(errno.ERANGE)
    if name in (acl.ACCESS, acl.DEFAULT):
        if S_ISLNK(inode.mode):
            raise FilesystemError(errno.EOPNOTSUPP)
        return
    space, dot, rest = name.partition(b".")
    if not dot or space not in (b"user", b"trusted", b"security"):
        raise FilesystemError(errno.EOPNOTSUPP)
    if space == b"user" and not (S_ISREG(inode.mode) or S_ISDIR(inode.mode)):
        raise FilesystemError(errno.EPERM)
    if not rest:
        raise FilesystemError(errno.EINVAL)


class Xattrs:
    """The extended attributes of all inodes."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def get(self, ino: int, inode: Inode, name: bytes, epoch: int | None) -> bytes:
        """Return a value. Raises ENODATA; without a look-up when the inode has none at all."""
        flag = _FLAGS.get(name, HAS_XATTRS)
        if not inode.flags & flag:
            if name not in _FLAGS:
                check_kind(name, inode)
            raise FilesystemError(errno.ENODATA)
        found = self._find(ino, name, epoch)
        if found is None:
            check_kind(name, inode)
            raise FilesystemError(errno.ENODATA)
        return found.value

    def names(self, ino: int, inode: Inode, epoch: int | None) -> list[bytes]:
        """Return the names of an inode's attributes."""
        return [record.name for _, record in self.records(ino, epoch)] if inode.flags & HAS_XATTRS else []

    def records(self, ino: int, epoch: int | None) -> list[tuple[bytes, Xattr]]:
        """Return (live key, record) of all attributes of an inode."""
        return list(self._core.versions.range_at(xattr_key(ino, _FIRST), xattr_key(ino, _LAST) + b"\0", epoch))

    def set(self, ino: int, inode: Inode, name: bytes, value: bytes, flags: int, caller: Caller) -> Inode:
        """Set a value; `flags` are XATTR_CREATE and XATTR_REPLACE. Returns the new inode.

        Raises EEXIST, ENODATA, E2BIG, ERANGE, ENOSPC, EOPNOTSUPP, EPERM, EINVAL, EACCES.
        """
        check_kind(name, inode)
        if len(value) > VALUE_MAX:
            raise FilesystemError(errno.E2BIG)
        old = self._find(ino, name, None) if inode.flags & HAS_XATTRS else None
        if name in (acl.ACCESS, acl.DEFAULT) and acl.is_empty(value):
            return inode if old is None else self.remove(ino, inode, name)
        if flags & CREATE and old is not None:
            raise FilesystemError(errno.EEXIST)
        if flags & REPLACE and old is None:
            raise FilesystemError(errno.ENODATA)
        self._core.room(len(value) + len(name) + RECORD_ROOM)
        new = replace(inode, birth=self._core.versions.epoch, ctime=self._core.clock())
        if name == acl.ACCESS:
            return self._set_access(ino, inode, new, value, caller)
        if name == acl.DEFAULT:
            if not S_ISDIR(inode.mode):
                raise FilesystemError(errno.EACCES)
            acl.parse(value)
        if old is None and inode.flags & HAS_XATTRS and self._names_size(ino) + len(name) + 1 > NAMES_MAX:
            raise FilesystemError(errno.ENOSPC)
        return self._store(ino, inode, new, name, value, old)

    def remove(self, ino: int, inode: Inode, name: bytes) -> Inode:
        """Remove a value and return the new inode. Raises ENODATA (but not for an ACL) and what a name that cannot be answers."""
        check_kind(name, inode)
        old = self._find(ino, name, None) if inode.flags & HAS_XATTRS else None
        if old is None:
            if name in (acl.ACCESS, acl.DEFAULT):
                return inode
            raise FilesystemError(errno.ENODATA)
        new = replace(inode, birth=self._core.versions.epoch, ctime=self._core.clock())
        return self._erase(ino, inode, new, name, old)

    def drop_capability(self, ino: int, inode: Inode) -> Inode:
        """Remove `security.capability`, as every change of content or owner does. The caller puts the returned inode."""
        old = self._find(ino, CAPABILITY, None)
        if old is None:
            return replace(inode, flags=inode.flags & ~HAS_CAPABILITY)
        key = xattr_key(ino, self._core.volume.name_hash(CAPABILITY))
        self._core.versions.remove(key, old, ino, inode)
        return replace(inode, flags=self._flags_without(ino, inode.flags, CAPABILITY))

    def chmod(self, ino: int, inode: Inode, mode: int) -> None:
        """Make an access ACL follow a new mode. `inode` is the present record, which the caller replaces afterwards."""
        old = self._find(ino, acl.ACCESS, None)
        if old is not None:
            value = acl.pack(acl.with_mode(acl.parse(old.value), mode))
            new = Xattr(self._core.versions.epoch, acl.ACCESS, value)
            self._core.versions.put(self._key(ino, acl.ACCESS), old, new, ino, inode)

    def inherit(self, directory: int, inode: Inode, mode: int, umask: int) -> tuple[int, int, tuple[tuple[bytes, bytes], ...]]:
        """Return mode, flags and attributes of what is created in a directory: its default ACL counts in place of the umask."""
        if not inode.flags & HAS_DEFAULT_ACL or S_ISLNK(mode):
            return (mode if S_ISLNK(mode) else mode & ~umask), 0, ()
        found = self._find(directory, acl.DEFAULT, None)
        if found is None:
            return mode & ~umask, 0, ()
        bits, entries = acl.inherited(acl.parse(found.value), mode)
        flags, attributes = 0, []
        if not acl.is_minimal(entries):
            flags |= HAS_XATTRS | HAS_ACCESS_ACL
            attributes.append((acl.ACCESS, acl.pack(entries)))
        if S_ISDIR(mode):
            flags |= HAS_XATTRS | HAS_DEFAULT_ACL
            attributes.append((acl.DEFAULT, found.value))
        return mode & ~0o777 | bits, flags, tuple(attributes)

    def put_new(self, ino: int, attributes: tuple[tuple[bytes, bytes], ...]) -> None:
        """Give attributes to an inode that is being created."""
        for name, value in attributes:
            self._core.volume.put(self._key(ino, name), Xattr(self._core.versions.epoch, name, value))

    def remove_all(self, ino: int, inode: Inode) -> None:
        """Remove every attribute of an inode that is going away."""
        if inode.flags & HAS_XATTRS:
            for key, record in self.records(ino, None):
                self._core.versions.remove(key, record, ino, inode)

    def _key(self, ino: int, name: bytes) -> bytes:
        return xattr_key(ino, self._core.volume.name_hash(name))

    def _find(self, ino: int, name: bytes, epoch: int | None) -> Xattr | None:
        key = self._key(ino, name)
        found: Xattr | None = self._core.get(key) if epoch is None else self._core.versions.at(key, epoch)
        return found if found is not None and found.name == name else None

    def _names_size(self, ino: int) -> int:
        return sum(len(record.name) + 1 for _, record in self.records(ino, None))

    def _set_access(self, ino: int, inode: Inode, new: Inode, value: bytes, caller: Caller) -> Inode:
        entries = acl.parse(value)
        mode = inode.mode & ~0o777 | acl.mode_of(entries)
        if mode & S_ISGID and caller.uid != 0 and not caller.in_group(inode.gid):
            mode &= ~S_ISGID
        new = replace(new, mode=mode)
        old = self._find(ino, acl.ACCESS, None) if inode.flags & HAS_ACCESS_ACL else None
        if not acl.is_minimal(entries):
            return self._store(ino, inode, new, acl.ACCESS, value, old)
        if old is not None:
            return self._erase(ino, inode, new, acl.ACCESS, old)
        self._core.put_inode(ino, inode, new)
        return new

    def _store(self, ino: int, inode: Inode, new: Inode, name: bytes, value: bytes, old: Xattr | None) -> Inode:
        core = self._core
        core.versions.put(self._key(ino, name), old, Xattr(core.versions.epoch, name, value), ino, inode)
        new = replace(new, flags=inode.flags | HAS_XATTRS | _FLAGS.get(name, 0))
        core.put_inode(ino, inode, new)
        return new

    def _erase(self, ino: int, inode: Inode, new: Inode, name: bytes, old: Xattr) -> Inode:
        self._core.versions.remove(self._key(ino, name), old, ino, inode)
        new = replace(new, flags=self._flags_without(ino, inode.flags, name))
        self._core.put_inode(ino, inode, new)
        return new

    def _flags_without(self, ino: int, flags: int, name: bytes) -> int:
        flags &= ~_FLAGS.get(name, 0)
        prefix = xattr_key(ino, _FIRST)[:9]
        for _ in self._core.volume.scan_keys(prefix, prefix_end(prefix)):
            return flags
        return flags & ~HAS_XATTRS
