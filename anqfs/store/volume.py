"""The volume: the store's face to the namespace. Synchronous; all of it belongs to one thread, the *owner*, unless a docstring says
otherwise. Records and operations are in `changes`; here are extents, durability, keys, and opening and closing.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid as uuids
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from anqfs.crypto.digest import RecordDigest
from anqfs.crypto.folding import folded_prefix, name_hash
from anqfs.crypto.sealing import EXTENT_MAX, RecordSealer, SealerCache
from anqfs.crypto.secrets import Secret
from anqfs.errors import AnqfsError, Damaged, NoSpace, RolledBack
from anqfs.store import creation, lmdb_store, loading, memory, space, superblock
from anqfs.store.changes import Changes
from anqfs.store.extents import ExtentReader
from anqfs.store.group import MISSING, Group
from anqfs.store.intent_log import IntentLog
from anqfs.store.keys import SlotInfo, VolumeKeys
from anqfs.store.lmdb_store import LmdbExtents, LmdbRecords
from anqfs.store.lock import StoreLock
from anqfs.store.schema import COUNTER_EXTENT, Counter
from anqfs.store.space import Capacity
from anqfs.store.ticket import Ticket
from anqfs.store.writer import Writer

_log = logging.getLogger(__name__)
GROUP_SECONDS = 1.0
GROUP_BYTES = 64 << 20
_FREES_DELAY = 5.0
"""Seconds after which extents are deleted when no other group comes along to do it."""
_RETRY = 0.02
"""Seconds after which an overdue group is looked at again while the writer is busy."""
StorePath = str | bytes | os.PathLike[str]


class Volume(Changes):
    """An opened volume."""

    @staticmethod
    def create(path: StorePath, secret: Secret, *, iterations: int | None = None) -> None:
        """Make an empty volume at `path`, which must not exist or be an empty directory.

        Arguments: `iterations` of PBKDF2; calibrated to half a second when None. Raises StoreExists, NoSpace, OSError.
        """
        creation.create(os.fsencode(path), secret, iterations)

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
            records = LmdbRecords(
                os.path.join(store, creation.RECORDS), map_size=map_size or lmdb_store.RECORD_MAP, map_limit=map_limit, read_only=read_only
            )
            opened.append(records)
            extents = LmdbExtents(
                os.path.join(store, creation.EXTENTS), map_size=map_size or lmdb_store.EXTENT_MAP, map_limit=map_limit, read_only=read_only
            )
            opened.append(extents)
            volume = cls(store, lock, keys, records, extents, read_only, group_seconds, group_bytes)
            if expect_root is not None:
                volume._expect(expect_root)
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
        super().__init__()
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
        self._ahead: threading.Thread | None = None
        self._sealer = RecordSealer(keys.uuid, keys.record_key)
        self._sealers = SealerCache(keys.uuid, keys.data_key, keys.chunk)
        self._reader = ExtentReader(extents, records, self._sealers, self.counters)
        loading.sealing_keys(records, keys)
        self._state, self._next_extent = loading.writer_state(records, extents, keys, self._sealer)
        self._counter_saved = self._state.commit > 0
        self._intent_log = IntentLog(store, self._sealer)
        self._replay()
        self._writer = Writer(
            records, extents, self._intent_log, keys, self._state, self._sealer, self._sealers, self.counters, self._reader.trim
        )
        self._allowance = 0
        """Bytes for which `room` need not look at the disk again until the next commit."""
        self._allowed_at = -1
        self._tight = False
        """Whether `room` refused bytes that deletes on their way may give."""

    def _replay(self) -> None:
        """Take what the intent log holds as the first changes: they are durable there until a commit has them."""
        for group in self._intent_log.read(self._state.commit):
            self._group.absorb(group)
        counter = self._group.records.get(COUNTER_EXTENT)
        if isinstance(counter, Counter):
            self._next_extent = max(self._next_extent, counter.value)
        self._replayed = not self._group.empty
        if self._replayed:
            self._group.since = time.monotonic()

    @property
    def replayed(self) -> bool:
        """Whether the intent log held changes when the volume was opened."""
        return self._replayed

    @property
    def lost_groups(self) -> int:
        """Acknowledged groups of changes that the intent log should have held, and that are damaged."""
        return self._intent_log.lost

    def _expect(self, root: str) -> None:
        if root != self.root:
            raise RolledBack(f"the root digest is {self.root}, not {root} as expected: an older copy, or altered")
        if self._replayed:
            raise RolledBack(f"the intent log holds changes that came after {root}")

    def _start(self) -> None:
        if not self.read_only:
            memory.keep_freed()
            self._keys.new_sealing_key()
            self._writer.start()

    def read_ahead(self) -> None:
        """Let the disk read the first records, for the first look-ups of a mount. Called once at most; a thread of its own does it."""
        self._ahead = threading.Thread(target=self._read_ahead, name="anqfs-read-ahead", daemon=True)
        self._ahead.start()

    def _read_ahead(self) -> None:
        try:
            self._record_store.read_ahead(lambda: not self._closed)
        except OSError as error:
            _log.debug("records are not read ahead: %s", error)

    def close(self) -> None:
        """Commit what is open, stop the writer and let go of the store. Idempotent. Raises CommitFailed or NoSpace after letting go."""
        if self._closed:
            return
        if self._undo is not None:
            self.undo()
        try:
            if not self.read_only and self.failed is None:
                self.commit(to_stores=True).wait()
                self._delete_freed()
        finally:
            self._closed = True
            if self._ahead is not None:
                self._ahead.join()
            if not self.read_only:
                self._writer.stop()
                self._intent_log.close()
            self._reader.cache.clear()
            self._extent_store.close()
            self._record_store.close()
            self._lock.release()

    def _delete_freed(self) -> None:
        """Delete what the last group freed. What that would need may not be there; then the next opening does it."""
        if self._writer.has_frees:
            try:
                self._hand_over().ticket.wait()
            except AnqfsError as error:
                _log.warning("freed extents are deleted when the volume is opened again: %s", error)

    # Extents

    def write_extent(self, data: bytes | bytearray | memoryview) -> tuple[int, int]:
        """Keep 1 to WINDOW bytes as a new extent; returns (extent id, sealing key number).

        The buffer is not copied: it may change only through `dirty_extent`. Raises ReadOnlyVolume.
        """
        if not 0 < len(data) <= EXTENT_MAX:
            raise ValueError(f"an extent of {len(data)} bytes")
        if self._undo is None:
            self._check_writable()
            self._note_change()
        else:
            self._undo.append((self._group.extents, self._next_extent, MISSING))
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

    def extent_length(self, extent: int) -> int:
        """Return the bytes that an extent holds, without reading it; 0 when it is not there. Raises Damaged."""
        if self._seen != self._writer.finished:
            self._settle()
        for group in self._groups:
            found = group.extents.get(extent)
            if found is not None:
                return len(found[0])
        return self._reader.length(extent)

    def extent_is_warm(self, extent: int, offset: int, length: int) -> bool:
        """Tell whether `read_extent` would answer without waiting for a disk; if not, the disk was asked for what is missing."""
        if self._seen != self._writer.finished:
            self._settle()
        return any(extent in group.extents for group in self._groups) or self._reader.is_warm(extent, offset, length)

    def expect_extent(self, extent: int, offset: int, length: int) -> None:
        """Ask the disk for a range that will be read soon, without waiting for it."""
        if not any(extent in group.extents for group in self._groups):
            self._reader.expect(extent, offset, length)

    def fetch(self, extents: list[tuple[int, int, int, int]]) -> None:
        """Read (extent, offset, length, sealing key number) from the disk into the cache. For reader threads."""
        self._reader.fetch(extents)

    def free_extent(self, extent: int) -> None:
        """Delete an extent once the open group is durable. Raises ReadOnlyVolume."""
        group, undo = self._group, self._undo
        if undo is None:
            self._check_writable()
            self._note_change()
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
        self._group.touch = self._tight and self._writer.pinned > 0
        if not self._group.empty or self._unstored() or self._writer.has_frees or self._group.touch:
            self._hand_over()

    def commit(self, *, to_stores: bool = False) -> Ticket:
        """Make everything so far durable, in the intent log or, if asked for, in the stores; the ticket tells when it is."""
        if self._undo is not None:
            raise RuntimeError("nothing can be committed inside an operation")
        if self.read_only:
            return Ticket.settled()
        if self.failed is None:
            self._run_hooks()
        if self.failed is None and (not self._group.empty or (to_stores and (self._writer.busy or self._unstored()))):
            return self._hand_over(to_log=not to_stores).ticket
        busy = self._writer.queued or self._writer.closing
        if busy is not None and self.failed is None:
            return busy.ticket
        return Ticket.settled(self.failed)

    def _run_hooks(self) -> None:
        for hook in self.before_close:
            hook()

    def _unstored(self) -> bool:
        """Tell whether the intent log has what the stores have not."""
        if self._seen != self._writer.finished:
            self._settle()
        return not self._logged.empty

    def _hand_over(self, *, to_log: bool = False) -> Group:
        """Submit the open group; returns the one it became part of. What was logged reaches the stores with it, unless it is logged."""
        group = self._group
        group.to_log = to_log
        if group.extents or not self._counter_saved:
            self._counter_saved = True
            if COUNTER_EXTENT not in group.records:
                group.fresh.append(COUNTER_EXTENT)
            group.records[COUNTER_EXTENT] = self._young[COUNTER_EXTENT] = Counter(self._next_extent)
        self._settle()
        if not self._writer.busy:
            incoming = group.size + self._logged.size
            self.counters["map_growths"] += self._record_store.grow(incoming) + self._extent_store.grow(incoming)
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
        if self._seen != self._writer.finished:
            self._settle()
        group, writer = self._group, self._writer
        now = time.monotonic()
        if group.empty:
            if writer.busy:
                return now + _RETRY  # whether it leaves extents to delete is known when it is done
            if writer.will_have_frees:
                return now + _RETRY
            if self._logged.since is not None:
                hurry = self._tight and self._logged.frees
                return writer.idle_since + _RETRY if hurry else max(now, self._logged.since + self._group_seconds)
            if writer.has_frees:
                return writer.idle_since + (_RETRY if self._tight else _FREES_DELAY)
            return writer.idle_since + _RETRY if self._tight and writer.pinned else None
        since = min((each.since for each in (group, self._logged) if each.since is not None), default=now - self._group_seconds)
        when = now if group.size > self._group_bytes else since + self._group_seconds
        return max(when, now + _RETRY) if writer.busy else when

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
        if size <= self._allowance and self._allowed_at == self._writer.stored:
            self._allowance -= size
            return
        writer = self._writer
        closing = writer.closing
        capacity = self.capacity()
        dirty = self.dirty_bytes() + self._logged.size + (closing.size if closing is not None else 0)
        spare = space.spare(capacity, dirty, writer.pinned)
        self._allowance, self._allowed_at = space.allowance(spare - size), writer.stored
        self._tight = size > spare
        if self._tight:
            raise NoSpace(f"the disk below the store is full: {capacity.available} bytes are available beside what is being written")

    @property
    def root(self) -> str:
        """The root digest of the last commit of the stores: "commit number:hex"."""
        return f"{self._state.commit}:{RecordDigest.text(self._state.total).hex()}"

    @property
    def last_commit(self) -> tuple[int, int]:
        """(number, ns since 1970) of the last commit of the stores."""
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

    @property
    def rotated(self) -> int:
        """When the keys were rotated last, ns since 1970; 0: never."""
        return self._keys.rotated

    # For check and scrub, any thread: the durable state, not what is in the groups

    def raw_records(self, after: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """Return the first `limit` (key, sealed value) with key > `after`."""
        return self._record_store.current_items(after, limit)

    def is_found(self, key: bytes) -> bool:
        """Tell whether looking up a committed record finds it, as walking past it does not prove. Raises Damaged. Owner only."""
        return self._record_store.get(key) is not None

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
        root, total = loading.root_of(self._record_store, self._keys, self._sealer, progress)
        return f"{root.commit if root is not None else 0}:{RecordDigest.text(total).hex()}"
