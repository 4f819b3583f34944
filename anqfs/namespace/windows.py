"""A window's map: pure functions on Window records. Called by `files`."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator

from anqfs.store.schema import WINDOW, Window

Piece = tuple[int, int, int, int, int]
"""offset in the window, length, extent id, offset in the extent, sealing key number."""


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
        return sum(piece[1] for piece in window.pieces)
    return len(window.inline)


def overlay(pieces: tuple[Piece, ...], new: Piece) -> tuple[Piece, ...]:
    """Return the pieces with a new one on top."""
    start, end = new[0], new[0] + new[1]
    result = [new]
    for piece in pieces:
        at, length, extent, offset, key = piece
        if at + length <= start or at >= end:
            result.append(piece)
            continue
        if at < start:
            result.append((at, start - at, extent, offset, key))
        if at + length > end:
            result.append((end, at + length - end, extent, offset + end - at, key))
    result.sort()
    return tuple(result)


def trimmed(window: Window, length: int, birth: int) -> Window:
    """Return a window whose data ends at `length` at the latest."""
    pieces = tuple((at, min(size, length - at), extent, offset, key) for at, size, extent, offset, key in window.pieces if at < length)
    return Window(birth, window.inline[:length], pieces)


def piece_at(pieces: tuple[Piece, ...], offset: int) -> int:
    """Return the index of the last piece that starts at or before `offset`, or -1."""
    return bisect_right(pieces, offset, key=_start) - 1


def _start(piece: Piece) -> int:
    return piece[0]
