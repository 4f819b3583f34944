"""Which parts of a file differ between two trees, in blocks of 4 KiB. Called by `diff` and the daemon, trio thread.

Compared are the maps, not the data: a block differs if it is not the same bytes of the same extent. So it costs what changed, nothing is
read, and a block that was rewritten with what it held counts as changed; `exact` reads both and leaves such blocks out. Windows below
WINDOWS_UNRECORDED are all looked at, of those above only the ones that the change index names.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, pairwise
from typing import TYPE_CHECKING, NamedTuple

from anqfs.errors import NotFound
from anqfs.namespace.trees import Tree
from anqfs.namespace.windows import end_of
from anqfs.store.schema import WINDOW, WINDOWS_UNRECORDED, Inode, Window

if TYPE_CHECKING:
    from anqfs.namespace.namespace import Namespace

BLOCK = 4096
_BLOCKS = WINDOW // BLOCK
_WINDOWS = 1 << 43
_AT_ONCE = 256
Segment = tuple[int, int, object]
"""start and end in a window, and what is there: equal things at equal places hold equal bytes."""


class Region(NamedTuple):
    """A part of a file that differs. `op`: CREATE (data that was not there), MODIFY, DELETE (a hole now, or behind the end)."""

    op: str
    offset: int
    size: int


class FileRegions:
    """The comparison of one file in two trees, to be taken in parts. `after`: regions that end at or before it are left out."""

    def __init__(self, namespace: Namespace, old: Tree, new: Tree, ino: int, *, after: int = 0, exact: bool = False) -> None:
        self._namespace = namespace
        self._old_tree, self._new_tree = old, new
        self._ino = ino
        self._old = old.inode(ino) if old.shows(ino) else None
        found = new.inode(ino) if new.shows(ino) else None
        if found is None:
            raise NotFound(f"inode {ino} is not in the newer of the two")
        self._new: Inode = found
        self._after = after
        self._exact = exact
        self._numbers = self._candidates(after // WINDOW)
        self._open: Region | None = None
        self.finished = False

    def take(self, limit: int, budget: int = 256) -> list[Region]:
        """Return up to about `limit` more regions, after looking at `budget` windows at most. `finished` tells whether that was all."""
        found: list[Region] = []
        for _ in range(budget):
            if len(found) >= limit:
                return found
            number = next(self._numbers, None)
            if number is None:
                self.finished = True
                if self._open is not None:
                    found.append(self._open)
                return found
            for region in self._window(number):
                found += self._joined(region)
        return found

    def _joined(self, region: Region) -> list[Region]:
        """Join a region to the one before it, or return that one."""
        before = self._open
        if before is not None and before.op == region.op and before.offset + before.size == region.offset:
            self._open = before._replace(size=before.size + region.size)
            return []
        self._open = region
        return [] if before is None else [before]

    # --- which windows

    def _candidates(self, first: int) -> Iterator[int]:
        old, new = self._old, self._new
        core = self._namespace.core
        epoch = self._old_tree.epoch
        if old is None or epoch is None or not core.changes.is_whole_since(epoch) or old.cut_epoch != new.cut_epoch:
            return self._present(first, _WINDOWS)
        low = self._present(first, WINDOWS_UNRECORDED)
        high = core.changes.between(self._ino, epoch, self._new_tree.epoch, max(first, WINDOWS_UNRECORDED) - 1)
        return chain(low, high)

    def _present(self, first: int, stop: int) -> Iterator[int]:
        """Yield the numbers of the windows that either tree has."""
        while first < stop:
            old = self._old_tree.window_numbers(self._ino, first, stop, _AT_ONCE) if self._old is not None else []
            new = self._new_tree.window_numbers(self._ino, first, stop, _AT_ONCE)
            ends = [numbers[-1] for numbers in (old, new) if len(numbers) == _AT_ONCE]
            last = min(ends) if ends else stop
            yield from sorted({number for number in (*old, *new) if number <= last})
            first = last + 1

    # --- one window

    def _window(self, number: int) -> Iterator[Region]:
        old = None if self._old is None else self._old_tree.window(self._ino, self._old, number)
        new = self._new_tree.window(self._ino, self._new, number)
        if old is not None and new is not None and old.birth == new.birth:
            return
        changed = self._changed_blocks(number, old, new)
        if self._exact:
            self._leave_out_equal(changed, number, old, new)
        was, has = _blocks_with_data(old), _blocks_with_data(new)
        base = number * WINDOW
        block = max(0, -((base - self._after) // BLOCK))
        while block < _BLOCKS:
            if not changed[block]:
                block = changed.find(1, block)
                if block < 0:
                    return
            first, op = block, _op(was[block], has[block])
            while block < _BLOCKS and changed[block] and _op(was[block], has[block]) == op:
                block += 1
            size = self._size(op, base + first * BLOCK, base + block * BLOCK)
            if size > 0:
                yield Region(op, base + first * BLOCK, size)

    def _size(self, op: str, start: int, end: int) -> int:
        limit = self._new.size if op != "DELETE" else max(self._new.size, 0 if self._old is None else self._old.size)
        return min(end, limit) - start

    def _changed_blocks(self, number: int, old: Window | None, new: Window | None) -> bytearray:
        """Return a byte for each block: 1 where the maps differ. Beyond the new end only whole blocks count."""
        changed = bytearray(_BLOCKS)
        end = max(0, self._new.size - number * WINDOW)
        for start, stop in _differences(_segments(old), _segments(new)):
            for low, high in ((start, min(stop, end)), (max(start, -(-end // BLOCK) * BLOCK), stop)):
                if low < high:
                    first, last = low // BLOCK, -(-high // BLOCK)
                    changed[first:last] = b"\1" * (last - first)
        return changed

    def _leave_out_equal(self, changed: bytearray, number: int, old: Window | None, new: Window | None) -> None:
        """Take back the blocks that hold the same up to the new end of the file."""
        if 1 not in changed:
            return
        files, end = self._namespace.files, self._new.size - number * WINDOW
        sides = [b"" if window is None else bytes(files.content(window)[: max(end, 0)]) for window in (old, new)]
        for block in range(min(_BLOCKS, -(-end // BLOCK))):
            one, other = (side[block * BLOCK : (block + 1) * BLOCK].ljust(BLOCK, b"\0") for side in sides)
            if changed[block] and one == other:
                changed[block] = 0


def _op(was: int, has: int) -> str:
    if has:
        return "MODIFY" if was else "CREATE"
    return "DELETE"


def _segments(window: Window | None) -> list[Segment]:
    if window is None:
        return []
    if window.pieces:
        return [(at, at + length, (extent, key, start - at)) for at, length, extent, start, key in window.pieces]
    return [(0, len(window.inline), window.inline)] if window.inline else []


def _differences(old: list[Segment], new: list[Segment]) -> Iterator[tuple[int, int]]:
    """Yield the ranges in which two sorted lists of segments differ."""
    bounds = sorted({bound for start, end, _ in (*old, *new) for bound in (start, end)})
    a = b = 0
    for start, end in pairwise(bounds):
        while a < len(old) and old[a][1] <= start:
            a += 1
        while b < len(new) and new[b][1] <= start:
            b += 1
        one = old[a][2] if a < len(old) and old[a][0] <= start else None
        other = new[b][2] if b < len(new) and new[b][0] <= start else None
        if one != other:
            yield start, end


def _blocks_with_data(window: Window | None) -> bytearray:
    blocks = bytearray(_BLOCKS)
    if window is not None:
        pieces = window.pieces or ((0, end_of(window), 0, 0, 0),)
        for at, length, *_ in pieces:
            first, last = at // BLOCK, -(-(at + length) // BLOCK)
            blocks[first:last] = b"\1" * (last - first)
    return blocks
