"""Reading extents: from the cache, from the map on the owner's thread when warm, or by reader threads through `fetch`.

`open_here`, `is_warm` and `read_in` are the owner's; `fetch`, `verify` and `trim` are for any thread.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

from anqfs.crypto.sealing import CHUNK, EXTENT_MAX, SEALED_CHUNK, SealerCache, plain_length
from anqfs.errors import Damaged
from anqfs.store import memory
from anqfs.store.cache import ExtentCache
from anqfs.store.interfaces import ExtentReading, ExtentStore, RecordStore

MAPPED_MAX = 128 << 20
"""Resident bytes of mapped files above which the maps' page table entries are dropped."""
_LOOK_EVERY = 16 << 20


def _chunks_of(sealed: memoryview, offset: int, length: int) -> memoryview:
    """Return the part of a sealed extent whose chunks hold a range of its plaintext."""
    first = offset // CHUNK * SEALED_CHUNK
    last = min(len(sealed), -(-(offset + length) // CHUNK) * SEALED_CHUNK)
    return sealed[first : max(first, last)]


class ExtentReader:
    """Opens extents of one volume."""

    def __init__(self, extents: ExtentStore, records: RecordStore, sealers: SealerCache, counters: dict[str, int]) -> None:
        self._extents = extents
        self._records = records
        self._sealers = sealers
        self._counters = counters
        self._scratch = bytearray(EXTENT_MAX)
        self._local = threading.local()
        self._opened = 0
        self.cache = ExtentCache()

    def open_here(self, extent: int, offset: int, length: int, number: int) -> bytes:
        """Return a range of a durable extent, from the cache or the map. Raises Damaged. Owner only."""
        cached = self.cache.find(extent, offset, length)
        if cached is not None:
            self._counters["extent_cache_hits"] += 1
            return cached
        self._counters["extent_cache_misses"] += 1
        sealed = self._extents.get(extent)
        if sealed is None:
            raise Damaged(f"extent {extent} is missing from the store")
        with sealed:
            data, start = self._open_chunks(extent, sealed, offset, length, number, self._scratch)
        if start is not None:
            self.cache.add(extent, start, data)
            data = data[offset - start : offset - start + length]
        self._count(length)
        return data

    def _open_chunks(
        self, extent: int, sealed: memoryview, offset: int, length: int, number: int, scratch: bytearray
    ) -> tuple[bytes, int | None]:
        """Return (the range, None), or (the whole chunk, its offset) of a short range, so that its neighbours are at hand."""
        sealer = self._sealers.get(number)
        if offset // CHUNK == (offset + length - 1) // CHUNK and length < CHUNK:
            start = offset // CHUNK * CHUNK
            size = min(CHUNK, plain_length(len(sealed)) - start)
            if offset + length <= start + size:
                return sealer.open_range(extent, sealed, start, size, scratch), start
        return sealer.open_range(extent, sealed, offset, length, scratch), None

    def is_warm(self, extent: int, offset: int, length: int) -> bool:
        """Tell whether `open_here` would answer without waiting for a disk. Owner only."""
        if self.cache.holds(extent, offset, length):
            return True
        sealed = self._extents.get(extent)
        if sealed is None:
            return True
        with sealed, _chunks_of(sealed, offset, length) as part:
            return len(part) == 0 or self._extents.is_resident(part)

    def length(self, extent: int) -> int:
        """Return the plaintext length of a durable extent, without reading it; 0 when it is not there. Owner only. Raises Damaged."""
        sealed = self._extents.get(extent)
        if sealed is None:
            return 0
        with sealed:
            return plain_length(len(sealed))

    def fetch(self, wanted: Iterable[tuple[int, int, int, int]]) -> None:
        """Open ranges (extent, offset, length, sealing key number) into the cache. What is damaged is remembered for its reader."""
        missing = [each for each in wanted if each[2] > 0 and not self.cache.holds(*each[:3])]
        with self._extents.reading() as reading:
            self._read_in(reading, missing)
            for each in missing:
                try:
                    self._fetch_one(reading, *each)
                except Damaged as damage:
                    self.cache.note_damage(each[0], damage)
                self._count(each[2])

    def read_in(self, wanted: Iterable[tuple[int, int, int, int]]) -> None:
        """Start reading ranges from the disk, without waiting. Owner only."""
        self._read_in(self._extents, wanted)

    def _read_in(self, reading: ExtentReading, wanted: Iterable[tuple[int, int, int, int]]) -> None:
        """Start reading all ranges from the disk at once. What is wrong with one is found when it is opened."""
        for extent, offset, length, _ in wanted:
            try:
                sealed = reading.get(extent)
            except Damaged:
                continue
            if sealed is not None:
                with sealed, _chunks_of(sealed, offset, length) as part:
                    self._extents.read_in(part)

    def _fetch_one(self, reading: ExtentReading, extent: int, offset: int, length: int, number: int) -> None:
        sealed = reading.get(extent)
        if sealed is None:
            raise Damaged(f"extent {extent} is missing from the store")
        with sealed:
            data, start = self._open_chunks(extent, sealed, offset, length, number, self._own_scratch())
        self.cache.add(extent, offset if start is None else start, data)

    def _own_scratch(self) -> bytearray:
        """Return this thread's buffer for one opened extent."""
        scratch: bytearray | None = getattr(self._local, "scratch", None)
        if scratch is None:
            scratch = self._local.scratch = bytearray(EXTENT_MAX)
        return scratch

    def verify(self, extent: int, number: int) -> int:
        """Open every chunk of a durable extent and return its length. Raises Damaged. Any thread."""
        with self._extents.reading() as reading:
            sealed = reading.get(extent)
            if sealed is None:
                raise Damaged(f"extent {extent} is missing from the store")
            with sealed:
                self._extents.read_in(sealed)
                length = plain_length(len(sealed))
                self._sealers.get(number).open_chunks(extent, sealed, 0, length, self._own_scratch())
        self._count(length)
        return length

    def _count(self, length: int) -> None:
        self._counters["extents_read"] += 1
        self._counters["bytes_read"] += length
        self._opened += length
        if self._opened >= _LOOK_EVERY:
            self._opened = 0
            self.trim()

    def trim(self) -> None:
        """Drop the maps' page table entries when they hold more memory than they should."""
        if memory.mapped_resident() > MAPPED_MAX:
            self._extents.trim()
            self._records.trim()
            self._counters["trims"] += 1
