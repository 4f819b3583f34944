"""Sealed records and extents in LMDB, one environment each. The only module that opens them.

The owner's thread has one read transaction, renewed by `refresh`. Others read in transactions of their own, inside `_reading`, which
keeps them out while the map is moved. Write transactions belong to the writer thread. Environments are opened with LMDB's full
durability: one fdatasync for each commit; never sync=False, never WRITEMAP.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from operator import lt
from typing import Any

import lmdb

from anqfs.crypto.sealing import SEALED_EXTENT_MAX
from anqfs.errors import AnqfsError, CommitFailed, Damaged, NoSpace, StoreInUse
from anqfs.store import memory
from anqfs.store.data_file import DataFile, read_in
from anqfs.store.interfaces import ExtentBatch, ExtentReading, RecordBatch, SealedExtent, StoreUsage
from anqfs.store.mapping import Mapping

RECORD_MAP = 64 << 30
EXTENT_MAP = 1 << 40
"""Bytes of address space at first; doubled when half of it is in use. A map takes no disk and no memory by itself."""
MAP_LIMIT = 1 << 46
_READ_AHEAD = 128 << 20
"""Bytes of records that a new mount asks the kernel to read, so that its first walk does not wait for one page after the other."""
_READERS = 56
"""One page of the lock file holds these, and that page is written when the store is made: a full disk cannot take it away."""
_UNWRITTEN_PAGES = 1024
"""Pages at the end of a file that LMDB may have counted and never written; more missing means that the file was cut."""
_MARGIN = 4 << 20
"""Bytes past the last page that can be read all the same: what an altered page points to must not be past the end of the file."""
_RECORD_MAX = 2 << 20
"""Bytes of a sealed record; a longer one is an altered page's, and its bytes may not exist."""
_NO_EXTENT = bytes(8)
"""The key that `touch` writes: extent ids begin at 1."""
_NEARLY_FULL = 1 << 20
_SLICE = 4080
"""Bytes of a value that LMDB puts on one page of its own."""
_SLICES_MAX = SEALED_EXTENT_MAX // _SLICE + 2
"""More than any extent has: an altered database may never come to the end of one."""
_PLACES_MAX = 1 << 16
"""Places of extents kept, about: some 10 MiB."""
_EXTENT_ID_MAX = (1 << 64) - 1
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _fault(error: lmdb.Error, what: str, path: bytes) -> AnqfsError:
    """Return the error for one of LMDB's. A write that a full disk cut short is EIO to LMDB, so the disk is asked."""
    full = isinstance(error, lmdb.MapFullError) or _number(error) in _FULL
    if not full and _number(error) == errno.EIO:
        disk = os.statvfs(path)
        full = disk.f_bavail * disk.f_frsize < _NEARLY_FULL
    return NoSpace(f"the disk or the store's map is full: {what} ({error})") if full else CommitFailed(f"{what}: {error}")


def _number(error: lmdb.Error) -> int:
    return int(getattr(error, "code", 0))


