"""anqfs mount and umount: what they promise and what they refuse."""

from __future__ import annotations

import os
from pathlib import Path

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
    wrong = bench.top / "wrong"
    wrong.write_bytes(KEY[::-1])
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
