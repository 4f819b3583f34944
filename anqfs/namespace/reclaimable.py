"""What comes back when snapshots are deleted: of any set of them, exactly. In bounded steps, on the trio thread; nothing is changed.

The answer is in the dead lists. A past version is freed when all snapshots that show it are deleted, so those of the set's dead lists are
looked at that no snapshot outside of the set shows. What counts are bytes of file data: an extent, as long as it was written, when every
window version that uses it is freed (clones and packed small files share extents: the last user frees one), and the data that small files
have in their records. Not counted: the records themselves (`records` tells how many of file maps), tags and the store's own overhead.
Snapshots whose deletion has begun are as good as gone: what comes back by them alone is not counted, what waits to be passed on is.

All snapshots together give the capacity that only snapshots hold.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from anqfs.errors import NotFound
from anqfs.namespace.references import extents_of
from anqfs.store.schema import EPOCH_MAX, Dead, Snapshot, Window, dead_key, live_key

if TYPE_CHECKING:
    from anqfs.namespace.namespace import Namespace

_WINDOWS = ord("w")


class Freed(NamedTuple):
    """What a deletion gives back: bytes of file data, the extents that hold them, and versions of file maps."""

    bytes: int = 0
    extents: int = 0
    records: int = 0


class Reclaimable:
    """One such question. `snapshots`: ids, None for all. Raises NotFound. `freed` is the answer once `step` returned False."""

    def __init__(self, namespace: Namespace, snapshots: Iterable[int] | None = None) -> None:
        self._core = namespace.core
        versions = self._core.versions
        chosen = {each.id: each for each in (versions.live if snapshots is None else map(namespace.snapshot, snapshots))}
        self._chosen = chosen
        self._deleting = namespace.snapshots_in_deletion()
        self._others = [each for each in versions.live if each.id not in chosen]
        self._epochs = [each.epoch for each in self._others]
        self._chosen_by_epoch = sorted(chosen.values(), key=lambda each: each.epoch)
        self._chosen_epochs = [each.epoch for each in self._chosen_by_epoch]
        self._shared: dict[int, list[int]] = {}
        """Extents in use more than once -> [uses that go with the set, uses that go anyway]."""
        self._shows: dict[tuple[int, int], bool] = {}
        self._bytes = self._extents = self._records = 0
        self._work = self._run()
        self.freed: Freed | None = None

    def step(self, budget: int = 1024) -> bool:
        """Look at up to `budget` records; return whether there are more. Raises NotFound when one of the set was deleted meanwhile."""
        if self.freed is not None:
            return False
        if any(number not in self._core.versions.by_id for number in self._chosen):
            raise NotFound("a snapshot was deleted while it was looked at: ask again")
        for _ in range(budget):
            if next(self._work, None) is None:
                self.freed = self._total()
                return False
        return True

    def _run(self) -> Iterator[bool]:
        for number in (*self._chosen, *self._deleting):
            for _, record in self._core.volume.scan(dead_key(number, 0), dead_key(number, EPOCH_MAX)):
                if isinstance(record, Dead) and record.key[0] == _WINDOWS:
                    self._judge(record)
                yield True

    def _judge(self, dead: Dead) -> None:
        window = self._core.get(dead.key)
        if not isinstance(window, Window):
            return
        last = live_key(dead.key)[1]
        if self._is_shown(dead.ino, window.birth, last, self._others, self._epochs):
            return
        anyway = bool(self._deleting) and not self._is_shown(dead.ino, window.birth, last, self._chosen_by_epoch, self._chosen_epochs)
        if not anyway:
            self._records += 1
            self._bytes += len(window.inline)
        for extent in extents_of(window) if window.pieces else ():
            if self._core.references.count(extent) > 1:
                self._shared.setdefault(extent, [0, 0])[anyway] += 1
            elif not anyway:
                self._free(extent)

    def _is_shown(self, ino: int, birth: int, last: int, snapshots: list[Snapshot], epochs: list[int]) -> bool:
        """Tell whether one of the snapshots shows a version."""
        for at in range(bisect_right(epochs, last) - 1, -1, -1):
            snapshot = snapshots[at]
            if snapshot.epoch < birth:
                return False
            place = (ino, snapshot.epoch)
            shown = self._shows.get(place)
            if shown is None:
                if len(self._shows) >= 1 << 16:
                    self._shows.clear()
                shown = self._shows[place] = self._core.versions.visible(ino, snapshot.epoch, snapshot.root, last)
            if shown:
                return True
        return False

    def _free(self, extent: int) -> None:
        self._extents += 1
        self._bytes += self._core.volume.extent_length(extent)

    def _total(self) -> Freed:
        for extent, (with_set, anyway) in self._shared.items():
            count = self._core.references.count(extent)
            if with_set and with_set + anyway == count:
                self._free(extent)
        self._shared.clear()
        return Freed(self._bytes, self._extents, self._records)


def reclaimable(namespace: Namespace, snapshots: Iterable[int] | None = None) -> Freed:
    """Return the answer in one go. Raises NotFound."""
    question = Reclaimable(namespace, snapshots)
    while question.step():
        pass
    assert question.freed is not None
    return question.freed
