"""Extents against the windows that use them: which are missing, damaged, too short, unused, or counted wrongly.

The uses are packed into 40 bytes each and sorted, so that three sorted streams (uses, stored counts, extents) are walked side by side:
a million windows take some 100 MB. Called by `check` only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain, groupby
from struct import Struct as Packer

from anqfs.errors import AnqfsError
from anqfs.namespace.check_source import BATCH, Source
from anqfs.store.schema import EPOCH_MAX, References, Window

Complain = Callable[[bytes, str], None]
_USE = Packer(">QIIQQQ")
Use = tuple[int, int, int, int, int, int]
"""(extent, sealing key number, end of what is used of it, ino, window, last)."""
PATHS_MAX = 16
"""Files named for one damaged extent."""


class Uses:
    """The uses of extents, collected while the windows are swept."""

    def __init__(self) -> None:
        self._packed: list[bytes] = []

    def add(self, ino: int, number: int, last: int, window: Window) -> None:
        """Note which extents a window version uses. Each counts once, however many pieces it gives."""
        ends: dict[int, tuple[int, int]] = {}
        for _offset, length, extent, start, key_number in window.pieces:
            end, _ = ends.get(extent, (0, 0))
            ends[extent] = max(end, start + length), key_number
        for extent, (end, key_number) in ends.items():
            try:
                self._packed.append(_USE.pack(extent, key_number, end, ino, number, last))
            except Exception:  # numbers that no extent has; the window itself is reported as out of bounds
                self._packed.append(_USE.pack(0, 0, 0, ino, number, last))

    def by_extent(self) -> Iterator[tuple[int, list[Use]]]:
        """Yield each extent with its uses, in the order of extents."""
        self._packed.sort()
        for extent, group in groupby(map(_USE.unpack, self._packed), key=lambda use: use[0]):
            yield extent, list(group)


class Extents:
    """The walk over all extents."""

    def __init__(self, source: Source, complain: Complain, seen: Callable[[], None]) -> None:
        self.source = source
        self.complain = complain
        self.seen = seen
        self.count = self.size = self.highest = self.following = self.leftovers = 0
        self.windows_known = not any(key[:1] in b"Ww" for key in source.damaged)
        """With a window that does not open, what it used cannot be told from what nothing uses."""

    def run(self, uses: Uses, freed: set[int], following: int) -> None:
        """Judge every extent that is stored, counted or used.

        `freed` are those that the store is about to delete, and so it is with unused ones from number `following` on: a crash between
        the commit of a group's extents and that of its records leaves them.
        """
        self.following = following
        stored, counts = self.stored(), self.counts()
        extent, counted = next(stored, None), next(counts, None)
        for used, group in uses.by_extent():
            while extent is not None and extent < used:
                self.judge_unused(extent, freed)
                extent = next(stored, None)
            while counted is not None and counted[0] < used:
                self.judge_unused_count(*counted)
                counted = next(counts, None)
            if extent == used:
                self.judge_used(used, group)
                extent = next(stored, None)
            else:
                self.complain_of(group, f"extent {used} is missing")
            if counted is not None and counted[0] == used:
                self.judge_count(used, group, counted[1])
                counted = next(counts, None)
            else:
                self.judge_count(used, group, 1)
        for unused in chain([] if extent is None else [extent], stored):
            self.judge_unused(unused, freed)
        for unused_count in chain([] if counted is None else [counted], counts):
            self.judge_unused_count(*unused_count)

    def counts(self) -> Iterator[tuple[int, int | None]]:
        """Yield (extent, stored count) of each count, ascending; None for one that does not open."""
        for key, record in self.source.letter(b"R"):
            self.seen()
            yield int.from_bytes(key[1:], "big"), record.count if isinstance(record, References) else None

    def stored(self) -> Iterator[int]:
        """Yield the id of each extent in the store, ascending."""
        after = 0
        while batch := self.source.volume.raw_extent_ids(after, BATCH):
            for extent in batch:
                self.count += 1
                self.seen()
                yield extent
            after = batch[-1]

    def judge_unused(self, extent: int, freed: set[int]) -> None:
        if extent >= self.following:
            self.leftovers += 1
        elif self.windows_known and extent not in freed:
            self.complain(b"extent %d" % extent, "is used by no file")

    def judge_used(self, extent: int, group: list[Use]) -> None:
        """Open every chunk of an extent and see that all its uses lie within it."""
        self.highest = max(self.highest, extent)
        lengths: dict[int, int | str] = {}
        for use in group:
            if use[1] not in lengths:
                lengths[use[1]] = self.verify(extent, use[1])
        for key_number, length in lengths.items():
            using = [use for use in group if use[1] == key_number]
            if isinstance(length, str):
                self.complain_of(using, length)
                continue
            self.size += length
            short = [use for use in using if use[2] > length]
            if short:
                self.complain_of(short, f"it uses bytes beyond the end of extent {extent}")

    def verify(self, extent: int, key_number: int) -> int | str:
        """Return the plaintext length of an extent, or what is wrong with it."""
        try:
            return self.source.volume.verify_extent(extent, key_number)
        except AnqfsError:
            return f"extent {extent} is damaged"
        except Exception as error:
            return f"extent {extent} cannot be opened ({type(error).__name__})"

    def judge_count(self, extent: int, group: list[Use], counted: int | None) -> None:
        if self.windows_known and counted is not None and counted != len(group):
            self.complain_of(group[:1], f"extent {extent} is used {len(group)} times, but {counted} are counted")

    def judge_unused_count(self, extent: int, counted: int | None) -> None:
        if self.windows_known and counted is not None:
            self.complain(b"extent %d" % extent, f"{counted} uses are counted, but no file uses it")

    def complain_of(self, group: list[Use], what: str) -> None:
        """Report a fault once for each path that it strikes."""
        paths: dict[bytes, None] = {}
        for _extent, _key, _end, ino, _window, last in group:
            paths[self.source.describe(ino, None if last == EPOCH_MAX else last)] = None
            if len(paths) >= PATHS_MAX:
                break
        for path in paths:
            self.complain(path, what)
