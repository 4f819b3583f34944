"""The intent log: what it holds is durable without the stores, comes back whole or up to where it was cut, and void frames stay void."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from anqfs.control import offline
from anqfs.crypto.secrets import Secret
from anqfs.errors import Damaged, RolledBack
from anqfs.store import intent_log
from anqfs.store.intent_log import PAGE
from anqfs.store.schema import Inode, Window, inode_key, window_key
from anqfs.store.volume import Volume

SECRET = Secret.from_passphrase("correct horse")


def inode(size: int) -> Inode:
    return Inode(1, 0o100644, 0, 0, 1, size, 0, 1, 2, 3, 4)


def opened(store: Path, *, read_only: bool = False, expect_root: str | None = None) -> Volume:
    """Open a volume whose groups reach the stores only when a test says so."""
    return Volume.open(store, SECRET, group_seconds=1e6, read_only=read_only, expect_root=expect_root)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    Volume.create(tmp_path / "store", SECRET, iterations=1)
    return tmp_path / "store"


@pytest.fixture
def volume(store: Path) -> Iterator[Volume]:
    """A volume whose first commit, which makes its sealing key durable, is done."""
    volume = opened(store)
    volume.put(inode_key(1), inode(1))
    volume.commit(to_stores=True).wait()
    with contextlib.closing(volume):
        yield volume


def logged(volume: Volume, *sizes: int) -> None:
    """Commit the root's inode with one size after the other, each to the log."""
    for size in sizes:
        before = volume.counters["groups_logged"]
        volume.put(inode_key(1), inode(size))
        volume.commit().wait()
        assert volume.counters["groups_logged"] == before + 1


def crashed(store: Path) -> Path:
    """Return a copy of a store as it is on the disk now."""
    target = store.with_name(f"crashed{len(list(store.parent.iterdir()))}")
    shutil.copytree(store, target)
    return target


def size_in(store: Path) -> int:
    """Return the size that the root's inode has in a store when it is opened."""
    with contextlib.closing(opened(store)) as volume:
        found = volume.get(inode_key(1))
        assert isinstance(found, Inode)
        return found.size


def altered(store: Path, change: Callable[[bytearray], None]) -> Path:
    """Return a store whose log was changed."""
    content = bytearray((store / "log").read_bytes())
    change(content)
    (store / "log").write_bytes(content)
    return store


def flip(at: int) -> Callable[[bytearray], None]:
    def change(content: bytearray) -> None:
        content[at] ^= 1

    return change


def test_a_small_commit_is_durable_without_the_stores(volume: Volume, store: Path) -> None:
    root, commits = volume.root, volume.counters["commits"]
    extent, number = volume.write_extent(b"data" * 1000)
    volume.put(window_key(1, 0), Window(1, b"", ((0, 4000, extent, 0, number),)))
    logged(volume, 2)
    assert (volume.root, volume.counters["commits"]) == (root, commits)
    assert volume.raw_extent_ids(0, 10) == []
    copy = crashed(store)
    for read_only in (True, False, True):
        with contextlib.closing(opened(copy, read_only=read_only)) as again:
            assert again.get(inode_key(1)) == inode(2)
            assert again.read_extent(extent, 0, 4000, number) == b"data" * 1000
            assert [key for key in again.scan_keys(b"A", b"Z") if key[:1] in b"IW"] == [inode_key(1), window_key(1, 0)]
    assert not (copy / "log").exists()


def test_what_is_logged_is_read_and_scanned_on_top_of_the_stores(volume: Volume) -> None:
    for ino in range(2, 8):
        volume.put(inode_key(ino), inode(ino))
        volume.commit().wait()
    volume.delete(inode_key(3))
    volume.commit().wait()
    volume.put(inode_key(4), inode(44))
    assert volume.counters["groups_logged"] == 7
    assert len(volume._groups) <= 4, "what is logged is in one group, not in one for each commit"
    found = dict(volume.scan(b"I", b"J"))
    sizes = {1: 1, 2: 2, 4: 44, 5: 5, 6: 6, 7: 7}
    assert found == {inode_key(ino): inode(size) for ino, size in sizes.items()}
    volume.commit(to_stores=True).wait()
    assert dict(volume.scan(b"I", b"J")) == found


