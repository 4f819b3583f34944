"""Sealed records and extents: what was sealed opens in its own place, anything else is Damaged and never other bytes."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from anqfs.crypto.sealing import (
    CHUNK,
    EXTENT_MAX,
    FIRST_CHUNK,
    RECORD_OVERHEAD,
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


class Extents:
    """Extents of a volume with chunks of one size."""

    def __init__(self, chunk: int) -> None:
        self.chunk = chunk

    def sealed(self, extent: int, data: bytes) -> bytes:
        buffer = bytearray(SEALED_EXTENT_MAX)
        return bytes(buffer[: ExtentSealer(VOLUME, KEYS[1], self.chunk).seal_into(extent, data, buffer)])

    def opened(
        self, extent: int, sealed: bytes | bytearray, offset: int, length: int, key: bytes = KEYS[1], volume: bytes = VOLUME
    ) -> bytes:
        """Open the chunks of a sealed extent that hold a range, and return the range."""
        chunk, total = self.chunk, plain_length(len(sealed), self.chunk)
        start, stop = offset // chunk * chunk, min(total, -(-(offset + length) // chunk) * chunk)
        plain, part = bytearray(stop - start), sealed[sealed_length(start, chunk) : sealed_length(stop, chunk)]
        ExtentSealer(volume, key, chunk).open_chunks(extent, total, start, part, plain)
        return bytes(plain[offset - start : offset - start + length])


@pytest.fixture(params=[CHUNK, FIRST_CHUNK])
def extents(request: pytest.FixtureRequest) -> Extents:
    return Extents(request.param)


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


def lengths(chunk: int) -> list[int]:
    return [1, 4095, chunk - 1, chunk, chunk + 1, 3 * chunk, 5 * chunk + 17, EXTENT_MAX - 1, EXTENT_MAX]


def test_an_extent_opens_whole(extents: Extents) -> None:
    for length in lengths(extents.chunk):
        data = pattern(length)
        sealed = extents.sealed(9, data)
        assert len(sealed) == sealed_length(length, extents.chunk) <= SEALED_EXTENT_MAX
        assert plain_length(len(sealed), extents.chunk) == length
        assert extents.opened(9, sealed, 0, length) == data


@settings(max_examples=60)
@given(st.sampled_from([CHUNK, FIRST_CHUNK]), st.integers(1, 4 * FIRST_CHUNK), st.data())
def test_any_range_of_an_extent_opens(chunk: int, length: int, data: st.DataObject) -> None:
    offset = data.draw(st.integers(0, length - 1))
    size = data.draw(st.integers(1, length - offset))
    plaintext, extents = pattern(length), Extents(chunk)
    assert extents.opened(3, extents.sealed(3, plaintext), offset, size) == plaintext[offset : offset + size]


def test_a_range_needs_only_its_own_chunks(extents: Extents) -> None:
    chunk, plaintext = extents.chunk, pattern(4 * extents.chunk)
    sealed = bytearray(extents.sealed(3, plaintext))
    sealed[0] ^= 1
    assert extents.opened(3, sealed, chunk, 3 * chunk) == plaintext[chunk:]
    with pytest.raises(Damaged, match="chunk 0"):
        extents.opened(3, sealed, chunk - 1, 2)


def test_an_extent_is_damaged_in_every_wrong_place(extents: Extents) -> None:
    sealed = extents.sealed(3, pattern(3 * extents.chunk))
    for volume, key, extent in ((OTHER_VOLUME, KEYS[1], 3), (VOLUME, KEYS[2], 3), (VOLUME, KEYS[1], 4)):
        with pytest.raises(Damaged):
            extents.opened(extent, sealed, 0, 1, key, volume)


def test_swapped_repeated_and_missing_chunks_are_damaged(extents: Extents) -> None:
    plaintext, chunk = pattern(3 * extents.chunk), extents.chunk
    sealed = extents.sealed(3, plaintext)
    one, two, three = (sealed[at * (chunk + TAG) : (at + 1) * (chunk + TAG)] for at in range(3))
    for altered in (two + one + three, one + one + three, one + two, one + three, one + two + three + three):
        length = plain_length(len(altered), chunk)
        with pytest.raises(Damaged):
            extents.opened(3, altered, 0, length)
        for at in range(0, length, chunk):
            try:
                opened = extents.opened(3, altered, at, 100)
            except Damaged:
                continue
            assert opened == plaintext[at : at + 100]


def test_a_cut_extent_is_damaged(extents: Extents) -> None:
    sealed, whole = extents.sealed(3, pattern(extents.chunk + 100)), extents.chunk + TAG
    for cut in (0, 1, TAG, TAG + 1, whole - 1, whole, whole + TAG, whole + TAG + 1):
        with pytest.raises(Damaged):
            extents.opened(3, sealed[:cut], 0, 1)


@pytest.mark.parametrize("length", [FIRST_CHUNK, FIRST_CHUNK + 1, EXTENT_MAX])
@pytest.mark.parametrize(("sealed_in", "opened_in"), [(CHUNK, FIRST_CHUNK), (FIRST_CHUNK, CHUNK)])
def test_an_extent_does_not_open_in_chunks_of_the_other_size(sealed_in: int, opened_in: int, length: int) -> None:
    sealed = Extents(sealed_in).sealed(3, pattern(length))
    with pytest.raises(Damaged):
        Extents(opened_in).opened(3, sealed, 0, 1)


def test_an_extent_has_1_byte_to_1_mib(extents: Extents) -> None:
    for length in (0, EXTENT_MAX + 1):
        with pytest.raises(ValueError, match="an extent of"):
            extents.sealed(1, bytes(length))
        with pytest.raises(Damaged):
            plain_length(sealed_length(length, extents.chunk), extents.chunk)


def test_a_sealer_cache_asks_for_each_key_once() -> None:
    asked: list[int] = []

    def recording(number: int) -> bytes:
        asked.append(number)
        return lookup(number)

    cache = SealerCache(VOLUME, recording, CHUNK)
    assert cache.get(1) is cache.get(1)
    cache.get(2)
    assert asked == [1, 2]
    with pytest.raises(Damaged):
        cache.get(5)


def test_the_format_is_what_the_documentation_says(extents: Extents) -> None:
    """docs/format.md, "A sealed record" and "An extent", done by hand."""
    sealer = RecordSealer(VOLUME, lookup)
    sealer.use(2)
    sealed = sealer.seal(b"Ikey", b"plaintext")
    assert sealed[:13] == b"\x01" + (2).to_bytes(4, "big") + (0).to_bytes(8, "big")
    assert AESGCM(KEYS[2]).decrypt(sealed[5:13] + bytes(4), sealed[13:], VOLUME + b"record\x01" + b"Ikey") == b"plaintext"
    chunk, plaintext = extents.chunk, pattern(extents.chunk + 5)
    extent = extents.sealed(7, plaintext)
    nonce = (7).to_bytes(8, "big") + (1).to_bytes(4, "big")
    place = VOLUME + b"extent\x01" + nonce + (chunk + 5).to_bytes(4, "big")
    assert AESGCM(KEYS[1]).decrypt(nonce, extent[chunk + 16 :], place) == plaintext[chunk:]


def test_golden_record() -> None:
    """The bytes do not change."""
    sealer = RecordSealer(VOLUME, lookup)
    sealer.use(1)
    sealer.seal(b"Ifirst", b"")
    sealed = sealer.seal(b"I\x00\x00\x00\x00\x00\x00\x00\x01", b"golden record")
    assert sealed.hex() == "01000000010000000000000001041ea436ed72ebf54affb074cef75a81410debbff6f29f745f9b2ffe9d"


def test_golden_extent(extents: Extents) -> None:
    """The bytes do not change."""
    assert extents.sealed(258, b"golden extent").hex() == "30dd461b99029a6e8b6878e5551d2100784dd17484fe0403603f4398cd"
