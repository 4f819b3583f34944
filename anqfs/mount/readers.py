"""Bring extents from the disk into the extent cache without stopping everyone else.

A page that is not in memory blocks the thread that touches it, so what is cold is fetched on one of a few threads, and what a
sequential reader will want next is fetched ahead of it. Trio thread, but for `volume.fetch`.
"""

from __future__ import annotations

import logging
from time import perf_counter_ns
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..namespace.namespace import Namespace
    from ..store.volume import Volume
    from .handles import Handle

log = logging.getLogger(__name__)

Piece = tuple[int, int, int, int]
"""extent id, offset in it, length, sealing key number"""

THREADS = 4
AHEAD = 4 << 20
"""Bytes fetched ahead of a sequential reader, again whenever half of them are used up."""
AHEAD_TASKS = 8
"""Fetches ahead under way at once; beyond these, readers fetch for themselves."""
SMALL = 256 << 10
"""Bytes up to which a fetch needs little more than the disk's time to answer."""
PATIENCE_NS = 500_000
PATIENCE_LARGE_NS = 3_000_000
"""How long a fetch, up to SMALL or larger, first waits for the disk without a thread: a hop to one and back costs more than a fast disk
does, and a thread that opens what it read contends for the interpreter lock. A slow disk is then waited for on a thread."""
CREDIT_MAX = 8
"""Waits in vain, beyond those that were not, after which only every TRY_EVERY-th read is waited for: the disk is slow, or the processor
busy."""
TRY_EVERY = 16


class Readers:
    """A bounded number of reader threads, which never fetch the same piece twice at a time."""

    def __init__(self, namespace: Namespace, volume: Volume, hurry: Callable[[], None], pending: Callable[[], bool]) -> None:
        """`hurry` is called on a reader thread when it is done, so that the trio thread looks soon.

        `pending` tells whether a request waits to be served.
        """
        self._namespace = namespace
        self._volume = volume
        self._hurry = hurry
        self._pending = pending
        self._waiting = 0
        self._limiter = trio.CapacityLimiter(THREADS)
        self._flying: dict[Piece, trio.Event] = {}
        self._nursery: trio.Nursery | None = None
        self._ahead = 0
        self._credit = CREDIT_MAX
        self._passed = 0
        self.fetched = 0
        self.awaited = 0

    def start(self, nursery: trio.Nursery) -> None:
        """Let fetches ahead run in `nursery`."""
        self._nursery = nursery

    async def fetch(self, pieces: list[Piece]) -> None:
        """Return when these pieces were read or found damaged, by us or by a fetch that was under way already."""
        if await self._arrived(pieces):
            return
        ours = [piece for piece in dict.fromkeys(pieces) if piece not in self._flying]
        others = [self._flying[piece] for piece in pieces if piece in self._flying]
        if ours:
            await self._fetch(ours)
        for event in others:
            await event.wait()

    async def _arrived(self, pieces: list[Piece]) -> bool:
        """Let the kernel read; return whether all came soon. Other requests are served meanwhile."""
        if any(piece in self._flying for piece in pieces):
            return False
        if not self._credit:
            self._passed = (self._passed + 1) % TRY_EVERY
            if self._passed:
                return False
        self.awaited += len(pieces)
        self._waiting += 1
        try:
            came = await self._came_soon(pieces)
        finally:
            self._waiting -= 1
        self._credit = min(CREDIT_MAX, self._credit + 1) if came else max(0, self._credit - 1)
        return came

    async def _came_soon(self, pieces: list[Piece]) -> bool:
        is_warm = self._volume.extent_is_warm
        size = sum(length for _, _, length, _ in pieces)
        end = perf_counter_ns() + (PATIENCE_NS if size <= SMALL else PATIENCE_LARGE_NS)
        while perf_counter_ns() < end:
            if self._waiting > 1 or self._pending():
                self._hurry()
                await trio.lowlevel.checkpoint()
            if all(is_warm(extent, offset, length) for extent, offset, length, _ in pieces):
                return True
        return False

    async def _fetch(self, pieces: list[Piece]) -> None:
        """Fetch pieces that are not being fetched. Up to the hop to a thread there is no await, so nobody else can begin one of them."""
        done = trio.Event()
        self._flying.update(dict.fromkeys(pieces, done))
        self.fetched += len(pieces)
        try:
            await trio.to_thread.run_sync(self._on_thread, pieces, limiter=self._limiter)
        finally:
            done.set()
            for piece in pieces:
                del self._flying[piece]

    def _on_thread(self, pieces: list[Piece]) -> None:
        try:
            self._volume.fetch(pieces)
        finally:
            self._hurry()

    def ahead(self, handle: Handle, end: int) -> None:
        """Fetch what comes after byte `end`, up to which a sequential reader has come, unless that was done."""
        if end + AHEAD // 2 <= handle.ahead or self._nursery is None or self._ahead >= AHEAD_TASKS:
            return
        begin = max(end, handle.ahead)
        handle.ahead = end + AHEAD
        pieces = self._namespace.cold(handle.node, begin, end + AHEAD - begin)
        if pieces:
            self._ahead += 1
            self._nursery.start_soon(self._fetch_ahead, pieces)

    async def _fetch_ahead(self, pieces: list[Piece]) -> None:
        try:
            wanted = [piece for piece in pieces if piece not in self._flying]  # now: others may have begun since it was asked for
            if wanted:
                await self._fetch(wanted)
        except Exception as error:  # the reader itself will meet the fault and answer for it
            log.debug("fetching ahead failed: %s", error)
        finally:
            self._ahead -= 1
