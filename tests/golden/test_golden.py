"""A volume that an earlier program wrote opens, checks clean and holds what it held. Sentence: format 1 stays readable."""

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
from anqfs.store.volume import Volume
from tests.golden.make import CALLER, HERE, PASSPHRASE, everything


@pytest.fixture
def golden(tmp_path: Path) -> Path:
    with tarfile.open(HERE / "format-1.tar.xz") as archive:
        archive.extractall(tmp_path)
    return tmp_path / "format-1"


@pytest.fixture
def expected() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((HERE / "format-1.json").read_text())
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


def test_its_other_key_slot_opens_it(golden: Path, expected: dict[str, Any]) -> None:
    with opened(golden / "store", Secret.from_passphrase(PASSPHRASE), read_only=True) as ns:
        assert everything(ns)["live"] == expected["live"]


def test_it_can_be_written_to(golden: Path, expected: dict[str, Any]) -> None:
    secret = Secret.from_key_file(golden / "key")
    with opened(golden / "store", secret) as ns:
        node, _ = ns.create(1, b"new", 0o644, CALLER)
        ns.write(node, 0, b"new content")
        ns.unlink(1, b"large")
    with opened(golden / "store", secret, read_only=True) as ns:
        now = everything(ns)
        assert {name: tree for name, tree in now.items() if name != "live"} == {n: t for n, t in expected.items() if n != "live"}
        assert "/new" in now["live"]
        assert "/large" not in now["live"]
        assert check(ns.volume).findings == []
