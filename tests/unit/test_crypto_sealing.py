"""Sealed records and extents: what was sealed opens in its own place, anything else is Damaged and never other bytes."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from anqfs.crypto.sealing import (
    CHUNK,
    EXTENT_MAX,
    RECORD_OVERHEAD,
    SEALED_CHUNK,
    SEALED_EXTENT_MAX,
    TAG,
    ExtentSealer,
    RecordSealer,
    SealerCache,
    plain_length,
    sealed_length,
)
from anqfs.errors import Damaged

VOLUME = bytes(range(16))
OTHER_VOLUME = bytes(16)
KEYS = {1: b"\x11" * 32, 2: b"\x22" * 32}


def lookup(number: int) -> bytes:
    if number not in KEYS:
        raise Damaged(f"no key {number}")
    return KEYS[number]


@pytest.fixture
def records() -> RecordSealer:
    sealer = RecordSealer(VOLUME, lookup)
    sealer.use(1)
    return sealer


def sealed_extent(extent: int, data: bytes, key: bytes = KEYS[1], volume: bytes = VOLUME) -> bytes:
    buffer = bytearray(SEALED_EXTENT_MAX)
    return bytes(buffer[: ExtentSealer(volume, key).seal_into(extent, data, buffer)])


def open_range(extent: int, sealed: bytes | bytearray, offset: int, length: int, key: bytes = KEYS[1], volume: bytes = VOLUME) -> bytes:
    """Open the chunks of a sealed extent that hold a range, and return the range."""
    total = plain_length(len(sealed))
    start, stop = offset // CHUNK * CHUNK, min(total, -(-(offset + length) // CHUNK) * CHUNK)
    plain = bytearray(stop - start)
    ExtentSealer(volume, key).open_chunks(extent, total, start, sealed[sealed_length(start) : sealed_length(stop)], plain)
    return bytes(plain[offset - start : offset - start + length])


def pattern(length: int) -> bytes:
    return (b"".join(number.to_bytes(4, "big") for number in range(length // 4 + 1)))[:length]


@given(st.binary(min_size=1, max_size=40), st.binary(max_size=300))
def test_a_sealed_record_opens_under_its_key(key: bytes, plaintext: bytes) -> None:
    sealer = RecordSealer(VOLUME, lookup)
    sealer.use(2)
    sealed = sealer.seal(key, plaintext)
    assert len(sealed) == len(plaintext) + RECORD_OVERHEAD
    assert RecordSealer(VOLUME, lookup).open(key, sealed) == plaintext


@pytest.mark.parametrize("position", range(5, RECORD_OVERHEAD + 4))
def test_a_record_with_any_altered_byte_is_damaged(records: RecordSealer, position: int) -> None:
    sealed = bytearray(records.seal(b"Ikey", b"data"))
    sealed[position] ^= 1
    with pytest.raises(Damaged):
        records.open(b"Ikey", bytes(sealed))


def test_a_record_of_another_format_or_key_number_is_damaged(records: RecordSealer) -> None:
    sealed = records.seal(b"Ikey", b"data")
    with pytest.raises(Damaged, match="unknown format"):
        records.open(b"Ikey", b"\x02" + sealed[1:])
    with pytest.raises(Damaged):
        records.open(b"Ikey", sealed[:1] + (2).to_bytes(4, "big") + sealed[5:])
    with pytest.raises(Damaged, match="no key 7"):
        records.open(b"Ikey", sealed[:1] + (7).to_bytes(4, "big") + sealed[5:])


def test_a_record_in_anothers_place_or_volume_is_damaged(records: RecordSealer) -> None:
    sealed = records.seal(b"Ikey", b"data")
    with pytest.raises(Damaged):
        records.open(b"Ikez", sealed)
    with pytest.raises(Damaged):
        RecordSealer(OTHER_VOLUME, lookup).open(b"Ikey", sealed)


def test_a_cut_record_is_damaged_at_every_length(records: RecordSealer) -> None:
    sealed = records.seal(b"Ikey", b"data")
    for length in range(len(sealed)):
        with pytest.raises(Damaged):
            records.open(b"Ikey", sealed[:length])


def test_no_record_shares_a_nonce_with_another(records: RecordSealer) -> None:
    nonces = [records.seal(b"I", b"")[:13] for _ in range(100)]
    records.use(2)
    nonces += [records.seal(b"I", b"")[:13] for _ in range(100)]
    assert len(set(nonces)) == 200


def test_a_sealing_key_is_taken_into_use_once(records: RecordSealer) -> None:
    records.use(2)
    with pytest.raises(ValueError, match="used before"):
        records.use(1)


def test_nothing_is_sealed_before_a_key_is_in_use() -> None:
    with pytest.raises(ValueError, match="no sealing key"):
        RecordSealer(VOLUME, lookup).seal(b"I", b"")


LENGTHS = [1, 4095, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, 5 * CHUNK + 17, EXTENT_MAX]


@pytest.mark.parametrize("length", LENGTHS)
def test_an_extent_opens_whole(length: int) -> None:
    data = pattern(length)
    sealed = sealed_extent(9, data)
    assert len(sealed) == sealed_length(length)
    assert plain_length(len(sealed)) == length
    assert open_range(9, sealed, 0, length) == data


@settings(max_examples=60)
@given(st.integers(1, 4 * CHUNK), st.data())
def test_any_range_of_an_extent_opens(length: int, data: st.DataObject) -> None:
    offset = data.draw(st.integers(0, length - 1))
    size = data.draw(st.integers(1, length - offset))
    plaintext = pattern(length)
    opened = open_range(3, sealed_extent(3, plaintext), offset, size)
    assert opened == plaintext[offset : offset + size]


def test_a_range_needs_only_its_own_chunks() -> None:
    sealed = bytearray(sealed_extent(3, pattern(4 * CHUNK)))
    sealed[0] ^= 1
    assert open_range(3, sealed, CHUNK, 3 * CHUNK) == pattern(4 * CHUNK)[CHUNK:]
    with pytest.raises(Damaged, match="chunk 0"):
        open_range(3, sealed, CHUNK - 1, 2)


def test_an_extent_is_damaged_in_every_wrong_place() -> None:
    sealed = sealed_extent(3, pattern(3 * CHUNK))
    for volume, key, extent in ((OTHER_VOLUME, KEYS[1], 3), (VOLUME, KEYS[2], 3), (VOLUME, KEYS[1], 4)):
        with pytest.raises(Damaged):
            open_range(extent, sealed, 0, 1, key, volume)


def test_swapped_repeated_and_missing_chunks_are_damaged() -> None:
    sealed = sealed_extent(3, pattern(3 * CHUNK))
    one, two, three = (sealed[at * SEALED_CHUNK : (at + 1) * SEALED_CHUNK] for at in range(3))
    for altered in (two + one + three, one + one + three, one + two, one + three, one + two + three + three):
        length = plain_length(len(altered))
        with pytest.raises(Damaged):
            open_range(3, altered, 0, length)
        for at in range(0, length, CHUNK):
            try:
                opened = open_range(3, altered, at, 100)
            except Damaged:
                continue
            assert opened == pattern(3 * CHUNK)[at : at + 100]


@pytest.mark.parametrize("cut", [0, 1, TAG, TAG + 1, SEALED_CHUNK - 1, SEALED_CHUNK, SEALED_CHUNK + TAG, SEALED_CHUNK + TAG + 1])
def test_a_cut_extent_is_damaged(cut: int) -> None:
    sealed = sealed_extent(3, pattern(CHUNK + 100))[:cut]
    with pytest.raises(Damaged):
        open_range(3, sealed, 0, 1)


def test_an_extent_has_1_byte_to_1_mib() -> None:
    for length in (0, EXTENT_MAX + 1):
        with pytest.raises(ValueError, match="an extent of"):
            sealed_extent(1, bytes(length))
    with pytest.raises(Damaged):
        plain_length(SEALED_EXTENT_MAX + 1)


def test_a_sealer_cache_asks_for_each_key_once() -> None:
    asked: list[int] = []

    def recording(number: int) -> bytes:
        asked.append(number)
        return lookup(number)

    cache = SealerCache(VOLUME, recording)
    assert cache.get(1) is cache.get(1)
    cache.get(2)
    assert asked == [1, 2]
    with pytest.raises(Damaged):
        cache.get(5)


def test_the_format_is_what_the_documentation_says() -> None:
    """docs/format.md, "A sealed record" and "An extent", done by hand."""
    sealer = RecordSealer(VOLUME, lookup)
    sealer.use(2)
    sealed = sealer.seal(b"Ikey", b"plaintext")
    assert sealed[:13] == b"\x01" + (2).to_bytes(4, "big") + (0).to_bytes(8, "big")
    assert AESGCM(KEYS[2]).decrypt(sealed[5:13] + bytes(4), sealed[13:], VOLUME + b"record\x01" + b"Ikey") == b"plaintext"
    extent = sealed_extent(7, pattern(CHUNK + 5))
    nonce = (7).to_bytes(8, "big") + (1).to_bytes(4, "big")
    place = VOLUME + b"extent\x01" + nonce + (CHUNK + 5).to_bytes(4, "big")
    assert AESGCM(KEYS[1]).decrypt(nonce, extent[CHUNK + 16 :], place) == pattern(CHUNK + 5)[CHUNK:]


def test_golden_record() -> None:
    """The bytes of format 1 do not change."""
    sealer = RecordSealer(VOLUME, lookup)
    sealer.use(1)
    sealer.seal(b"Ifirst", b"")
    sealed = sealer.seal(b"I\x00\x00\x00\x00\x00\x00\x00\x01", b"golden record")
    assert sealed.hex() == "01000000010000000000000001041ea436ed72ebf54affb074cef75a81410debbff6f29f745f9b2ffe9d"


def test_golden_extent() -> None:
    """The bytes of format 1 do not change."""
    assert sealed_extent(258, b"golden extent").hex() == "30dd461b99029a6e8b6878e5551d2100784dd17484fe0403603f4398cd"
