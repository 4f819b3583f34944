"""A file's times are what they were before the kernel forgot it, however few requests it took to keep them."""

from __future__ import annotations

import os
import time

import pytest
from mounted import Mount, drop_caches, until

FILES = 200


def times_of(mount: Mount) -> dict[str, tuple[int, int]]:
    with os.scandir(mount.point) as entries:
        return {entry.name: (entry.stat().st_mtime_ns, entry.stat().st_ctime_ns) for entry in entries}


def test_times_of_written_files_stay(mount: Mount) -> None:
    begin = time.clock_gettime_ns(5)  # CLOCK_REALTIME_COARSE: what the kernel takes a file's times from
    for number in range(FILES):
        (mount.point / str(number)).write_bytes(b"x" * number)
    seen = times_of(mount)
    assert all(begin <= mtime <= time.time_ns() and begin <= ctime <= time.time_ns() for mtime, ctime in seen.values())
    drop_caches("2")
    assert times_of(mount) == seen
    mount.remount()
    assert times_of(mount) == seen


def test_a_later_write_moves_the_times(mount: Mount) -> None:
    path = mount.point / "file"
    with path.open("wb", buffering=0) as file:
        file.write(b"one")
        first = path.stat()
        until(lambda: time.clock_gettime_ns(5) > first.st_mtime_ns, "the clock's next tick")
        file.write(b"two")
    second = path.stat()
    assert second.st_mtime_ns > first.st_mtime_ns and second.st_ctime_ns > first.st_ctime_ns
    mount.remount()
    third = path.stat()
    assert (third.st_mtime_ns, third.st_ctime_ns) == (second.st_mtime_ns, second.st_ctime_ns)


def test_files_written_at_once_take_one_request_for_their_times_at_most_now_and_then(mount: Mount) -> None:
    before = mount.ask("facts")["requests"]
    for number in range(FILES):
        (mount.point / str(number)).write_bytes(b"x")
    after = mount.ask("facts")["requests"]
    assert after["create"] - before.get("create", 0) == FILES
    assert after.get("setattr", 0) - before.get("setattr", 0) < FILES


@pytest.mark.parametrize("flags", [os.O_PATH, os.O_RDWR])
def test_a_file_without_a_name_shows_when_it_was_removed(mount: Mount, flags: int) -> None:
    """Whether a program has it open or only points to it; its times can still be set."""
    path = mount.point / "file"
    path.write_bytes(b"content")
    file = os.open(path, flags)
    first = os.fstat(file)
    until(lambda: time.clock_gettime_ns(5) > first.st_ctime_ns, "the clock's next tick")
    path.unlink()
    removed = os.fstat(file)
    assert (removed.st_nlink, removed.st_mtime_ns, removed.st_size) == (0, first.st_mtime_ns, 7)
    assert first.st_ctime_ns < removed.st_ctime_ns <= time.time_ns()
    os.utime(f"/proc/self/fd/{file}", ns=(10**18, 2 * 10**18))
    mount.ask("invalidate")
    last = os.fstat(file)
    assert (last.st_atime_ns, last.st_mtime_ns, last.st_size) == (10**18, 2 * 10**18, 7)
    os.close(file)
