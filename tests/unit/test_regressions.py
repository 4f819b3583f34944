"""Faults that random histories against the reference model found, each as the shortest history that shows it."""

from __future__ import annotations

import errno

import pytest

from anqfs.errors import FilesystemError
from anqfs.namespace import Caller, Namespace
from anqfs.namespace import files as files_module
from anqfs.namespace import reclaim as reclaim_module
from anqfs.namespace.check import check
from anqfs.store.schema import WINDOW
from tests.unit.namespace_volume import work_off

ROOT = 1
USER = Caller(0, 0, frozenset(), 0o022)


def records(ns: Namespace, letters: bytes) -> list[bytes]:
    return [key for letter in letters for key in ns.volume.scan_keys(bytes((letter,)), bytes((letter + 1,)))]


def test_a_file_that_is_truncated_while_it_has_no_name_leaves_nothing_behind(ns: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """The note of what was cut took the place of the note that the inode is an orphan: what lay before the cut was never removed."""
    monkeypatch.setattr(files_module, "REMOVE_NOW", 1)
    monkeypatch.setattr(reclaim_module, "STEP", 1)
    node = ns.create(ROOT, b"file", 0o600, USER)[0]
    for number in range(6):
        ns.write(node, number * WINDOW, b"data")
    ns.hold(node)
    ns.unlink(ROOT, b"file")
    ns.set_attributes(node, size=3 * WINDOW, caller=USER)
    ns.set_attributes(node, size=6 * WINDOW, caller=USER)
    assert ns.read(node, 4 * WINDOW, 4) == bytes(4)
    work_off(ns)
    ns.set_attributes(node, size=5 * WINDOW, caller=USER)
    ns.set_attributes(node, size=6 * WINDOW, caller=USER)
    assert [ns.read(node, number * WINDOW, 4) for number in range(6)] == [b"data"] * 3 + [bytes(4)] * 3
    ns.drop(node)
    work_off(ns)
    assert records(ns, b"WO") == []
    assert check(ns.volume).clean


def test_an_exchange_with_nothing_is_enoent_even_below_itself(ns: Namespace) -> None:
    """As rename(2) orders its errors: what is missing counts before what would make a loop."""
    above = ns.mkdir(ROOT, b"above", 0o755, USER)[0]
    below = ns.mkdir(above, b"below", 0o755, USER)[0]
    with pytest.raises(FilesystemError) as caught:
        ns.rename(ROOT, b"above", below, b"absent", 2)
    assert caught.value.errno == errno.ENOENT
