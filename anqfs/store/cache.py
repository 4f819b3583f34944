"""What is kept in memory of opened records and extents, within stated bounds."""

from __future__ import annotations

import threading
from collections import OrderedDict

from anqfs.errors import Damaged
from anqfs.store.schema import Record

RECORDS_MAX = 100_000
RECORD_BYTES_MAX = 48 << 20
EXTENT_BYTES_MAX = 64 << 20
_RECORD_COST = 480
_SEGMENT_COST = 200
_DAMAGED_MAX = 1024


class RecordCache:
    """Records by key; None for a key known to be absent. Owner's thread only.

    Two dicts: what was used lately and what was used before that. When the first is full it becomes the second, which is forgotten: that
    is nearly least-recently-used and costs a look-up nothing.
    """

    __slots__ = ("bulk", "old", "young")

    def __init__(self) -> None:
        self.young: dict[bytes, Record | None] = {}
        self.old: dict[bytes, Record | None] = {}
        self.bulk = 0
        """Bytes of file and xattr data in `young`."""

    @property
    def full(self) -> bool:
        """Whether `turn` is due."""
        count = len(self.young)
        return count > RECORDS_MAX // 2 or count * _RECORD_COST + self.bulk > RECORD_BYTES_MAX // 2

    def turn(self) -> None:
        """Forget what was not used since the last turn."""
        self.old, self.young, self.bulk = self.young, {}, 0


class ExtentCache:
    """Opened parts of extents: least recently used out first, EXTENT_BYTES_MAX bytes in all. Any thread."""

    def __init__(self, limit: int = EXTENT_BYTES_MAX) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._parts: OrderedDict[int, list[tuple[int, bytes]]] = OrderedDict()
        self._damaged: OrderedDict[int, Damaged] = OrderedDict()
        self.size = 0

    def find(self, extent: int, offset: int, length: int) -> bytes | None:
        """Return the range if one part holds it. Raises Damaged, once, when fetching the extent found it damaged."""
        if extent in self._damaged:
            with self._lock:
                damage = self._damaged.pop(extent, None)
            if damage is not None:
                raise damage
        parts = self._parts.get(extent)
        if parts is None:
            return None
        for start, data in tuple(parts):
            if start <= offset and offset + length <= start + len(data):
                with self._lock:
                    if extent in self._parts:
                        self._parts.move_to_end(extent)
                at = offset - start
                return data if at == 0 and length == len(data) else data[at : at + length]
        return None

    def holds(self, extent: int, offset: int, length: int) -> bool:
        """Tell whether `find` would answer (with data or with Damaged)."""
        if extent in self._damaged:
            return True
        return any(start <= offset and offset + length <= start + len(data) for start, data in tuple(self._parts.get(extent, ())))

    def add(self, extent: int, start: int, data: bytes) -> None:
        """Keep an opened part that begins at `start`. Parts inside it are dropped."""
        with self._lock:
            parts = self._parts.get(extent, [])
            kept = [each for each in parts if not (start <= each[0] and each[0] + len(each[1]) <= start + len(data))]
            self.size += len(data) + _SEGMENT_COST - sum(len(each[1]) + _SEGMENT_COST for each in parts if each not in kept)
            kept.append((start, data))
            self._parts[extent] = kept
            self._parts.move_to_end(extent)
            while self.size > self._limit and self._parts:
                self._forget(next(iter(self._parts)))

    def note_damage(self, extent: int, damage: Damaged) -> None:
        """Remember that an extent is damaged, for the read that follows."""
        with self._lock:
            self._damaged[extent] = damage
            while len(self._damaged) > _DAMAGED_MAX:
                self._damaged.popitem(last=False)

    def drop(self, extent: int) -> None:
        """Forget an extent."""
        if extent in self._parts:
            with self._lock:
                self._forget(extent)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._parts.clear()
            self._damaged.clear()
            self.size = 0

    def _forget(self, extent: int) -> None:
        for _, data in self._parts.pop(extent, ()):
            self.size -= len(data) + _SEGMENT_COST
