"""The volume: the store's face to the namespace. Synchronous; all of it belongs to one thread, the *owner*, unless a docstring says
otherwise. Nothing awaits between `begin` and `finish`, so an operation is seen whole or not at all; an await put there breaks this.

A record is looked for in the cache, which always has the newest state, then in the groups in memory from the newest to the oldest,
then in the record store.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
import uuid as uuids
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from anqfs.crypto.digest import RecordDigest
from anqfs.crypto.folding import folded_prefix, name_hash
from anqfs.crypto.sealing import EXTENT_MAX, RecordSealer, SealerCache
from anqfs.crypto.secrets import Secret
from anqfs.errors import AnqfsError, Damaged, ReadOnlyVolume, RolledBack, StoreExists, StoreMissing
from anqfs.store import keys as volume_keys
from anqfs.store import lmdb_store, space, superblock
from anqfs.store.cache import RecordCache
from anqfs.store.codec import decode
from anqfs.store.extents import ExtentReader
from anqfs.store.group import Group
from anqfs.store.keys import SlotInfo, VolumeKeys
from anqfs.store.lmdb_store import LmdbExtents, LmdbRecords
from anqfs.store.lock import StoreLock
from anqfs.store.schema import COUNTER_EXTENT, ROOT_DIGEST, Counter, Frees, Record, RootDigest, SealingKey
from anqfs.store.space import Capacity
from anqfs.store.ticket import Ticket
from anqfs.store.writer import Writer, WriterState

_log = logging.getLogger(__name__)
RECORDS, EXTENTS = b"records", b"extents"
GROUP_SECONDS = 1.0
GROUP_BYTES = 64 << 20
_FREES_DELAY = 5.0
_RETRY = 0.02
_MISSING: Any = object()
_BULKY = frozenset(b"WwXx")
_SCAN_FIRST, _SCAN_MOST = 16, 256
StorePath = str | bytes | os.PathLike[str]


class Volume:
    """An opened volume."""

    @staticmethod
    def create(path: StorePath, secret: Secret, *, iterations: int | None = None) -> None:
        """Make an empty volume at `path`, which must not exist or be an empty directory.

        Arguments: `iterations` of PBKDF2; calibrated to half a second when None. Raises StoreExists, NoSpace, OSError.
        """
        store = os.fsencode(path)
        made = _make_directory(store)
        try:
            for name, kind in ((RECORDS, LmdbRecords), (EXTENTS, LmdbExtents)):
                os.mkdir(os.path.join(store, name), 0o700)
                kind(os.path.join(store, name), map_size=1 << 20, create=True).close()
                superblock.sync_directory(os.path.join(store, name))
            StoreLock.acquire(store, shared=False).release()
            volume_keys.format_store(store, uuids.uuid4().bytes, secret, iterations=iterations)
            superblock.sync_directory(os.path.dirname(os.path.abspath(store)))
        except BaseException:
            _remove_store(store, made)
            raise

    @classmethod
    def open(
        cls,
        path: StorePath,
        secret: Secret,
        *,
        read_only: bool = False,
        expect_root: str | None = None,
        group_seconds: float = GROUP_SECONDS,
        group_bytes: int = GROUP_BYTES,
        map_size: int | None = None,
        map_limit: int = lmdb_store.MAP_LIMIT,
    ) -> Volume:
        """Open the volume at `path`.

        Arguments: `expect_root` is a `root` noted earlier; the group is due after `group_seconds` or at `group_bytes`;
        `map_size` and `map_limit` bound the address space of each database.
        Raises StoreMissing, WrongKey, StoreInUse, UnsupportedFormat, Damaged, RolledBack, NoSpace.
        """
        store = os.fsencode(path)
        superblock.unpack(superblock.load(store))
        lock = StoreLock.acquire(store, shared=read_only)
        opened: list[LmdbRecords | LmdbExtents] = []
        try:
            keys = VolumeKeys.open(store, secret, read_only=read_only)
            sizes = {"map_limit": map_limit, "read_only": read_only}
            records = LmdbRecords(os.path.join(store, RECORDS), map_size=map_size or lmdb_store.RECORD_MAP, **sizes)
            opened.append(records)
            extents = LmdbExtents(os.path.join(store, EXTENTS), map_size=map_size or lmdb_store.EXTENT_MAP, **sizes)
            opened.append(extents)
            volume = cls(store, lock, keys, records, extents, read_only, group_seconds, group_bytes)
            volume._load()
            if expect_root is not None and expect_root != volume.root:
                raise RolledBack(f"the root digest is {volume.root}, not {expect_root} as expected: an older copy, or altered")
            volume._start()
            return volume
        except BaseException:
            for environment in opened:
                environment.close()
            lock.release()
            raise

    def __init__(
        self,
        store: bytes,
        lock: StoreLock,
        keys: VolumeKeys,
        records: LmdbRecords,
        extents: LmdbExtents,
        read_only: bool,
        group_seconds: float,
        group_bytes: int,
    ) -> None:
        self.uuid = uuids.UUID(bytes=keys.uuid)
        self.path = Path(os.fsdecode(store))
        self.read_only = read_only
        self.before_close: list[Callable[[], None]] = []
        self.counters: dict[str, int] = defaultdict(int)
        self._store = store
        self._lock = lock
        self._keys = keys
        self._record_store = records
        self._extent_store = extents
        self._group_seconds = group_seconds
        self._group_bytes = group_bytes
        self._closed = False
        self._sealer = RecordSealer(keys.uuid, keys.record_key)
        self._sealers = SealerCache(keys.uuid, keys.data_key)
        self._reader = ExtentReader(extents, records, self._sealers, self.counters)
        self._state = WriterState()
        self._writer = Writer(records, extents, keys, self._state, self._sealer, self._sealers, self.counters, self._reader.trim)
        self._cache = RecordCache()
        self._young = self._cache.young
        self._undo: list[tuple[Any, Any, Any]] | None = None
        self._undo_bulk = 0
        self._next_extent = 1
        self._seen = 0
        self._group = Group()
        self._records = self._group.records
        self._fresh = self._group.fresh
        self._groups = [self._group]
        """The groups that reads look in, the newest first."""

    def _load(self) -> None:
        """Read what the volume goes on from: sealing keys, the root digest, extents to delete. Nothing is written."""
        for key, value in self._all_of(b"K"):
            record = decode(key, value)
            assert isinstance(record, SealingKey)
            self._keys.learn(int.from_bytes(key[1:], "big"), record)
        state = self._state
        for key, value in self._all_of(b"F"):
            state.next_frees = int.from_bytes(key[1:], "big") + 1
            try:
                frees = decode(key, self._sealer.open(key, value))
            except Damaged as damage:
                _log.error("extents to delete are not known: %s", damage)
                continue
            assert isinstance(frees, Frees)
            state.frees.extend(frees.extents)
            state.frees_keys.append(key)
        counter = self._load_record(COUNTER_EXTENT)
        first = counter.value if isinstance(counter, Counter) else 1
        last = self._extent_store.last_id()
        self._next_extent = max(first, last + 1)
        after = first - 1
        while after < last:
            garbage = self._extent_store.current_ids(after, 4096)
            state.frees.extend(garbage)
            after = garbage[-1] if garbage else last
        root = self._load_record(ROOT_DIGEST)
        if isinstance(root, RootDigest):
            state.commit, state.time, state.total = root.commit, root.time, RecordDigest.number(root.digest)
        elif self._record_store.items(b"", b"\xff", 1):
            raise Damaged("the root digest is missing from the store")

    def _load_record(self, key: bytes) -> Record | None:
        sealed = self._record_store.get(key)
        return None if sealed is None else decode(key, self._sealer.open(key, sealed))

    def _all_of(self, letter: bytes) -> Iterator[tuple[bytes, bytes]]:
        start, stop = letter, bytes((letter[0] + 1,))
        while items := self._record_store.items(start, stop, 1024):
            yield from items
            start = items[-1][0] + b"\0"

    def _start(self) -> None:
        if not self.read_only:
            self._keys.new_sealing_key()
            self._writer.start()

    def close(self) -> None:
        """Commit what is open, stop the writer and let go of the store. Idempotent. Raises CommitFailed or NoSpace after letting go."""
        if self._closed:
            return
        self._closed = True
        try:
            if not self.read_only and self.failed is None:
                self._commit().wait()
                if self._writer.has_frees:
                    self._hand_over().ticket.wait()
        finally:
            if not self.read_only:
                self._writer.stop()
            self._reader.cache.clear()
            self._extent_store.close()
            self._record_store.close()
            self._lock.release()

    # Records

    def get(self, key: bytes) -> Record | None:
        """Return the record, None when there is none. Raises Damaged."""
        record = self._young.get(key, _MISSING)
        return record if record is not _MISSING else self._find(key)

    def _find(self, key: bytes) -> Record | None:
        record = self._cache.old.get(key, _MISSING)
        if record is _MISSING:
            record = self._find_below(key)
        self._remember(key, record)
        return record

    def _find_below(self, key: bytes) -> Record | None:
        if self._seen != self._writer.finished:
            self._settle()
        for group in self._groups:
            record = group.records.get(key, _MISSING)
            if record is not _MISSING:
                return record
        self.counters["record_misses"] += 1
        sealed = self._record_store.get(key)
        return None if sealed is None else decode(key, self._sealer.open(key, sealed))

    def _remember(self, key: bytes, record: Record | None) -> None:
        self._young[key] = record
        if key[0] in _BULKY:
            self._cache.bulk += _bulk(record)
        if self._cache.full:
            self._cache.turn()
            self._young = self._cache.young

    def _settle(self) -> None:
        """Renew the read transactions after commits, then stop looking in the groups that are durable."""
        self._seen = self._writer.finished
        durable = [group for group in self._groups if group.durable]
        self._record_store.refresh()
        self._extent_store.refresh()
        for group in durable:
            self._groups.remove(group)

    def put(self, key: bytes, record: Record) -> None:
        """Put a record. Raises ReadOnlyVolume."""
        records = self._records
        old = records.get(key, _MISSING)
        if self._undo is None:
            self._check_writable()
        else:
            self._undo.append((records, key, old))
        if old is _MISSING:
            self._fresh.append(key)
        if key[0] in _BULKY:
            self._group.bulk += _bulk(record)
            self._cache.bulk += _bulk(record)
        records[key] = record
        self._young[key] = record

    def delete(self, key: bytes) -> None:
        """Delete a record, if there is one. Raises ReadOnlyVolume."""
        records = self._records
        old = records.get(key, _MISSING)
        if self._undo is None:
            self._check_writable()
        else:
            self._undo.append((records, key, old))
        if old is _MISSING:
            self._fresh.append(key)
        records[key] = None
        self._young[key] = None

    def scan(self, start: bytes, stop: bytes) -> Iterator[tuple[bytes, Record]]:
        """Yield (key, record) with start <= key < stop in order. The caller may change records meanwhile. Raises Damaged."""
        limit = _SCAN_FIRST
        following: bytes | None = start
        while following is not None:
            found, following = self._merge(following, stop, limit)
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
        """Return about `limit` (key, record or sealed bytes) from `start`, and where to go on, None at the end."""
        if self._seen != self._writer.finished:
            self._settle()
        items = self._record_store.items(start, stop, limit)
        bound, following = stop, None
        if len(items) >= limit:
            bound = following = items[-1][0] + b"\0"
        changed: list[tuple[Group, list[bytes]]] = []
        for group in self._groups:
            keys = group.index.between(start, bound, limit) if group.records else None
            if keys:
                changed.append((group, keys))
                if len(keys) >= limit:
                    bound = following = keys[-1] + b"\0"
        if not changed:
            return items, following
        merged: dict[bytes, Any] = {key: sealed for key, sealed in items if key < bound}
        for group, keys in reversed(changed):
            for key in keys:
                if key < bound:
                    record = group.records.get(key, _MISSING)
                    if record is not _MISSING:
                        merged[key] = record
        return [(key, merged[key]) for key in sorted(merged) if merged[key] is not None], following

    def _opened(self, key: bytes, sealed: bytes) -> Record:
        record: Record | None = self._young.get(key)
        if record is not None:
            return record
        return decode(key, self._sealer.open(key, sealed))

    # One operation

    def begin(self) -> None:
        """Start an operation: what follows is kept whole by `finish` or taken back whole by `undo`. Raises ReadOnlyVolume."""
        if self._undo is not None:
            raise RuntimeError("an operation is open already")
        self._check_writable()
        if self._cache.full:
            self._cache.turn()
            self._young = self._cache.young
        self._undo = []

    def finish(self) -> None:
        """End the operation; it is in the open group now."""
        self._undo = None
        if self._group.since is None and not self._group.empty:
            self._group.since = time.monotonic()

    def undo(self) -> None:
        """End the operation as if it had not begun."""
        changes, self._undo = self._undo, None
        if changes is None:
            raise RuntimeError("no operation is open")
        young, old_young = self._young, self._cache.old
        for target, key, old in reversed(changes):
            if target is self._records:
                old_young.pop(key, None)
                if old is _MISSING:
                    young.pop(key, None)
                else:
                    young[key] = old
            if isinstance(target, list):
                target.pop()
            elif old is _MISSING:
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
        if self._group.since is None:
            self._group.since = time.monotonic()

    # Extents

    def write_extent(self, data: bytes | bytearray | memoryview) -> tuple[int, int]:
        """Keep 1 to WINDOW bytes as a new extent; returns (extent id, sealing key number).

        The buffer is not copied: it may change only through `dirty_extent`. Raises ReadOnlyVolume.
        """
        if not 0 < len(data) <= EXTENT_MAX:
            raise ValueError(f"an extent of {len(data)} bytes")
        if self._undo is None:
            self._check_writable()
        else:
            self._undo.append((self._group.extents, self._next_extent, _MISSING))
        extent = self._next_extent
        self._next_extent = extent + 1
        number = self._keys.current
        self._group.extents[extent] = (data, number)
        self._group.bulk += len(data)
        return extent, number

    def dirty_extent(self, extent: int) -> bytearray | None:
        """Return the buffer of an extent of the open group, to be changed or made longer in place; None for any other extent."""
        group = self._group
        found = group.extents.get(extent)
        if found is None:
            return None
        data, number = found
        if not isinstance(data, bytearray):
            data = bytearray(data)
            group.extents[extent] = (data, number)
        length = len(data)
        group.bulk += length - group.charged.get(extent, length)
        group.charged[extent] = length
        return data

    def read_extent(self, extent: int, offset: int, length: int, key_number: int) -> bytes:
        """Return `length` bytes from `offset` of an extent. Raises Damaged when it is not there in full."""
        if length <= 0:
            return b""
        if self._seen != self._writer.finished:
            self._settle()
        for group in self._groups:
            found = group.extents.get(extent)
            if found is not None:
                with memoryview(found[0]) as view:
                    if offset + length > len(view):
                        raise Damaged(f"extent {extent} holds {len(view)} bytes, {offset}+{length} were expected")
                    return bytes(view[offset : offset + length])
        return self._reader.open_here(extent, offset, length, key_number)

    def extent_is_warm(self, extent: int, offset: int, length: int) -> bool:
        """Tell whether `read_extent` would answer without waiting for a disk."""
        if self._seen != self._writer.finished:
            self._settle()
        return any(extent in group.extents for group in self._groups) or self._reader.is_warm(extent, offset, length)

    def fetch(self, extents: list[tuple[int, int, int, int]]) -> None:
        """Read (extent, offset, length, sealing key number) from the disk into the cache. For reader threads."""
        self._reader.fetch(extents)

    def free_extent(self, extent: int) -> None:
        """Delete an extent once the open group is durable. Raises ReadOnlyVolume."""
        group, undo = self._group, self._undo
        if undo is None:
            self._check_writable()
        held = group.extents.pop(extent, None)
        if held is not None:
            if undo is not None:
                undo.append((group.extents, extent, held))
            return
        group.frees.append(extent)
        self._reader.cache.drop(extent)
        if undo is not None:
            undo.append((group.frees, extent, None))

    # Durability

    def close_group(self) -> None:
        """Hand the open group to the writer, unless it is empty or the writer is busy."""
        if self._undo is not None:
            raise RuntimeError("a group cannot be closed inside an operation")
        if self.read_only or self._writer.busy or self.failed is not None:
            return
        self._run_hooks()
        if not self._group.empty or self._writer.has_frees:
            self._hand_over()

    def commit(self) -> Ticket:
        """Make everything so far durable; the ticket tells when it is."""
        if self._undo is not None:
            raise RuntimeError("nothing can be committed inside an operation")
        return self._commit()

    def _commit(self) -> Ticket:
        if self.read_only:
            return Ticket.settled()
        if self.failed is None:
            self._run_hooks()
        if not self._group.empty and self.failed is None:
            return self._hand_over().ticket
        busy = self._writer.queued or self._writer.closing
        if busy is not None and self.failed is None:
            return busy.ticket
        return Ticket.settled(self.failed)

    def _run_hooks(self) -> None:
        for hook in self.before_close:
            hook()

    def _hand_over(self) -> Group:
        group = self._group
        if group.extents:
            if COUNTER_EXTENT not in group.records:
                group.fresh.append(COUNTER_EXTENT)
            group.records[COUNTER_EXTENT] = self._young[COUNTER_EXTENT] = Counter(self._next_extent)
        if not self._writer.busy:
            self._settle()
            if self._record_store.grow(group.size) or self._extent_store.grow(group.size):
                self.counters["map_growths"] += 1
        self._group = Group()
        self._records, self._fresh = self._group.records, self._group.fresh
        taken = self._writer.submit(group)
        if taken is group:
            self._groups.insert(0, self._group)
        else:
            self._groups[0] = self._group
        return taken

    def dirty_bytes(self) -> int:
        """Return the bytes of memory that changes not yet being written take."""
        queued = self._writer.queued
        return self._group.size + (queued.size if queued is not None else 0)

    def must_wait(self) -> bool:
        """Tell whether writers must wait: the open group is over its limit and the writer is busy."""
        return self._writer.busy and self.dirty_bytes() > self._group_bytes

    def due(self) -> float | None:
        """Return the monotonic time at which `close_group` should be called; None when there is nothing to write."""
        if self.read_only or self.failed is not None:
            return None
        group = self._group
        now = time.monotonic()
        if group.empty:
            return now + _FREES_DELAY if self._writer.has_frees else None
        when = now if group.size > self._group_bytes or group.since is None else group.since + self._group_seconds
        return max(when, now + _RETRY) if self._writer.busy else when

    @property
    def failed(self) -> AnqfsError | None:
        """Why the volume is read-only since a commit failed; None when none did."""
        return self._writer.failed

    # Facts

    def capacity(self) -> Capacity:
        """Return the bytes of the disk below and of the store."""
        return space.measure(self._store, [self._record_store.usage(), self._extent_store.usage()])

    def room(self, size: int) -> None:
        """Raise NoSpace when `size` more bytes would not fit. Deletes do not ask."""
        closing = self._writer.closing
        space.check(self.capacity(), size, self.dirty_bytes() + (closing.size if closing is not None else 0))

    @property
    def root(self) -> str:
        """The root digest of the last durable commit: "commit number:hex"."""
        return f"{self._state.commit}:{RecordDigest.text(self._state.total).hex()}"

    @property
    def last_commit(self) -> tuple[int, int]:
        """(number, ns since 1970) of the last durable commit."""
        return self._state.commit, self._state.time

    def name_hash(self, name: bytes) -> bytes:
        """Return the 16 bytes under which a directory or an inode keeps `name`."""
        return name_hash(self._keys.name_hash_key, name)

    def folded_prefix(self, name: bytes) -> bytes:
        """Return the 5 bytes with which the hashes of all names equal to `name` but for case begin."""
        return folded_prefix(self._keys.name_hash_key, name)

    # Keys

    def slots(self) -> list[SlotInfo]:
        """Return the key slots. Any thread."""
        return self._keys.slots()

    def add_slot(self, secret: Secret, *, iterations: int | None = None, label: str = "") -> int:
        """Let another secret open the volume; returns its slot. Takes PBKDF2's time: any thread. Raises KeySlotError, NoSpace."""
        return self._keys.add_slot(secret, iterations=iterations, label=label)

    def remove_slot(self, number: int) -> None:
        """Take a key slot away. Any thread. Raises KeySlotError."""
        self._keys.remove_slot(number)

    def rotate(self) -> int:
        """Seal what is written next with a new key generation; returns its sealing key number. Any thread. Raises NoSpace."""
        return self._keys.rotate()

    # For check and scrub, any thread: the durable state, not what is in the groups

    def raw_records(self, after: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """Return the first `limit` (key, sealed value) with key > `after`."""
        return self._record_store.current_items(after, limit)

    def open_record(self, key: bytes, sealed: bytes) -> Record:
        """Return the record that a raw value holds. Raises Damaged."""
        return decode(key, sealed if key[:1] == b"K" else self._sealer.open(key, sealed))

    def raw_extent_ids(self, after: int, limit: int) -> list[int]:
        """Return the first `limit` extent ids above `after`."""
        return self._extent_store.current_ids(after, limit)

    def verify_extent(self, extent: int, key_number: int) -> int:
        """Open every chunk of an extent; returns its length. Raises Damaged."""
        return self._reader.verify(extent, key_number)

    def recompute_root(self, progress: Callable[[int], None] | None = None) -> str:
        """Return the root digest computed anew from every record. `progress` is told the records done.

        Nothing may be committed meanwhile, or the sum mixes two states.
        """
        digest = RecordDigest(self._keys.digest_key)
        total, count, after, commit = 0, 0, b"", 0
        while items := self._record_store.current_items(after, 1024):
            for key, sealed in items:
                if key == ROOT_DIGEST:
                    root = self.open_record(key, sealed)
                    commit = root.commit if isinstance(root, RootDigest) else 0
                elif key[:1] != b"K":
                    total += digest.of(key, sealed)
            count += len(items)
            after = items[-1][0]
            if progress is not None:
                progress(count)
        return f"{commit}:{RecordDigest.text(total).hex()}"


def _bulk(record: Any) -> int:
    """Return the bytes of data in a Window or Xattr record."""
    if record is None:
        return 0
    data: bytes = getattr(record, "inline", None) or getattr(record, "value", b"")
    return len(data)


def _make_directory(store: bytes) -> bool:
    """Make the store directory, or accept an empty one; returns whether it was made."""
    try:
        os.mkdir(store, 0o700)
        return True
    except FileExistsError:
        if not os.path.isdir(store) or os.listdir(store):
            raise StoreExists(f"{os.fsdecode(store)!r} exists and is not an empty directory") from None
        os.chmod(store, 0o700)
        return False
    except OSError as error:
        raise StoreMissing(f"{os.fsdecode(store)!r} cannot be made: {error.strerror}") from error


def _remove_store(store: bytes, made: bool) -> None:
    """Take away what a failed `create` left."""
    for name in os.listdir(store):
        inner = os.path.join(store, name)
        if os.path.isdir(inner):
            shutil.rmtree(inner)
        else:
            os.unlink(inner)
    if made:
        os.rmdir(store)
