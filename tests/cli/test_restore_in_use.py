"""Restores in place over files that the kernel knows: looked up, open, mapped. It goes by its own idea of their size, pages and times."""

from __future__ import annotations

import mmap
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from .conftest import Bench

OLD = b"as it was in the snapshot, " * 400
LATER = {"shorter": b"brief", "longer": OLD + b"and much more" * 50_000, "different": OLD.swapcase(), "empty": b""}


@pytest.fixture
def place(mounted: Bench) -> Path:
    """An empty directory on the mount."""
    path = mounted.mountpoint / "place"
    path.mkdir()
    return path


def snapshot(mounted: Bench, place: Path) -> str:
    return str(mounted.json("snapshot", "create", place)["id"])


def restore(mounted: Bench, number: str, *more: str) -> None:
    mounted.ok("snapshot", "restore", number, "--in-place", *more)


def before_restore(mounted: Bench, place: Path) -> Path:
    (made,) = [one for one in mounted.json("snapshot", "list") if one["name"] == "before_restore"]
    return Path(made["path"])


def assert_restored(path: Path) -> None:
    facts = path.stat()
    assert facts.st_size == len(OLD)
    assert path.read_bytes() == OLD
    with open(path, "rb") as stream:
        assert os.fstat(stream.fileno()).st_size == len(OLD)
        assert stream.seek(0, os.SEEK_END) == len(OLD)


def assert_kept(path: Path, descriptor: int, later: bytes) -> None:
    """What is open is as it was, what is opened is restored, and nothing that is written to the one reaches the other."""
    assert os.fstat(descriptor).st_size == len(later)
    assert os.pread(descriptor, len(later) + 1, 0) == later
    assert_restored(path)
    os.pwrite(descriptor, b"written afterwards", 3)
    os.fsync(descriptor)
    assert_restored(path)
    assert os.fstat(descriptor).st_ino != path.stat().st_ino
    assert os.fstat(descriptor).st_nlink == 0


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "file by file"])
def test_programs_keep_the_files_that_they_have_open(mounted: Bench, place: Path, whole: bool) -> None:
    for name in LATER:
        (place / name).write_bytes(OLD)
        os.utime(place / name, ns=(10**17, 10**17))
    number = snapshot(mounted, place)
    with ExitStack() as stack:
        for name, later in LATER.items():
            (place / name).write_bytes(later)
            stream = stack.enter_context(open(place / name, "r+b", buffering=0))
            assert stream.read() == later
            stack.callback(assert_kept, place / name, stream.fileno(), later)
        for more in [()] if whole else [("--path", name) for name in LATER]:
            restore(mounted, number, *more)
    for _ in range(2):
        for name in LATER:
            assert_restored(place / name)
            assert (place / name).stat().st_mtime_ns == 10**17
        assert sorted(os.listdir(place)) == sorted(LATER)
        mounted.remount()


def test_files_that_are_only_looked_up_keep_their_inodes(mounted: Bench, place: Path) -> None:
    """Also those that are known by two names, of which only one is asked for again."""
    for name in LATER:
        (place / name).write_bytes(OLD)
        os.link(place / name, place / f"{name}-too")
    number = snapshot(mounted, place)
    for name, later in LATER.items():
        (place / name).write_bytes(later)
        os.chmod(place / name, 0o600)
    names = sorted(os.listdir(place))
    inodes = [(place / name).stat().st_ino for name in names]
    restore(mounted, number)
    for name in names:
        assert_restored(place / name)
    assert [(place / name).stat().st_ino for name in names] == inodes


def test_an_open_file_that_did_not_change_keeps_its_inode(mounted: Bench, place: Path) -> None:
    (place / "same").write_bytes(OLD)
    (place / "other").write_bytes(OLD)
    number = snapshot(mounted, place)
    (place / "other").write_bytes(b"")
    with open(place / "same", "rb") as stream:
        inode = os.fstat(stream.fileno()).st_ino
        restore(mounted, number)
        assert (place / "same").stat().st_ino == inode
        assert stream.read() == OLD
    assert_restored(place / "other")


def test_all_names_of_an_open_file_lead_to_what_was_restored(mounted: Bench, place: Path) -> None:
    (place / "d").mkdir()
    (place / "f").write_bytes(OLD)
    os.link(place / "f", place / "d" / "g")
    number = snapshot(mounted, place)
    (place / "f").write_bytes(b"later")
    os.rename(place / "d" / "g", place / "moved")
    with open(place / "moved", "rb") as stream:
        restore(mounted, number)
        for path in (place / "f", place / "d" / "g"):
            assert_restored(path)
            assert path.stat().st_nlink == 2
        assert os.path.samefile(place / "f", place / "d" / "g")
        assert stream.read() == b"later"
    assert sorted(os.listdir(place)) == ["d", "f"]


def test_pages_of_a_mapping_do_not_reach_the_restored_file(mounted: Bench, place: Path) -> None:
    (place / "m").write_bytes(OLD)
    number = snapshot(mounted, place)
    with open(place / "m", "r+b") as stream:
        view = mmap.mmap(stream.fileno(), len(OLD))
    view[:6] = b"mapped"
    restore(mounted, number)
    assert_restored(place / "m")
    assert view[:6] == b"mapped"
    view[100:106] = b"mapped"
    view.flush()
    view.close()
    assert_restored(place / "m")
    assert (before_restore(mounted, place) / "m").read_bytes() == b"mapped" + OLD[6:]
    mounted.remount()
    assert_restored(place / "m")


def test_files_that_are_held_without_being_open(mounted: Bench, place: Path) -> None:
    """O_PATH tells the filesystem nothing, yet the kernel keeps the inode for it."""
    for name in LATER:
        (place / name).write_bytes(OLD)
    number = snapshot(mounted, place)
    held = {}
    for name, later in LATER.items():
        (place / name).write_bytes(later)
        held[name] = os.open(place / name, os.O_PATH)
    try:
        restore(mounted, number)
        for name, descriptor in held.items():
            assert_restored(place / name)
            assert os.fstat(descriptor).st_size == len(LATER[name])
    finally:
        for descriptor in held.values():
            os.close(descriptor)
    for name in LATER:
        assert_restored(place / name)


def test_programs_keep_what_a_restore_removes(mounted: Bench, place: Path) -> None:
    number = snapshot(mounted, place)
    (place / "d").mkdir()
    (place / "d" / "new").write_bytes(b"new")
    with open(place / "d" / "new", "rb") as stream:
        restore(mounted, number)
        assert os.listdir(place) == []
        assert stream.read() == b"new"


def test_a_time_that_the_kernel_still_had_does_not_overwrite_the_restored_one(mounted: Bench, place: Path) -> None:
    """chmod leaves a change time in the kernel, which it sends together with its mtime when it likes."""
    times: dict[str, Any] = {}
    for name in ("open", "closed"):
        (place / name).write_bytes(OLD)
        os.utime(place / name, ns=(10**17, 10**17))
    number = snapshot(mounted, place)
    for name in ("open", "closed"):
        os.utime(place / name, ns=(5, 5))
        os.chmod(place / name, 0o600)
    with open(place / "open", "rb") as stream:
        restore(mounted, number)
        os.fchmod(stream.fileno(), 0o644)
    mounted.remount()
    for name in ("open", "closed"):
        times[name] = (place / name).stat().st_mtime_ns
    assert times == {"open": 10**17, "closed": 10**17}
