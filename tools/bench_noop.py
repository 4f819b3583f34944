"""A pyfuse3 filesystem that does next to nothing: everything in memory, no encryption, no disk. What is left is the transport.

Usage: bench_noop.py MOUNTPOINT (stays in the foreground until it is unmounted). It uses anqfs's own session tuning, so that it is the
floor for anqfs, and not a stand-in for other people's filesystems. Nothing in it is ever durable: its fsync only answers.
"""

from __future__ import annotations

import errno
import gc
import os
import stat
import sys
from collections.abc import Sequence
from typing import Any

import pyfuse3
import trio

from anqfs.mount import negotiate, poll
from anqfs.mount.attributes import absent, kernel_time
from anqfs.mount.mountpoint import set_readahead
from anqfs.mount.session import COLLECT_AFTER, MAX_TASKS, SWITCH_INTERVAL, MountOptions

MIB = 1 << 20
SHARED_MAX = 16
"""Different MiB that are kept once for all places that hold the same bytes: as many as the benchmark's stream repeats."""
FOREVER = 86400
_ENOSYS = pyfuse3.FUSEError(errno.ENOSYS)
_ENOATTR = pyfuse3.FUSEError(pyfuse3.ENOATTR)


class Content:
    """A file's bytes, by whole MiB. What was handed in is kept as it is, until part of it is written again.

    A whole MiB that equals one of the first SHARED_MAX is kept as that one, so that a stream of 4 GiB takes 16 MiB.
    """

    __slots__ = ("parts",)
    shared: dict[bytes, bytes] = {}  # noqa: RUF012 - one for all files: the first bytes of a MiB -> all of it

    def __init__(self) -> None:
        self.parts: dict[int, bytes | bytearray] = {}

    def write(self, offset: int, data: bytes) -> None:
        index, start = divmod(offset, MIB)
        if start + len(data) <= MIB:
            self._put(index, start, data)
            return
        self._put(index, start, data[: MIB - start])
        self.write((index + 1) * MIB, data[MIB - start :])

    def _put(self, index: int, start: int, data: bytes) -> None:
        old = self.parts.get(index, b"")
        if start == 0 and len(data) >= len(old):
            self.parts[index] = self._whole(data) if len(data) == MIB else data
            return
        before = len(old)
        part = old if isinstance(old, bytearray) else bytearray(old)
        self.parts[index] = part
        part.extend(bytes(max(0, start - len(part))))
        part[start : start + len(data)] = data
        if before < MIB == len(part):
            self.parts[index] = self._whole(bytes(part))

    def _whole(self, data: bytes) -> bytes | bytearray:
        known = self.shared.get(data[:16])
        if known == data:
            return known
        if known is None and len(self.shared) < SHARED_MAX:
            self.shared[data[:16]] = data
            return data
        return bytearray(data)  # now and not when the first block of it is overwritten

    def read(self, offset: int, size: int) -> bytes | bytearray:
        """Return `size` bytes, all of which are below the file's size."""
        index, start = divmod(offset, MIB)
        if start + size > MIB:
            return bytes(self.read(offset, MIB - start)) + self.read((index + 1) * MIB, size + start - MIB)
        part = self.parts.get(index, b"")
        found = part if start == 0 and size == len(part) else part[start : start + size]
        return found if len(found) == size else found + bytes(size - len(found))

    def truncate(self, size: int) -> None:
        last, rest = divmod(size, MIB)
        for index in [index for index in self.parts if index >= last]:
            if index > last or not rest:
                del self.parts[index]
            else:
                self.parts[index] = self.parts[index][:rest]


