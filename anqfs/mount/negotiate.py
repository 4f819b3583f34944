"""Complete the answer to FUSE_INIT with what the kernel offers and libfuse 3.14 does not ask for.

While one turn of pyfuse3's loop handles INIT, the session's descriptor is a socket pair; the reply is read from its other end,
completed, and written to the kernel; then the descriptor is the FUSE device again. Only flags that the kernel offered are set, and a
reply that does not look as expected goes to the kernel unchanged.

| flag | what it gives |
|---|---|
| HANDLE_KILLPRIV_V2 | no `security.capability` request before each write; the filesystem clears setuid and setgid itself |
| DONT_MASK | the umask is left to the filesystem, which must ignore it where a default ACL is inherited |
| PARALLEL_DIROPS | look-ups and listings of one directory need not wait for each other |
| CACHE_SYMLINKS | targets of symbolic links stay in the page cache |
| DIRECT_IO_ALLOW_MMAP (of the second word) | files that are opened without the write cache can be mapped as well |
| EXPLICIT_INVAL_DATA, in place of AUTO_INVAL_DATA | cached pages are dropped only when the daemon says so: it is the only writer |

Source: include/uapi/linux/fuse.h. Called by `session` once, after pyfuse3.init and before pyfuse3.main, outside any await.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import struct
from collections.abc import Awaitable
from types import SimpleNamespace
from typing import Any, NamedTuple

import pyfuse3 as _pyfuse3

from ..errors import MountFailed
from . import poll

log = logging.getLogger(__name__)

pyfuse3: Any = _pyfuse3
"""Untyped: its private parts are used here."""

_INIT = 26
_REQUEST = struct.Struct("<IIQQIIII")
"""length, opcode, unique, node, uid, gid, pid, padding"""
_REQUEST_INIT = struct.Struct("<IIII")
"""major, minor, max_readahead, flags"""
_REQUEST_FLAGS2 = struct.Struct("<I")
"""Follows, where INIT_EXT is among the flags."""
_REPLY = struct.Struct("<IiQ")
"""length, error, unique"""
_REPLY_INIT = struct.Struct("<IIIIHHIIHHI")
"""major, minor, max_readahead, flags, max_background, congestion_threshold, max_write, time_gran, max_pages, map_alignment, flags2"""
_REPLY_LENGTH = 80
_MINOR_LEAST = 23
"""The version of the protocol from which on the reply has its fields at these places."""

DONT_MASK = 1 << 6
AUTO_INVAL_DATA = 1 << 12
PARALLEL_DIROPS = 1 << 18
WRITEBACK_CACHE = 1 << 16
CACHE_SYMLINKS = 1 << 23
EXPLICIT_INVAL_DATA = 1 << 25
HANDLE_KILLPRIV_V2 = 1 << 28
INIT_EXT = 1 << 30
"""There is a second word of flags."""
DIRECT_IO_ALLOW_MMAP = 1 << (36 - 32)
"""In the second word."""
WANTED = DONT_MASK | PARALLEL_DIROPS | CACHE_SYMLINKS | HANDLE_KILLPRIV_V2 | EXPLICIT_INVAL_DATA

MAX_BACKGROUND = 64
CONGESTION_THRESHOLD = 48
MAX_READAHEAD = 8 << 20
_INIT_WAIT_MS = 10_000


class Negotiated(NamedTuple):
    """What kernel and filesystem agreed on.

    `flags` are the FUSE_INIT flags in force; `completed` says whether anything was added; `minor` is the kernel's version of protocol 7;
    `direct_files`: files that bypass the kernel's cache can be mapped, and who reads through the cache sees what is written to them.
    """

    completed: bool
    flags: int
    minor: int
    max_write: int
    direct_files: bool = False

    @property
    def keeps_times(self) -> bool:
        """Whether the kernel keeps mtime and ctime of what is written through its cache, and sends them (fuse_flush_times)."""
        return bool(self.flags & WRITEBACK_CACHE)

    @property
    def kills_privileges(self) -> bool:
        """Whether clearing setuid and setgid on write is ours."""
        return bool(self.flags & HANDLE_KILLPRIV_V2)


def complete(request: bytes, reply: bytes) -> tuple[bytes, Negotiated]:
    """Return the reply to send in place of libfuse's `reply` to INIT `request`: unchanged when either is not laid out as expected."""
    offered = _offered(request)
    if offered is None or not _plausible(request, reply):
        log.warning("FUSE_INIT is not laid out as expected; it is answered as libfuse does")
        return reply, Negotiated(False, 0, 0, 0)
    kernel_minor, readahead, flags = offered
    major, minor, ahead, wanted, _background, _congestion, write, gran, pages, alignment, flags2 = _REPLY_INIT.unpack_from(reply, 16)
    wanted |= WANTED & flags
    direct_files = bool(_offered_second(request, flags) & DIRECT_IO_ALLOW_MMAP)
    if direct_files:
        wanted |= INIT_EXT
        flags2 |= DIRECT_IO_ALLOW_MMAP
    if wanted & EXPLICIT_INVAL_DATA:
        wanted &= ~AUTO_INVAL_DATA
    ahead = max(ahead, min(MAX_READAHEAD, readahead))
    changed = bytearray(reply)
    _REPLY_INIT.pack_into(
        changed, 16, major, minor, ahead, wanted, MAX_BACKGROUND, CONGESTION_THRESHOLD, write, gran, pages, alignment, flags2
    )
    return bytes(changed), Negotiated(True, wanted, kernel_minor, write, direct_files)


