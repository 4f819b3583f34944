"""The writer: the one thread that seals transaction groups and makes them durable.

The owner hands a group over with `submit`; from then on nobody changes it. At most one group is being written (`closing`) and one waits
(`queued`); what the owner commits meanwhile is added to the one that waits. First the group's extents are committed, together with the
deletion of extents whose freeing was made durable by an earlier group; then its records, with the ids of the extents it frees. So after
a crash at any point, what records refer to is there, and what nobody refers to is found again when the volume is opened.

A small group that somebody waits for goes to the intent log, which is much quicker, and to the stores together with the next group that
goes there.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

from anqfs.crypto.digest import RecordDigest
from anqfs.crypto.sealing import SEALED_EXTENT_MAX, RecordSealer, SealerCache
from anqfs.errors import AnqfsError, CommitFailed, NoSpace
from anqfs.store.codec import encode
from anqfs.store.group import Group
from anqfs.store.intent_log import IntentLog
from anqfs.store.interfaces import ExtentStore, RecordStore
from anqfs.store.keys import VolumeKeys
from anqfs.store.schema import ROOT_DIGEST, Frees, RootDigest

_log = logging.getLogger(__name__)
EXTENT_BATCH = 32 << 20
"""Bytes of extents after which they are committed, so that LMDB does not hold a whole group once more in memory."""
_FREES_IN_RECORD = 2048
_YIELD_EVERY = 16
_TURN = 0.0001
"""Seconds for which the writer runs before it offers the interpreter lock; it looks at the clock after _YIELD_EVERY records."""
_PINNING_COMMITS = 3
"""Commits after which LMDB uses deleted pages again, with the owner's read transaction behind by one."""


def sealing_key_key(number: int) -> bytes:
    """Return the key of a `K` record."""
    return b"K" + number.to_bytes(4, "big")


def frees_key(number: int) -> bytes:
    """Return the key of an `F` record."""
    return b"F" + number.to_bytes(8, "big")


class _Courtesy:
    """Offers the interpreter lock to the owner, who has requests to answer, and sees to it that the writer gets half of the time."""

    def __init__(self) -> None:
        self._next = time.perf_counter() + _TURN

    def offer(self) -> None:
        """Let the owner run if the writer had its turn. How long the owner then keeps the lock, so long is the writer's next turn."""
        now = time.perf_counter()
        if now >= self._next:
            time.sleep(0)
            back = time.perf_counter()
            self._next = back + max(_TURN, back - now)


class WriterState:
    """What the writer goes on from: the last durable commit and the extents that it must delete with the next one."""

    def __init__(self) -> None:
        self.commit = 0
        self.total = 0
        """The root digest as a number."""
        self.time = 0
        self.next_frees = 0
        """Number of the next `F` record."""
        self.frees: list[int] = []
        """Extents nobody refers to, durably so."""
        self.frees_keys: list[bytes] = []
        """Keys of the `F` records that hold them."""


ExtentItem = tuple[int, tuple[bytes | bytearray | memoryview, int]]


def _batches(group: Group) -> Iterator[list[ExtentItem]]:
    """Yield the group's extents in batches of about EXTENT_BATCH bytes; at least one batch, be it empty."""
    batch: list[ExtentItem] = []
    size = 0
    for item in group.extents.items():
        if size >= EXTENT_BATCH:
            yield batch
            batch, size = [], 0
        batch.append(item)
        size += len(item[1][0])
    yield batch


