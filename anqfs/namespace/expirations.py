"""When snapshots expire: a heap of those that do, so that the next one is known at once among 40,000. Trio thread."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from heapq import heapify, heappop, heappush

from anqfs.namespace.versions import Versions
from anqfs.store.schema import Snapshot


class Expirations:
    """The snapshots that expire, the first of them first. Entries of snapshots that are gone or changed are dropped when they come up."""

    def __init__(self, versions: Versions, is_held: Callable[[int], bool]) -> None:
        """`versions` knows the present snapshots. A held one does not expire: whoever releases it adds it again."""
        self._versions = versions
        self._is_held = is_held
        self._heap: list[tuple[int, int]] = []

    def load(self, snapshots: Iterable[Snapshot]) -> None:
        """Begin with these snapshots."""
        self._heap = [(one.expires, one.id) for one in snapshots if one.expires]
        heapify(self._heap)

    def add(self, snapshot: Snapshot) -> None:
        """Take in a snapshot that is new, or expires at another time, or is not held any more."""
        if len(self._heap) > 2 * len(self._versions.live) + 1000:
            self.load(self._versions.live)
        if snapshot.expires:
            heappush(self._heap, (snapshot.expires, snapshot.id))

    def next(self) -> int | None:
        """Return when the next snapshot expires, ns since 1970; None when none does."""
        top = self._top()
        return top[0] if top is not None else None

    def expired(self, now: int) -> int | None:
        """Return the id of a snapshot that has expired; None when there is none."""
        top = self._top()
        return top[1] if top is not None and top[0] <= now else None

    def _top(self) -> tuple[int, int] | None:
        while self._heap:
            expires, number = self._heap[0]
            snapshot = self._versions.by_id.get(number)
            if snapshot is not None and snapshot.expires == expires and not self._is_held(number):
                return self._heap[0]
            heappop(self._heap)
        return None
