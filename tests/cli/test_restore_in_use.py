"""Restores in place over files that the kernel knows: looked up, open, mapped. It goes by its own idea of their size, pages and times."""

from __future__ import annotations

import mmap
import os
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


@pytest.mark.parametrize("kind", LATER)
@pytest.mark.parametrize("part", [(), ("--path", "f")], ids=["whole", "one file"])
def test_a_program_keeps_the_file_that_it_has_open(mounted: Bench, place: Path, kind: str, part: tuple[str, ...]) -> None:
    path, later = place / "f", LATER[kind]
    path.write_bytes(OLD)
    os.utime(path, ns=(10**17, 10**17))
    number = snapshot(mounted, place)
    path.write_bytes(later)
    with open(path, "r+b", buffering=0) as stream:
        assert stream.read() == later
        restore(mounted, number, *part)
        assert os.fstat(stream.fileno()).st_size == len(later)
        assert os.pread(stream.fileno(), len(later) + 1, 0) == later
        assert_restored(path)
        os.pwrite(stream.fileno(), b"written afterwards", 3)
        os.fsync(stream.fileno())
        assert_restored(path)
        assert os.fstat(stream.fileno()).st_ino != path.stat().st_ino
        assert os.fstat(stream.fileno()).st_nlink == 0
    assert_restored(path)
    assert path.stat().st_mtime_ns == 10**17
    assert os.listdir(place) == ["f"]
    mounted.remount()
    assert_restored(path)
    assert path.stat().st_mtime_ns == 10**17


@pytest.mark.parametrize("kind", LATER)
def test_a_file_that_is_only_looked_up_keeps_its_inode(mounted: Bench, place: Path, kind: str) -> None:
    """Also one that is known by two names, of which only one is asked for again."""
    for name in ("f", "g"):
        (place / name).write_bytes(OLD)
    os.link(place / "g", place / "h")
    number = snapshot(mounted, place)
    for name in ("f", "g"):
        (place / name).write_bytes(LATER[kind])
        os.chmod(place / name, 0o600)
    inodes = [(place / name).stat().st_ino for name in "fgh"]
    restore(mounted, number)
    for name in "fgh":
        assert_restored(place / name)
    assert [(place / name).stat().st_ino for name in "fgh"] == inodes


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


@pytest.mark.parametrize("kind", LATER)
def test_a_file_that_is_held_without_being_open(mounted: Bench, place: Path, kind: str) -> None:
    """O_PATH tells the filesystem nothing, yet the kernel keeps the inode for it."""
    (place / "f").write_bytes(OLD)
    number = snapshot(mounted, place)
    (place / "f").write_bytes(LATER[kind])
    descriptor = os.open(place / "f", os.O_PATH)
    try:
        restore(mounted, number)
        assert_restored(place / "f")
        assert os.fstat(descriptor).st_size == len(LATER[kind])
    finally:
        os.close(descriptor)
    assert_restored(place / "f")


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