def _reserve_lock(path: bytes) -> None:
    """Give LMDB's lock file its blocks: it is written through a map, where a full disk would kill the process instead of failing."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise Damaged(f"the database {os.fsdecode(path)!r} cannot be opened: {error.strerror}") from error
    try:
        os.posix_fallocate(descriptor, 0, 2 * memory.PAGE)
    except OSError as error:
        if error.errno in _FULL:
            raise NoSpace(f"the disk is too full to open {os.fsdecode(path)!r}") from error
        raise
    finally:
        os.close(descriptor)


class _Environment:
    """What the record and the extent store share."""

    _buffers = False
    _what = ""

    def __init__(self, path: bytes, *, map_size: int, map_limit: int = MAP_LIMIT, read_only: bool = False, create: bool = False) -> None:
        self._path = path
        self._map_limit = map_limit
        self._gate = threading.Condition()
        self._inside = 0
        self._moving = False
        self._shut = False
        self._txn: Any = None
        self._frozen = False
        data = os.path.join(path, b"data.mdb")
        size = os.path.getsize(data) if os.path.exists(data) else 0
        if size == 0 and not create:
            raise Damaged(f"the {self._what} database {os.fsdecode(data)!r} is missing or empty")
        if not read_only:
            _reserve_lock(os.path.join(path, b"lock.mdb"))
        try:
            self._env = lmdb.open(
                path,
                map_size=min(map_limit, max(map_size, 4 * (size - _MARGIN))),
                readonly=read_only,
                create=create,
                lock=not read_only,
                mode=0o600,
                readahead=False,
                meminit=True,  # what a page leaves unused goes to the disk, too: it must not be freed memory that held plaintext
                max_readers=_READERS,
                max_spare_txns=8,
            )
        except lmdb.Error as error:
            if "already open" in str(error):
                raise StoreInUse(f"this process has {os.fsdecode(path)!r} open already") from error
            if _number(error) in _FULL:
                raise NoSpace(f"the disk is too full to open {os.fsdecode(path)!r}") from error
            raise Damaged(f"the {self._what} database {os.fsdecode(path)!r} cannot be opened: {error}") from error
        try:
            self._mapping = self._map()
            self._guard_end(data, read_only)
            if not read_only:
                self._env.reader_check()
            self.refresh()
        except BaseException:
            self._env.close()
            raise

    def _map(self) -> Mapping:
        return Mapping(os.path.join(self._path, b"data.mdb"), self._env.info()["map_size"], self._env.stat()["psize"])

    def _guard_end(self, data: bytes, read_only: bool) -> None:
        """Refuse a file that was cut, and see to it that what is a little past its end reads as zeros: elsewhere it kills the process."""
        info = self._env.info()
        expected = (info["last_pgno"] + 1) * self._env.stat()["psize"]
        size = os.path.getsize(data)
        if expected - size > _UNWRITTEN_PAGES * memory.PAGE:
            raise Damaged(f"the {self._what} database is cut: {size} of {expected} bytes are there")
        if read_only:
            memory.cover(self._mapping.start, size, info["map_size"])
        elif size < expected + _MARGIN:
            os.truncate(data, expected + _MARGIN)

    def refresh(self) -> bool:
        """See what was committed. False when that is impossible, because a failed commit shut the database: the view stays then."""
        try:
            renewed = self._begin_view(self._buffers)
        except lmdb.PanicError as error:
            if self._txn is None:
                raise self._damage(error) from error
            self._frozen = True
            return False
        except lmdb.Error as error:
            raise self._damage(error) from error
        if self._txn is not None:
            self._txn.abort()
        self._txn = renewed
        return True

    def _begin_view(self, buffers: bool) -> Any:
        return self._env.begin(buffers=True) if buffers else self._env.begin()

    def _view(self, buffers: bool) -> Any:
        try:
            return self._begin_view(buffers)
        except lmdb.Error as error:
            raise self._damage(error) from error

    def _damage(self, error: lmdb.Error) -> Damaged:
        return Damaged(f"the {self._what} database cannot be read: {error}")

    @contextmanager
    def _reading(self, buffers: bool) -> Iterator[Any]:
        with self._gate:
            while self._moving:
                self._gate.wait()
            if self._shut:
                raise ValueError("the store is closed")
            self._inside += 1
        try:
            txn = self._view(buffers)
            try:
                yield txn
            finally:
                txn.abort()
        finally:
            with self._gate:
                self._inside -= 1
                self._gate.notify_all()

    @contextmanager
    def _cursor(self, txn: Any) -> Iterator[Any]:
        try:
            with txn.cursor() as cursor:
                yield cursor
        except lmdb.Error as error:
            raise self._damage(error) from error

    def _must_follow(self, start: bytes, keys: Sequence[bytes]) -> None:
        """Raise Damaged unless `keys` rise from `start` on, as they do unless the database was altered.

        Whoever asks for what follows would never end otherwise, or take what belongs to another key for what was asked for.
        """
        if keys and (keys[0] < start or not all(map(lt, keys, islice(keys, 1, None)))):
            raise Damaged(f"the {self._what} database cannot be read: its keys are not in order")

    def usage(self) -> StoreUsage:
        stat = self._env.stat()
        page = stat["psize"]
        held = (stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]) * page
        return StoreUsage(held, max(0, (self._env.info()["last_pgno"] + 1) * page - held))

    def shed(self) -> None:
        """Give back what a failed commit left at the end of the file. The writer only, between batches."""
        with self._gate:
            if not self._shut:
                data = os.path.join(self._path, b"data.mdb")
                used = (self._env.info()["last_pgno"] + 1) * self._env.stat()["psize"]
                if os.path.getsize(data) > used:
                    os.truncate(data, used)
                    os.truncate(data, used + _MARGIN)

    def trim(self) -> None:
        """Give back the memory that the map has resident."""
        with self._gate:
            if not self._shut:
                self._mapping.drop((self._env.info()["last_pgno"] + 1) * self._env.stat()["psize"])

    def grow(self, incoming: int) -> bool:
        """Make the map larger when it is half full or would be with `incoming` bytes. Owner's thread, while the writer rests."""
        info = self._env.info()
        size = info["map_size"]
        needed = 2 * ((info["last_pgno"] + 1) * memory.PAGE + 2 * incoming)
        if needed <= size or size >= self._map_limit:
            return False
        with self._gate:
            self._moving = True
            try:
                while self._inside:
                    self._gate.wait()
                self._txn.abort()
                try:
                    self._env.set_mapsize(min(self._map_limit, max(2 * size, needed)))
                finally:
                    self._txn = self._view(self._buffers)
                    self._mapping = self._map()
            finally:
                self._moving = False
                self._gate.notify_all()
        return True

    def close(self) -> None:
        with self._gate:
            self._shut = True
            while self._inside:
                self._gate.wait()
        if self._txn is not None:
            self._txn.abort()
            self._txn = None
            self._env.close()

    def _begin(self) -> Any:
        try:
            return self._env.begin(write=True, buffers=False)
        except lmdb.Error as error:
            raise _fault(error, f"the {self._what} database cannot be written", self._path) from error


