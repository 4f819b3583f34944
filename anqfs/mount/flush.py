"""Bring in what the kernel still holds, before a snapshot.

With the writeback cache written data sits in the kernel's pages. syncfs starts their way here, but on kernels that do not let one
filesystem's data integrity hang on a FUSE daemon it returns before they have arrived. So each file that is open for writing (no other
can have dirty pages) is also opened and closed through the mount: the kernel writes a file back and waits for it when any handle on it
is closed. Where the daemon's user may not open the file, or it has no path, its pages are invalidated instead, which launders them.

The write requests come back into our own loop, which must be free to answer them: whoever calls this awaits, and holds nothing. The
waiting is done by a process of its own, which `flush_helper` explains, and a thread waits for that.

What a quota refused is not in the namespace and will never be; the kernel keeps that error for whoever wrote it, and here it counts for
nothing, or one user's full directory would keep everybody from taking snapshots.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pyfuse3
import trio

from ..errors import FilesystemError
from ..namespace.nodes import ino_of
from . import flush_helper

if TYPE_CHECKING:
    from ..namespace.namespace import Namespace
    from .handles import Handles

log = logging.getLogger(__name__)

ROUNDS = 10


class Flush:
    """Flushes of one mount. Concurrent callers that come before a flush begins share it."""

    def __init__(self, namespace: Namespace, handles: Handles, point: bytes) -> None:
        """`point` is the absolute path of the mount."""
        self._namespace = namespace
        self._handles = handles
        self._point = point
        self._limiter = trio.CapacityLimiter(1)
        self._helper: subprocess.Popen[str] | None = None

    async def __call__(self) -> None:
        """Return when everything written before the call has reached the namespace.

        Files that are opened for writing meanwhile are flushed too, for up to ROUNDS rounds: what a program wrote to one of them may
        depend on what it wrote before to another. Raises FilesystemError EBUSY when a file's pages cannot be had.
        """
        done: set[int] = set()
        await trio.to_thread.run_sync(self._sync, limiter=self._limiter)
        for _ in range(ROUNDS):
            nodes = self._handles.written() - done
            if not nodes:
                return
            targets = [(node, self._namespace.path_of(ino_of(node))) for node in nodes]
            await trio.to_thread.run_sync(self._bring_in, targets, limiter=self._limiter)
            done |= nodes

    async def start(self) -> None:
        """Start the helper, so that the first flush does not wait for it. What goes wrong shows when it is needed."""
        try:
            await trio.to_thread.run_sync(self._started, limiter=self._limiter)
        except OSError as error:
            log.warning("the process that flushes the mount cannot be started yet: %s", error)

    def close(self) -> None:
        """End the helper. Not on the trio thread while requests may still come."""
        helper, self._helper = self._helper, None
        if helper is None:
            return
        with contextlib.suppress(BrokenPipeError), helper:
            try:
                helper.communicate(timeout=5)
            except subprocess.TimeoutExpired:
                helper.kill()

    def _started(self) -> subprocess.Popen[str]:
        """Return the helper; it is started when there is none, or when it has died."""
        if self._helper is not None and self._helper.poll() is not None:
            self.close()
        if self._helper is None:
            command = [sys.executable, "-I", "-S", flush_helper.__file__]
            self._helper = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/", env={}, start_new_session=True, text=True, encoding="ascii"
            )
        return self._helper

    def _ask(self, order: dict[str, Any]) -> list[Any]:
        """Let the helper do something and return what it answers."""
        helper = self._started()
        assert helper.stdin is not None and helper.stdout is not None
        try:
            helper.stdin.write(json.dumps(order) + "\n")
            helper.stdin.flush()
            line = helper.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise FilesystemError(errno.EIO, "the process that flushes the mount has died")
        return list(json.loads(line))

    def _sync(self) -> None:
        (number,) = self._ask({"sync": os.fsdecode(self._point)})
        if number and number != errno.EDQUOT:
            raise FilesystemError(number, f"syncfs of the mount: {os.strerror(number)}")

    def _bring_in(self, targets: list[tuple[int, bytes | None]]) -> None:
        named = {node: self._point + b"/" + path.lstrip(b"/") for node, path in targets if path is not None}
        told = self._ask({"touch": [os.fsdecode(path) for path in named.values()]})
        brought = set()
        for (node, path), (inode, opening, closing) in zip(named.items(), told, strict=True):
            if closing and node not in self._handles.over_quota:
                raise FilesystemError(closing, f"what was written to {os.fsdecode(path)!r} could not be stored")
            if opening:
                log.debug("node %d cannot be opened through the mount: %s", node, os.strerror(opening))
            if inode == node:
                brought.add(node)
        for node, _ in targets:
            if node not in brought:
                self._launder(node)

    def _launder(self, node: int) -> None:
        try:
            pyfuse3.invalidate_inode(node)
        except OSError as error:
            if error.errno == errno.ENOENT:  # the kernel does not know the inode any more, so it has no pages
                return
            raise FilesystemError(errno.EBUSY, f"the kernel keeps pages of inode {ino_of(node)}: {error}") from None
