"""Make the kernel forget what it keeps, after someone in the daemon (a restore, an API call) changed files behind its back.

The kernel keeps names, attributes and pages for as long as we let it: for ever. Four means undo that, on a thread, because some of them
wait for requests that only our own loop can answer:

- FUSE_NOTIFY_INC_EPOCH (protocol 7.44): every name, also one remembered as absent, is asked for again when next used.
- an entry's invalidation: the name is dropped, with all that is cached below it and is not in use.
- an inode's invalidation: its attributes and pages are dropped, dirty ones written back first.
- short timeouts instead of all this on names, where the kernel is too old for the first one (`names_may_stay`).

One thing cannot be had: with the writeback cache the kernel goes by its own idea of a regular file's size and times for as long as it
knows the inode: while somebody has the file open, mapped or held with O_PATH. So a restore gives what is still known a new inode.
"""

from __future__ import annotations

import errno
import logging
import os
import struct
from collections.abc import Callable, Iterable

import pyfuse3

log = logging.getLogger(__name__)

EPOCH_MINOR = 44
"""The minor version of the FUSE protocol that brought FUSE_NOTIFY_INC_EPOCH."""
_INC_EPOCH = struct.pack("<IiQ", 16, 8, 0)


class Invalidation:
    """Invalidations over the FUSE device `descriptor`, of a kernel that speaks minor version `minor` of the protocol."""

    def __init__(self, descriptor: int, minor: int) -> None:
        self._descriptor = descriptor
        self.names_may_stay = minor >= EPOCH_MINOR

    def __call__(self, nodes: Iterable[int], entries: Iterable[tuple[int, bytes]]) -> None:
        """Forget all names, these entries with what is below them, and these nodes' attributes and pages. Not on the trio thread."""
        if self.names_may_stay:
            os.write(self._descriptor, _INC_EPOCH)
        self.forget(nodes, entries)

    def forget(self, nodes: Iterable[int], entries: Iterable[tuple[int, bytes]]) -> None:
        """Forget these entries with what is below them, and these nodes' attributes and pages. Not on the trio thread."""
        self.forget_names(entries)
        for node in nodes:
            _known(pyfuse3.invalidate_inode, node)

    def forget_names(self, entries: Iterable[tuple[int, bytes]]) -> None:
        """Forget these (parent node, name) alone, with what they lead to unless it is in use. Not on the trio thread."""
        for parent, name in entries:
            _known(pyfuse3.invalidate_entry, parent, name)


def _known(invalidate: Callable[..., None], *arguments: object) -> None:
    try:
        invalidate(*arguments)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR):  # what the kernel does not know it need not forget
            raise
