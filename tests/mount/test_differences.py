"""What differs from ext4, each as docs/semantics.md says it, and the limits that are ANQ's."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import time
from pathlib import Path

import pytest
from mounted import NOBODY, in_child, libc, until

from tests.refusals import refusal

AT_FDCWD = -100
CLOCK_REALTIME_COARSE = 5
FS_IOC_GETFLAGS = 0x80086601
STATX_BTIME = 0x800


def test_fallocate_is_not_supported_and_posix_fallocate_writes_zeros(place: Path) -> None:
    with open(place / "f", "w+b") as stream:
        assert refusal(libc, "fallocate", stream.fileno(), 0, ctypes.c_long(0), ctypes.c_long(4096)) == "ENOTSUP"
        os.posix_fallocate(stream.fileno(), 0, 10_000)
        assert os.fstat(stream.fileno()).st_size == 10_000
        assert stream.read() == bytes(10_000)


def test_the_whole_file_is_data_for_seek_hole(place: Path) -> None:
    with open(place / "f", "w+b") as stream:
        os.pwrite(stream.fileno(), b"x", 10 << 20)
        assert os.lseek(stream.fileno(), 0, os.SEEK_DATA) == 0
        assert os.lseek(stream.fileno(), 0, os.SEEK_HOLE) == (10 << 20) + 1


def test_there_is_no_o_tmpfile(place: Path) -> None:
    assert refusal(os.open, place, os.O_TMPFILE | os.O_RDWR) == "ENOTSUP"


def test_rename_leaves_no_whiteout(place: Path) -> None:
    (place / "a").touch()
    assert refusal(libc, "renameat2", AT_FDCWD, bytes(place / "a"), AT_FDCWD, bytes(place / "b"), 4) == "EINVAL"
    assert os.listdir(place) == ["a"]


def test_statx_gives_no_birth_time(place: Path) -> None:
    buffer = ctypes.create_string_buffer(256)
    libc("statx", AT_FDCWD, bytes(place), 0, 0xFFF, buffer)
    assert not int.from_bytes(buffer.raw[:4], "little") & STATX_BTIME


def test_there_are_no_inode_flags(place: Path) -> None:
    with open(place / "f", "wb") as stream:
        assert refusal(fcntl.ioctl, stream.fileno(), FS_IOC_GETFLAGS, bytes(8)) == "ENOTTY"


def test_direct_io_need_not_be_aligned(place: Path) -> None:
    descriptor = os.open(place / "f", os.O_RDWR | os.O_CREAT | os.O_DIRECT)
    try:
        buffer = mmap.mmap(-1, 4096)
        buffer[:5] = b"12345"
        assert os.pwritev(descriptor, [memoryview(buffer)[1:5]], 3) == 4
        assert os.pread(descriptor, 100, 0) == b"\0\0\0" + b"2345"
    finally:
        os.close(descriptor)


def test_reading_leaves_atime_alone(place: Path) -> None:
    (place / "f").write_bytes(b"x")
    os.utime(place / "f", ns=(1, 2 * 10**18))
    assert (place / "f").read_bytes() == b"x"
    assert (place / "f").stat().st_atime_ns == 1


def test_a_file_is_sparse_up_to_eight_exbibytes(place: Path) -> None:
    most = (1 << 63) - 1
    with open(place / "f", "w+b") as stream:
        number = stream.fileno()
        for offset in (1 << 40, 1 << 50, most - (1 << 20)):
            os.pwrite(number, b"here", offset)
        os.fsync(number)
        assert os.fstat(number).st_size == most - (1 << 20) + 4
        assert os.pread(number, 6, (1 << 50) - 1) == b"\0here\0"
        assert os.pread(number, 100, 1 << 45) == bytes(100)
        os.ftruncate(number, most)
        assert os.fstat(number).st_size == most
        with pytest.raises(OSError) as caught:
            os.pwrite(number, b"xx", most - 1)
            os.pwrite(number, b"xx", most)
        assert caught.value.errno in (errno.EFBIG, errno.EINVAL)
    assert (place / "f").stat().st_blocks * 512 < 1 << 20
    os.truncate(place / "f", 0)
    assert (place / "f").stat().st_blocks == 0


def test_st_blocks_is_honest_after_closing(place: Path) -> None:
    (place / "f").write_bytes(b"x" * 3_000_000)
    assert 3_000_000 <= (place / "f").stat().st_blocks * 512 < 3_200_000
    os.truncate(place / "f", 1_000_000)
    assert 1_000_000 <= (place / "f").stat().st_blocks * 512 < 1_200_000


def test_a_file_has_at_most_1024_names(place: Path) -> None:
    (place / "f").touch()
    for number in range(1023):
        os.link(place / "f", place / f"l{number}")
    assert refusal(os.link, place / "f", place / "one too many") == "EMLINK"
    assert (place / "f").stat().st_nlink == 1024


def test_an_attribute_holds_64_kib(place: Path) -> None:
    (place / "f").touch()
    for name in ("user.a", "user.b", "user.c"):
        os.setxattr(place / "f", name, name.encode() * 10922)
    assert os.getxattr(place / "f", "user.b") == b"user.b" * 10922
    os.setxattr(place / "f", "user.full", b"x" * 65536)
    assert len(os.getxattr(place / "f", "user.full")) == 65536
    assert refusal(os.setxattr, place / "f", "user.more", b"x" * 65537) == "E2BIG"


def test_the_snapshot_directory_cannot_be_made_renamed_or_removed_by_name(place: Path) -> None:
    assert ".snapshot" not in os.listdir(place)
    assert refusal(os.mkdir, place / ".snapshot") == "EEXIST"
    assert refusal(os.rmdir, place / ".snapshot") == "EBUSY"
    (place / "f").touch()
    assert refusal(os.rename, place / "f", place / ".snapshot") in ("EBUSY", "EEXIST", "EISDIR")


def test_truncating_to_the_same_size_moves_no_time(place: Path) -> None:
    (place / "f").write_bytes(b"123")
    os.utime(place / "f", ns=(10**18, 10**18))
    os.truncate(place / "f", 3)
    assert (place / "f").stat().st_mtime_ns == 10**18


def test_set_id_bits_are_cleared_by_writes_of_whoever_opened_the_file_without_being_root(place: Path) -> None:
    """Also through a shared mapping, where ext4 leaves them; but set-group-id without group execution stays."""

    def change(path: Path, mapped: bool) -> None:
        with open(path, "r+b", buffering=0) as stream:
            if mapped:
                with mmap.mmap(stream.fileno(), 4) as view:
                    view[0] = 65
            else:
                stream.write(b"x")

    os.chmod(place, 0o777)
    for mode, mapped, left in ((0o6777, True, 0o777), (0o6777, False, 0o777), (0o2767, False, 0o2767)):
        path = place / f"{mode:o}{mapped}"
        path.write_bytes(b"data")
        path.chmod(mode)
        in_child(NOBODY, change, path, mapped)
        assert path.stat().st_mode & 0o7777 == left, (oct(mode), mapped)


def test_changing_no_owner_leaves_the_set_id_bits(place: Path) -> None:
    (place / "f").touch()
    (place / "f").chmod(0o6755)
    os.chown(place / "f", -1, -1)
    assert (place / "f").stat().st_mode & 0o7777 == 0o6755


@pytest.mark.parametrize("change", ["remove an ACL", "set the same value"])
def test_changes_of_attributes_that_change_nothing_move_ctime(place: Path, change: str) -> None:
    (place / "f").touch()
    os.setxattr(place / "f", "user.a", b"value")
    before = (place / "f").stat()
    until(lambda: time.clock_gettime_ns(CLOCK_REALTIME_COARSE) > before.st_ctime_ns, "the kernel's clock has gone on")
    if change == "remove an ACL":
        os.removexattr(place / "f", "system.posix_acl_access")
    else:
        os.setxattr(place / "f", "user.a", b"value")
    after = (place / "f").stat()
    assert after.st_ctime_ns > before.st_ctime_ns
    assert after.st_mtime_ns == before.st_mtime_ns


def test_writing_into_a_fifo_moves_no_time(place: Path) -> None:
    os.mkfifo(place / "pipe")
    os.utime(place / "pipe", ns=(1, 1))
    descriptor = os.open(place / "pipe", os.O_RDWR)
    try:
        os.write(descriptor, b"x")
        assert os.fstat(descriptor).st_mtime_ns == 1
    finally:
        os.close(descriptor)
