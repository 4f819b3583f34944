"""File data: reads return what was written, however it came to be stored; space is given back."""

from __future__ import annotations

import errno
import random
from pathlib import Path

import pytest

from anqfs.errors import Damaged, FilesystemError, NoSpace
from anqfs.namespace import ROOT, Caller, Namespace
from anqfs.namespace import files as files_module
from anqfs.store.schema import INLINE_MAX, WINDOW, Window, inode_key, orphan_key, window_key
from tests.unit.namespace_volume import make_store, opened, work_off

USER = Caller(1000, 1000, frozenset(), 0o022)
SIZE_MAX = (1 << 63) - 1


def new_file(ns: Namespace, name: bytes = b"file") -> int:
    return ns.create(1, name, 0o644, USER)[0]


def window(ns: Namespace, node: int, index: int = 0) -> Window | None:
    record = ns.volume.get(window_key(node, index))
    assert record is None or isinstance(record, Window)
    return record


def extents_stored(ns: Namespace) -> int:
    ns.volume.commit(to_stores=True).wait()
    ns.volume.commit(to_stores=True).wait()
    ns.core.volume.put(b"Ctest", ns.volume.get(b"Cepoch"))  # type: ignore[arg-type]
    ns.volume.commit(to_stores=True).wait()
    return len(ns.volume.raw_extent_ids(0, 1000))


def test_a_random_history_of_one_file_reads_as_a_byte_array(ns: Namespace) -> None:
    pick = random.Random(7)
    node = new_file(ns)
    shadow = bytearray()
    edges = (0, 1, INLINE_MAX, INLINE_MAX + 1, 65536, WINDOW - 1, WINDOW, WINDOW + 1, 2 * WINDOW)
    snapshots: list[tuple[int, bytes]] = []
    for number in range(1200):
        offset = max(0, pick.choice(edges) + pick.randrange(-9, 9)) if pick.random() < 0.5 else pick.randrange(2 * WINDOW)
        chance = pick.random()
        if chance < 0.15:
            offset = len(shadow)
        if chance < 0.8:
            data = pick.randbytes(pick.choice((1, 10, 4096, 5000, 70000)))
            assert ns.write(node, offset, data) == len(data)
            if len(shadow) < offset:
                shadow.extend(bytes(offset - len(shadow)))
            shadow[offset : offset + len(data)] = data
        elif chance < 0.86:
            ns.set_attributes(node, size=offset, caller=ROOT)
            del shadow[offset:]
            shadow.extend(bytes(offset - len(shadow)))
        elif chance < 0.89 and len(snapshots) < 12:
            snapshots.append((ns.snapshot_create(1).id, bytes(shadow)))
        elif chance < 0.92:
            ns.volume.commit(to_stores=True).wait()
        elif chance < 0.94:
            ns.work(10)
        assert ns.attributes(node).size == len(shadow)
        at = pick.randrange(2 * WINDOW)
        assert ns.read(node, at, 9000) == shadow[at : at + 9000]
        if number % 100 == 99:
            assert ns.read(node, 0, 4 * WINDOW) == shadow
    for snapshot, expected in snapshots:
        view = ns.snapshot_node(snapshot)
        assert ns.read(ns.lookup(view, b"file")[0], 0, 4 * WINDOW) == expected


def test_small_data_lives_in_the_record_and_large_in_an_extent(ns: Namespace) -> None:
    node = new_file(ns)
    ns.write(node, 0, b"a" * 100)
    assert window(ns, node) == Window(1, b"a" * 100)
    ns.write(node, 100, b"b" * 5000)
    found = window(ns, node)
    assert found is not None and found.inline == b"" and len(found.pieces) == 1
    assert ns.read(node, 0, 9000) == b"a" * 100 + b"b" * 5000


def test_small_appends_grow_one_extent_in_place(ns: Namespace) -> None:
    node = new_file(ns)
    for number in range(300):
        ns.write(node, number * 4096, bytes((number % 251,)) * 4096)
    first, second = window(ns, node, 0), window(ns, node, 1)
    assert first is not None and second is not None
    assert (len(first.pieces), len(second.pieces)) == (1, 1)
    assert ns.attributes(node).allocated == 300 * 4096
    assert ns.read(node, 299 * 4096, 5000) == bytes((299 % 251,)) * 4096