def test_the_next_commit_of_the_stores_takes_in_what_was_logged(volume: Volume, store: Path) -> None:
    logged(volume, 2, 3)
    volume.close_group()
    volume.commit().wait()
    assert volume.due() is None or volume.counters["commits"] == 2
    (store / "log").unlink()
    assert size_in(crashed(store)) == 3


def test_what_is_logged_is_due_for_the_stores_when_its_time_is_over(store: Path) -> None:
    with contextlib.closing(Volume.open(store, SECRET, group_seconds=0.05)) as volume:
        volume.put(inode_key(1), inode(1))
        volume.commit(to_stores=True).wait()
        logged(volume, 2)
        due = volume.due()
        assert due is not None and volume.due() == due
        volume.close_group()
        volume.commit(to_stores=True).wait()
        assert volume.counters["commits"] == 2
        assert volume.due() is None


def test_an_extent_that_is_freed_while_it_is_logged_never_reaches_the_store(volume: Volume) -> None:
    extent, _ = volume.write_extent(b"data")
    volume.put(inode_key(1), inode(2))
    volume.commit().wait()
    volume.free_extent(extent)
    volume.commit().wait()
    assert volume.counters["groups_logged"] == 2
    volume.commit(to_stores=True).wait()
    assert (volume.counters["extents_written"], volume.raw_extent_ids(0, 10)) == (0, [])


def test_extent_ids_go_on_after_those_in_the_log(volume: Volume, store: Path) -> None:
    extent, number = volume.write_extent(b"data")
    volume.put(window_key(1, 0), Window(1, b"", ((0, 4, extent, 0, number),)))
    volume.commit().wait()
    with contextlib.closing(opened(crashed(store))) as again:
        assert again.write_extent(b"more")[0] > extent


def test_a_frame_that_a_crash_cut_ends_the_log_silently(volume: Volume, store: Path, caplog: pytest.LogCaptureFixture) -> None:
    logged(volume, 2, 3, 4)
    for change in (flip(2 * PAGE + 60), flip(2 * PAGE), lambda content: content.__delitem__(slice(2 * PAGE + 50, None))):
        assert size_in(altered(crashed(store), change)) == 3
    assert "damaged" not in caplog.text


def test_damage_inside_the_log_is_told_and_what_came_before_it_stays(volume: Volume, store: Path, caplog: pytest.LogCaptureFixture) -> None:
    logged(volume, 2, 3, 4)
    for change in (flip(PAGE + 60), flip(PAGE + 6), flip(PAGE), flip(PAGE + 15), flip(PAGE + 19)):
        caplog.clear()
        copy = altered(crashed(store), change)
        report = offline.check(str(copy), SECRET, lambda _: None)
        assert "2 groups of the last changes are lost" in report["findings"][0]["what"]
        assert not report["ok"]
        assert size_in(copy) == 2
        assert "damaged: 2 acknowledged groups" in caplog.text


def test_frames_that_changed_places_do_not_count(volume: Volume, store: Path) -> None:
    logged(volume, 2, 3)

    def swap(content: bytearray) -> None:
        content[:PAGE], content[PAGE : 2 * PAGE] = content[PAGE : 2 * PAGE], content[:PAGE]

    assert size_in(altered(crashed(store), swap)) == 1


def test_frames_from_before_the_last_commit_of_the_stores_are_void(volume: Volume, store: Path) -> None:
    logged(volume, 2, 3, 4)
    volume.put(inode_key(1), inode(5))
    volume.commit(to_stores=True).wait()
    assert size_in(crashed(store)) == 5
    logged(volume, 6)
    assert size_in(crashed(store)) == 6


