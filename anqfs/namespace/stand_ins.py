"""What stands in for a record on which everything else depends, when it is missing or damaged. `core` asks on opening, trio thread.

Of the root directory's inode nothing is made up that counts: the names in the root are records of their own, and snapshots need no more of
the live root than that it is there. What stands in for it is what the newest older version says that a snapshot keeps, or else 0755 of
root with times of 0; its nlink is 1 (not counted) and its size 0. It is never written, neither as the live record nor for a snapshot: what
would change the root itself answers EIO (`Core.put_rearranged`), and `check` and `scrub` go on naming `/`.

A counter goes on above every number that is in use and not below the seconds since 1970: no counter moves on by one a second for years, so
that it is above what was handed out and is gone by now, too. That is what an epoch needs, or snapshots would not keep what they show.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from itertools import chain, islice
from stat import S_IFDIR, S_ISDIR

from anqfs.errors import Damaged
from anqfs.namespace import acl
from anqfs.store.administration import COUNTER_HOLD, COUNTER_POLICY, COUNTER_SECURITY_KEY
from anqfs.store.schema import (
    COUNTER_DEAD,
    COUNTER_EPOCH,
    COUNTER_INO,
    COUNTER_SNAPSHOT,
    COUNTER_VIEW,
    EPOCH_MAX,
    HAS_ACCESS_ACL,
    HAS_DEFAULT_ACL,
    HAS_XATTRS,
    ROOT_INO,
    Counter,
    Inode,
    Mark,
    Record,
    inode_key,
    live_key,
    past_key,
    prefix_end,
    xattr_key,
)
from anqfs.store.volume import Volume

_log = logging.getLogger(__name__)
ROOT_KEY = inode_key(ROOT_INO)
_SECOND = 10**9
_TRIED = 100
"""Inodes that are looked at for one that opens."""
_FIRST, _LAST = bytes(16), b"\xff" * 16
_LETTERS = {COUNTER_INO: b"I", COUNTER_SNAPSHOT: b"S", COUNTER_POLICY: b"P", COUNTER_SECURITY_KEY: b"Y", COUNTER_VIEW: b"V"}
"""Counters that number records whose keys are the letter and the number."""
_NUMBERED_LAST = {COUNTER_DEAD: b"L", COUNTER_HOLD: b"B"}
"""Counters that number records whose keys end in the number."""
_ALWAYS = (COUNTER_INO, COUNTER_EPOCH)
"""Counters that every volume has."""


def find(volume: Volume, clock: Callable[[], int]) -> dict[bytes, Record]:
    """Return what stands in for which records; empty on a sound volume. Each is told in the log as an error.

    `clock` tells ns since 1970. Raises Damaged for a volume that never had a tree.
    """
    root = _lost(volume, ROOT_KEY, required=True)
    if root is not None and not _has_tree(volume):
        raise Damaged(f"the volume has no root directory: {root}")
    found: dict[bytes, Record] = {}
    if root is not None:
        _log.error("the root directory's inode is lost, nothing changes in the root itself until the volume is restored: %s", root)
        found[ROOT_KEY] = _root(volume)
    for name in (*_LETTERS, *_NUMBERED_LAST, COUNTER_EPOCH):
        fault = _lost(volume, name, required=name in _ALWAYS)
        highest = None if fault is None and not _is_behind(volume, name) else _highest(volume, name)
        if highest is not None and (highest or fault):
            counter = found[name] = Counter(max(highest + 1, clock() // _SECOND))
            _log.error("the counter %s goes on from %d: %s", name[1:].decode(), counter.value, fault or "it was behind what is in use")
    return found


def _lost(volume: Volume, key: bytes, *, required: bool) -> str | None:
    """Return why there is no record; None when there is one, or when it may be missing."""
    try:
        return "its record is missing" if volume.get(key) is None and required else None
    except Damaged as error:
        return str(error)


def _has_tree(volume: Volume) -> bool:
    """Tell whether anything of a tree opens. If not, it is none of this volume's (another one's superblock) or there never was one."""
    return any(_opens(volume, key) for key in chain(_ALWAYS, islice(volume.scan_keys(b"I", prefix_end(b"I")), _TRIED)))


def _opens(volume: Volume, key: bytes) -> bool:
    try:
        return volume.get(key) is not None
    except Damaged:
        return False


# --- the root directory


def _root(volume: Volume) -> Inode:
    """Return what stands in for the root's inode. It is valid from the epoch on that follows those of its past versions."""
    keys = list(volume.scan_keys(past_key(ROOT_KEY, 0), past_key(ROOT_KEY, EPOCH_MAX)))
    birth = live_key(keys[-1])[1] + 1 if keys else 1
    past = next(_directories(volume, reversed(keys)), None)
    if past is None:
        return Inode(birth, S_IFDIR | 0o755, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, _flags(volume))
    return Inode(
        birth, past.mode, past.uid, past.gid, 1, 0, 0, past.atime, past.mtime, past.ctime, past.btime, 0, _flags(volume)
    )  # fmt: skip


def _directories(volume: Volume, keys: Iterator[bytes]) -> Iterator[Inode]:
    for key in keys:
        try:
            record = volume.get(key)
        except Damaged:
            continue
        if isinstance(record, Inode) and S_ISDIR(record.mode):
            yield record


def _flags(volume: Volume) -> int:
    """Return the flags of the root's inode by the attributes that it has, so that its ACLs hold."""
    keys = set(volume.scan_keys(xattr_key(ROOT_INO, _FIRST), xattr_key(ROOT_INO, _LAST) + b"\0"))
    flags = HAS_XATTRS if keys else 0
    for name, flag in ((acl.ACCESS, HAS_ACCESS_ACL), (acl.DEFAULT, HAS_DEFAULT_ACL)):
        if xattr_key(ROOT_INO, volume.name_hash(name)) in keys:
            flags |= flag
    return flags


# --- counters


def _is_behind(volume: Volume, name: bytes) -> bool:
    """Tell whether a sound or missing counter is not above all numbers in use, as far as that can be told at once."""
    record = volume.get(name)
    if name in _LETTERS and name != COUNTER_VIEW:
        first = record.value if isinstance(record, Counter) else 1
        return _is_used(volume, _LETTERS[name], first, 8)
    return record is None and name != COUNTER_EPOCH


def _is_used(volume: Volume, letter: bytes, first: int, size: int) -> bool:
    keys = volume.scan_keys(letter + first.to_bytes(size, "big"), prefix_end(letter))
    return next(keys, None) is not None


def _highest(volume: Volume, name: bytes) -> int:
    """Return the highest number in use that a counter handed out, 0 for none."""
    if name in _LETTERS:
        return _highest_key(volume, _LETTERS[name], 3 if name == COUNTER_VIEW else 8)
    if name in _NUMBERED_LAST:
        letter = _NUMBERED_LAST[name]
        return max((int.from_bytes(key[9:17], "big") for key in volume.scan_keys(letter, prefix_end(letter))), default=0)
    return max(_epochs(volume), default=0)


def _highest_key(volume: Volume, letter: bytes, size: int) -> int:
    low, high = 0, (1 << 8 * size) - 1
    while low < high:
        middle = (low + high + 1) // 2
        if _is_used(volume, letter, middle, size):
            low = middle
        else:
            high = middle - 1
    return low


def _epochs(volume: Volume) -> Iterator[int]:
    """Yield the epochs of all snapshots, by the index of them."""
    for key in volume.scan_keys(b"s", prefix_end(b"s")):
        try:
            mark = volume.get(key)
        except Damaged:
            continue
        if isinstance(mark, Mark):
            yield mark.epoch
