"""Views: numbers for a snapshot entered through a door of a directory, so that node ids into snapshots stay the same across mounts.

Called by `snapshots`. A number comes back only after 8 million others, with a new generation, and never while this mount lives. Numbers
are leased durably before they are used: an NFS client may hold one that a crash took back, and it must not lead into another snapshot.
"""

from __future__ import annotations

import errno
import logging
from typing import NamedTuple

from anqfs.errors import Damaged, FilesystemError
from anqfs.namespace.core import Core
from anqfs.namespace.nodes import BY_TIME, VIEW_MAX
from anqfs.store.schema import (
    COUNTER_VIEW,
    INO_MAX,
    Counter,
    Snapshot,
    View,
    ViewNumber,
    prefix_end,
    view_key,
    view_number_key,
)

_log = logging.getLogger(__name__)
_DAMAGED_MAX = 64
"""Records of views that may be damaged before the search for a free number ends: then it is the database, and all are."""
_TRANSIENT = 1 << 16
_NUMBERS = VIEW_MAX - _TRANSIENT
_LEASE = 1 << 16


class Entered(NamedTuple):
    """A view that is known: its snapshot, the directory through which it was entered, and whether through its `.snapshot/@GMT`."""

    snapshot: Snapshot
    entry: int
    by_time: bool
    generation: int


def _entered(snapshot: Snapshot, door: int, generation: int) -> Entered:
    return Entered(snapshot, door & INO_MAX, bool(door & BY_TIME), generation)


class Views:
    """All views. On a read-only volume new ones are numbered in memory, from the top."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._known: dict[int, Entered] = {}
        self._transient: dict[tuple[int, int], int] = {}
        self._freed: set[int] = set()
        self._next = 0
        self._leased = 0

    def lease(self) -> None:
        """Reserve numbers for this opening; the caller makes that durable before anything is numbered."""
        self._next = self._counted()
        if not self._core.volume.read_only:
            self._leased = self._next + _LEASE
            self._core.volume.put(COUNTER_VIEW, Counter(self._leased))

    def _counted(self) -> int:
        counter: Counter | None = self._core.get(COUNTER_VIEW)
        return counter.value if counter is not None else 0

    def _extended(self) -> None:
        self._leased = self._counted()

    def find(self, view: int) -> Entered:
        """Return a view. Raises ESTALE when there is none or its snapshot is gone."""
        known = self._known.get(view)
        if known is not None:
            return known
        record: View | None = self._core.get(view_key(view)) if view <= _NUMBERS else None
        snapshot = self._core.versions.by_id.get(record.snapshot) if record is not None else None
        if record is None or snapshot is None:
            raise FilesystemError(errno.ESTALE)
        entered = self._known[view] = _entered(snapshot, record.entry, record.generation)
        return entered

    def number(self, snapshot: int, door: int) -> int | None:
        """Return the number of a view if it has one. `door`: the entry directory, with BY_TIME if through `.snapshot/@GMT`.

        One whose record is damaged or gone has none any more: its nodes are lost, but the snapshot is entered under another number.
        """
        transient = self._transient.get((snapshot, door))
        if transient is not None:
            return transient
        try:
            record: ViewNumber | None = self._core.get(view_number_key(snapshot, door))
            if record is not None and record.view not in self._known and self._core.get(view_key(record.view)) is None:
                raise Damaged(f"view {record.view} is missing")
        except Damaged as error:
            _log.error("a view of snapshot %d gets another number: %s", snapshot, error)
            return None
        return None if record is None else record.view

    def allocate(self, snapshot: Snapshot, door: int) -> int:
        """Number a view, inside an operation. Half of a lease is left when the next one is written.

        Raises ENOSPC when all are taken, Damaged when not even a free one can be told.
        """
        core, damaged = self._core, 0
        for each in range(self._next, self._next + _NUMBERS):
            view = each % _NUMBERS + 1
            try:
                free = view not in self._freed and core.get(view_key(view)) is None
            except Damaged:
                free, damaged = False, damaged + 1
                if damaged > _DAMAGED_MAX:
                    raise
            if free:
                if self._leased - each < _LEASE // 2:
                    core.volume.put(COUNTER_VIEW, Counter(max(self._leased, each) + _LEASE))
                    core.after.append(self._extended)
                self._next = each + 1
                core.volume.put(view_key(view), View(snapshot.id, door, each // _NUMBERS))
                core.volume.put(view_number_key(snapshot.id, door), ViewNumber(view))
                return view
        raise FilesystemError(errno.ENOSPC, "all view numbers are taken")

    def allocate_transient(self, snapshot: Snapshot, door: int) -> int:
        """Number a view for this mount only, because nothing can be written. Raises ENOSPC when all are taken."""
        if len(self._transient) >= _TRANSIENT:
            raise FilesystemError(errno.ENOSPC, "all view numbers are taken")
        view = VIEW_MAX - len(self._transient)
        self._transient[snapshot.id, door] = view
        self._known[view] = _entered(snapshot, door, 0)
        return view

    def forget(self, snapshot: int) -> None:
        """A snapshot's deletion began: its views are stale from now on."""
        for view in [view for view, known in self._known.items() if known.snapshot.id == snapshot]:
            del self._known[view]

    def refresh(self, snapshot: Snapshot) -> None:
        """A snapshot's record changed."""
        for view, known in self._known.items():
            if known.snapshot.id == snapshot.id:
                self._known[view] = known._replace(snapshot=snapshot)

    def remove(self, snapshot: int, limit: int) -> bool:
        """Remove up to `limit` views of a snapshot. Returns whether there are more."""
        core = self._core
        prefix = view_number_key(snapshot, 0)[:9]
        for count, key in enumerate(core.volume.scan_keys(prefix, prefix_end(prefix))):
            if count >= limit:
                return True
            self._remove(key)
        return False

    def _remove(self, key: bytes) -> None:
        """Remove one view by its index entry. Of a damaged entry nobody knows the number: that is never free again."""
        volume = self._core.volume
        try:
            record: ViewNumber | None = self._core.get(key)
        except Damaged as error:
            _log.error("a view stays, its number is lost: %s", error)
            record = None
        if record is not None:
            volume.delete(view_key(record.view))
            self._freed.add(record.view)
        volume.delete(key)