def test_a_log_of_an_older_time_or_of_another_volume_is_not_taken(
    volume: Volume, store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    logged(volume, 2)
    shutil.copy(store / "log", tmp_path / "older")
    volume.commit(to_stores=True).wait()
    logged(volume, 3)
    copy = crashed(store)
    shutil.copy(tmp_path / "older", copy / "log")
    assert size_in(copy) == 2
    Volume.create(tmp_path / "other", SECRET, iterations=1)
    with contextlib.closing(opened(tmp_path / "other")) as other:
        other.put(inode_key(1), inode(77))
        other.commit(to_stores=True).wait()
        other.put(inode_key(1), inode(78))
        other.commit(to_stores=True).wait()
        logged(other, 79)
        copy = crashed(store)
        shutil.copy(tmp_path / "other" / "log", copy / "log")
    assert size_in(copy) == 2


def test_a_log_ahead_of_its_stores_is_told(volume: Volume, store: Path, caplog: pytest.LogCaptureFixture) -> None:
    older = crashed(store)
    volume.put(inode_key(1), inode(2))
    volume.commit(to_stores=True).wait()
    logged(volume, 3)
    shutil.copy(store / "log", older / "log")
    assert size_in(older) == 1
    assert "an older copy" in caplog.text


def test_a_volume_whose_log_holds_changes_is_not_at_its_root(volume: Volume, store: Path) -> None:
    root = volume.root
    opened(crashed(store), expect_root=root).close()
    logged(volume, 2)
    with pytest.raises(RolledBack, match="came after"):
        opened(crashed(store), expect_root=root)


def test_a_log_that_cannot_be_read_refuses_the_volume(volume: Volume, store: Path) -> None:
    logged(volume, 2)
    copy = crashed(store)
    (copy / "log").unlink()
    (copy / "log").symlink_to(store / "log")
    with pytest.raises(Damaged, match="the last changes are lost"):
        opened(copy)


def test_after_a_rotation_the_stores_are_first(volume: Volume) -> None:
    volume.rotate()
    volume.put(inode_key(1), inode(2))
    volume.commit().wait()
    assert volume.counters["groups_logged"] == 0
    logged(volume, 3)


def test_large_groups_and_a_full_log_go_to_the_stores(volume: Volume, store: Path) -> None:
    volume.write_extent(os.urandom(intent_log.FRAME_MAX + 1))
    volume.commit().wait()
    assert (volume.counters["groups_logged"], volume.counters["commits"]) == (0, 2)
    rounds = intent_log.SIZE_MAX // 2 // 100_000 + 1
    for number in range(rounds):
        volume.write_extent(os.urandom(100_000))
        volume.put(inode_key(1), inode(number))
        volume.commit().wait()
    assert volume.counters["commits"] == 3
    assert volume.counters["groups_logged"] == rounds - 1
    assert (store / "log").stat().st_size == intent_log.SIZE_MAX
    assert size_in(crashed(store)) == rounds - 1


@pytest.mark.parametrize("call", ["pwritev", "fdatasync", "pwrite"])
def test_a_log_that_cannot_be_written_leaves_it_to_the_stores(
    volume: Volume, store: Path, call: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if call != "pwrite":
        logged(volume, 2)

    def failing(*_: object) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(f"anqfs.store.intent_log.os.{call}", failing)
    for size in (3, 4):
        volume.put(inode_key(1), inode(size))
        volume.commit().wait()
        assert size_in(crashed(store)) == size
    assert volume.failed is None
    assert caplog.text.count("the intent log cannot be used") == 1
    assert volume.counters["commits"] == 3


def test_the_log_shows_neither_names_nor_content(volume: Volume, store: Path) -> None:
    extent, number = volume.write_extent(b"a patient's name" * 500)
    volume.put(window_key(1, 0), Window(1, b"inline secret", ((0, 8000, extent, 0, number),)))
    volume.commit().wait()
    content = (store / "log").read_bytes()
    assert volume.counters["groups_logged"] == 1 and content.startswith(b"anqL")
    assert b"patient" not in content and b"secret" not in content
    assert (store / "log").stat().st_mode & 0o777 == 0o600


def test_memory_that_held_plaintext_is_not_what_fills_the_pages_of_the_stores(volume: Volume, store: Path) -> None:
    for number in range(40):
        volume.write_extent(b"a patient's name" * (700 + number))
        for ino in range(20):
            volume.put(inode_key(20 * number + ino), inode(7))
        volume.commit().wait()
    assert volume.counters["groups_logged"] == 40
    volume.commit(to_stores=True).wait()
    volume.put(inode_key(1), inode(8))
    volume.commit(to_stores=True).wait()
    for name in ("records", "extents"):
        assert b"a patient's name" not in (store / name / "data.mdb").read_bytes()
