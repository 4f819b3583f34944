"""Names, times and errors on their way between the daemon and the command line."""

from __future__ import annotations

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anqfs import errors
from anqfs.control import wire


@given(st.binary())
def test_any_name_survives_json(name: bytes) -> None:
    document = wire.dumps({"name": wire.text(name)})
    assert document.isascii()
    assert json.loads(document)["name"].encode("utf-8", "surrogateescape") == name
    assert os.fsencode(wire.loads(document.encode())["name"]) == name


@given(st.binary())
def test_a_shown_name_is_one_printable_line(name: bytes) -> None:
    assert wire.shown(name).isprintable()


def test_names_are_shown_plainly_when_they_are_plain() -> None:
    assert wire.shown("/srv/Küche.store") == "/srv/Küche.store"
    assert wire.shown(b"a\nb") == "'a\\nb'"
    assert wire.shown("") == "''"


@pytest.mark.parametrize("junk", [b"", b"{", b"\xff", b"[" * 100_000, b"NaN", b"1e", b"{}{}", b"9" * 5000, b'"\x00"'])
def test_what_is_not_json_is_a_usage_error(junk: bytes) -> None:
    with pytest.raises(errors.UsageError):
        wire.loads(junk)


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "x\udbff"])
def test_what_is_no_name_is_a_usage_error(name: str) -> None:
    with pytest.raises(errors.UsageError):
        wire.raw(name)


def test_times_are_rfc_3339_in_utc_with_nanoseconds() -> None:
    assert wire.moment(1_700_000_000_123_456_789) == "2023-11-14T22:13:20.123456789Z"
    assert wire.moment(0) is None
    assert wire.moment((1 << 63) - 1) == "2262-04-11T23:47:16.854775807Z"


@given(st.integers())
def test_any_time_has_a_form(moment: int) -> None:
    assert wire.moment(moment) is None or moment != 0


KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.AnqfsError)]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_error_arrives_as_itself(kind: type[errors.AnqfsError]) -> None:
    error = kind(28, "it is full") if issubclass(kind, errors.FilesystemError) else kind("it is full")
    back = wire.from_fault(json.loads(wire.dumps(wire.to_fault(error))))
    assert (type(back), str(back), back.exit_code, back.errno) == (kind, "it is full", error.exit_code, error.errno)


@pytest.mark.parametrize("junk", [None, [], 3, {}, {"error": "os"}, {"error": "annotations"}, {"error": 7, "message": 7, "exit_code": "x"}])
def test_a_fault_that_makes_no_sense_is_still_an_error(junk: object) -> None:
    assert isinstance(wire.from_fault(junk), errors.AnqfsError)
