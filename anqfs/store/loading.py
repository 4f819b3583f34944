"""What an opened volume goes on from: sealing keys, the root digest, the next extent id, extents to delete. Owner's thread, at open.

Nothing is written, so a full or read-only disk opens too, and nothing is scanned but `K`, `F` and the extents that a crash left.
A damaged record of these is told in the log and costs only what it held: it must not keep everything else from being read.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

from anqfs.crypto.digest import RecordDigest
from anqfs.crypto.sealing import RecordSealer
from anqfs.errors import Damaged
from anqfs.store.codec import decode
from anqfs.store.interfaces import ExtentStore, RecordStore
from anqfs.store.keys import VolumeKeys
from anqfs.store.schema import COUNTER_EXTENT, ROOT_DIGEST, Counter, Frees, Record, RootDigest, SealingKey
from anqfs.store.writer import WriterState

_log = logging.getLogger(__name__)
_SLICE = 1024


def sealing_keys(records: RecordStore, keys: VolumeKeys) -> None:
    """Teach `keys` every committed sealing key."""
    for key, value in _all_of(records, b"K"):
        number = int.from_bytes(key[1:], "big")
        try:
            record = decode(key, value)
        except Damaged as damage:
            _log.error("what was sealed with sealing key %d cannot be opened: %s", number, damage)
            record = None
        keys.learn(number, record if isinstance(record, SealingKey) else None)


def writer_state(records: RecordStore, extents: ExtentStore, keys: VolumeKeys, sealer: RecordSealer) -> tuple[WriterState, int]:
    """Return what the writer goes on from and the next extent id."""
    state = WriterState()
    _load_frees(records, sealer, state)
    _load_root(records, keys, sealer, state)
    return state, _load_extents(records, extents, sealer, state)


def root_of(
    records: RecordStore, keys: VolumeKeys, sealer: RecordSealer, progress: Callable[[int], None] | None = None
) -> tuple[RootDigest | None, int]:
    """Return the stored root digest (None when missing or damaged) and the sum computed anew. Reads every record; any thread.

    `progress` is told the number of records done. Nothing may be committed meanwhile, or the sum mixes two states.
    """
    digest = RecordDigest(keys.digest_key)
    total, count, after, root = 0, 0, b"", None
    while items := records.current_items(after, _SLICE):
        total += sum(digest.of(key, sealed) for key, sealed in items if key[:1] != b"K" and key != ROOT_DIGEST)
        root = next((sealed for key, sealed in items if key == ROOT_DIGEST), root)
        after = items[-1][0]
        count += len(items)
        if progress is not None:
            progress(count)
    stored = _opened(sealer, ROOT_DIGEST, root)
    return (stored if isinstance(stored, RootDigest) else None), total


def _load_frees(records: RecordStore, sealer: RecordSealer, state: WriterState) -> None:
    for key, value in _all_of(records, b"F"):
        state.next_frees = int.from_bytes(key[1:], "big") + 1
        try:
            frees = decode(key, sealer.open(key, value))
        except Damaged as damage:
            _log.error("some extents to delete are not known any more: %s", damage)
            continue
        if isinstance(frees, Frees):
            state.frees.extend(frees.extents)
            state.frees_keys.append(key)


def _load_root(records: RecordStore, keys: VolumeKeys, sealer: RecordSealer, state: WriterState) -> None:
    root = _load(records, sealer, ROOT_DIGEST)
    if isinstance(root, RootDigest):
        state.commit, state.time, state.total = root.commit, root.time, RecordDigest.number(root.digest)
    elif records.keys(b"", b"\xff", 1):
        _log.error("the root digest is missing or damaged; it is computed anew")
        _, state.total = root_of(records, keys, sealer)


def _load_extents(records: RecordStore, extents: ExtentStore, sealer: RecordSealer, state: WriterState) -> int:
    """Note the extents of a group whose records never became durable; returns the next id, which is above all there are."""
    last = extents.last_id()
    counter = _load(records, sealer, COUNTER_EXTENT)
    if isinstance(counter, Counter):
        first = counter.value
    elif records.keys(b"", b"\xff", 1):
        _log.error("the extent counter is missing or damaged; extents that a crash left are kept")
        first = last + 1
    else:
        first = 1
    after = first - 1
    while after < last:
        garbage = extents.current_ids(after, _SLICE)
        if not garbage:
            break
        state.frees.extend(garbage)
        after = garbage[-1]
    return max(first, last + 1)


def _load(records: RecordStore, sealer: RecordSealer, key: bytes) -> Record | None:
    return _opened(sealer, key, records.get(key))


def _opened(sealer: RecordSealer, key: bytes, sealed: bytes | None) -> Record | None:
    if sealed is None:
        return None
    try:
        return decode(key, sealer.open(key, sealed))
    except Damaged as damage:
        _log.error("%s", damage)
        return None


def _all_of(records: RecordStore, letter: bytes) -> Iterator[tuple[bytes, bytes]]:
    start, stop = letter, bytes((letter[0] + 1,))
    while items := records.items(start, stop, _SLICE):
        yield from items
        start = items[-1][0] + b"\0"
