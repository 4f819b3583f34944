"""The records of a volume and the operations that change them: the half of `Volume` that every operation goes through.

Owner's thread. A record is looked for in the cache, which always has the newest state, then in the groups in memory from the newest to
the oldest, then in the record store. Nothing awaits between `begin` and `finish`, so an operation is seen whole or not at all; an await
put there breaks this. `get` and `put` are called some ten times in each filesystem operation: they do nothing needless.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from anqfs.crypto.sealing import RecordSealer
from anqfs.errors import Damaged, ReadOnlyVolume
from anqfs.store import scanning
from anqfs.store.cache import RecordCache
from anqfs.store.codec import decode
from anqfs.store.group import MISSING, Group
from anqfs.store.interfaces import ExtentStore, RecordStore
from anqfs.store.schema import Record, Window, Xattr
from anqfs.store.writer import Writer

_BULKY = frozenset(b"WwXx")
_UNSEALED = ord("K")
_DIRENT = ord("D")
_SCAN_FIRST, _SCAN_MOST = 16, 256


class Changes:
    """Records, with the groups in memory on top of the store."""

    read_only: bool
    counters: dict[str, int]
    _closed: bool
    _writer: Writer
    _sealer: RecordSealer
    _record_store: RecordStore
    _extent_store: ExtentStore

    def __init__(self) -> None:
        self._cache = RecordCache()
        self._young = self._cache.young
        self._undo: list[tuple[Any, Any, Any]] | None = None
        self._undo_bulk = 0
        self._seen = 0
        self._group = Group()
        self._records = self._group.records
        self._fresh = self._group.fresh
        self._logged = Group()
        """What the intent log has and the stores have not."""
        self._groups = [self._group, self._logged]
        """The groups that reads look in, the newest first: the open one, what waits and is being written, what is logged."""

    def get(self, key: bytes) -> Record | None:
        """Return the record, None when there is none. Raises Damaged."""
        record: Record | None = self._young.get(key, MISSING)
        return self._find(key) if record is MISSING else record

    def _find(self, key: bytes) -> Record | None:
        record: Record | None = self._cache.old.get(key, MISSING)
        if record is MISSING:
            record = self._find_below(key)
        self._remember(key, record)
        return record

    def _find_below(self, key: bytes) -> Record | None:
        if self._seen != self._writer.finished:
            self._settle()
        for group in self._groups:
            record: Record | None = group.records.get(key, MISSING)
            if record is not MISSING:
                return record
        self.counters["record_misses"] += 1
        sealed = self._record_store.get(key)
        return None if sealed is None else self.open_record(key, sealed)

    def open_record(self, key: bytes, sealed: bytes) -> Record:
        """Return the record that a value of the store holds. Raises Damaged. Any thread."""
        return decode(key, self._sealer.open(key, sealed) if key[0] != _UNSEALED else sealed)

    def _remember(self, key: bytes, record: Record | None) -> None:
        self._young[key] = record
        if key[0] in _BULKY:
            self._cache.bulk += _bulk(record)
        if self._cache.full:
            self._cache.turn()
            self._young = self._cache.young

    def _settle(self) -> None:
        """Look at what the writer finished: what is logged goes into one group, what is stored and seen is in no group any more."""
        self._seen = self._writer.finished
        stored = [group for group in self._groups if group.stored]  # before the view is renewed: it shows these, perhaps not later ones
        if (stored or self._writer.failed is not None) and not (self._record_store.refresh() and self._extent_store.refresh()):
            return
        for group in reversed(self._groups[1:-1]):
            if group in stored:
                self._logged = self._groups[-1] = Group()
            elif group.logged:
                self._logged.absorb(group)
            else:
                break
            self._groups.remove(group)

    def put(self, key: bytes, record: Record) -> None:
        """Put a record. Raises ReadOnlyVolume."""
        records = self._records
        old = records.get(key, MISSING)
        if self._undo is None:
            self._check_writable()
            self._note_change()
        else:
            self._undo.append((records, key, old))
        if old is MISSING:
            self._fresh.append(key)
        if key[0] in _BULKY:
            self._group.bulk += _bulk(record)
            self._cache.bulk += _bulk(record)
        records[key] = record
        self._young[key] = record

    def delete(self, key: bytes) -> None:
        """Delete a record, if there is one. Raises ReadOnlyVolume."""
        records = self._records
        old = records.get(key, MISSING)
        if self._undo is None:
            self._check_writable()
            self._note_change()
        else:
            self._undo.append((records, key, old))
        if old is MISSING:
            self._fresh.append(key)
        records[key] = None
        self._young[key] = None

    def scan(self, start: bytes, stop: bytes) -> Iterator[tuple[bytes, Record]]:
        """Yield (key, record) with start <= key < stop in order. The caller may change records meanwhile. Raises Damaged."""
        limit = _SCAN_FIRST
        following: bytes | None = start
        while following is not None:
            found, following = self._merge(following, stop, limit)
            if start[0] == _DIRENT:
                self._open_all(found)
            for key, value in found:
                if isinstance(value, bytes):
                    yield key, self._opened(key, value)
                else:
                    yield key, value
            limit = min(2 * limit, _SCAN_MOST)

    def scan_keys(self, start: bytes, stop: bytes) -> Iterator[bytes]:
        """Yield the keys that `scan` would, without opening a value."""
        limit = _SCAN_FIRST
        following: bytes | None = start
        while following is not None:
            found, following = self._merge(following, stop, limit)
            for key, _ in found:
                yield key
            limit = min(2 * limit, _SCAN_MOST)

    def _merge(self, start: bytes, stop: bytes, limit: int) -> tuple[list[tuple[bytes, Any]], bytes | None]:
        if self._seen != self._writer.finished:
            self._settle()
        return scanning.merge(self._record_store, self._groups, start, stop, limit)

    def _open_all(self, found: list[tuple[bytes, Any]]) -> None:
        """Open dirents and remember them for the look-ups and removals that follow a listing: nothing can change them meanwhile."""
        young, old = self._young, self._cache.old
        for place, (key, value) in enumerate(found):
            if isinstance(value, bytes):
                record = young.get(key) or old.get(key)
                if record is None:
                    try:
                        record = young[key] = self.open_record(key, value)
                    except Damaged:
                        break  # raised again when the scan comes to it
                found[place] = key, record
        if self._cache.full:
            self._cache.turn()
            self._young = self._cache.young

    def _opened(self, key: bytes, sealed: bytes) -> Record:
        record: Record | None = self._young.get(key)
        if record is not None:
            return record
        return self.open_record(key, sealed)

    def begin(self) -> None:
        """Start an operation: what follows is kept whole by `finish` or taken back whole by `undo`. Raises ReadOnlyVolume."""
        if self._undo is not None:
            raise RuntimeError("an operation is open already")
        self._check_writable()
        if self._cache.full:
            self._cache.turn()
            self._young = self._cache.young
        self._undo = []
        self._undo_bulk = self._group.bulk

    def finish(self) -> None:
        """End the operation; it is in the open group now."""
        self._undo = None
        if self._group.since is None and not self._group.empty:
            self._group.since = time.monotonic()

    def _note_change(self) -> None:
        """Do what `begin` and `finish` do, for a change outside an operation."""
        if self._group.since is None:
            self._group.since = time.monotonic()
        if self._cache.full:
            self._cache.turn()
            self._young = self._cache.young

    def undo(self) -> None:
        """End the operation as if it had not begun."""
        changes, self._undo = self._undo, None
        if changes is None:
            raise RuntimeError("no operation is open")
        self._group.bulk = self._undo_bulk
        young, old_young = self._young, self._cache.old
        for target, key, old in reversed(changes):
            if target is self._records:
                old_young.pop(key, None)
                if old is MISSING:
                    young.pop(key, None)
                else:
                    young[key] = old
            if isinstance(target, list):
                target.pop()
            elif old is MISSING:
                del target[key]
            else:
                target[key] = old

    def _check_writable(self) -> None:
        if self.read_only:
            raise ReadOnlyVolume("the volume was opened read-only")
        if self._writer.failed is not None:
            raise ReadOnlyVolume(f"the volume is read-only since a commit failed: {self._writer.failed}")
        if self._closed:
            raise ReadOnlyVolume("the volume is closed")


def _bulk(record: Any) -> int:
    """Return the bytes of data in a Window or Xattr record."""
    if type(record) is Window:
        return len(record.inline)
    return len(record.value) if type(record) is Xattr else 0
