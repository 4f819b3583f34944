"""Name hashes, and the codes they are made of."""

from __future__ import annotations

import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anqfs.crypto.digest import Mac, RecordDigest
from anqfs.crypto.folding import fold, folded_prefix, name_hash
from anqfs.errors import Damaged

KEY = b"\x33" * 32


@given(st.binary(max_size=100), st.binary(max_size=200))
def test_a_mac_is_hmac_sha_256(key: bytes, message: bytes) -> None:
    mac = Mac(key)
    assert mac(message) == hmac.digest(key, message, "sha256")
    assert mac.matches(message, hmac.digest(key, message, "sha256"))
    assert not mac.matches(message, bytes(32))


@given(st.binary(min_size=1, max_size=255))
def test_a_name_hash_is_5_bytes_of_the_folded_and_11_of_the_exact_name(name: bytes) -> None:
    expected = hmac.digest(KEY, b"\0" + fold(name), "sha256")[:5] + hmac.digest(KEY, b"\1" + name, "sha256")[:11]
    assert name_hash(KEY, name) == expected
    assert folded_prefix(KEY, name) == expected[:5]


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("README.txt", "readme.TXT"),
        ("Straße", "STRASSE"),
        ("\u00c9t\u00e9", "e\u0301te\u0301"),
        ("\u03a3\u03c3", "\u03c3\u03c2"),
        ("\u1fb3", "\u0391\u0399"),
    ],
)
def test_names_that_differ_in_case_share_a_prefix_only(one: str, two: str) -> None:
    first, second = one.encode(), two.encode()
    assert folded_prefix(KEY, first) == folded_prefix(KEY, second)
    assert name_hash(KEY, first) != name_hash(KEY, second)


def test_names_that_are_not_utf_8_fold_their_ascii_letters() -> None:
    assert fold(b"A\xffB") == b"a\xffb"
    assert fold(b"A\xc3\x89") == "a\u00e9".encode()


@given(st.text(max_size=40))
def test_folding_is_stable(text: str) -> None:
    name = text.encode("utf-8", "surrogatepass")
    assert fold(fold(name)) == fold(name)


def test_golden_name_hash() -> None:
    """The bytes of format 1 do not change."""
    assert name_hash(KEY, "Grüße.TXT".encode()).hex() == "b929a7e93eac222cc10884d092021aea"


def test_another_key_gives_another_hash() -> None:
    assert name_hash(KEY, b"name")[:5] != name_hash(b"\x34" * 32, b"name")[:5]


@given(st.dictionaries(st.binary(min_size=1, max_size=9), st.binary(max_size=20), max_size=8))
def test_the_record_digest_is_a_sum_in_any_order(records: dict[bytes, bytes]) -> None:
    digest = RecordDigest(KEY)
    forward = sum(digest.of(key, value) for key, value in records.items())
    backward = sum(digest.of(key, value) for key, value in reversed(records.items()))
    assert digest.text(forward) == digest.text(backward)
    assert digest.text(forward - sum(digest.of(key, value) for key, value in records.items())) == bytes(32)
    assert digest.number(digest.text(forward)) == forward % 2**256


def test_a_record_digest_tells_key_and_value_apart() -> None:
    digest = RecordDigest(KEY)
    assert digest.of(b"ab", b"c") != digest.of(b"a", b"bc")
    with pytest.raises(Damaged):
        digest.number(b"short")