def test_a_whole_window_is_stored_without_a_copy(ns: Namespace) -> None:
    node = new_file(ns)
    data = bytes(WINDOW)
    ns.write(node, WINDOW, data)
    record = window(ns, node, 1)
    assert record is not None
    assert record.pieces[0][:2] == (0, WINDOW)
    assert window(ns, node, 0) is None
    assert ns.attributes(node).allocated == WINDOW


def test_a_mutable_buffer_of_the_caller_is_copied(ns: Namespace) -> None:
    node = new_file(ns)
    data = bytearray(b"x" * WINDOW)
    ns.write(node, 0, data)
    data[:] = b"y" * WINDOW
    assert ns.read(node, 0, 10) == b"x" * 10


def test_what_a_snapshot_shows_is_never_changed_in_place(ns: Namespace) -> None:
    node = new_file(ns)
    ns.write(node, 0, b"old" * 3000)
    snapshot = ns.snapshot_create(1)
    ns.write(node, 0, b"NEW")
    ns.write(node, 9000, b"tail")
    view = ns.snapshot_node(snapshot.id)
    assert ns.read(ns.lookup(view, b"file")[0], 0, 20000) == b"old" * 3000
    assert ns.read(node, 0, 20000) == b"NEW" + b"old" * 2999 + b"tail"


def test_two_windows_sharing_an_extent_do_not_change_each_other(ns: Namespace) -> None:
    one, two = new_file(ns, b"one"), new_file(ns, b"two")
    ns.write(one, 0, b"a" * 9000)
    shared = window(ns, one)
    assert shared is not None
    ns.volume.begin()
    ns.files.put_window(two, ns.attributes(two), 0, None, shared, shared=True)
    ns.volume.finish()
    ns.set_attributes(two, size=9000, caller=ROOT)
    ns.write(one, 10, b"b" * 100)
    assert ns.read(two, 0, 9000) == b"a" * 9000


