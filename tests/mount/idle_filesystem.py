"""A filesystem that does next to nothing, to test the transport alone: `python idle_filesystem.py MOUNTPOINT [plain]`.

It holds one file, `counters`, whose content is the state of the poll and the result of the negotiation as JSON.
"""

from __future__ import annotations

import errno
import json
import os
import stat
import sys

import pyfuse3
import trio

from anqfs.mount import negotiate, poll


class Idle(pyfuse3.Operations):
    enable_writeback_cache = True

    def __init__(self) -> None:
        super().__init__()
        self.poll: poll.AdaptivePoll | None = None
        self.negotiated: negotiate.Negotiated | None = None
        self.blocked = trio.Event()

    def _entry(self, node: int) -> pyfuse3.EntryAttributes:
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = node
        entry.st_mode = stat.S_IFDIR | 0o755 if node == 1 else stat.S_IFREG | 0o644
        entry.st_size = 4096
        entry.entry_timeout = entry.attr_timeout = 0
        return entry

    async def getattr(self, inode, ctx):
        return self._entry(inode)

    async def lookup(self, parent_inode, name, ctx):
        if name == b"counters":
            return self._entry(2)
        if name == b"block":
            await self.blocked.wait()
            return self._entry(3)
        if name == b"unblock":
            self.blocked.set()
        raise pyfuse3.FUSEError(errno.ENOENT)

    async def open(self, inode, flags, ctx):
        return pyfuse3.FileInfo(fh=inode, keep_cache=False)

    async def read(self, fh, off, size):
        assert self.poll is not None and self.negotiated is not None
        counters = {
            "slept": self.poll.slept,
            "won": self.poll.spins_won,
            "lost": self.poll.spins_lost,
            "negotiated": self.negotiated._asdict(),
        }
        return json.dumps(counters).encode().ljust(4096)[off : off + size]


def main(mountpoint: str) -> None:
    operations = Idle()
    before = negotiate.fuse_descriptors()
    pyfuse3.init(operations, mountpoint, {"fsname=idle", "subtype=idle", "default_permissions"})
    (descriptor,) = negotiate.fuse_descriptors() - before
    try:
        operations.negotiated = negotiate.negotiate(descriptor)
        operations.poll = poll.install(descriptor)
        print("ready", flush=True)
        trio.run(pyfuse3.main)
    finally:
        pyfuse3.close(unmount=True)


if __name__ == "__main__":
    os.umask(0o22)
    main(sys.argv[1])