class _Batch:
    """One write transaction."""

    def __init__(self, txn: Any, path: bytes) -> None:
        self._txn = txn
        self._path = path

    def _fault(self, error: lmdb.Error, what: str) -> AnqfsError:
        return _fault(error, what, self._path)

    def commit(self) -> None:
        txn, self._txn = self._txn, None
        try:
            txn.commit()
        except lmdb.Error as error:
            raise self._fault(error, "a batch could not be committed") from error

    def abort(self) -> None:
        txn, self._txn = self._txn, None
        if txn is not None:
            txn.abort()


class _RecordBatch(_Batch):
    def replace(self, key: bytes, sealed: bytes) -> bytes | None:
        try:
            old: bytes | None = self._txn.replace(key, sealed)
        except lmdb.Error as error:
            raise self._fault(error, "a record could not be written") from error
        return old

    def remove(self, key: bytes) -> bytes | None:
        try:
            old: bytes | None = self._txn.pop(key)
        except lmdb.Error as error:
            raise self._fault(error, "a record could not be removed") from error
        return old


class _ExtentBatch(_Batch):
    def put(self, extent: int, sealed: memoryview, *, sliced: bool = False) -> None:
        key = extent.to_bytes(8, "big")
        try:
            if sliced:
                for at, start in enumerate(range(0, len(sealed), _SLICE)):
                    self._txn.put(key + at.to_bytes(2, "big"), sealed[start : start + _SLICE])
            elif not self._txn.put(key, sealed, append=True):
                self._txn.put(key, sealed)
        except lmdb.Error as error:
            raise self._fault(error, "an extent could not be written") from error

    def remove(self, extent: int) -> None:
        key = extent.to_bytes(8, "big")
        try:
            if not self._txn.delete(key):
                with self._txn.cursor() as cursor:
                    while cursor.set_range(key) and cursor.key()[:8] == key:
                        cursor.delete()
        except lmdb.Error as error:
            raise self._fault(error, "an extent could not be deleted") from error

    def touch(self) -> None:
        try:
            self._txn.put(_NO_EXTENT, b"")
        except lmdb.Error as error:
            raise self._fault(error, "the extents could not be touched") from error


def _copied(value: memoryview) -> bytes:
    """Return a record's bytes. Of one that is too long for a record none, so that it does not open."""
    return bytes(value) if len(value) <= _RECORD_MAX else b""


