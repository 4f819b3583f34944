"""How many window versions use an extent. Called by `files`, `reclaim` and restore, inside an operation.

The count of an extent is the number of Window records, live and past, that use it, each counted once however many of its pieces do. It is
recorded (`R`) only above 1; at 0 the extent is freed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from operator import itemgetter
from typing import Any

from anqfs.store.schema import References as Count
from anqfs.store.schema import Window, references_key
from anqfs.store.volume import Volume

_extent = itemgetter(2)


def extents_of(window: Window) -> set[int]:
    """Return the extents that a window version uses."""
    return set(map(_extent, window.pieces))


class References:
    """Counts uses of extents."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._get: Callable[[bytes], Any] = volume.get

    def count(self, extent: int) -> int:
        """Return the number of window versions that use an extent known to be in use."""
        record: Count | None = self._get(references_key(extent))
        return 1 if record is None else record.count

    def share(self, extents: Iterable[int]) -> None:
        """Count one more window version for each extent. Each is in use already."""
        for extent in extents:
            self._volume.put(references_key(extent), Count(self.count(extent) + 1))

    def release(self, extents: Iterable[int]) -> None:
        """Count one window version less for each extent, and free those that no other uses."""
        for extent in extents:
            count = self.count(extent)
            if count > 2:
                self._volume.put(references_key(extent), Count(count - 1))
            elif count == 2:
                self._volume.delete(references_key(extent))
            else:
                self._volume.free_extent(extent)