def _offered(request: bytes) -> tuple[int, int, int] | None:
    if len(request) < _REQUEST.size + _REQUEST_INIT.size:
        return None
    length, opcode = _REQUEST.unpack_from(request)[:2]
    major, minor, readahead, flags = _REQUEST_INIT.unpack_from(request, _REQUEST.size)
    if opcode != _INIT or length != len(request) or major != 7:
        return None
    return minor, readahead, flags


def _offered_second(request: bytes, flags: int) -> int:
    """Return the second word of flags that the kernel offers, 0 without one."""
    at = _REQUEST.size + _REQUEST_INIT.size
    if not flags & INIT_EXT or len(request) < at + _REQUEST_FLAGS2.size:
        return 0
    return int(_REQUEST_FLAGS2.unpack_from(request, at)[0])


def _plausible(request: bytes, reply: bytes) -> bool:
    if len(reply) != _REPLY_LENGTH:
        return False
    length, error, unique = _REPLY.unpack_from(reply)
    major, minor = _REPLY_INIT.unpack_from(reply, 16)[:2]
    expected = (_REPLY_LENGTH, 0, _REQUEST.unpack_from(request)[2], 7)
    return (length, error, unique, major) == expected and minor >= _MINOR_LEAST


def fuse_descriptors() -> set[int]:
    """Return this process's descriptors of the FUSE device. The one that pyfuse3.init adds is the session's."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}") == "/dev/fuse":
                found.add(int(name))
        except FileNotFoundError:  # the descriptor of the listing itself
            continue
    return found


def negotiate(descriptor: int) -> Negotiated:
    """Handle INIT on the FUSE device `descriptor` of the session that pyfuse3.init made. Raises MountFailed."""
    poll.check_pyfuse3()
    device = os.dup(descriptor)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        request = _read_init(device)
        os.dup2(theirs.fileno(), descriptor, inheritable=False)
        ours.setblocking(False)
        ours.send(request)
        _one_turn()
        try:
            reply = ours.recv(1 << 16)
        except BlockingIOError:
            raise MountFailed("pyfuse3 did not answer FUSE_INIT in one turn of its loop: this version of it is not supported") from None
        reply, result = complete(request, reply)
        os.write(device, reply)
        return result
    finally:
        os.dup2(device, descriptor, inheritable=False)
        os.close(device)
        ours.close()
        theirs.close()


def _read_init(device: int) -> bytes:
    poller = select.poll()
    poller.register(device, select.POLLIN)
    if not poller.poll(_INIT_WAIT_MS):
        raise MountFailed("the kernel sent no FUSE_INIT request")
    return os.read(device, 2 << 20)


def _one_turn() -> None:
    """Let pyfuse3 handle exactly one request, outside trio."""
    saved = pyfuse3.trio, pyfuse3._wait_fuse_readable
    turns = 0

    async def once() -> bool:
        nonlocal turns
        turns += 1
        return turns == 1

    class _NoNursery:
        def start_soon(self, *_arguments: Any, **_named: Any) -> None:
            """More workers are not wanted for one request."""

    pyfuse3.trio = poll.overlay(current_task=lambda: SimpleNamespace(name="init"))
    pyfuse3._wait_fuse_readable = once
    turn: Awaitable[None] = pyfuse3._session_loop(_NoNursery(), 1, 1)
    try:
        turn.send(None)  # type: ignore[attr-defined]
    except StopIteration:
        return
    finally:
        pyfuse3.trio, pyfuse3._wait_fuse_readable = saved
    raise MountFailed("pyfuse3's session loop waited for something else than the FUSE device: this version of it is not supported")
