"""Looks for things that must not be there: known plaintext in the raw bytes of a store.

Names are searched for in UTF-8, Latin-1 and both UTF-16 orders. Every needle is at least 8 bytes, so that a hit in sealed (random)
bytes is never chance.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

SHORTEST = 8
_CHUNK = 4 << 20


class Hit(NamedTuple):
    """A needle that was found: in which file, at which byte."""

    file: Path
    offset: int
    needle: bytes


def encodings(text: str) -> Iterator[bytes]:
    """Yield a text as the bytes that a program might leave on a disk."""
    for codec in ("utf-8", "latin-1", "utf-16-le", "utf-16-be"):
        encoded = text.encode(codec, "ignore")
        if len(encoded) >= SHORTEST:
            yield encoded


class Searcher:
    """Finds any of many needles in one pass, whatever their number."""

    def __init__(self, needles: Iterable[bytes]) -> None:
        """Take the needles. Raises ValueError for one that is too short to prove anything."""
        self._needles: dict[int, list[bytes]] = {}
        self._starts = np.zeros(1 << 24, dtype=np.bool_)
        self._longest = SHORTEST
        for needle in set(needles):
            if len(needle) < SHORTEST:
                raise ValueError(f"{needle!r} is shorter than {SHORTEST} bytes")
            start = int.from_bytes(needle[:3], "little")
            self._needles.setdefault(start, []).append(needle)
            self._starts[start] = True
            self._longest = max(self._longest, len(needle))

    def __len__(self) -> int:
        """Return the number of different needles."""
        return sum(map(len, self._needles.values()))

    def in_bytes(self, content: bytes) -> Iterator[tuple[int, bytes]]:
        """Yield (offset, needle) for each hit."""
        if len(content) < 3:
            return
        data = np.frombuffer(content, dtype=np.uint8)
        starts = data[:-2].astype(np.uint32)
        starts |= data[1:-1].astype(np.uint32) << np.uint32(8)
        starts |= data[2:].astype(np.uint32) << np.uint32(16)
        for offset in np.flatnonzero(self._starts[starts]).tolist():
            for needle in self._needles[int(starts[offset])]:
                if content.startswith(needle, offset):
                    yield offset, needle

    def in_file(self, path: Path) -> Iterator[Hit]:
        """Yield the hits in a file, read in chunks that overlap by the longest needle; a hit in an overlap may come twice."""
        position, tail = 0, b""
        with open(path, "rb", buffering=0) as file:
            while chunk := file.read(_CHUNK):
                content = tail + chunk
                for offset, needle in self.in_bytes(content):
                    yield Hit(path, position + offset, needle)
                tail = content[1 - self._longest :]
                position += len(content) - len(tail)

    def in_tree(self, root: Path) -> Iterator[Hit]:
        """Yield the hits in all regular files below a directory, and in their names."""
        for path in sorted(root.rglob("*")):
            for _, needle in self.in_bytes(str(path.relative_to(root)).encode("utf-8", "surrogateescape")):
                yield Hit(path, -1, needle)
            if path.is_file() and not path.is_symlink():
                yield from self.in_file(path)