class Writer:
    """Owns all write transactions of one volume."""

    def __init__(
        self,
        records: RecordStore,
        extents: ExtentStore,
        log: IntentLog,
        keys: VolumeKeys,
        state: WriterState,
        sealer: RecordSealer,
        sealers: SealerCache,
        counters: dict[str, int],
        after_commit: Callable[[], None],
    ) -> None:
        self._records = records
        self._extents = extents
        self._intent_log = log
        self._logged = Group()
        """What was logged since the stores' last commit, put together."""
        self._keys = keys
        self._digest = RecordDigest(keys.digest_key)
        self._sealer = sealer
        self._sealers = sealers
        self._after_commit = after_commit
        self._buffer = bytearray(SEALED_EXTENT_MAX)
        self._wake = threading.Condition()
        self._stopping = False
        self.state = state
        self.counters = counters
        self.closing: Group | None = None
        self.queued: Group | None = None
        self.finished = 0
        """Groups settled so far; the owner looks at it to know when to look at its groups."""
        self.stored = 0
        """Commits of the stores so far."""
        self.idle_since = time.monotonic()
        """Monotonic time at which the last group was settled."""
        self.failed: AnqfsError | None = None
        self._freed: deque[int] = deque(maxlen=_PINNING_COMMITS)
        self._thread = threading.Thread(target=self._run, name="anqfs-writer", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def busy(self) -> bool:
        """Whether a group is being written or waits to be."""
        return self.closing is not None or self.queued is not None

    @property
    def pinned(self) -> int:
        """Bytes of deleted extents that LMDB cannot use again before some more commits, about."""
        return sum(self._freed)

    @property
    def will_have_frees(self) -> bool:
        """Whether extents wait to be deleted once the group being written, or the one that waits, is durable."""
        closing, queued = self.closing, self.queued
        return (closing is not None and bool(closing.frees)) or (queued is not None and bool(queued.frees))

    @property
    def has_frees(self) -> bool:
        """Whether extents wait to be deleted."""
        return bool(self.state.frees)

    def submit(self, group: Group) -> Group:
        """Hand over a group, or add it to the one that waits; returns the group whose ticket counts. Owner only."""
        with self._wake:
            if self.queued is not None:
                self.queued.absorb(group)
                return self.queued
            self.queued = group
            self._wake.notify_all()
            return group

    def stop(self) -> None:
        """Let the writer finish what was submitted, and join it. Harmless when done before."""
        with self._wake:
            self._stopping = True
            self._wake.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        self.counters["writer_thread"] = threading.get_native_id()
        while True:
            with self._wake:
                while self.queued is None and not self._stopping:
                    self._wake.wait()
                group, self.queued = self.queued, None
                if group is None:
                    return
                self.closing = group
            self._settle(group, self._write(group))

    def _write(self, group: Group) -> AnqfsError | None:
        if self.failed is not None:
            return self.failed
        try:
            self._commit(group)
        except AnqfsError as error:
            _log.error("a transaction group could not be made durable, the volume is read-only from now on: %s", error)
            return error
        except Exception as error:
            _log.exception("a transaction group could not be made durable, the volume is read-only from now on")
            return CommitFailed(f"a transaction group could not be made durable: {error!r}")
        return None

    def _settle(self, group: Group, error: AnqfsError | None) -> None:
        with self._wake:
            if error is not None:
                self.failed = error
            self.closing = None
            self.idle_since = time.monotonic()
            self.finished += 1
        group.ticket.settle(error)
        if not group.logged:
            self._after_commit()

    def _commit(self, group: Group) -> None:
        if group.to_log and self._log(group):
            group.logged = True
        else:
            self._store(self._with_logged(group))
            self._logged = Group()
            self._intent_log.restart()
            self.stored += 1
            group.stored = True

    def _log(self, group: Group) -> bool:
        """Make a group durable in the intent log, if it takes it. It needs its sealing keys there before it, in the record store."""
        if self._keys.undurable() or not self._intent_log.append(self.state.commit, group):
            return False
        self._logged.absorb(group)
        self.counters["groups_logged"] += 1
        self.counters["fsyncs"] += 1
        return True

    def _with_logged(self, group: Group) -> Group:
        """Return what the stores have to take in with a group: what was logged before, and the group."""
        if self._logged.empty:
            return group
        self._logged.absorb(group)
        return self._logged

    def _store(self, group: Group) -> None:
        """Make a group durable in the stores."""
        state = self.state
        applied, frees = state.frees_keys, state.frees
        if group.extents or frees or group.touch:
            held = self._extents.usage().held
            written = self._commit_extents(group, frees)
            self._freed.append(max(0, held + written - self._extents.usage().held) if frees else 0)
            state.frees = []
        try:
            self._commit_records(group, applied)
        except NoSpace:
            if not self._intent_log.shed():
                raise
            self._commit_records(group, applied)
        self.counters["commits"] += 1

    def _commit_extents(self, group: Group, frees: list[int]) -> int:
        """Delete `frees` and write the group's extents, durably; returns the sealed bytes written."""
        written = 0
        for items in _batches(group):
            try:
                written += self._write_batch(items, frees, touch=group.touch, sliced=False)
            except NoSpace:
                self._intent_log.shed()
                self._extents.shed()
                self.counters["sliced_batches"] += 1
                written += self._write_batch(items, frees, touch=group.touch, sliced=True)
            self.counters["extents_freed"] += len(frees)
            frees = []
        return written

    def _write_batch(self, items: list[ExtentItem], frees: list[int], *, touch: bool, sliced: bool) -> int:
        """Commit some extents. When there is no room for whole ones in one place, `sliced` ones may still fit."""
        written = 0
        batch = self._extents.begin()
        try:
            if touch:
                batch.touch()
            for extent in frees:
                batch.remove(extent)
            with memoryview(self._buffer) as view:
                for extent, (data, number) in items:
                    used = self._sealers.get(number).seal_into(extent, data, view)
                    with view[:used] as sealed:
                        batch.put(extent, sealed, sliced=sliced)
                    written += used
            batch.commit()
        finally:
            batch.abort()
        self.counters["fsyncs"] += 1
        self.counters["extents_written"] += len(items)
        self.counters["bytes_written"] += written
        return written

    def _commit_records(self, group: Group, applied: list[bytes]) -> None:
        sealer, state = self._sealer, self.state
        if sealer.number != self._keys.current:
            sealer.use(self._keys.current)
        new_keys = self._keys.undurable()
        now = time.time_ns()
        batch = self._records.begin()
        try:
            for number, sealing_key in new_keys.items():
                batch.replace(sealing_key_key(number), encode(sealing_key))
            total = state.total
            courtesy = _Courtesy()
            term, seal, replace, remove = self._digest.of, sealer.seal, batch.replace, batch.remove
            for done, (key, record) in enumerate(group.records.items(), 1):
                if not done % _YIELD_EVERY:
                    courtesy.offer()
                if record is None:
                    old = remove(key)
                else:
                    sealed = seal(key, encode(record))
                    old = replace(key, sealed)
                    total += term(key, sealed)
                if old is not None:
                    total -= term(key, old)
            for key in applied:
                old = remove(key)
                if old is not None:
                    total -= term(key, old)
            frees_keys = []
            for key, frees in self._frees_records(group.frees):
                sealed = seal(key, encode(frees))
                old = replace(key, sealed)
                total += term(key, sealed) - (term(key, old) if old is not None else 0)
                frees_keys.append(key)
            digest = self._digest.text(total)
            root = RootDigest(state.commit + 1, digest, now)
            replace(ROOT_DIGEST, seal(ROOT_DIGEST, encode(root)))
            batch.commit()
        finally:
            batch.abort()
        self._keys.durable(new_keys)
        state.commit, state.total, state.time = root.commit, self._digest.number(digest), now
        state.frees, state.frees_keys = group.frees, frees_keys
        state.next_frees += len(frees_keys)
        self.counters["fsyncs"] += 1
        self.counters["records_written"] += len(group.records)

    def _frees_records(self, frees: list[int]) -> Iterator[tuple[bytes, Frees]]:
        for at, start in enumerate(range(0, len(frees), _FREES_IN_RECORD)):
            yield frees_key(self.state.next_frees + at), Frees(tuple(frees[start : start + _FREES_IN_RECORD]))
