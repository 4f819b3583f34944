"""Bring extents from the disk into the extent cache without stopping everyone else.

A page that is not in memory blocks the thread that touches it, so what is cold is first asked for without waiting, and fetched
on one of a few threads when it does not come soon. What a sequential reader will want next is asked for ahead. Trio thread, but for
`volume.fetch`.
"""

from __future__ import annotations

from time import perf_counter_ns
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..namespace.namespace import Namespace
    from ..store.volume import Volume
    from .handles import Handle

Piece = tuple[int, int, int, int]
"""extent id, offset in it, length, sealing key number"""

THREADS = 4
AHEAD = 4 << 20
"""Bytes asked for ahead of a sequential reader, again whenever half of them are used up."""
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
        self._turn = trio.StrictFIFOLock()
        """Held by the one that looks whether its pieces have come: they come in the order in which the disk was asked, about."""
        self._in_vain = 0
        """When the last wait in vain ended, on the clock of perf_counter_ns."""
        self._limiter = trio.CapacityLimiter(THREADS)
        self._flying: dict[Piece, trio.Event] = {}
        self._credit = CREDIT_MAX
        self._passed = 0
        self.fetched = 0
        self.awaited = 0

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
        began = perf_counter_ns()
        async with self._turn:
            came = await self._came_soon(pieces, began)
        self._hurry()
        self._credit = min(CREDIT_MAX, self._credit + 1) if came else max(0, self._credit - 1)
        return came

    async def _came_soon(self, pieces: list[Piece], began: int) -> bool:
        """Look until all came. Whoever queued behind one that waited in vain looks once: the disk is slow."""
        is_warm = self._volume.extent_is_warm
        size = sum(length for _, _, length, _ in pieces)
        end = perf_counter_ns() + (PATIENCE_NS if size <= SMALL else PATIENCE_LARGE_NS)
        while not all(is_warm(extent, offset, length) for extent, offset, length, _ in pieces):
            if began < self._in_vain:
                return False
            if perf_counter_ns() >= end:
                self._in_vain = end
                return False
            if self._pending():
                self._hurry()
                await trio.lowlevel.checkpoint()
        return True

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
        """Ask the disk for what comes after byte `end`, up to which a sequential reader has come, unless that was done."""
        if end + AHEAD // 2 > handle.ahead:
            begin = max(end, handle.ahead)
            handle.ahead = end + AHEAD
            self._namespace.expect(handle.node, begin, end + AHEAD - begin)
