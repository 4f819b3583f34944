"""FUSE requests as calls of the namespace. Trio thread.

THE RULE: between the first and the last namespace call of one operation there is no await; each of those calls is atomic, and a
handler that calls two of them relies on nobody coming in between. Handlers that wait at all (fsync, a read from the disk, taking a
snapshot) do it before they touch the namespace or after they are done with it. An await added elsewhere breaks this.

Permissions are the kernel's (`default_permissions`); the namespace checks what the kernel cannot know.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from stat import S_ISREG
from typing import TYPE_CHECKING

import pyfuse3
from msgspec.structs import replace

from ..errors import FilesystemError
from ..namespace.nodes import SNAPSHOT_NAME, VERSIONS_NAME, ino_of, is_door
from . import share_root
from .attributes import (
    BRIEFLY,
    FOREVER,
    absent,
    caller_of,
    entry_of,
    is_live,
    is_snapshot_directory,
    kernel_time,
    show_as_snapshots_of,
    statvfs_of,
    unknown_entry,
)
from .climb import Climbs
from .handler import Latency, handler
from .handles import Handles

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pyfuse3 import EntryAttributes, FileInfo, ReaddirToken, RequestContext, SetattrFields, StatvfsData

    from ..namespace.namespace import Namespace
    from ..store.schema import Inode
    from ..store.volume import Volume
    from .durability import Durability
    from .readers import Readers

_DOTS = ((b".", 1), (b"..", 2))
DIRECT_BELOW = 4 << 30
"""Bytes left of a quota below which (or below an eighth of it) files are opened for writing without the kernel's write cache, so that
write(2) itself answers EDQUOT. The kernel keeps less than this: a FUSE mount may have a hundredth of the machine's dirty pages."""
_ENOSYS = pyfuse3.FUSEError(errno.ENOSYS)


def _only_kept_times(fields: SetattrFields) -> bool:
    """Tell whether a SETATTR is about those two times alone that the kernel keeps of a regular file."""
    if not (fields.update_mtime and fields.update_ctime) or fields.update_atime:
        return False
    return not (fields.update_size or fields.update_mode or fields.update_uid or fields.update_gid)


