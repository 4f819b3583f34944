"""File handles, as NFS servers keep them: valid on a daemon that has never seen the file, in snapshots, too."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

import pytest
from mounted import Mount, libc

AT_FDCWD = -100


class _Handle(ctypes.Structure):
    _fields_ = (("size", ctypes.c_uint), ("kind", ctypes.c_int), ("data", ctypes.c_ubyte * 128))


def handle_of(path: Path) -> tuple[int, bytes]:
    handle = _Handle(128)
    libc("name_to_handle_at", AT_FDCWD, bytes(path), ctypes.byref(handle), ctypes.byref(ctypes.c_int()), 0)
    return handle.kind, bytes(handle.data[: handle.size])


def open_handle(mount: Mount, kind: int, data: bytes, flags: int = os.O_RDONLY) -> int:
    handle = _Handle(len(data), kind)
    handle.data[: len(data)] = data
    root = os.open(mount.point, os.O_RDONLY)
    try:
        return libc("open_by_handle_at", root, ctypes.byref(handle), flags)
    finally:
        os.close(root)


def test_handles_open_after_a_remount(mount: Mount) -> None:
    deep = mount.point / "a" / "b" / "c"
    deep.mkdir(parents=True)
    (deep / "file").write_bytes(b"content")
    (mount.point / ".snapshot" / "shot").mkdir()
    (shot,) = (mount.point / ".snapshot").iterdir()
    kept = {
        path: handle_of(path) for path in (deep / "file", deep, mount.point / "a", mount.point, shot / "a" / "b" / "c" / "file", shot / "a")
    }
    (deep / "file").write_bytes(b"changed!")
    mount.remount()
    for path, (kind, data) in kept.items():
        descriptor = open_handle(mount, kind, data)
        try:
            assert os.fstat(descriptor).st_ino == path.stat().st_ino
            if path.is_dir():
                assert sorted(os.listdir(descriptor)) == sorted(os.listdir(path))
                assert os.readlink(f"/proc/self/fd/{descriptor}") == str(path)
            else:
                assert os.read(descriptor, 100) == path.read_bytes()
        finally:
            os.close(descriptor)
    assert (shot / "a" / "b" / "c" / "file").read_bytes() == b"content"


def test_a_directory_in_a_snapshot_opens_when_nobody_has_looked_for_it(mount: Mount) -> None:
    study = mount.point / "study"
    (study / "series").mkdir(parents=True)
    (study / "series" / "image").write_bytes(b"content")
    (study / ".snapshot" / "shot").mkdir()
    (shot,) = (study / ".snapshot").iterdir()
    by_time = next((study / ".snapshot/@GMT").iterdir())
    kept = {path: handle_of(path) for path in (shot / "series", shot, by_time, study / ".snapshot", study / ".snapshot/@GMT")}
    for path, (kind, data) in kept.items():
        mount.remount()
        descriptor = open_handle(mount, kind, data)
        try:
            assert os.readlink(f"/proc/self/fd/{descriptor}") == str(path)
        finally:
            os.close(descriptor)
        assert os.listdir(study) == ["series"]
        assert "@GMT" not in os.listdir(study / ".snapshot")


def test_a_handle_writes(mount: Mount) -> None:
    (mount.point / "f").write_bytes(b"old")
    kind, data = handle_of(mount.point / "f")
    mount.remount()
    descriptor = open_handle(mount, kind, data, os.O_RDWR)
    os.pwrite(descriptor, b"new", 0)
    os.close(descriptor)
    assert (mount.point / "f").read_bytes() == b"new"


def test_a_handle_of_a_deleted_file_is_stale_for_ever(mount: Mount) -> None:
    (mount.point / "f").write_bytes(b"old")
    kind, data = handle_of(mount.point / "f")
    (mount.point / "f").unlink()
    for number in range(50):
        (mount.point / f"another{number}").write_bytes(b"other")
    for _ in range(2):
        with pytest.raises(OSError) as caught:
            os.close(open_handle(mount, kind, data))
        assert caught.value.errno == errno.ESTALE
        mount.remount()


def test_a_made_up_handle_is_stale(mount: Mount) -> None:
    kind, data = handle_of(mount.point)
    for number in (2**40 - 1, 2**63 - 1, 0x7FFFFF << 40 | 12345, 5 << 40 | 1):
        made_up = (number >> 32).to_bytes(4, "little") + (number & 0xFFFFFFFF).to_bytes(4, "little") + data[8:]
        with pytest.raises(OSError) as caught:
            os.close(open_handle(mount, kind, made_up))
        assert caught.value.errno == errno.ESTALE
