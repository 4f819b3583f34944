"""Reading extents: from the cache, from what the kernel has in memory on the owner's thread, or by reader threads through `fetch`.

`open_here`, `is_warm` and `length` are the owner's; `fetch`, `verify` and `trim` are for any thread.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

from anqfs.crypto.sealing import EXTENT_MAX, SEALED_EXTENT_MAX, SealerCache, plain_length, sealed_length
from anqfs.errors import Damaged
from anqfs.store import memory
from anqfs.store.cache import ExtentCache
from anqfs.store.interfaces import ExtentReading, ExtentStore, RecordStore, SealedExtent

MAPPED_MAX = 128 << 20
"""Resident bytes of mapped files above which the maps' page table entries are dropped."""
WHOLE = 64 << 10
"""Bytes of an extent up to which it is opened whole: small files that were written together are read together."""
KEPT = 128 << 10
"""Bytes of an opened part up to which it is kept for reads that follow nearby. Larger ones the kernel keeps."""
_LOOK_EVERY = 16 << 20


class _Part:
    """Whole sealed chunks of one extent in a buffer of one thread's own, and a buffer to open them into."""

    def __init__(self, sealers: SealerCache) -> None:
        self._sealers = sealers
        self._chunk = sealers.chunk
        self._sealed = memoryview(bytearray(SEALED_EXTENT_MAX))
        self._plain = memoryview(bytearray(EXTENT_MAX))
        self._held = (0, 0, 0)
        """Extent id, first byte and end of what is in the buffer. An extent never changes and its id is never another's."""
        self._total = 0
        self.start = 0

    def forget(self) -> None:
        """Load what is loaded next from the store in any case."""
        self._held = (0, 0, 0)

    def load(self, extent: int, found: SealedExtent, offset: int, length: int, *, wait: bool) -> bool:
        """Get the chunks that hold a range; False when that would need a wait and `wait` is not set. Raises Damaged."""
        total, chunk = plain_length(len(found), self._chunk), self._chunk
        if offset + length > total:
            raise Damaged(f"extent {extent} holds {total} bytes, {offset}+{length} were expected")
        start, stop = _whole_chunks(total, offset, length, chunk)
        if self._held == (extent, start, stop):
            return True
        self.forget()
        target = self._sealed[: sealed_length(stop - start, chunk)]
        if wait:
            found.read(sealed_length(start, chunk), target)
        elif not found.read_now(sealed_length(start, chunk), target):
            return False
        self._held, self._total, self.start = (extent, start, stop), total, start
        return True

    def open(self, number: int) -> memoryview:
        """Return what was loaded, opened; valid until the next call. Raises Damaged."""
        extent, start, stop = self._held
        plain = self._plain[: stop - start]
        sealed = self._sealed[: sealed_length(stop - start, self._chunk)]
        self._sealers.get(number).open_chunks(extent, self._total, start, sealed, plain)
        return plain


def _whole_chunks(total: int, offset: int, length: int, chunk: int) -> tuple[int, int]:
    """Return from which byte to which an extent of `total` bytes is opened for a range of it."""
    if total <= WHOLE:
        return 0, total
    return offset // chunk * chunk, min(total, -(-(offset + length) // chunk) * chunk)


class ExtentReader:
    """Opens extents of one volume."""

    def __init__(self, extents: ExtentStore, records: RecordStore, sealers: SealerCache, counters: dict[str, int]) -> None:
        self._extents = extents
        self._records = records
        self._sealers = sealers
        self._counters = counters
        self._here = _Part(sealers)
        self._local = threading.local()
        self._opened = 0
        self.cache = ExtentCache()

    def open_here(self, extent: int, offset: int, length: int, number: int) -> bytes:
        """Return a range of a durable extent, from the cache or the store. Raises Damaged. Owner only."""
        cached = self.cache.find(extent, offset, length)
        if cached is not None:
            self._counters["extent_cache_hits"] += 1
            return cached
        self._counters["extent_cache_misses"] += 1
        found = self._extents.find(extent)
        if found is None:
            raise Damaged(f"extent {extent} is missing from the store")
        part = self._here
        part.load(extent, found, offset, length, wait=True)
        plain = part.open(number)
        self._count(length)
        at = offset - part.start
        if length == len(plain) or len(plain) > KEPT:
            return bytes(plain[at : at + length])
        whole = bytes(plain)
        self.cache.add(extent, part.start, whole)
        return whole[at : at + length]

    def is_warm(self, extent: int, offset: int, length: int) -> bool:
        """Tell whether `open_here` would answer without waiting for a disk; if not, the disk was asked. Owner only."""
        if self.cache.holds(extent, offset, length):
            return True
        try:
            found = self._extents.find(extent)
            return found is None or self._here.load(extent, found, offset, length, wait=False)
        except Damaged:
            return True  # the read will meet it

    def expect(self, extent: int, offset: int, length: int) -> None:
        """Start reading a range of a durable extent from the disk, without waiting for it. Owner only."""
        chunk = self._sealers.chunk
        try:
            found = self._extents.find(extent)
            if found is not None and not self.cache.holds(extent, offset, length):
                start, stop = _whole_chunks(plain_length(len(found), chunk), offset, length, chunk)
                found.expect(sealed_length(start, chunk), sealed_length(stop - start, chunk))
        except Damaged:
            return  # the read will meet it

    def length(self, extent: int) -> int:
        """Return the plaintext length of a durable extent, without reading it; 0 when it is not there. Owner only. Raises Damaged."""
        found = self._extents.find(extent)
        return 0 if found is None else plain_length(len(found), self._sealers.chunk)

    def fetch(self, wanted: Iterable[tuple[int, int, int, int]]) -> None:
        """Open ranges (extent, offset, length, sealing key number) into the cache. What is damaged is remembered for its reader."""
        with self._extents.reading() as reading:
            for extent, offset, length, number in wanted:
                if length <= 0 or self.cache.holds(extent, offset, length):
                    continue
                try:
                    start, data = self._opened_part(reading, extent, offset, length, number)
                    self.cache.add(extent, start, data)
                except Damaged as damage:
                    self.cache.note_damage(extent, damage)
                self._count(length)

    def _opened_part(self, reading: ExtentReading, extent: int, offset: int, length: int, number: int) -> tuple[int, bytes]:
        """Return where an opened part that holds the range begins, and the part. Raises Damaged."""
        found = reading.find(extent)
        if found is None:
            raise Damaged(f"extent {extent} is missing from the store")
        part = self._own_part()
        part.load(extent, found, offset, length, wait=True)
        return part.start, bytes(part.open(number))

    def _own_part(self) -> _Part:
        """Return this thread's buffers."""
        part: _Part | None = getattr(self._local, "part", None)
        if part is None:
            part = self._local.part = _Part(self._sealers)
        return part

    def verify(self, extent: int, number: int) -> int:
        """Open every chunk of a durable extent and return its length. Raises Damaged. Any thread."""
        with self._extents.reading() as reading:
            found = reading.find(extent)
            if found is None:
                raise Damaged(f"extent {extent} is missing from the store")
            length = plain_length(len(found), self._sealers.chunk)
            part = self._own_part()
            part.forget()
            part.load(extent, found, 0, length, wait=True)
            part.open(number)
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
