"""The trees of the databases are verified without LMDB, which ends the process where a page is not of the kind that belongs there."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from anqfs.control import offline
from anqfs.crypto.secrets import Secret
from anqfs.errors import AnqfsError, WrongKey
from anqfs.namespace import Caller, Namespace
from anqfs.store import structure
from anqfs.store.volume import Volume
from tests.crash.child import ChildCrashed, in_child
from tests.unit.namespace_volume import SECRET, make_store

CALLER = Caller(1000, 1000, frozenset(), 0o022)
PAGE = 4096
BRANCH, LEAF = 1, 2
MAIN_LEAF_PAGES = 16 + 24 + 48 + 16
"""Where a meta page has it: page header, magic to map size, the tree of free pages, the fields before it."""


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store whose records take many pages."""
    path = tmp_path / "store"
    make_store(path)
    volume = Volume.open(path, SECRET)
    namespace = Namespace(volume)
    for number in range(300):
        node, _ = namespace.create(1, b"image-%d" % number, 0o644, CALLER)
        namespace.write(node, 0, b"%d" % number * 300)
    volume.close()
    return path


def kind_of(page: bytes) -> int:
    return int.from_bytes(page[10:12], "little")


def replace_leaves(store: Path) -> None:
    """Put a meta page in the place of each second leaf of the record database but the first."""
    data = store / "records" / "data.mdb"
    content = bytearray(data.read_bytes())
    leaves = [at for at in range(2 * PAGE, len(content), PAGE) if kind_of(content[at : at + PAGE]) == LEAF]
    for at in leaves[1::2]:
        content[at : at + PAGE] = content[:PAGE]
    data.write_bytes(content)


def miscount_leaves(data: Path) -> None:
    """Change the main tree's number of leaf pages, in both meta pages: nothing that is read depends on it."""
    content = bytearray(data.read_bytes())
    for meta in (0, PAGE):
        content[meta + MAIN_LEAF_PAGES] ^= 1
    data.write_bytes(content)


def walk(store: Path) -> int:
    volume = Volume.open(store, SECRET, read_only=True)
    try:
        return len(volume.raw_records(b"", 100_000))
    finally:
        volume.close()


def test_a_store_that_was_just_written_is_sound(store: Path) -> None:
    assert structure.faults(bytes(store)) == []


def test_the_check_tells_of_a_tree_that_ends_a_process_which_walks_it(store: Path) -> None:
    replace_leaves(store)
    with pytest.raises((ChildCrashed, RuntimeError)):
        in_child(walk, store)
    report = offline.check(str(store), SECRET, lambda _text: None)
    assert not report["ok"]
    assert "the tree of the record database is not sound" in report["findings"][0]["what"]
    assert len(report["findings"]) < 100


def test_what_lmdb_can_still_read_of_an_unsound_tree_is_verified(store: Path) -> None:
    """A wrong counter in the tree's head harms nobody."""
    miscount_leaves(store / "records" / "data.mdb")
    report = offline.check(str(store), SECRET, lambda _text: None)
    assert not report["ok"]
    assert report["counts"]["files"] == 300


def test_a_record_that_is_looked_for_in_the_wrong_page_is_told(store: Path) -> None:
    """The keys above the leaves are altered, so that all is there and in order for who walks, and not for who looks something up."""
    data = store / "records" / "data.mdb"
    content = bytearray(data.read_bytes())
    for page in range(2 * PAGE, len(content), PAGE):
        if kind_of(content[page : page + PAGE]) == BRANCH:
            for place in range(page + 18, page + int.from_bytes(content[page + 12 : page + 14], "little"), 2):
                node = page + int.from_bytes(content[place : place + 2], "little")
                last = node + 8 + int.from_bytes(content[node + 6 : node + 8], "little") - 1
                content[last] = min(255, content[last] + 1)
    data.write_bytes(content)
    report = offline.check(str(store), SECRET, lambda _text: None)
    told = [finding["path"] for finding in report["findings"] if "is not found where it is looked for" in finding["what"]]
    assert told
    assert not report["ok"]
    volume = Volume.open(store, SECRET, read_only=True)
    try:
        namespace = Namespace(volume)
        for number in range(300):
            name = b"image-%d" % number
            try:
                node, _ = namespace.lookup(1, name)
                assert namespace.read(node, 0, 1 << 20) == b"%d" % number * 300
            except AnqfsError:
                assert any(path in ("/", "/" + name.decode()) or path.startswith("inode") for path in told)
    finally:
        volume.close()


def test_a_wrong_key_is_told_as_such_whatever_the_trees_are_like(store: Path) -> None:
    replace_leaves(store)
    with pytest.raises(WrongKey):
        offline.check(str(store), Secret("key-file", b"another key of 32 bytes or more.." * 2), lambda _text: None)


def test_what_the_log_holds_is_not_written_to_an_unsound_tree(store: Path, tmp_path: Path) -> None:
    volume = Volume.open(store, SECRET)
    Namespace(volume).create(1, b"logged", 0o644, CALLER)
    volume.commit().wait(60)
    copy = tmp_path / "copy"
    shutil.copytree(store, copy)
    volume.close()
    miscount_leaves(copy / "records" / "data.mdb")
    before = (copy / "records" / "data.mdb").read_bytes()
    report = offline.check(str(copy), SECRET, lambda _text: None)
    assert "intent log holds changes" in report["findings"][-1]["what"]
    assert (copy / "records" / "data.mdb").read_bytes() == before


def test_a_cut_file_is_told(store: Path) -> None:
    data = store / "extents" / "data.mdb"
    data.write_bytes(data.read_bytes()[:100])
    assert len(structure.faults(bytes(store))) == 1


def test_a_fault_of_the_check_is_not_taken_for_lmdbs(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise LookupError("a fault of the program")

    miscount_leaves(store / "records" / "data.mdb")
    monkeypatch.setattr(offline, "_checked", fail)
    with pytest.raises(RuntimeError, match="ended with 1"):
        offline.check(str(store), SECRET, lambda _text: None)