def test_a_failing_write_changes_nothing(ns: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    node = new_file(ns)
    ns.write(node, 0, b"x" * 9000)
    before = ns.attributes(node)

    def fail(*_: object) -> None:
        raise NoSpace("no room")

    with monkeypatch.context() as patch:
        patch.setattr(ns.core, "put_inode", fail)
        with pytest.raises(NoSpace):
            ns.write(node, 100, b"y" * 20000)
    assert ns.read(node, 0, 30000) == b"x" * 9000
    assert ns.attributes(node) == before
    assert ns.usage(1).size == 9000


def test_a_full_disk_refuses_writes_and_allows_removal(ns: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    node = new_file(ns)
    ns.write(node, 0, b"x" * 9000)

    def full(_: int) -> None:
        raise NoSpace("the disk is full")

    monkeypatch.setattr(ns.volume, "room", full)
    ns.core.group_closes()
    for change in (
        lambda: ns.write(node, 0, b"y"),
        lambda: ns.create(1, b"more", 0o644, ROOT),
        lambda: ns.setxattr(node, b"user.a", b"b", 0, ROOT),
        lambda: ns.link(node, 1, b"again"),
        lambda: ns.snapshot_create(1),
    ):
        with pytest.raises(NoSpace) as caught:
            change()
        assert caught.value.errno == errno.ENOSPC
    ns.set_attributes(node, size=10, caller=ROOT)
    ns.unlink(1, b"file")
    assert list(ns.readdir(1, 0)) == []


def test_extension_after_truncation_reads_zeros(ns: Namespace) -> None:
    node = new_file(ns)
    ns.write(node, 0, b"x" * (2 * WINDOW + 500))
    ns.set_attributes(node, size=WINDOW + 10, caller=ROOT)
    assert ns.attributes(node).allocated == WINDOW + 10
    ns.set_attributes(node, size=3 * WINDOW, caller=ROOT)
    assert ns.read(node, WINDOW, WINDOW) == b"x" * 10 + bytes(WINDOW - 10)
    assert ns.read(node, 2 * WINDOW, 600) == bytes(600)
    ns.set_attributes(node, size=0, caller=ROOT)
    assert ns.attributes(node).allocated == 0
    assert list(ns.volume.scan_keys(b"W", b"X")) == []


def test_an_append_after_truncation_inside_an_unsealed_extent_does_not_show_the_old_end(ns: Namespace) -> None:
    node = new_file(ns)
    ns.write(node, 0, b"x" * 9000)
    ns.set_attributes(node, size=5000, caller=ROOT)
    ns.write(node, 6000, b"y" * 10)
    assert ns.read(node, 0, 9000) == b"x" * 5000 + bytes(1000) + b"y" * 10


@pytest.mark.parametrize(("size", "number"), [(-1, errno.EINVAL), (1 << 63, errno.EFBIG), (1 << 64, errno.EFBIG)])
def test_impossible_sizes(ns: Namespace, size: int, number: int) -> None:
    with pytest.raises(FilesystemError) as caught:
        ns.set_attributes(new_file(ns), size=size, caller=ROOT)
    assert caught.value.errno == number


def test_the_largest_file(ns: Namespace) -> None:
    node = new_file(ns)
    ns.set_attributes(node, size=SIZE_MAX, caller=ROOT)
    ns.write(node, SIZE_MAX - 3, b"end")
    assert ns.read(node, SIZE_MAX - 5, 100) == b"\0\0end"
    assert ns.attributes(node).allocated == 3
    with pytest.raises(FilesystemError) as caught:
        ns.write(node, SIZE_MAX, b"x")
    assert caught.value.errno == errno.EFBIG
    ns.set_attributes(node, size=0, caller=ROOT)
    assert ns.attributes(node).allocated == 0


def test_space_comes_back(ns: Namespace) -> None:
    node = new_file(ns)
    for number in range(4):
        ns.write(node, number * WINDOW, bytes(WINDOW))
    assert extents_stored(ns) == 4
    ns.write(node, 0, b"1" * WINDOW)
    assert extents_stored(ns) == 4
    ns.set_attributes(node, size=WINDOW, caller=ROOT)
    assert extents_stored(ns) == 1
    ns.unlink(1, b"file")
    assert extents_stored(ns) == 0
    assert ns.usage(1).size == 0


def test_an_extent_outlives_the_file_while_a_snapshot_shows_it(ns: Namespace) -> None:
    node = new_file(ns)
    ns.write(node, 0, bytes(WINDOW))
    snapshot = ns.snapshot_create(1)
    ns.write(node, 0, b"piece" * 1000)
    assert extents_stored(ns) == 2
    ns.unlink(1, b"file")
    assert extents_stored(ns) == 1
    ns.snapshot_delete(snapshot.id)
    work_off(ns)
    assert extents_stored(ns) == 0


def test_many_pieces_are_merged(ns: Namespace) -> None:
    node = new_file(ns)
    ns.write(node, 0, b"." * WINDOW)
    ns.volume.commit(to_stores=True).wait()
    for number in range(40):
        ns.write(node, number * 8192, bytes((number,)) * 100)
    before, content = window(ns, node), ns.read(node, 0, WINDOW)
    assert before is not None and len(before.pieces) > files_module.MERGE_ABOVE
    mtime = ns.attributes(node).mtime
    work_off(ns)
    after = window(ns, node)
    assert after is not None and len(after.pieces) == 1
    assert ns.read(node, 0, WINDOW) == content
    assert ns.attributes(node).mtime == mtime
    assert extents_stored(ns) == 1


def test_very_many_pieces_are_merged_at_once(ns: Namespace) -> None:
    node = new_file(ns)
    ns.write(node, 0, b"." * WINDOW)
    ns.volume.commit(to_stores=True).wait()
    for number in range(200):
        ns.write(node, number * 5000, b"x")
        found = window(ns, node)
        assert found is not None and len(found.pieces) <= files_module.MERGE_NOW + 2
    assert ns.read(node, 0, WINDOW).count(b"x") == 200


def test_a_merge_of_pieces_with_holes_counts_what_it_fills(ns: Namespace) -> None:
    node = new_file(ns)
    for number in reversed(range(40)):
        ns.write(node, number * 20000 + 5000, b"x" * 10)
    content = ns.read(node, 0, WINDOW)
    work_off(ns)
    found = window(ns, node)
    assert found is not None and len(found.pieces) == 1
    assert ns.attributes(node).allocated == found.pieces[0][1] == ns.usage(1).allocated
    assert ns.read(node, 0, WINDOW) == content


class TestLongTruncation:
    """A truncation that removes very many windows leaves them to the background; nobody sees them."""

    COUNT = 30

    @pytest.fixture(autouse=True)
    def few(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(files_module, "REMOVE_NOW", 10)

    def filled(self, ns: Namespace) -> int:
        node = new_file(ns)
        for number in range(self.COUNT):
            ns.write(node, number * WINDOW, b"old")
        return node

    def keys(self, ns: Namespace, node: int) -> int:
        return sum(1 for _ in ns.volume.scan_keys(window_key(node, 0), window_key(node + 1, 0)))

    def test_what_was_cut_is_gone_at_once_and_removed_later(self, ns: Namespace) -> None:
        node = self.filled(ns)
        ns.set_attributes(node, size=WINDOW + 1, caller=ROOT)
        assert self.keys(ns, node) == self.COUNT
        ns.set_attributes(node, size=self.COUNT * WINDOW, caller=ROOT)
        for number in range(2, self.COUNT):
            assert ns.read(node, number * WINDOW, 10) == bytes(10)
        ns.write(node, 5 * WINDOW + 1, b"new")
        assert ns.read(node, 5 * WINDOW, 6) == b"\0new\0\0"
        work_off(ns, budget=4)
        assert self.keys(ns, node) == 3
        assert ns.read(node, 5 * WINDOW, 6) == b"\0new\0\0"
        assert ns.read(node, 0, 5) == b"old\0\0"
        assert ns.attributes(node).allocated == 3 + 1 + 4 == ns.usage(1).allocated
        assert ns.volume.get(orphan_key(node)) is None

    def test_cut_again_before_the_end(self, ns: Namespace) -> None:
        node = self.filled(ns)
        ns.set_attributes(node, size=2 * WINDOW, caller=ROOT)
        for number in range(2, self.COUNT):
            ns.write(node, number * WINDOW, b"again")
        ns.set_attributes(node, size=15 * WINDOW, caller=ROOT)
        ns.set_attributes(node, size=self.COUNT * WINDOW, caller=ROOT)
        expected = [b"old\0\0"] * 2 + [b"again"] * 13 + [bytes(5)] * (self.COUNT - 15)
        assert [ns.read(node, number * WINDOW, 5) for number in range(self.COUNT)] == expected
        ns.set_attributes(node, size=WINDOW, caller=ROOT)
        work_off(ns)
        assert self.keys(ns, node) == 1
        assert ns.attributes(node).allocated == 3

    def test_it_goes_on_after_reopening(self, tmp_path: Path) -> None:
        make_store(tmp_path / "other")
        with opened(tmp_path / "other") as ns:
            node = self.filled(ns)
            ns.set_attributes(node, size=0, caller=ROOT)
            ns.work(4)
        with opened(tmp_path / "other") as ns:
            assert ns.attributes(node).size == 0
            work_off(ns)
            assert self.keys(ns, node) == 0
            assert ns.attributes(node).allocated == 0

    def test_an_older_snapshot_keeps_the_windows_and_a_newer_one_does_not(self, ns: Namespace) -> None:
        node = self.filled(ns)
        older = ns.snapshot_create(1)
        ns.set_attributes(node, size=1, caller=ROOT)
        newer = ns.snapshot_create(1)
        work_off(ns)
        view = ns.lookup(ns.snapshot_node(older.id), b"file")[0]
        assert [ns.read(view, number * WINDOW, 3) for number in range(self.COUNT)] == [b"old"] * self.COUNT
        assert ns.read(ns.lookup(ns.snapshot_node(newer.id), b"file")[0], 0, 9) == b"o"
        ns.snapshot_delete(older.id)
        work_off(ns)
        assert self.keys(ns, node) == 1
        assert list(ns.volume.scan_keys(b"w", b"x")) == []

    def test_unlinked_while_it_is_cut(self, ns: Namespace) -> None:
        node = self.filled(ns)
        ns.set_attributes(node, size=0, caller=ROOT)
        ns.unlink(1, b"file")
        work_off(ns)
        assert self.keys(ns, node) == 0
        assert ns.volume.get(orphan_key(node)) is None
        assert extents_stored(ns) == 0

    def test_cut_while_it_has_no_name(self, ns: Namespace) -> None:
        node = self.filled(ns)
        ns.hold(node)
        ns.unlink(1, b"file")
        for size in (2 * WINDOW, 0, 20 * WINDOW, WINDOW):
            ns.set_attributes(node, size=size, caller=ROOT)
            work_off(ns)
            assert ns.volume.get(orphan_key(node)) is not None
            for number in range(1, 20):
                ns.write(node, number * WINDOW, b"x")
        assert ns.read(node, 0, 5) == bytes(5)
        ns.drop(node)
        work_off(ns)
        assert self.keys(ns, node) == 0
        assert ns.volume.get(orphan_key(node)) is None
        assert ns.volume.get(inode_key(node)) is None


def test_cold_names_what_is_not_at_hand(ns: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    node = new_file(ns)
    ns.write(node, 0, b"x" * (WINDOW + 10000))
    assert ns.cold(node, 0, 4096) == []
    monkeypatch.setattr(ns.volume, "extent_is_warm", lambda *_: False)
    cold = ns.cold(node, WINDOW - 100, 300)
    assert [(offset, length) for _, offset, length, _ in cold] == [(WINDOW - 100, 100), (0, 200)]
    assert ns.cold(node, 2 * WINDOW, 10) == []


def test_only_files_have_data(ns: Namespace) -> None:
    link, _ = ns.symlink(1, b"link", b"target", ROOT)
    for node, number in ((1, errno.EISDIR), (link, errno.EINVAL)):
        with pytest.raises(FilesystemError) as caught:
            ns.write(node, 0, b"x")
        assert caught.value.errno == number
        with pytest.raises(FilesystemError) as caught:
            ns.read(node, 0, 1)
        assert caught.value.errno == number


def test_damage_names_the_file_and_changes_nothing(ns: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files_module, "MERGE_NOW", 2)
    node = ns.create(ns.mkdir(1, b"dir", 0o755, USER)[0], b"file", 0o644, USER)[0]
    ns.write(node, 0, b"." * 9000)
    ns.write(node, 20000, b"." * 100)
    before = ns.attributes(node), window(ns, node)

    def damaged(*_: object) -> bytes:
        raise Damaged("the tag does not hold")

    with monkeypatch.context() as patch:
        patch.setattr(ns.volume, "read_extent", damaged)
        with pytest.raises(Damaged, match="/dir/file: reading at byte 4096") as caught:
            ns.read(node, 4096, 10)
        assert caught.value.errno == errno.EIO
        with pytest.raises(Damaged):
            ns.write(node, 30000, b"x" * 10)
    assert (ns.attributes(node), window(ns, node)) == before
    assert ns.read(node, 8999, 3) == b".\0\0"


def test_background_work_goes_on_past_what_is_damaged(ns: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (b"bad", b"good"):
        node = new_file(ns, name)
        ns.write(node, 0, b"x" * 9000)
        ns.hold(node)
        ns.unlink(1, name)
    snapshot = ns.snapshot_create(1).id
    ns.snapshot_delete(snapshot)
    get = ns.volume.get
    bad = window_key(node - 1, 0)

    def damaged(key: bytes) -> object:
        if key == bad:
            raise Damaged("the tag does not hold")
        return get(key)

    monkeypatch.setattr(ns.core, "get", damaged)
    ns.drop(node - 1)
    ns.drop(node)
    work_off(ns)
    assert ns.volume.get(inode_key(node)) is None
    assert ns.volume.get(orphan_key(node - 1)) is not None
    assert ns.snapshots_in_deletion() == []
