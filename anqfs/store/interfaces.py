"""What the store asks of the places that hold its sealed records and extents.

The embedded implementation is `lmdb_store`. Nothing here needs a local file, and everything passed is sealed already. The *owner*
is the thread that runs the namespace; *the writer* is the one thread that makes batches; `reading` is for any other thread.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol


class StoreUsage(NamedTuple):
    """Bytes: `held` by live data, `reusable` inside the store's file without growing it."""

    held: int
    reusable: int


class Batch(Protocol):
    """One atomic, durable change, made on the writer thread. `commit` raises NoSpace or CommitFailed; nothing is changed then."""

    def commit(self) -> None:
        """Make the batch durable."""

    def abort(self) -> None:
        """Forget the batch; harmless after `commit`."""


class RecordBatch(Batch, Protocol):
    """A batch of record changes."""

    def replace(self, key: bytes, sealed: bytes) -> bytes | None:
        """Put a value and return the one it replaces."""

    def remove(self, key: bytes) -> bytes | None:
        """Remove a value and return it; None when there was none."""


class ExtentBatch(Batch, Protocol):
    """A batch of new extents and of extents to delete."""

    def put(self, extent: int, sealed: memoryview, *, sliced: bool = False) -> None:
        """Add an extent. The bytes are copied before this returns. `sliced` asks for small pieces, which fit where space is scattered."""

    def remove(self, extent: int) -> None:
        """Delete an extent if it is there."""

    def touch(self) -> None:
        """Make the batch one that changes something, so that its commit counts as one."""


class RecordStore(Protocol):
    """Sealed record values by key, in key order."""

    def get(self, key: bytes) -> bytes | None:
        """Return a value as of the last `refresh`. Owner only."""

    def items(self, start: bytes, stop: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """Return the first `limit` of the values with start <= key < stop, as of the last `refresh`. Owner only."""

    def keys(self, start: bytes, stop: bytes, limit: int) -> list[bytes]:
        """As `items`, keys only."""

    def refresh(self) -> bool:
        """See what was committed; False when a failed commit shut the store and the view stays as it is. Owner only."""

    def read_ahead(self, wanted: Callable[[], bool]) -> None:
        """Let the disk read the first records, as many as fit a small part of memory, while `wanted` says so.

        Takes as long as asking takes. Any thread.
        """

    def current_items(self, after: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """Return the first `limit` values with key > after, as of now. Any thread."""

    def begin(self) -> RecordBatch:
        """Start a batch. The writer only, one at a time."""

    def usage(self) -> StoreUsage:
        """Return the bytes it takes."""

    def grow(self, incoming: int) -> bool:
        """Prepare for `incoming` more bytes; returns whether that took something. Owner only, while no batch is open."""

    def trim(self) -> None:
        """Give back memory that only mirrors the disk. Any thread."""

    def close(self) -> None:
        """Let go of everything."""


class SealedExtent(Protocol):
    """The sealed bytes of one extent, which need not be in memory. Valid until the view ends, or the next `refresh`."""

    def __len__(self) -> int:
        """Return how many there are."""

    def read(self, start: int, target: memoryview) -> None:
        """Fill `target` from byte `start` on, waiting for the disk. Raises Damaged when the disk does not give it."""

    def expect(self, start: int, length: int) -> None:
        """Start reading a range from the disk, if that needs no wait."""

    def read_now(self, start: int, target: memoryview) -> bool:
        """Fill `target` if that needs no wait; else start reading it from the disk and return False: ask again."""


class ExtentReading(Protocol):
    """A view of the extents as of its making, for the thread that made it."""

    def find(self, extent: int) -> SealedExtent | None:
        """Return an extent; None when it is not there."""


class ExtentStore(Protocol):
    """Sealed extents by id."""

    def find(self, extent: int) -> SealedExtent | None:
        """Return an extent as of the last `refresh`; None when it is not there. Owner only."""

    def refresh(self) -> bool:
        """See what was committed; False when a failed commit shut the store and the view stays as it is. Owner only."""

    def reading(self) -> AbstractContextManager[ExtentReading]:
        """Return a context with a view of its own. Any thread."""

    def current_ids(self, after: int, limit: int) -> list[int]:
        """Return the first `limit` ids above `after`, as of now. Any thread."""

    def shed(self) -> None:
        """Give back what a batch that failed may have taken. The writer only, between batches."""

    def last_id(self) -> int:
        """Return the highest id as of the last `refresh`; 0 when there is none. Owner only."""

    def begin(self) -> ExtentBatch:
        """Start a batch. The writer only, one at a time."""

    def usage(self) -> StoreUsage:
        """Return the bytes it takes."""

    def grow(self, incoming: int) -> bool:
        """Prepare for `incoming` more bytes; returns whether that took something. Owner only, while no batch is open."""

    def trim(self) -> None:
        """Give back memory that only mirrors the disk. Any thread."""

    def close(self) -> None:
        """Let go of everything."""
