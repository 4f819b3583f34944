"""Virtual extended attributes: what a snapshot's time is called, and names in any case."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from anqfs.crypto.folding import fold
from anqfs.errors import FilesystemError
from anqfs.namespace import ROOT, Namespace
from anqfs.namespace.case import caseless
from tests.unit.namespace_volume import answer, make_store, opened

SECOND = 10**9
REAL = b"glusterfs.get_real_filename:"
BTIME = b"ceph.snap.btime"


def real(ns: Namespace, node: int, name: bytes) -> bytes | None:
    """Return the name that an SMB client's name means, None for none."""
    try:
        value = ns.getxattr(node, REAL + name)
    except FilesystemError as error:
        assert error.errno == errno.ENODATA
        return None
    assert value.endswith(b"\0")
    return value[:-1]


def seconds(ns: Namespace, *snapshots: int) -> list[int]:
    """Return the whole seconds that Previous Versions shows, from the first one's on."""
    found = [int(ns.getxattr(ns.snapshot_node(number), BTIME).partition(b".")[0]) for number in snapshots]
    return [each - found[0] for each in found]


def test_everything_in_a_snapshot_tells_its_time_and_nothing_else_does(ns: Namespace) -> None:
    directory, _ = ns.mkdir(1, b"d", 0o755, ROOT)
    file, _ = ns.create(directory, b"f", 0o644, ROOT)
    snapshot = ns.snapshot_create(1)
    shown = b"%d.%09d" % divmod(snapshot.created, SECOND)
    inside = ns.snapshot_node(snapshot.id)
    old_directory = ns.lookup(inside, b"d")[0]
    for node in (inside, old_directory, ns.lookup(old_directory, b"f")[0], ns.snapshot_node(snapshot.id, directory)):
        assert ns.getxattr(node, BTIME) == shown
        assert ns.listxattr(node) == []
    for node in (1, directory, file, ns.lookup(1, b".snapshot")[0]):
        assert answer(lambda node=node: ns.getxattr(node, BTIME)) == errno.ENODATA  # type: ignore[misc]
    ns.snapshot_delete(snapshot.id)
    assert answer(lambda: ns.getxattr(inside, BTIME)) == errno.ESTALE


def test_snapshots_that_show_in_one_directory_have_different_seconds(ns: Namespace) -> None:
    upper, _ = ns.mkdir(1, b"upper", 0o755, ROOT)
    lower, _ = ns.mkdir(upper, b"lower", 0o755, ROOT)
    beside, _ = ns.mkdir(1, b"beside", 0o755, ROOT)
    numbers = [ns.snapshot_create(node).id for node in (upper, lower, beside, upper, beside, 1)]
    assert seconds(ns, *numbers) == [0, 1, 0, 2, 1, 3]
    ns.snapshot_delete(numbers[0])
    assert seconds(ns, *numbers[1:]) == [0, -1, 1, 0, 2], "what a client was told stays true when others go"


def test_the_seconds_of_snapshots_last(tmp_path: Path) -> None:
    make_store(tmp_path / "store")
    with opened(tmp_path / "store") as ns:
        numbers = [ns.snapshot_create(1).id for _ in range(3)]
        assert seconds(ns, *numbers) == [0, 1, 2]
        ns.snapshot_modify(numbers[1], 5)
    with opened(tmp_path / "store") as ns:
        assert seconds(ns, *numbers) == [0, 1, 2]


def test_a_name_is_found_in_any_case(ns: Namespace) -> None:
    directory, _ = ns.mkdir(1, b"Studies", 0o755, ROOT)
    for name in (b"Read.Me", "Überweisung.PDF".encode(), b"twice", b"TWICE", b"TwIcE", b"a:b", b"\xff\xfeX"):
        ns.create(directory, name, 0o644, ROOT)
    assert real(ns, 1, b"STUDIES") == b"Studies"
    assert real(ns, directory, b"READ.ME") == b"Read.Me"
    assert real(ns, directory, "üBERWEISUNG.pdf".encode()) == "Überweisung.PDF".encode()
    assert real(ns, directory, b"A:B") == b"a:b"
    assert real(ns, directory, b"\xff\xfex") == b"\xff\xfeX"
    assert real(ns, directory, b"readme") is None
    assert real(ns, directory, b"TWICE") == b"TWICE", "the exact name first"
    assert real(ns, directory, b"tWICE") == b"TWICE", "then the first by its bytes"
    ns.unlink(directory, b"TWICE")
    assert real(ns, directory, b"tWICE") == b"TwIcE"
    assert ns.listxattr(directory) == []