class LmdbRecords(_Environment):
    """The record store (`interfaces.RecordStore`)."""

    _buffers = True
    _what = "record"

    def get(self, key: bytes) -> bytes | None:
        try:
            value: memoryview | None = self._txn.get(key)
        except lmdb.Error as error:
            raise self._damage(error) from error
        return None if value is None else _copied(value)

    def items(self, start: bytes, stop: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        found: list[tuple[bytes, bytes]] = []
        with self._cursor(self._txn) as cursor:
            if cursor.set_range(start):
                for view, value in cursor:
                    key = bytes(view)
                    if key >= stop or len(found) >= limit:
                        break
                    found.append((key, _copied(value)))
        self._must_follow(start, [key for key, _ in found])
        return found

    def keys(self, start: bytes, stop: bytes, limit: int) -> list[bytes]:
        found: list[bytes] = []
        with self._cursor(self._txn) as cursor:
            if cursor.set_range(start):
                for view in cursor.iternext(keys=True, values=False):
                    key = bytes(view)
                    if key >= stop or len(found) >= limit:
                        break
                    found.append(key)
        self._must_follow(start, found)
        return found

    def read_ahead(self, wanted: Callable[[], bool]) -> None:
        read_in(os.path.join(self._path, b"data.mdb"), _READ_AHEAD, wanted)

    def current_items(self, after: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        with self._reading(buffers=True) as txn, self._cursor(txn) as cursor:
            if not cursor.set_range(after + b"\0"):
                return []
            found = [(bytes(key), _copied(value)) for key, value in islice(cursor, limit)]
        self._must_follow(after + b"\0", [key for key, _ in found])
        return found

    def begin(self) -> RecordBatch:
        return _RecordBatch(self._begin(), self._path)


class _SealedExtent:
    """A value of the extent database (`interfaces.SealedExtent`), valid as long as its transaction."""

    __slots__ = ("_file", "_place", "_value")

    def __init__(self, value: memoryview, place: int | None, file: DataFile) -> None:
        self._value = value
        self._place = place
        self._file = file

    def __len__(self) -> int:
        return len(self._value)

    def read(self, start: int, target: memoryview) -> None:
        if self._place is None:
            target[:] = self._value[start : start + len(target)]
        else:
            self._file.read(self._place + start, target)

    def expect(self, start: int, length: int) -> None:
        if self._place is not None:
            self._file.expect(self._place + start, length)

    def read_now(self, start: int, target: memoryview) -> bool:
        if self._place is not None and self._file.can_decline:
            if self._file.read_now(self._place + start, target):
                return True
            if self._file.can_decline:
                return False
        with self._value[start : start + len(target)] as part:
            if not memory.is_resident(part):
                memory.will_need(part)
                return False
        self.read(start, target)
        return True


def _stored(txn: Any, key: bytes, mapping: Mapping, file: DataFile, places: dict[bytes, tuple[int, int]] | None) -> _SealedExtent | None:
    """Return the sealed extent, put together when it is kept in slices. In `places` those found on the way are noted."""
    try:
        with txn.cursor() as cursor:
            if cursor.set_key(key):
                value, place = mapping.value(cursor)
                if place is not None and places is not None:
                    mapping.place_all(cursor.key(), places)
                return _SealedExtent(value, place, file)
            slices: list[memoryview] = []
            while len(slices) < _SLICES_MAX and cursor.set_key(key + len(slices).to_bytes(2, "big")):
                slices.append(cursor.value())
            return _SealedExtent(memoryview(b"".join(slices)), None, file) if slices else None
    except lmdb.Error as error:
        raise Damaged(f"the extent database cannot be read: {error}") from error


class _ExtentReading:
    def __init__(self, txn: Any, mapping: Mapping, file: DataFile) -> None:
        self._txn = txn
        self._mapping = mapping
        self._file = file

    def find(self, extent: int) -> SealedExtent | None:
        return _stored(self._txn, extent.to_bytes(8, "big"), self._mapping, self._file, None)


class LmdbExtents(_Environment):
    """The extent store (`interfaces.ExtentStore`)."""

    _buffers = True
    _what = "extent"

    def __init__(self, path: bytes, *, map_size: int, map_limit: int = MAP_LIMIT, read_only: bool = False, create: bool = False) -> None:
        self._places: dict[bytes, tuple[int, int]] = {}
        """Where large extents are in the file, and their sealed lengths, as of the last `refresh`."""
        super().__init__(path, map_size=map_size, map_limit=map_limit, read_only=read_only, create=create)
        try:
            self._file = DataFile(os.path.join(path, b"data.mdb"))
        except BaseException:
            super().close()
            raise

    def close(self) -> None:
        super().close()
        self._file.close()

    def find(self, extent: int) -> SealedExtent | None:
        key, mapping = extent.to_bytes(8, "big"), self._mapping
        place = self._places.get(key)
        if place is not None:
            mapping.bounded(*place)
            return _SealedExtent(mapping.view(*place), place[0], self._file)
        if len(self._places) > _PLACES_MAX:
            self._places.clear()
        return _stored(self._txn, key, mapping, self._file, self._places)

    def refresh(self) -> bool:
        self._places.clear()
        return super().refresh()

    def grow(self, incoming: int) -> bool:
        self._places.clear()
        return super().grow(incoming)

    @contextmanager
    def reading(self) -> Iterator[ExtentReading]:
        with self._reading(buffers=True) as txn:
            yield _ExtentReading(txn, self._mapping, self._file)

    def current_ids(self, after: int, limit: int) -> list[int]:
        found: list[int] = []
        with self._reading(buffers=False) as txn, self._cursor(txn) as cursor:
            while len(found) < limit and after < _EXTENT_ID_MAX and cursor.set_range(start := (after + 1).to_bytes(8, "big")):
                self._must_follow(start, (cursor.key(),))
                after = int.from_bytes(cursor.key()[:8].ljust(8, b"\0"), "big")
                found.append(after)
        return found

    def last_id(self) -> int:
        with self._cursor(self._txn) as cursor:
            return int.from_bytes(cursor.key()[:8], "big") if cursor.last() else 0

    def begin(self) -> ExtentBatch:
        return _ExtentBatch(self._begin(), self._path)
