"""A pyfuse3 filesystem that does next to nothing: everything in dicts, no encryption, no disk. What is left is the transport.

Usage: bench_noop.py MOUNTPOINT (stays in the foreground until it is unmounted). It uses anqfs's own session tuning, so that it is the
floor for anqfs, and not a stand-in for other people's filesystems.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Sequence

import pyfuse3
import trio

from anqfs.mount import negotiate, poll
from anqfs.mount.attributes import kernel_time


class Node:
    """A file or a directory in memory."""

    __slots__ = ("attributes", "children", "content")

    def __init__(self, ino: int, mode: int, owner: tuple[int, int]) -> None:
        self.content = bytearray()
        self.children: dict[bytes, int] = {}
        self.attributes = pyfuse3.EntryAttributes()
        self.attributes.st_ino = ino
        self.attributes.st_mode = mode
        self.attributes.st_nlink = 1
        self.attributes.st_uid, self.attributes.st_gid = owner
        self.attributes.st_atime_ns = self.attributes.st_mtime_ns = self.attributes.st_ctime_ns = kernel_time()
        self.attributes.entry_timeout = self.attributes.attr_timeout = 86400


class Nothing(pyfuse3.Operations):
    """The handlers."""

    enable_writeback_cache = True
    supports_dot_lookup = True

    def __init__(self) -> None:
        super().__init__()
        self.nodes = {pyfuse3.ROOT_INODE: Node(pyfuse3.ROOT_INODE, stat.S_IFDIR | 0o777, (0, 0))}
        self.next = 2

    def make(self, parent: int, name: bytes, mode: int, context: pyfuse3.RequestContext) -> Node:
        node = Node(self.next, mode, (context.uid, context.gid))
        self.next += 1
        self.nodes[node.attributes.st_ino] = node
        self.nodes[parent].children[name] = node.attributes.st_ino
        return node

    async def lookup(self, parent_inode: int, name: bytes, ctx: object) -> pyfuse3.EntryAttributes:
        number = self.nodes[parent_inode].children.get(name)
        if number is None:
            missing = pyfuse3.EntryAttributes()
            missing.st_ino = 0
            missing.entry_timeout = 86400
            return missing
        return self.nodes[number].attributes

    async def getattr(self, inode: int, ctx: object = None) -> pyfuse3.EntryAttributes:
        return self.nodes[inode].attributes

    async def setattr(self, inode: int, attr: pyfuse3.EntryAttributes, fields: object, fh: object, ctx: object) -> pyfuse3.EntryAttributes:
        node = self.nodes[inode]
        if fields.update_size:  # type: ignore[attr-defined]
            node.attributes.st_size = attr.st_size
            del node.content[attr.st_size :]
        if fields.update_mtime:  # type: ignore[attr-defined]
            node.attributes.st_mtime_ns = attr.st_mtime_ns
        return node.attributes

    async def create(self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: object) -> tuple[object, object]:
        node = self.make(parent_inode, name, mode, ctx)  # type: ignore[arg-type]
        return pyfuse3.FileInfo(fh=node.attributes.st_ino, keep_cache=True), node.attributes

    async def mkdir(self, parent_inode: int, name: bytes, mode: int, ctx: object) -> pyfuse3.EntryAttributes:
        return self.make(parent_inode, name, stat.S_IFDIR | mode, ctx).attributes  # type: ignore[arg-type]

    async def open(self, inode: int, flags: int, ctx: object) -> pyfuse3.FileInfo:
        return pyfuse3.FileInfo(fh=inode, keep_cache=True)

    async def read(self, fh: int, off: int, size: int) -> bytes:
        return bytes(self.nodes[fh].content[off : off + size])

    async def write(self, fh: int, off: int, buf: bytes) -> int:
        node = self.nodes[fh]
        if off > len(node.content):
            node.content.extend(bytes(off - len(node.content)))
        node.content[off : off + len(buf)] = buf
        node.attributes.st_size = len(node.content)
        return len(buf)

    async def unlink(self, parent_inode: int, name: bytes, ctx: object) -> None:
        del self.nodes[parent_inode].children[name]  # the node stays: the kernel may still ask about it

    async def rmdir(self, parent_inode: int, name: bytes, ctx: object) -> None:
        await self.unlink(parent_inode, name, ctx)

    async def rename(self, old_dir: int, old: bytes, new_dir: int, new: bytes, flags: int, ctx: object) -> None:
        self.nodes[new_dir].children[new] = self.nodes[old_dir].children.pop(old)

    async def opendir(self, inode: int, ctx: object) -> int:
        return inode

    async def readdir(self, fh: int, start_id: int, token: object) -> None:
        for place, (name, number) in enumerate(list(self.nodes[fh].children.items())[start_id:], start_id + 1):
            if not pyfuse3.readdir_reply(token, name, self.nodes[number].attributes, place):
                return

    async def flush(self, fh: int) -> None:
        raise pyfuse3.FUSEError(errno.ENOSYS)

    async def release(self, fh: int) -> None:
        return None

    async def fsync(self, fh: int, datasync: bool) -> None:
        return None

    async def getxattr(self, inode: int, name: bytes, ctx: object) -> bytes:
        raise pyfuse3.FUSEError(pyfuse3.ENOATTR)

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        return None


def main() -> None:
    """Serve until unmounted."""
    before = negotiate.fuse_descriptors()
    pyfuse3.init(Nothing(), os.fsdecode(sys.argv[1]), {"fsname=noop", "default_permissions", "allow_other"})
    (descriptor,) = negotiate.fuse_descriptors() - before
    negotiate.negotiate(descriptor)
    poll.install(descriptor)
    try:
        trio.run(pyfuse3.main)
    finally:
        pyfuse3.close(unmount=True)


if __name__ == "__main__":
    main()
