"""A window's map: pure functions on Window records. Called by `files`."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from operator import itemgetter

from anqfs.store.schema import WINDOW, Window

Piece = tuple[int, int, int, int, int]
"""offset in the window, length, extent id, offset in the extent, sealing key number."""
_length = itemgetter(1)


def cut(offset: int, length: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield (window number, offset in it, offset in the data, length) for each window that a range of a file touches."""
    done = 0
    while done < length:
        index, inside = divmod(offset + done, WINDOW)
        part = min(WINDOW - inside, length - done)
        yield index, inside, done, part
        done += part


def end_of(window: Window) -> int:
    """Return the offset in the window where its data ends."""
    if window.pieces:
        last = window.pieces[-1]
        return last[0] + last[1]
    return len(window.inline)


def allocated(window: Window) -> int:
    """Return the bytes of data in a window; holes do not count."""
    if window.pieces:
        return sum(map(_length, window.pieces))
    return len(window.inline)


def overlay(pieces: tuple[Piece, ...], new: Piece) -> tuple[Piece, ...]:
    """Return the pieces with a new one on top. A window has up to some hundred, of which a small write touches one or two."""
    start, end = new[0], new[0] + new[1]
    first, last = max(0, piece_at(pieces, start)), piece_at(pieces, end - 1) + 1
    before: list[Piece] = []
    after: list[Piece] = []
    for piece in pieces[first:last]:
        at, length, extent, offset, key = piece
        if at < start:
            before.append((at, min(length, start - at), extent, offset, key))
        if at + length > end:
            after.append((end, at + length - end, extent, offset + end - at, key))
    return (*pieces[:first], *before, new, *after, *pieces[last:])


def trimmed(window: Window, length: int, birth: int) -> Window:
    """Return a window whose data ends at `length` at the latest."""
    pieces = tuple((at, min(size, length - at), extent, offset, key) for at, size, extent, offset, key in window.pieces if at < length)
    return Window(birth, window.inline[:length], pieces)


def piece_at(pieces: tuple[Piece, ...], offset: int) -> int:
    """Return the index of the last piece that starts at or before `offset`, or -1."""
    return bisect_left(pieces, (offset + 1,)) - 1
