"""Listings: cookies stay where they are while names come and go."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from mounted import Mount, libc, until

MANY = int(os.environ.get("ANQFS_TEST_ENTRIES", "20000"))
"""Entries of the large directory; the soak runs this file with 1,000,000."""


def entries(descriptor: int, start: int | None = None, size: int = 32768) -> Iterator[tuple[bytes, int, int]]:
    """Yield (name, inode, cookie to go on from) from getdents64, from where the descriptor is or from cookie `start`."""
    if start is not None:
        os.lseek(descriptor, start, os.SEEK_SET)
    buffer = ctypes.create_string_buffer(size)
    while length := libc("syscall", 217, descriptor, buffer, size):
        at = 0
        while at < length:
            ino, cookie, record = struct.unpack_from("<QqH", buffer, at)
            name = buffer.raw[at + 19 : at + record].split(b"\0", 1)[0]
            yield name, ino, cookie
            at += record


@pytest.fixture
def many(mount: Mount) -> Path:
    directory = mount.point / "many"
    directory.mkdir()
    for number in range(MANY):
        os.mknod(directory / f"name-{number}")
    return directory


def test_a_long_listing_is_complete_while_names_come_and_go(many: Path) -> None:
    """Every name that was there all the time is listed exactly once, whatever else happens in the directory."""
    descriptor = os.open(many, os.O_RDONLY)
    seen: list[bytes] = []
    for turn, (name, _, _) in enumerate(entries(descriptor, size=4096)):
        seen.append(name)
        if turn % 100 == 0:
            number = turn // 100
            if number * 10 + 6 >= MANY:
                continue
            os.unlink(many / f"name-{number * 10 + 5}")
            os.mknod(many / f"new-{number}")
            os.rename(many / f"name-{number * 10 + 6}", many / f"moved-{number}")
    os.close(descriptor)
    gone = {f"name-{number * 10 + which}" for number in range((len(seen) + 99) // 100) for which in (5, 6) if number * 10 + 6 < MANY}
    stayed = {f"name-{number}".encode() for number in range(MANY)} - {name.encode() for name in gone}
    old = [name for name in seen if name in stayed]
    assert len(old) == len(set(old))
    assert set(old) == stayed
    assert {b".", b".."} <= set(seen)


def test_cookies_stay_valid_after_a_remount(many: Path, mount: Mount) -> None:
    def listing(start: int | None = None) -> list[tuple[bytes, int, int]]:
        descriptor = os.open(many, os.O_RDONLY)
        try:
            return list(entries(descriptor, start))
        finally:
            os.close(descriptor)

    whole = listing()
    assert len(whole) == MANY + 2
    assert [name for name, _, _ in whole[:2]] == [b".", b".."]
    assert len({cookie for _, _, cookie in whole}) == len(whole)
    for at in (0, 1, 2, 5_000, MANY, MANY + 1):
        assert listing(whole[at][2]) == whole[at + 1 :]
    mount.remount()
    assert listing(whole[10_000][2]) == whole[10_001:]
    for name, ino, _ in whole[:50]:
        assert os.stat(os.path.join(os.fsencode(many), name)).st_ino == ino


def test_rewinding_shows_what_is_there_now(shared_mount: Mount) -> None:
    directory = shared_mount.point / "rewind"
    directory.mkdir()
    (directory / "a").touch()
    descriptor = os.open(directory, os.O_RDONLY)
    assert {name for name, _, _ in entries(descriptor)} == {b".", b"..", b"a"}
    (directory / "b").touch()
    os.unlink(directory / "a")
    assert {name for name, _, _ in entries(descriptor, 0)} == {b".", b"..", b"b"}
    os.close(descriptor)


def test_a_listing_brings_the_attributes_along(many: Path, mount: Mount) -> None:
    """`ls -l` after a listing asks the daemon nothing more. A kernel that needs memory may forget in between: then once more."""
    until(lambda: _requests_of_a_long_listing(many, mount) <= 4, "the attributes come along")


def _requests_of_a_long_listing(directory: Path, mount: Mount) -> int:
    mount.remount()
    names = os.listdir(directory)
    before = mount.ask("facts")["requests"]
    for name in names[:1000]:
        os.lstat(directory / name)
    after = mount.ask("facts")["requests"]
    return sum(after.get(kind, 0) - before.get(kind, 0) for kind in ("lookup", "getattr"))
