"""Quotas, usage and file locks through a real mount: what programs are told, and when."""

from __future__ import annotations

import errno
import mmap
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mounted import NOBODY, Mount, in_child

from anqfs.mount.operations import DIRECT_BELOW
from anqfs.namespace.quota_accounts import ENTRY_CAPACITY
from tests.refusals import refusal

MAX_BYTES = "ceph.quota.max_bytes"


def limit(path: Path, size: int) -> None:
    os.setxattr(path, MAX_BYTES, b"%d" % size)


def usage(path: Path, name: str) -> int:
    return int(os.getxattr(path, f"ceph.dir.{name}"))


def write_until_refused(descriptor: int, piece: bytes, most: int) -> int:
    """Write pieces until one is refused with EDQUOT; return the bytes that were accepted."""
    accepted = 0
    while accepted < most:
        try:
            accepted += os.write(descriptor, piece)
        except OSError as error:
            assert error.errno == errno.EDQUOT
            return accepted
    pytest.fail(f"{accepted} bytes were accepted")


@pytest.mark.parametrize("piece", [1000, 4096, 300_000])
def test_a_write_itself_is_refused_where_the_quota_ends_and_all_that_was_accepted_is_there(place: Path, piece: int) -> None:
    limit(place, 1_000_000)
    descriptor = os.open(place / "f", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)
    accepted = write_until_refused(descriptor, b"x" * piece, 2_000_000)
    os.fsync(descriptor)
    os.close(descriptor)
    assert 1_000_000 - ENTRY_CAPACITY - piece < accepted <= 1_000_000 - ENTRY_CAPACITY
    assert (place / "f").read_bytes() == b"x" * accepted
    assert usage(place, "rbytes") == accepted
    shutil.rmtree(place)


def test_a_long_write_is_cut_short_before_it_is_refused(place: Path) -> None:
    limit(place, 5 << 20)
    descriptor = os.open(place / "f", os.O_CREAT | os.O_WRONLY, 0o644)
    accepted = os.write(descriptor, bytes(8 << 20))
    assert 0 < accepted <= (5 << 20) - ENTRY_CAPACITY
    accepted += write_until_refused(descriptor, bytes(2 << 20), 2 << 20)
    os.close(descriptor)
    assert (place / "f").stat().st_size == accepted <= (5 << 20) - ENTRY_CAPACITY


def test_names_are_refused_too_and_space_is_there_again_at_once(place: Path) -> None:
    limit(place, 10 * ENTRY_CAPACITY)
    for number in range(10):
        (place / f"f{number}").touch()
    assert refusal((place / "more").touch) == "EDQUOT"
    assert refusal((place / "more").mkdir) == "EDQUOT"
    assert refusal(os.symlink, "target", place / "more") == "EDQUOT"
    assert refusal(os.link, place / "f0", place / "more") == "EDQUOT"
    assert os.statvfs(place).f_blocks == os.statvfs(place.parent).f_blocks
    (place / "f0").unlink()
    (place / "more").mkdir()
    assert usage(place, "rentries") == 10
    assert refusal((place / "more" / "below").touch) == "EDQUOT"


def test_a_move_into_a_full_directory_is_refused(place: Path) -> None:
    (place / "in").mkdir()
    (place / "f").write_bytes(b"x" * 100_000)
    limit(place / "in", 50_000)
    assert refusal(os.rename, place / "f", place / "in" / "f") == "EDQUOT"
    limit(place / "in", 200_000)
    os.rename(place / "f", place / "in" / "f")
    assert usage(place / "in", "rbytes") == 100_000


def test_files_below_a_nearly_full_quota_can_be_mapped(place: Path) -> None:
    limit(place, 1_000_000)
    with (place / "f").open("w+b") as stream:
        stream.write(b"0" * 8192)
        stream.flush()
        with mmap.mmap(stream.fileno(), 8192) as mapped:
            mapped[4096:4100] = b"four"
            mapped.flush()
        assert os.pread(stream.fileno(), 6, 4095) == b"0four0"
    assert (place / "f").read_bytes()[4094:4102] == b"00four00"


