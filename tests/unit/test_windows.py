"""A window's map: what a piece on top leaves of those below."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from anqfs.namespace.windows import Piece, overlay, piece_at

PLACES = st.tuples(st.integers(0, 200), st.integers(1, 60))


def shown(pieces: tuple[Piece, ...]) -> dict[int, tuple[int, int]]:
    """Return which byte of which extent each byte of the window is."""
    return {at + byte: (extent, start + byte) for at, length, extent, start, _ in pieces for byte in range(length)}


@given(st.lists(PLACES, max_size=40))
def test_a_piece_on_top_hides_what_is_below_and_nothing_else(places: list[tuple[int, int]]) -> None:
    pieces: tuple[Piece, ...] = ()
    wanted: dict[int, tuple[int, int]] = {}
    for extent, (at, length) in enumerate(places):
        pieces = overlay(pieces, (at, length, extent, 0, 1))
        wanted.update({at + byte: (extent, byte) for byte in range(length)})
        assert shown(pieces) == wanted
        assert all(one[0] + one[1] <= other[0] for one, other in pairwise(pieces)), "sorted, and none over another"
        assert all(length > 0 for _, length, *_ in pieces)


@given(st.lists(PLACES, max_size=40), st.integers(0, 300))
def test_the_piece_at_an_offset_is_the_last_that_starts_there_or_before(places: list[tuple[int, int]], offset: int) -> None:
    pieces: tuple[Piece, ...] = ()
    for extent, (at, length) in enumerate(places):
        pieces = overlay(pieces, (at, length, extent, 0, 1))
    assert piece_at(pieces, offset) == sum(piece[0] <= offset for piece in pieces) - 1
