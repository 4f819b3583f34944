"""The session: faults, groups, look-up counts, invalidation, memory, quiet."""

from __future__ import annotations

import errno
import os
import select
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from mounted import NOBODY, Mount, drop_caches, in_child, until


def test_an_unforeseen_fault_answers_eio_and_the_mount_lives_on(mount: Mount) -> None:
    mount.expect(r"readlink\(\d+\) failed in a way that nobody foresaw")
    mount.expect("^Traceback")
    os.symlink("target", mount.point / "link")
    mount.ask("fail")
    with pytest.raises(OSError) as caught:
        os.readlink(mount.point / "link")
    assert caught.value.errno == errno.EIO
    assert "ZeroDivisionError" in mount.log_text()
    (mount.point / "alive").write_bytes(b"yes")
    assert (mount.point / "alive").read_bytes() == b"yes"


def test_statfs_tells_of_the_disk_below(mount: Mount) -> None:
    below, here = os.statvfs(mount.store), os.statvfs(mount.point)
    assert here.f_blocks * here.f_frsize == below.f_blocks * below.f_frsize
    slack = 1 << 30
    assert abs(here.f_bfree * here.f_frsize - below.f_bfree * below.f_frsize) < slack
    assert abs(here.f_bavail * here.f_frsize - below.f_bavail * below.f_frsize) < slack
    assert here.f_bavail <= here.f_bfree <= here.f_blocks
    assert (here.f_namemax, here.f_frsize) == (255, 4096)


def test_an_idle_mount_sleeps(mount: Mount) -> None:
    """Once everything is durable and reclaimed, the daemon neither polls nor ticks."""
    for number in range(300):
        (mount.point / f"f{number}").write_bytes(b"x" * 5000)
    for number in range(0, 300, 2):
        (mount.point / f"f{number}").unlink()
    mount.ask("durable")
    tasks = Path(f"/proc/{mount.pid}/task")

    def switches() -> int:
        total = 0
        for task in tasks.iterdir():
            try:
                lines = (task / "status").read_text().splitlines()
            except (FileNotFoundError, ProcessLookupError):
                continue  # a thread that had nothing to do has just ended
            total += sum(int(line.split()[1]) for line in lines if line.startswith("voluntary"))
        return total

    def quiet() -> bool:
        before = switches()
        select.select([], [], [], 1.0)  # there is nothing to wait for when quiet is what is being measured
        return abs(switches() - before) <= 4

    until(quiet, "the daemon sleeps", 120)


def test_supplementary_groups_count(mount: Mount) -> None:
    """A user may give a file of a group that they are only a supplementary member of the set-group-id bit, through an ACL, too."""
    path = mount.point / "f"
    path.touch()
    os.chown(path, NOBODY, 1234)

    def with_group() -> int:
        os.setgroups([1234])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        os.chmod(path, 0o2755)
        os.setxattr(path, "system.posix_acl_access", bytes.fromhex("0200000001000700ffffffff04000500ffffffff20000500ffffffff"))
        return path.stat().st_mode & 0o7777

    assert in_child(0, with_group) == 0o2755


def test_forgotten_files_are_reclaimed(mount: Mount) -> None:
    """Look-ups are counted right: an unlinked file's space comes back when it is closed, not before, and every hold is given back."""
    data = os.urandom(1 << 20)
    with open(mount.point / "f", "w+b", buffering=0) as stream:
        for number in range(8):
            os.pwrite(stream.fileno(), data, number << 20)
        os.fsync(stream.fileno())
        os.unlink(mount.point / "f")
        assert os.pread(stream.fileno(), 1 << 20, 7 << 20) == data
    until(lambda: mount.ask("facts")["namespace"]["reclaim_waiting"] == 0, "the orphan is reclaimed")
    for number in range(500):
        (mount.point / f"n{number}").touch()
    os.listdir(mount.point)
    drop_caches("2")
    until(lambda: mount.ask("facts")["namespace"]["held"] <= 2, "all look-ups are given back")


def test_what_the_daemon_changes_itself_is_seen_after_an_invalidation(mount: Mount) -> None:
    """Names, absent names, attributes and pages: the kernel keeps all of them for ever until it is told, unless it needs the memory."""
    stale = [_seen_after_an_invalidation(mount, f"d{attempt}") for attempt in range(3)]
    assert any(stale), "the kernel was expected to keep a name's absence: this test proves nothing"


def _seen_after_an_invalidation(mount: Mount, name: str) -> bool:
    """Change a directory behind the kernel and invalidate; return whether the kernel had kept a name's absence until then."""
    directory = mount.point / name
    directory.mkdir()
    (directory / "changed").write_bytes(b"old content")
    (directory / "gone").touch()
    assert (directory / "changed").read_bytes() == b"old content"
    assert not (directory / "new").exists()
    assert (directory / "gone").exists()
    mount.ask("flush")
    mount.ask("behind", name)
    stale = not (directory / "new").exists()
    mount.ask("invalidate")
    assert (directory / "new").read_bytes() == b""
    assert not (directory / "gone").exists()
    assert (directory / "changed").read_bytes() == b"NEW CONTENT, and it is longer"
    assert (directory / "changed").stat().st_mode & 0o777 == 0o600
    assert sorted(os.listdir(directory)) == ["changed", "new"]
    return stale


def test_closing_needs_no_request(mount: Mount) -> None:
    for number in range(100):
        (mount.point / f"f{number}").write_bytes(b"x")
    requests = mount.ask("facts")["requests"]
    assert "flush" not in requests
    assert requests["create"] == 100


def test_small_writes_need_no_request_each(mount: Mount) -> None:
    """The writeback cache, and no security.capability asked for before each write: 10,000 writes take few requests."""
    with open(mount.point / "f", "wb", buffering=0) as stream:
        for _ in range(10_000):
            stream.write(b"0123456789")
    requests = mount.ask("facts")["requests"]
    assert (mount.point / "f").stat().st_size == 100_000
    assert requests.get("getxattr", 0) <= 100
    assert requests["write"] <= 1000


def test_memory_stays_bounded_while_more_is_written_than_fits(mount: Mount) -> None:
    """Back-pressure: writers wait while one group is being written and the next one is full."""
    chunk = os.urandom(1 << 20)
    with open(mount.point / "big", "wb", buffering=0) as stream:
        for _ in range(800):
            stream.write(chunk)
    status = Path(f"/proc/{mount.pid}/status").read_text()
    (peak,) = (int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    assert peak < 600 << 10
    assert (mount.point / "big").stat().st_size == 800 << 20


def test_cold_files_are_read_right_by_many_at_once(mount: Mount) -> None:
    """Nothing counts as being in memory: reads are fetched on threads, and readers overtake each other."""
    blocks = [os.urandom(1 << 20) for _ in range(40)]
    (mount.point / "f").write_bytes(b"".join(blocks))
    mount.remount(options=("cold",))

    def read(first: int) -> bool:
        descriptor = os.open(mount.point / "f", os.O_RDONLY)
        try:
            return all(os.pread(descriptor, 1 << 20, at << 20) == blocks[at] for at in range(first, 40))
        finally:
            os.close(descriptor)

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(read, (0, 0, 1, 5, 20, 0))) == [True] * 6
    assert mount.ask("facts")["statistics"]["pieces_fetched"] > 0