@pytest.mark.parametrize(
    ("there", "asked"),
    [("straße", "STRASSE"), ("ﬁle", "FILE"), ("é", "e\u0301"), ("\u212a", "k"), ("ı", "I"), ("ſ", "s"), ("İ", "i̇")],
)
def test_different_names_are_not_taken_for_each_other(ns: Namespace, there: str, asked: str) -> None:
    ns.create(1, there.encode(), 0o644, ROOT)
    assert real(ns, 1, asked.encode()) is None
    assert real(ns, 1, there.encode()) == there.encode()


def test_caseless_is_within_the_folding_that_the_hash_groups_by() -> None:
    """Whatever differs in case only must share the hash's first bytes, or it would not be found."""
    groups: dict[bytes | str, set[bytes]] = {}
    for number in (*range(0x20, 0xD800), *range(0xE000, 0x1F000)):
        letter = chr(number).encode()
        groups.setdefault(caseless(letter), set()).add(fold(letter))
    assert [key for key, folded in groups.items() if len(folded) > 1] == []


def test_names_in_snapshots_are_found_in_any_case_as_they_were(ns: Namespace) -> None:
    directory, _ = ns.mkdir(1, b"d", 0o755, ROOT)
    ns.create(directory, b"Old", 0o644, ROOT)
    snapshot = ns.snapshot_create(directory, b"Before")
    ns.unlink(directory, b"Old")
    ns.create(directory, b"OLD", 0o644, ROOT)
    door = ns.lookup(directory, b".snapshot")[0]
    assert real(ns, directory, b".SnapShot") == b".snapshot"
    assert real(ns, door, b"%d_bEFORE" % snapshot.id) == b"%d_Before" % snapshot.id
    assert real(ns, door, b"%d_after" % snapshot.id) is None
    assert real(ns, ns.lookup(1, b".snapshot")[0], b"%d_Before" % snapshot.id) is None, "it does not cover this directory"
    inside = ns.snapshot_node(snapshot.id)
    assert real(ns, inside, b"oLD") == b"Old"
    assert real(ns, inside, b".SNAPSHOT") is None, "there is no door inside a snapshot"
    assert real(ns, directory, b"old") == b"OLD"


def test_only_a_directory_finds_names_and_nothing_virtual_can_be_set(ns: Namespace) -> None:
    file, _ = ns.create(1, b"f", 0o644, ROOT)
    assert answer(lambda: ns.getxattr(file, REAL + b"f")) == errno.ENOTDIR
    assert answer(lambda: ns.getxattr(1, REAL)) == errno.EINVAL
    assert answer(lambda: ns.getxattr(1, REAL + b"x" * 256)) == errno.ENAMETOOLONG
    for name in (BTIME, REAL + b"f"):
        assert answer(lambda name=name: ns.setxattr(1, name, b"x", 0, ROOT)) == errno.EOPNOTSUPP  # type: ignore[misc]
        assert answer(lambda name=name: ns.removexattr(1, name, ROOT)) == errno.EOPNOTSUPP  # type: ignore[misc]


def test_finding_a_name_reads_what_hashes_alike_and_nothing_else(ns: Namespace) -> None:
    for number in range(2000):
        ns.create(1, b"File%d" % number, 0o644, ROOT)
    seen: list[bytes] = []
    scan = ns.volume.scan

    def counting(start: bytes, stop: bytes):  # type: ignore[no-untyped-def]
        for key, record in scan(start, stop):
            seen.append(key)
            yield key, record

    ns.volume.scan = counting  # type: ignore[method-assign]
    assert real(ns, 1, b"fILE1234") == b"File1234"
    assert real(ns, 1, b"file9999") is None
    assert len(seen) == 1
