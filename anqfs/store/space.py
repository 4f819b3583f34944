"""How much fits. Owner's thread."""

from __future__ import annotations

import os
from typing import NamedTuple

from anqfs.store.interfaces import StoreUsage

RESERVE_MAX = 64 << 20
RESERVE_MIN = 4 << 20
"""Bytes kept for deletes: 2 % of the disk within these bounds."""
ALLOWANCE_MAX = 16 << 20


class Capacity(NamedTuple):
    """Bytes: the disk below (`total`), what is free on it or reusable in the store (`free`; `available` without the superuser's
    reserve), and what the store's live data takes (`used`)."""

    total: int
    free: int
    available: int
    used: int


def measure(store: bytes, usages: list[StoreUsage]) -> Capacity:
    """Return the capacity of the disk below a store directory with these usages."""
    disk = os.statvfs(store)
    reusable = sum(usage.reusable for usage in usages)
    return Capacity(
        total=disk.f_blocks * disk.f_frsize,
        free=disk.f_bfree * disk.f_frsize + reusable,
        available=disk.f_bavail * disk.f_frsize + reusable,
        used=sum(usage.held for usage in usages),
    )


def reserve(total: int) -> int:
    """Return the bytes of a disk of `total` bytes that only deletes may use."""
    return min(RESERVE_MAX, max(RESERVE_MIN, total // 50))


def spare(capacity: Capacity, dirty: int, pinned: int) -> int:
    """Return the bytes that may still be promised.

    Arguments: `dirty` bytes are on their way to the disk (with a share for what LMDB adds); `pinned` bytes were deleted by the last
    commits and cannot be used again before a few more.
    """
    return capacity.available - reserve(capacity.total) - dirty - dirty // 16 - pinned


def allowance(left: int) -> int:
    """Return the bytes that may be promised before looking again when `left` bytes are left."""
    return max(0, min(left // 4, ALLOWANCE_MAX))