class AnqfsOperations(pyfuse3.Operations):
    """The handlers that pyfuse3 calls."""

    supports_dot_lookup = True
    enable_writeback_cache = True
    enable_acl = True

    def __init__(
        self,
        namespace: Namespace,
        volume: Volume,
        durability: Durability,
        readers: Readers,
        flush_kernel: Callable[[], Awaitable[None]],
    ) -> None:
        """Serve `namespace`; `flush_kernel` brings in what the kernel still holds, before a snapshot."""
        super().__init__()
        self.namespace = namespace
        self.volume = volume
        self.durability = durability
        self.readers = readers
        self.handles = Handles()
        self._climbs = Climbs()
        self.latency = Latency()
        self.kernel_keeps_times = False
        """Whether the kernel sends the times of what is written through its cache."""
        self.mountpoint = b""
        self._flush_kernel = flush_kernel
        self._stay = BRIEFLY
        self.direct_files = False
        """Whether the kernel lets files bypass its write cache without harm; older ones do not tell its readers."""

    def names_may_stay(self, forever: bool) -> None:
        """Say whether the kernel can be told to forget every name, so that it may keep them."""
        self._stay = FOREVER if forever else BRIEFLY

    def _timeout(self, parent: int) -> float:
        """Return how long, in seconds, a name in `parent` may be kept. Snapshots come and go without the kernel."""
        return 0.0 if is_door(parent) else self._stay

    def _entry(self, node: int, inode: Inode, name_timeout: float = 0.0) -> EntryAttributes:
        entry = entry_of(node, inode, name_timeout)
        if not is_live(node):
            if is_door(node):
                show_as_snapshots_of(entry, self.namespace.attributes(ino_of(node)))
            else:
                entry.generation = self.namespace.generation(node)
        return entry

    # --- names

    @handler()
    def lookup(self, parent: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        """Find a name; that it is not there may be remembered, too."""
        try:
            node, inode = self.namespace.lookup(parent, name)
        except FilesystemError as error:
            if error.errno != errno.ENOENT or is_door(parent):
                raise
            return absent(self._stay)
        self.namespace.hold(node)
        if name == b".." and is_door(parent):
            self._climbs.begin(ctx.pid, node)
        if not is_live(node):
            self.durability.changed()  # a snapshot's first look-up through a directory is recorded
        return self._entry(node, inode, self._timeout(parent))

    @handler(changes=True, silent=True)
    def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        """Take back look-ups. What nobody knows any more and has no name is reclaimed."""
        drop = self.namespace.drop
        for node, count in inode_list:
            drop(node, count)

    @handler(changes=True)
    def mknod(self, parent: int, name: bytes, mode: int, rdev: int, ctx: RequestContext) -> EntryAttributes:
        """Make a file of any kind but a directory or a link."""
        node, inode = self.namespace.mknod(parent, name, mode, rdev, caller_of(ctx))
        self.namespace.hold(node)
        return self._entry(node, inode, self._stay)

    @handler(changes=True)
    async def mkdir(self, parent: int, name: bytes, mode: int, ctx: RequestContext) -> EntryAttributes:
        """Make a directory, or in `.snapshot` take a snapshot: of all that was written before, so the kernel's pages come in first."""
        if is_snapshot_directory(parent):
            await self._flush_kernel()
        node, inode = self.namespace.mkdir(parent, name, mode, caller_of(ctx))
        self.namespace.hold(node)
        return self._entry(node, inode, self._timeout(parent))

    @handler(changes=True)
    def symlink(self, parent: int, name: bytes, target: bytes, ctx: RequestContext) -> EntryAttributes:
        """Make a symbolic link."""
        node, inode = self.namespace.symlink(parent, name, target, caller_of(ctx))
        self.namespace.hold(node)
        return self._entry(node, inode, self._stay)

    @handler(changes=True)
    def link(self, node: int, parent: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        """Give a file another name."""
        node, inode = self.namespace.link(node, parent, name)
        self.namespace.hold(node)
        return self._entry(node, inode, self._stay)

    @handler(changes=True)
    def unlink(self, parent: int, name: bytes, ctx: RequestContext) -> None:
        """Take a name away."""
        self.namespace.unlink(parent, name)

    @handler(changes=True)
    def rmdir(self, parent: int, name: bytes, ctx: RequestContext) -> None:
        """Remove an empty directory, or in `.snapshot` delete a snapshot: root and the directory's owner may."""
        if is_snapshot_directory(parent) and ctx.uid not in (0, self.namespace.attributes(ino_of(parent)).uid):
            raise FilesystemError(errno.EPERM)
        self.namespace.rmdir(parent, name)

    @handler(changes=True)
    def rename(self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int, ctx: RequestContext) -> None:
        """Rename, as renameat2(2)."""
        self.namespace.rename(parent, name, new_parent, new_name, flags)

    @handler()
    def readlink(self, node: int, ctx: RequestContext) -> bytes:
        """Return a symbolic link's target."""
        return self.namespace.readlink(node)

    # --- attributes

    @handler()
    def getattr(self, node: int, ctx: RequestContext) -> EntryAttributes:
        """Return attributes."""
        return self._entry(node, self.namespace.attributes(node))

    @handler(changes=True)
    def setattr(self, node: int, attr: EntryAttributes, fields: SetattrFields, fh: int | None, ctx: RequestContext) -> EntryAttributes:
        """Change what `fields` says. The kernel sends its own ctime along where it owns it.

        It also sends the times of each file that has just lost its last name. It keeps them itself until it forgets the file, and then
        nobody can see them any more: when nobody has the file open they are answered, and not recorded.
        """
        if fh is None and _only_kept_times(fields) and self.kernel_keeps_times and not self.handles.is_open(node):
            inode = self.namespace.attributes(node)
            if inode.nlink == 0 and S_ISREG(inode.mode):
                return self._entry(node, replace(inode, mtime=attr.st_mtime_ns, ctime=attr.st_ctime_ns))
        inode = self.namespace.set_attributes(
            node,
            mode=attr.st_mode & 0o7777 if fields.update_mode else None,
            uid=attr.st_uid if fields.update_uid else None,
            gid=attr.st_gid if fields.update_gid else None,
            size=attr.st_size if fields.update_size else None,
            atime=attr.st_atime_ns if fields.update_atime else None,
            mtime=attr.st_mtime_ns if fields.update_mtime else None,
            ctime=attr.st_ctime_ns if fields.update_ctime else None,
            caller=caller_of(ctx),
        )
        return self._entry(node, inode)

    @handler()
    def statfs(self, ctx: RequestContext) -> StatvfsData:
        """Return the room on the disk below."""
        return statvfs_of(self.volume.capacity())

    # --- files

    @handler(changes=True)
    def create(self, parent: int, name: bytes, mode: int, flags: int, ctx: RequestContext) -> tuple[FileInfo, EntryAttributes]:
        """Make and open a file. Where the kernel did not know of one that is there, open that."""
        namespace = self.namespace
        try:
            node, inode = namespace.create(parent, name, mode, caller_of(ctx), times=kernel_time() if self.kernel_keeps_times else None)
        except FilesystemError as error:
            if error.errno != errno.EEXIST or flags & os.O_EXCL:
                raise
            node, inode = namespace.lookup(parent, name)
            if flags & os.O_TRUNC:
                inode = namespace.set_attributes(node, size=0, caller=caller_of(ctx))
            elif flags & os.O_ACCMODE:
                namespace.file_locks.check(node)
        namespace.hold(node)
        return self._opened(node, inode, flags, ctx.uid), self._entry(node, inode, self._stay)

    @handler(changes=True)
    def open(self, node: int, flags: int, ctx: RequestContext) -> FileInfo:
        """Open a file. The kernel leaves O_TRUNC to us and sends no setattr; O_APPEND stays with the kernel."""
        if flags & (os.O_ACCMODE | os.O_TRUNC) and not is_live(node):
            raise FilesystemError(errno.EROFS)
        inode = None
        if flags & os.O_TRUNC:
            inode = self.namespace.set_attributes(node, size=0, caller=caller_of(ctx))
        elif flags & os.O_ACCMODE:
            inode = self.namespace.file_locks.check(node)
        return self._opened(node, inode, flags, ctx.uid)

    def _opened(self, node: int, inode: Inode | None, flags: int, uid: int) -> FileInfo:
        """Return what the kernel is told of a newly opened file; `inode` is given when it may be written."""
        number = self.handles.open(node, flags, uid)
        info = pyfuse3.FileInfo(fh=number)
        if inode is not None and flags & os.O_ACCMODE and self._bypasses_cache(inode):
            info.direct_io = self.handles[number].direct = True
        return info

    def _bypasses_cache(self, inode: Inode) -> bool:
        """Tell whether a file is so near to a quota that its writes must not wait in the kernel."""
        return self.direct_files and self.namespace.core.quotas.nearly_reached(inode, DIRECT_BELOW)

    @handler()
    async def read(self, fh: int, offset: int, size: int) -> bytes:
        """Read; also on handles opened for writing only, through which the kernel fills pages that are written in part."""
        handle = self.handles[fh]
        cold = self.namespace.cold(handle.node, offset, size)
        if cold:
            await self.readers.fetch(cold)
        if offset and offset == handle.next:
            self.readers.ahead(handle, offset + size)
        handle.next = offset + size
        return self.namespace.read(handle.node, offset, size)

    @handler(changes=True)
    def write(self, fh: int, offset: int, data: bytes) -> int:
        """Write.

        What comes out of the kernel's cache was timed when it went in, and the kernel sends that time.
        FUSE's flag that asks to clear setuid and setgid does not come through pyfuse3. The kernel writes dirty pages back before it
        changes a mode, so who opened the file decides.
        """
        handle = self.handles[fh]
        try:
            written = self.namespace.write(
                handle.node,
                offset,
                data,
                kill_privileges=not handle.privileged,
                keep_times=self.kernel_keeps_times and not handle.direct,
            )
        except FilesystemError as error:
            if error.errno == errno.EDQUOT:
                self.handles.over_quota.add(handle.node)
            raise
        self.durability.written()
        return written

    async def flush(self, fh: int) -> None:
        """Tell the kernel once that closing needs no request of its own: it has written the pages back already."""
        raise _ENOSYS

    @handler()
    def release(self, fh: int) -> None:
        """Forget a handle."""
        self.handles.release(fh)

    @handler()
    async def fsync(self, fh: int, datasync: bool) -> None:
        """Return when everything that was written is durable."""
        await self.durability.durable()

    # --- directories

    @handler()
    def opendir(self, node: int, ctx: RequestContext) -> int:
        """A directory's handle is its node id, with share_root.LISTED where the door in it is shown: nothing to keep, nothing to bound."""
        if self._climbs.arrives(ctx.pid, node):
            return node | share_root.LISTED
        return node | share_root.LISTED if is_live(node) and share_root.is_smbd(ctx.pid) and self._is_share_root(node, ctx.pid) else node

    def _is_share_root(self, node: int, pid: int) -> bool:
        """Tell whether smbd's client `pid` is to see `.snapshot` in the listing of a directory."""
        if self.namespace.settings.read().snapshot_directory_mode != "visible":
            return False
        path = self.namespace.path_of(node)
        return path is not None and share_root.working_directory(pid) == (self.mountpoint.rstrip(b"/") + path.rstrip(b"/") or b"/")

    @handler()
    def readdir(self, fh: int, start_id: int, token: ReaddirToken) -> None:
        """List from a cookie, each entry with its attributes. A look-up is counted for each entry that went into the reply.

        Cookies 1 and 2 are those after "." and "..", for which the kernel counts no look-up, and 3 is behind `.snapshot` where it is shown;
        the others are the namespace's.
        """
        namespace = self.namespace
        reply = pyfuse3.readdir_reply
        shown, fh = fh & share_root.LISTED, fh & ~share_root.LISTED
        for name, cookie in _DOTS[start_id:] if start_id < len(_DOTS) else ():
            node = fh if name == b"." else namespace.parent(fh)
            if not reply(token, name, self._entry(node, namespace.attributes(node)), cookie):
                return
        if shown and start_id < share_root.COOKIE:
            name = SNAPSHOT_NAME if is_live(fh) else VERSIONS_NAME
            door = self._entry(*namespace.lookup(fh, name), self._timeout(fh))
            if not reply(token, name, door, share_root.COOKIE):
                return
        hold = namespace.hold
        timeout = self._timeout(fh)
        entry_in = entry_of if is_live(fh) else self._entry
        for name, node, inode, cookie in namespace.readdir(fh, start_id):
            entry = entry_in(node, inode, timeout) if inode is not None else unknown_entry()
            if not reply(token, name, entry, cookie):
                return
            if inode is not None:
                hold(node)

    @handler()
    def releasedir(self, fh: int) -> None:
        """Nothing was kept."""

    @handler()
    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        """Return when every change of names is durable."""
        await self.durability.durable()

    # --- extended attributes (pyfuse3 itself handles XATTR_CREATE and XATTR_REPLACE with a getxattr first)

    @handler(changes=True)
    def setxattr(self, node: int, name: bytes, value: bytes, ctx: RequestContext) -> None:
        """Set an extended attribute or an ACL."""
        self.namespace.setxattr(node, name, value, 0, caller_of(ctx))

    @handler()
    def getxattr(self, node: int, name: bytes, ctx: RequestContext) -> bytes:
        """Return an extended attribute."""
        return self.namespace.getxattr(node, name)

    @handler()
    def listxattr(self, node: int, ctx: RequestContext) -> list[bytes]:
        """Return the names of the extended attributes; those that only root may read for root alone."""
        names = self.namespace.listxattr(node)
        return names if ctx.uid == 0 else [name for name in names if not name.startswith(b"trusted.")]

    @handler(changes=True)
    def removexattr(self, node: int, name: bytes, ctx: RequestContext) -> None:
        """Remove an extended attribute."""
        self.namespace.removexattr(node, name, caller_of(ctx))
