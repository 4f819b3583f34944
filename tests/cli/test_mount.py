"""anqfs mount and umount: what they promise and what they refuse."""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
from pathlib import Path

from tests.places import secret_file

from .conftest import KEY, Bench, daemons_of, is_alive, mounted_below


def test_what_is_written_is_there_after_a_remount(mounted: Bench) -> None:
    (mounted.mountpoint / "directory").mkdir()
    (mounted.mountpoint / "directory" / "file").write_bytes(b"kept" * 100_000)
    mounted.remount()
    assert (mounted.mountpoint / "directory" / "file").read_bytes() == b"kept" * 100_000


def test_umount_returns_when_the_daemon_is_gone(bench: Bench) -> None:
    bench.mkfs()
    pid = bench.mount()
    (bench.mountpoint / "file").write_bytes(b"x")
    bench.umount()
    assert not is_alive(pid)
    assert mounted_below(bench.top) == []
    assert os.listdir(bench.mountpoint) == []
    assert not [name for name in os.listdir(bench.runtime) if name.endswith((".json", ".sock"))]
    assert bench.json("check", bench.store, "--key-file", bench.key)["ok"] is True


def test_the_daemon_is_detached(mounted: Bench) -> None:
    pid = mounted.json("status", mounted.mountpoint)["pid"]
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    assert int(fields[3]) == pid
    assert fields[4] == "0"
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    assert os.readlink(f"/proc/{pid}/fd/0") == os.devnull
    assert os.readlink(f"/proc/{pid}/fd/1") == os.devnull
    assert os.readlink(f"/proc/{pid}/fd/2").startswith(str(mounted.runtime))


def test_the_wrong_key_is_refused(bench: Bench) -> None:
    bench.mkfs()
    wrong = secret_file(bench.top / "wrong", KEY[::-1])
    bench.fails(4, "mount", bench.store, bench.mountpoint, "--key-file", wrong)
    bench.fails(4, "mount", bench.store, bench.mountpoint, "--passphrase-file", wrong)
    bench.fails(4, "check", bench.store, "--key-file", wrong)
    assert daemons_of(bench.top) == []


def test_what_is_no_store_is_refused(bench: Bench) -> None:
    foreign = bench.top / "foreign"
    foreign.mkdir()
    for path in (bench.top / "missing", foreign, bench.key):
        bench.fails(3, "mount", path, bench.mountpoint, "--key-file", bench.key)
        bench.fails(3, "check", path, "--key-file", bench.key)
        bench.fails(3, "status", path)
        bench.fails(3, "key", "list", path)
    (foreign / "superblock").write_bytes(b"something else")
    bench.fails(3, "mount", foreign, bench.mountpoint, "--key-file", bench.key)


def test_a_bad_mount_point_is_refused(bench: Bench) -> None:
    bench.mkfs()
    full = bench.top / "full"
    full.mkdir()
    (full / "file").touch()
    for path in (bench.top / "missing", full, bench.key):
        bench.fails(6, "mount", bench.store, path, "--key-file", bench.key)
    bench.mount()
    other = bench.top / "store2"
    bench.ok("mkfs", other, "--key-file", bench.key)
    bench.fails(6, "mount", other, bench.mountpoint, "--key-file", bench.key)
    bench.umount()


def test_a_mount_point_inside_the_store_is_refused(bench: Bench) -> None:
    bench.mkfs()
    inside = bench.store / "inside"
    inside.mkdir()
    bench.fails(6, "mount", bench.store, inside, "--key-file", bench.key)


def test_umount_is_refused_while_a_file_is_open(mounted: Bench) -> None:
    pid = mounted.json("status", mounted.mountpoint)["pid"]
    with open(mounted.mountpoint / "file", "w") as stream:
        stream.write("half")
        stream.flush()
        assert "busy" in mounted.fails(6, "umount", mounted.mountpoint)
        assert is_alive(pid)
        stream.write(" and whole")
    mounted.remount()
    assert (mounted.mountpoint / "file").read_text() == "half and whole"


def test_umount_of_what_is_not_mounted(bench: Bench) -> None:
    for path in (bench.mountpoint, bench.top / "missing", Path("/"), Path("/proc")):
        bench.fails(7, "umount", path)


def test_umount_by_a_relative_path_and_through_a_link(bench: Bench) -> None:
    bench.mkfs()
    bench.ok("mount", "store", "mnt", "--key-file", "key")
    bench.ok("umount", "mnt/")
    (bench.top / "link").symlink_to("mnt")
    bench.ok("mount", "store", "link", "--key-file", "key")
    bench.ok("umount", "link")


def _write_through(path: Path, size: int) -> None:
    """Write zeros that reach the daemon at once (O_DIRECT) but are not made durable."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_DIRECT, 0o600)
    try:
        with mmap.mmap(-1, size) as zeros:
            assert os.write(descriptor, zeros) == size
    finally:
        os.close(descriptor)


def _fill(disk: Path) -> None:
    facts = os.statvfs(disk)
    with open(disk / "filler", "wb", buffering=0) as filler:
        filler.write(bytes(facts.f_bavail * facts.f_frsize))


def _lose_a_commit(bench: Bench, disk: Path) -> subprocess.CompletedProcess[str]:
    """Fill the disk while written data waits for its commit, and unmount. A commit may be too quick for that: then try again."""
    for attempt in range(20):
        pid = bench.mount()
        _write_through(bench.mountpoint / f"file{attempt}", 4 << 20)
        os.kill(pid, signal.SIGSTOP)
        try:
            _fill(disk)
        finally:
            os.kill(pid, signal.SIGCONT)
        done = bench.run("umount", bench.mountpoint)
        (disk / "filler").unlink()
        if done.returncode != 0:
            return done
        bench.mount()
        (bench.mountpoint / f"file{attempt}").unlink()
        bench.umount()
    raise AssertionError("every commit was quicker than the filler")


def test_umount_tells_when_not_everything_could_be_stored(bench: Bench) -> None:
    disk = bench.top / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(disk)], check=True, stdin=subprocess.DEVNULL)
    bench.store = disk / "store"
    bench.mkfs()
    done = _lose_a_commit(bench, disk)
    assert done.returncode in (10, 11), done
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
    if "is not unmounted" in done.stderr:
        found = bench.json("status", bench.mountpoint)
        assert found["failed"] is not None
        done = bench.run("umount", bench.mountpoint)
    assert done.returncode == 11
    assert "is unmounted, but" in done.stderr
    assert bench.json("check", bench.store, "--key-file", bench.key)["ok"] is True
    subprocess.run(["umount", "-l", str(disk)], check=True, stdin=subprocess.DEVNULL)
