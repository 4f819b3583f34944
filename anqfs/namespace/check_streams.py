"""Two small tools of `check_families`: one kind of records in key order, and sums over versions by epoch."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from itertools import accumulate

from anqfs.namespace.check_source import Source, Version
from anqfs.store.schema import EPOCH_MAX, INO_MAX, Record


class Stream:
    """One letter's records in key order, with a look at the next one."""

    def __init__(self, source: Source, letter: bytes, seen: Callable[[], None]) -> None:
        self._records = source.letter(letter)
        self._seen = seen
        self.head: tuple[bytes, Record | None] | None = next(self._records, None)

    @property
    def ino(self) -> int:
        """The inode of the next record; above any real one at the end."""
        return INO_MAX + 1 if self.head is None else int.from_bytes(self.head[0][1:9], "big")

    def take(self, prefix: bytes) -> Iterator[tuple[bytes, Record | None]]:
        """Yield and consume the records whose keys begin with `prefix`."""
        while self.head is not None and self.head[0].startswith(prefix):
            yield self.pop()

    def pop(self) -> tuple[bytes, Record | None]:
        """Consume and return the next record."""
        assert self.head is not None
        head, self.head = self.head, next(self._records, None)
        self._seen()
        return head


class Tally:
    """Sums over records by epoch: what was valid at the end of each past version of one inode."""

    def __init__(self, versions: list[Version]) -> None:
        self._epochs = sorted(last for _, last, _ in versions if last != EPOCH_MAX)
        self._steps = [0] * (len(self._epochs) + 1)
        self._sums: list[int] = []
        self._hidden = False

    def add(self, birth: int, last: int, amount: int) -> None:
        """Count `amount` in the epochs birth..last."""
        if self._epochs:
            self._steps[bisect_left(self._epochs, birth)] += amount
            self._steps[bisect_right(self._epochs, last)] -= amount

    def hide(self) -> None:
        """A record that does not open makes every sum unknown."""
        self._hidden = True

    def at(self, epoch: int) -> int | None:
        """Return the sum at an epoch that ends a version; call it when all is added."""
        if self._hidden:
            return None
        if not self._sums:
            self._sums = list(accumulate(self._steps))
        return self._sums[bisect_left(self._epochs, epoch)]
