"""A transaction group in memory: what changed since the group before. The owner's thread, until the group is handed to the writer.

`records` maps a key to its new record, or to None when it was deleted. A sorted index of the keys is kept only as far as scans need
it: new keys collect in a list and are sorted in, by directory or inode, when a scan comes by.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from itertools import islice
from typing import Any

from anqfs.store.schema import Record
from anqfs.store.ticket import Ticket

RECORD_WEIGHT = 300
"""Bytes of memory that a changed record is taken to cost, beside the data in it."""
MISSING: Any = object()
"""Stands for "no entry", where None stands for "deleted"."""
_PREFIX = 9
_LOAD = 512


class SortedKeys:
    """Keys in order, in slices of at most 2 * _LOAD, so that adding one does not move all."""

    __slots__ = ("_highest", "_slices")

    def __init__(self) -> None:
        self._slices: list[list[bytes]] = []
        self._highest: list[bytes] = []

    def add(self, key: bytes) -> None:
        """Add a key."""
        slices, highest = self._slices, self._highest
        if not slices:
            slices.append([key])
            highest.append(key)
            return
        at = min(bisect_left(highest, key), len(slices) - 1)
        part = slices[at]
        insort(part, key)
        highest[at] = part[-1]
        if len(part) > 2 * _LOAD:
            slices[at : at + 1] = [part[:_LOAD], part[_LOAD:]]
            highest[at : at + 1] = [part[_LOAD - 1], part[-1]]

    def between(self, start: bytes, stop: bytes) -> Iterator[bytes]:
        """Yield the keys with start <= key < stop."""
        for at in range(bisect_left(self._highest, start), len(self._slices)):
            part = self._slices[at]
            first = bisect_left(part, start)
            last = bisect_left(part, stop)
            yield from part[first:last]
            if last < len(part):
                return


class KeyIndex:
    """Keys by directory or inode. Keys of at most 9 bytes (I, O, S, ...) share one list for each letter."""

    __slots__ = ("_buckets", "_fresh", "_names")

    def __init__(self, fresh: list[bytes]) -> None:
        self._fresh = fresh
        self._buckets: dict[bytes, SortedKeys] = {}
        self._names = SortedKeys()

    def between(self, start: bytes, stop: bytes, limit: int) -> list[bytes]:
        """Return the first `limit` keys with start <= key < stop, in order."""
        if self._fresh:
            self._sort_in()
        letter, prefix = start[:1], start[:_PREFIX]
        if len(start) >= _PREFIX and stop <= prefix + b"\xff" * 32:
            found: list[bytes] = []
            for name in (letter, prefix):
                if name in self._buckets:
                    found += islice(self._buckets[name].between(start, stop), limit)
            return sorted(found)[:limit] if found else found
        return self._across(start, stop, limit)

    def _across(self, start: bytes, stop: bytes, limit: int) -> list[bytes]:
        single: list[bytes] = []
        for letter in range(start[0] if start else 0, min(255, stop[0]) + 1 if stop else 0):
            short = self._buckets.get(bytes((letter,)))
            if short is not None:
                single += islice(short.between(start, stop), limit)
        long: list[bytes] = []
        for name in self._names.between(start[:_PREFIX], stop):
            long += islice(self._buckets[name].between(start, stop), limit - len(long))
            if len(long) >= limit:
                break
        return sorted(single + long)[:limit]

    def _sort_in(self) -> None:
        buckets = self._buckets
        for key in self._fresh:
            name = key[:_PREFIX] if len(key) > _PREFIX else key[:1]
            bucket = buckets.get(name)
            if bucket is None:
                bucket = buckets[name] = SortedKeys()
                if len(name) == _PREFIX:
                    self._names.add(name)
            bucket.add(key)
        self._fresh.clear()


class Group:
    """One transaction group."""

    __slots__ = (
        "bulk",
        "charged",
        "extents",
        "frees",
        "fresh",
        "index",
        "logged",
        "records",
        "since",
        "stored",
        "ticket",
        "to_log",
        "touch",
    )

    def __init__(self) -> None:
        self.records: dict[bytes, Record | None] = {}
        self.fresh: list[bytes] = []
        """Keys that are new in `records` and not in `index` yet."""
        self.index = KeyIndex(self.fresh)
        self.extents: dict[int, tuple[bytes | bytearray | memoryview, int]] = {}
        """Extent id -> plaintext, sealing key number."""
        self.charged: dict[int, int] = {}
        """Extent id -> bytes counted in `bulk`, of extents that were given out to be changed in place."""
        self.frees: list[int] = []
        self.bulk = 0
        """Bytes of extents and of data in records."""
        self.since: float | None = None
        """Monotonic time of the first change."""
        self.ticket = Ticket()
        self.to_log = False
        """Whether the intent log may take it, and the stores later."""
        self.logged = False
        """Whether the intent log has it, durably, and the stores have not."""
        self.stored = False
        """Whether the stores have it, durably, and all that was logged before it."""
        self.touch = False
        """Whether to commit the extents although nothing of them changes, so that what was freed becomes usable."""

    @property
    def empty(self) -> bool:
        """Whether there is nothing to make durable."""
        return not (self.records or self.extents or self.frees)

    @property
    def size(self) -> int:
        """Bytes of memory, about."""
        return self.bulk + RECORD_WEIGHT * len(self.records) + 8 * len(self.frees)

    def put(self, key: bytes, record: Record | None) -> None:
        """Put a record, or None for a deleted one."""
        if key not in self.records:
            self.fresh.append(key)
        self.records[key] = record

    def absorb(self, later: Group) -> None:
        """Add what `later` changed on top, so that both become durable together. `later` is not used any more."""
        mine = self.records
        self.fresh.extend(key for key in later.records if key not in mine)
        mine.update(later.records)
        self.extents.update(later.extents)
        for extent in later.frees:
            if self.extents.pop(extent, None) is None:
                self.frees.append(extent)
        self.bulk += later.bulk
        self.touch = self.touch or later.touch
        self.to_log = self.to_log and later.to_log
        if self.since is None:
            self.since = later.since