class Node:
    """A file, a directory or a symbolic link in memory."""

    __slots__ = ("attributes", "children", "content", "target")

    def __init__(self, ino: int, mode: int, owner: tuple[int, int], target: bytes = b"") -> None:
        self.content = Content()
        self.children: dict[bytes, Node] = {}
        self.target = target
        self.attributes = pyfuse3.EntryAttributes()
        self.attributes.st_ino = ino
        self.attributes.st_mode = mode
        self.attributes.st_nlink = 2 if stat.S_ISDIR(mode) else 0
        self.attributes.st_uid, self.attributes.st_gid = owner
        self.attributes.st_atime_ns = self.attributes.st_mtime_ns = self.attributes.st_ctime_ns = kernel_time()
        self.attributes.entry_timeout = self.attributes.attr_timeout = FOREVER
        self.resize(len(target))

    def resize(self, size: int) -> None:
        self.attributes.st_size = size
        self.attributes.st_blocks = (size + 511) >> 9


class Nothing(pyfuse3.Operations):
    """The handlers."""

    enable_writeback_cache = True
    supports_dot_lookup = True

    def __init__(self) -> None:
        super().__init__()
        self.nodes = {pyfuse3.ROOT_INODE: Node(pyfuse3.ROOT_INODE, stat.S_IFDIR | 0o777, (0, 0))}
        self.listings: dict[int, list[tuple[bytes, Node]]] = {}
        self.next = 2

    def make(self, parent: int, name: bytes, mode: int, ctx: Any, target: bytes = b"") -> Node:
        node = Node(self.next, mode, (ctx.uid, ctx.gid), target)
        self.nodes[self.next] = node
        self.next += 1
        self.add(parent, name, node)
        return node

    def add(self, parent: int, name: bytes, node: Node) -> None:
        above = self.nodes[parent]
        above.children[name] = node
        if stat.S_ISDIR(node.attributes.st_mode):
            above.attributes.st_nlink += 1
        else:
            node.attributes.st_nlink += 1

    def take(self, parent: int, name: bytes) -> Node:
        """Remove a name. Its node stays until the kernel forgets it."""
        above = self.nodes[parent]
        node = above.children.pop(name)
        if stat.S_ISDIR(node.attributes.st_mode):
            above.attributes.st_nlink -= 1
        else:
            node.attributes.st_nlink -= 1
        return node

    async def lookup(self, parent_inode: int, name: bytes, ctx: object) -> pyfuse3.EntryAttributes:
        node = self.nodes[parent_inode].children.get(name)
        return absent(FOREVER) if node is None else node.attributes

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        for number, _ in inode_list:
            node = self.nodes.get(number)
            if node is not None and node.attributes.st_nlink == 0:
                del self.nodes[number]

    async def getattr(self, inode: int, ctx: object = None) -> pyfuse3.EntryAttributes:
        return self.nodes[inode].attributes

    async def setattr(self, inode: int, attr: Any, fields: Any, fh: object, ctx: object) -> pyfuse3.EntryAttributes:
        node = self.nodes[inode]
        attributes = node.attributes
        if fields.update_size:
            node.content.truncate(attr.st_size)
            node.resize(attr.st_size)
        if fields.update_mode:
            attributes.st_mode = stat.S_IFMT(attributes.st_mode) | stat.S_IMODE(attr.st_mode)
        if fields.update_uid:
            attributes.st_uid = attr.st_uid
        if fields.update_gid:
            attributes.st_gid = attr.st_gid
        if fields.update_atime:
            attributes.st_atime_ns = attr.st_atime_ns
        if fields.update_mtime:
            attributes.st_mtime_ns = attr.st_mtime_ns
        if fields.update_ctime:
            attributes.st_ctime_ns = attr.st_ctime_ns
        return attributes

    async def create(self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: Any) -> tuple[object, object]:
        node = self.make(parent_inode, name, mode & ~ctx.umask, ctx)
        return pyfuse3.FileInfo(fh=node.attributes.st_ino, keep_cache=True), node.attributes

    async def mkdir(self, parent_inode: int, name: bytes, mode: int, ctx: Any) -> pyfuse3.EntryAttributes:
        return self.make(parent_inode, name, stat.S_IFDIR | mode & ~ctx.umask, ctx).attributes

    async def symlink(self, parent_inode: int, name: bytes, target: bytes, ctx: object) -> pyfuse3.EntryAttributes:
        return self.make(parent_inode, name, stat.S_IFLNK | 0o777, ctx, target).attributes

    async def readlink(self, inode: int, ctx: object) -> bytes:
        return self.nodes[inode].target

    async def link(self, inode: int, new_parent_inode: int, new_name: bytes, ctx: object) -> pyfuse3.EntryAttributes:
        node = self.nodes[inode]
        self.add(new_parent_inode, new_name, node)
        return node.attributes

    async def unlink(self, parent_inode: int, name: bytes, ctx: object) -> None:
        self.take(parent_inode, name)

    async def rmdir(self, parent_inode: int, name: bytes, ctx: object) -> None:
        if self.nodes[parent_inode].children[name].children:
            raise pyfuse3.FUSEError(errno.ENOTEMPTY)
        self.take(parent_inode, name).attributes.st_nlink = 0

    async def rename(self, old_dir: int, old: bytes, new_dir: int, new: bytes, flags: int, ctx: object) -> None:
        if flags:
            raise pyfuse3.FUSEError(errno.EINVAL)
        node = self.take(old_dir, old)
        if new in self.nodes[new_dir].children:
            self.take(new_dir, new)
        self.add(new_dir, new, node)

    async def statfs(self, ctx: object) -> pyfuse3.StatvfsData:
        data = pyfuse3.StatvfsData()
        data.f_bsize = data.f_frsize = 4096
        data.f_blocks = data.f_bfree = data.f_bavail = data.f_files = data.f_ffree = data.f_favail = 1 << 30
        data.f_namemax = 255
        return data

    async def open(self, inode: int, flags: int, ctx: object) -> pyfuse3.FileInfo:
        if flags & os.O_TRUNC:
            node = self.nodes[inode]
            node.content.truncate(0)
            node.resize(0)
        return pyfuse3.FileInfo(fh=inode, keep_cache=True)

    async def read(self, fh: int, off: int, size: int) -> bytes | bytearray:
        node = self.nodes[fh]
        return node.content.read(off, max(0, min(size, node.attributes.st_size - off)))

    async def write(self, fh: int, off: int, buf: bytes) -> int:
        node = self.nodes[fh]
        node.content.write(off, buf)
        if off + len(buf) > node.attributes.st_size:
            node.resize(off + len(buf))
        return len(buf)

    async def flush(self, fh: int) -> None:
        raise _ENOSYS

    async def release(self, fh: int) -> None:
        return None

    async def fsync(self, fh: int, datasync: bool) -> None:
        return None

    async def opendir(self, inode: int, ctx: object) -> int:
        self.next += 1
        self.listings[self.next] = list(self.nodes[inode].children.items())
        return self.next

    async def readdir(self, fh: int, start_id: int, token: object) -> None:
        listing = self.listings[fh]
        for place in range(start_id, len(listing)):
            name, node = listing[place]
            if not pyfuse3.readdir_reply(token, name, node.attributes, place + 1):
                return

    async def releasedir(self, fh: int) -> None:
        del self.listings[fh]

    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        return None

    async def getxattr(self, inode: int, name: bytes, ctx: object) -> bytes:
        raise _ENOATTR

    async def listxattr(self, inode: int, ctx: object) -> list[bytes]:
        return []


async def serve(point: bytes) -> None:
    """Answer requests until the end of the mount."""
    set_readahead(point, MountOptions().readahead_kb)
    await pyfuse3.main(min_tasks=1, max_tasks=MAX_TASKS)


def main() -> None:
    """Serve until unmounted."""
    point = os.path.abspath(sys.argv[1])
    sys.setswitchinterval(SWITCH_INTERVAL)
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)
    before = negotiate.fuse_descriptors()
    pyfuse3.init(Nothing(), point, {"fsname=noop", "default_permissions", "allow_other"})
    (descriptor,) = negotiate.fuse_descriptors() - before
    negotiate.negotiate(descriptor)
    poll.install(descriptor)
    try:
        trio.run(serve, os.fsencode(point))
    finally:
        pyfuse3.close(unmount=True)


if __name__ == "__main__":
    main()
