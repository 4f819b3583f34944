"""A volume that an earlier program wrote opens, checks clean and holds what it held. Sentence: formats 1 and 2 stay readable."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from anqfs.crypto.secrets import Secret
from anqfs.namespace import Namespace
from anqfs.namespace.check import check
from anqfs.store.schema import WINDOW
from anqfs.store.superblock import CHUNKS, load, unpack
from anqfs.store.volume import Volume
from tests.golden.make import CALLER, HERE, PASSPHRASE, content, everything


@pytest.fixture(params=[1, 2])
def version(request: pytest.FixtureRequest) -> int:
    number: int = request.param
    return number


@pytest.fixture
def golden(version: int, tmp_path: Path) -> Path:
    with tarfile.open(HERE / f"format-{version}.tar.xz") as archive:
        archive.extractall(tmp_path)
    return tmp_path / f"format-{version}"


@pytest.fixture
def expected(version: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((HERE / f"format-{version}.json").read_text())
    assert len(found) == 3
    assert len(found["live"]) > 80
    return found


@contextmanager
def opened(store: Path, secret: Secret, *, read_only: bool = False) -> Iterator[Namespace]:
    volume = Volume.open(store, secret, read_only=read_only)
    try:
        yield Namespace(volume)
    finally:
        volume.close()


def test_everything_in_it_is_found(golden: Path, expected: dict[str, Any]) -> None:
    with opened(golden / "store", Secret.from_key_file(golden / "key"), read_only=True) as ns:
        assert everything(ns) == expected


def test_it_checks_clean(golden: Path) -> None:
    with opened(golden / "store", Secret.from_key_file(golden / "key"), read_only=True) as ns:
        report = check(ns.volume)
        assert report.findings == []


def test_its_other_key_slot_opens_it(golden: Path, expected: dict[str, Any], version: int) -> None:
    with opened(golden / "store", Secret.from_passphrase(PASSPHRASE.format(version)), read_only=True) as ns:
        assert everything(ns)["live"] == expected["live"]


def test_it_can_be_written_to_and_keeps_its_format(golden: Path, expected: dict[str, Any], version: int) -> None:
    """What is written, before and after a rotation, is found again, and the sizes of what is stored are those of the volume's format."""
    secret, data = Secret.from_key_file(golden / "key"), content(3000, WINDOW + 100_000)
    with opened(golden / "store", secret) as ns:
        before = ns.volume.raw_extent_ids(0, 1000)
        for name in (b"new", b"newer"):
            node, _ = ns.create(1, name, 0o644, CALLER)
            ns.write(node, 0, data)
            ns.volume.rotate()
        ns.unlink(1, b"large")
    assert unpack(load(bytes(golden / "store"))).format == version
    with opened(golden / "store", secret, read_only=True) as ns:
        now = everything(ns)
        assert {name: tree for name, tree in now.items() if name != "live"} == {n: t for n, t in expected.items() if n != "live"}
        assert "/large" not in now["live"]
        for name in (b"new", b"newer"):
            node, _ = ns.lookup(1, name)
            assert ns.read(node, 0, len(data)) == data
            assert ns.read(node, WINDOW + 60_000, 9000) == data[WINDOW + 60_000 :][:9000]
        new = [extent for extent in ns.volume.raw_extent_ids(0, 1000) if extent not in before]
        chunks = [WINDOW // CHUNKS[version], -(-100_000 // CHUNKS[version])] * 2
        stored = [len(ns.volume._extent_store.find(extent) or b"") for extent in new]
        assert stored == [size + 16 * count for size, count in zip([WINDOW, 100_000] * 2, chunks, strict=True)]
        assert check(ns.volume).findings == []