def test_who_reads_through_the_cache_sees_what_is_written_past_it(place: Path) -> None:
    (place / "f").write_bytes(b"0" * 20_000)
    reading = os.open(place / "f", os.O_RDONLY)
    with (place / "f").open("rb") as stream, mmap.mmap(stream.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert os.pread(reading, 20_000, 0) == mapped[:] == b"0" * 20_000
        limit(place, 1_000_000)
        writing = os.open(place / "f", os.O_RDWR)
        os.pwrite(writing, b"1" * 5000, 3000)
        expected = b"0" * 3000 + b"1" * 5000 + b"0" * 12_000
        assert os.pread(reading, 20_000, 0) == mapped[:] == os.pread(writing, 20_000, 0) == expected
    cached = os.open(place / "f", os.O_RDONLY)
    assert os.pread(cached, 20_000, 0) == expected
    os.truncate(place / "f", 4000)
    os.pwrite(writing, b"end", 4000)
    assert os.pread(cached, 20_000, 2999) == b"0" + b"1" * 1000 + b"end"
    for descriptor in (reading, writing, cached):
        os.close(descriptor)


def test_what_only_the_kernel_had_when_a_quota_was_reached_is_refused_at_fsync_and_close_and_nothing_overshoots(place: Path) -> None:
    """A file opened while much was left: the kernel accepts, the daemon refuses, and fsync and close say so."""
    limit(place, 2 * DIRECT_BELOW)
    descriptor = os.open(place / "f", os.O_CREAT | os.O_WRONLY, 0o644)
    limit(place, 1_000_000)
    for _ in range(40):
        os.write(descriptor, b"x" * 100_000)
    assert refusal(os.fsync, descriptor) == "EDQUOT"
    os.write(descriptor, b"x" * 2_000_000)
    assert refusal(os.close, descriptor) == "EIO"
    assert os.stat(place / "f").st_blocks * 512 <= 1_000_000
    assert refusal((place / "g").write_bytes, b"x" * 1_000_000) == "EDQUOT"


def test_what_a_quota_refused_keeps_nobody_from_taking_a_snapshot(mount: Mount) -> None:
    full = mount.point / "full"
    full.mkdir()
    descriptor = os.open(full / "f", os.O_CREAT | os.O_WRONLY, 0o644)
    limit(full, 100_000)
    os.write(descriptor, b"x" * 500_000)
    (mount.point / ".snapshot" / "while it is open").mkdir()
    os.write(descriptor, b"x" * 500_000)
    assert refusal(os.close, descriptor) == "EIO"
    (mount.point / ".snapshot" / "later").mkdir()
    assert usage(mount.point / ".snapshot" / "2_later", "rfiles") == 1


def test_far_from_the_limit_writing_is_cached(place: Path, shared_mount: Mount) -> None:
    limit(place, 4 * DIRECT_BELOW)
    before = shared_mount.ask("facts")["requests"].get("write", 0)
    with (place / "f").open("wb", buffering=0) as stream:
        for _ in range(200):
            stream.write(b"x" * 1000)
    assert shared_mount.ask("facts")["requests"]["write"] - before < 20


def test_only_root_sets_a_quota_and_it_is_not_listed(place: Path) -> None:
    limit(place, 5000)
    os.chmod(place, 0o777)
    assert in_child(NOBODY, refusal, os.setxattr, str(place), MAX_BYTES, b"9") == "EPERM"
    assert in_child(NOBODY, os.getxattr, str(place), MAX_BYTES) == b"5000"
    assert os.listxattr(place) == []
    os.setxattr(place, MAX_BYTES, b"0")
    assert refusal(os.getxattr, place, MAX_BYTES) == "ENODATA"
    limit(place, 5000)
    os.removexattr(place, MAX_BYTES)
    assert refusal(os.getxattr, place, MAX_BYTES) == "ENODATA"


def test_usage_is_exact_at_once_live_and_in_snapshots(place: Path) -> None:
    (place / "a" / "b").mkdir(parents=True)
    (place / "a" / "b" / "f").write_bytes(b"x" * 12_345)
    (place / "a" / "link").symlink_to("b")
    os.mkfifo(place / "a" / "pipe")
    names = ("entries", "files", "subdirs", "rentries", "rfiles", "rsubdirs", "rbytes")
    expected = dict(zip(names, (1, 0, 1, 5, 3, 2, 12_345), strict=True))
    assert {name: usage(place, name) for name in names} == expected
    snapshot = place / ".snapshot" / "then"
    snapshot.mkdir()
    (seen,) = list((place / ".snapshot").iterdir())
    newest = os.getxattr(place, "ceph.dir.rctime")
    shutil.rmtree(place / "a")
    assert {name: usage(seen, name) for name in names} == expected
    assert os.getxattr(seen, "ceph.dir.rctime") == newest
    assert {name: usage(place, name) for name in names} == dict.fromkeys(names, 0)
    before = float(newest)
    (place / "new").mkdir()
    (place / "new" / "f").touch()
    os.chmod(place / "new" / "f", 0o600)
    assert float(os.getxattr(place, "ceph.dir.rctime")) >= max(before, (place / "new" / "f").stat().st_ctime)
    assert refusal(os.getxattr, place / "new" / "f", "ceph.dir.rbytes") == "ENODATA"


def test_quotas_survive_a_kill_and_hold_from_the_first_write_on(mount: Mount) -> None:
    top = mount.point / "top"
    top.mkdir()
    limit(top, 300_000)
    (top / "f").write_bytes(b"x" * 200_000)
    descriptor = os.open(top, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
    mount.kill()
    mount.start()
    assert os.getxattr(top, MAX_BYTES) == b"300000"
    assert refusal((top / "g").write_bytes, b"x" * 100_000) == "EDQUOT"
    assert usage(top, "rbytes") == 200_000
    assert usage(top, "entries") == 2


def test_root_cannot_change_a_locked_file_by_any_call(place: Path, shared_mount: Mount) -> None:
    file, other = place / "f", place / "other"
    file.write_bytes(b"kept")
    other.write_bytes(b"other")
    os.setxattr(file, "user.x", b"1")
    before = file.stat()
    shared_mount.ask("lock", f"{place.name}/f", time.time_ns() + 3600 * 10**9, None)
    calls: list[tuple[Callable[..., Any], tuple[Any, ...]]] = [
        (os.open, (file, os.O_WRONLY)),
        (os.open, (file, os.O_RDWR)),
        (os.open, (file, os.O_WRONLY | os.O_APPEND)),
        (os.open, (file, os.O_WRONLY | os.O_TRUNC)),
        (os.open, (file, os.O_RDONLY | os.O_TRUNC)),
        (os.open, (file, os.O_WRONLY | os.O_CREAT)),
        (os.truncate, (file, 0)),
        (os.chmod, (file, 0o777)),
        (os.chown, (file, 1, 1)),
        (os.utime, (file, (1, 1))),
        (os.setxattr, (file, "user.x", b"2")),
        (os.setxattr, (file, "user.y", b"2")),
        (os.removexattr, (file, "user.x")),
        (os.link, (file, place / "second")),
        (os.rename, (file, place / "moved")),
        (os.rename, (other, file)),
        (os.unlink, (file,)),
    ]
    for call, arguments in calls:
        assert refusal(call, *arguments) == "EPERM", (call, arguments)
    with pytest.raises(OSError):
        shutil.rmtree(place)
    assert file.read_bytes() == b"kept"
    after = file.stat()
    assert [after[at] for at in range(10)] == [before[at] for at in range(10)]
    assert after.st_mtime_ns == before.st_mtime_ns and after.st_ctime_ns == before.st_ctime_ns
    place.rename(place.with_name("renamed above"))
    place.with_name("renamed above").rename(place)
    assert os.getxattr(file, "user.x") == b"1"
