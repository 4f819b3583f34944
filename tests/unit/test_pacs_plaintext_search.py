"""The search for plaintext in a store finds what is there, wherever it lies, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import plaintext_search
from plaintext_search import Searcher, encodings

NAME = "Müller^Jürgen^K"


@pytest.mark.parametrize("needle", sorted(set(encodings(NAME))))
def test_a_name_is_found_in_each_encoding(needle: bytes) -> None:
    searcher = Searcher(encodings(NAME))
    around = os.urandom(4999) + b"."  # a zero byte beside UTF-16 makes it UTF-16 of the other order as well
    assert list(searcher.in_bytes(around + needle + b"." + os.urandom(76))) == [(5000, needle)]


def test_hits_at_both_ends_and_at_neighbouring_places() -> None:
    searcher = Searcher([b"needle-one", b"needle-two", b"eedle-one"])
    assert sorted(searcher.in_bytes(b"needle-oneneedle-two")) == [(0, b"needle-one"), (1, b"eedle-one"), (10, b"needle-two")]


@pytest.mark.parametrize("before", range(4080, 4106, 5))
def test_a_needle_across_two_chunks_is_found(before: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plaintext_search, "_CHUNK", 4096)
    (tmp_path / "data").write_bytes(b"x" * before + b"across chunks" + b"y" * 9000)
    assert {(hit.offset, hit.needle) for hit in Searcher([b"across chunks"]).in_tree(tmp_path)} == {(before, b"across chunks")}


def test_file_names_are_searched(tmp_path: Path) -> None:
    (tmp_path / NAME).mkdir()
    assert [hit.offset for hit in Searcher(encodings(NAME)).in_tree(tmp_path)] == [-1]


def test_random_bytes_hold_nothing(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(os.urandom(4 << 20))
    assert list(Searcher(encodings(NAME)).in_tree(tmp_path)) == []


def test_a_needle_that_proves_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        Searcher([b"short"])
