"""The daemon's life: one for each store, detached or not, ended by signals, killed."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from .conftest import DEADLINE, KEY, Bench, eventually, is_alive, mounted_below


def test_a_second_mount_is_refused_and_names_the_pid(mounted: Bench) -> None:
    pid = mounted.json("status", mounted.mountpoint)["pid"]
    other = mounted.top / "other"
    other.mkdir()
    line = mounted.fails(5, "mount", mounted.store, other, "--key-file", mounted.key)
    assert str(pid) in line
    (mounted.top / "link").symlink_to(mounted.store)
    assert str(pid) in mounted.fails(5, "mount", mounted.top / "link", other, "--key-file", mounted.key)
    without_registry = {**mounted.environment, "ANQFS_RUNTIME_DIR": str(mounted.top / "run2")}
    assert str(pid) in mounted.fails(5, "mount", mounted.store, other, "--key-file", mounted.key, env=without_registry)
    assert "in use" in mounted.fails(5, "check", mounted.store, "--key-file", mounted.key)
    assert mounted.json("status", mounted.mountpoint)["pid"] == pid


def test_a_copy_of_a_mounted_store_can_be_mounted_beside_it(bench: Bench) -> None:
    bench.mkfs()
    shutil.copytree(bench.store, bench.top / "copy")
    bench.mount()
    beside = bench.top / "beside"
    beside.mkdir()
    bench.ok("mount", bench.top / "copy", beside, "--key-file", bench.key)
    assert len(bench.json("status")) == 2
    bench.ok("umount", beside)
    bench.umount()


def test_umount_8_ends_the_daemon_too(bench: Bench) -> None:
    bench.mkfs()
    pid = bench.mount()
    (bench.mountpoint / "file").write_bytes(b"x" * 300_000)
    eventually("umount(8)", lambda: subprocess.run(["umount", bench.mountpoint], check=False, stdin=subprocess.DEVNULL).returncode == 0)
    eventually("the daemon to end", lambda: not is_alive(pid))
    bench.mount()
    assert (bench.mountpoint / "file").read_bytes() == b"x" * 300_000
    bench.umount()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_unmounts_cleanly(bench: Bench, number: signal.Signals) -> None:
    bench.mkfs()
    pid = bench.mount()
    (bench.mountpoint / "file").write_bytes(b"x" * 300_000)
    os.kill(pid, number)
    eventually("the daemon to end", lambda: not is_alive(pid))
    assert mounted_below(bench.top) == []
    bench.mount()
    assert (bench.mountpoint / "file").read_bytes() == b"x" * 300_000
    bench.umount()


def test_what_a_killed_daemon_left_is_reported_and_cleared(bench: Bench) -> None:
    bench.mkfs()
    pid = bench.mount()
    (bench.mountpoint / "file").write_bytes(b"synced")
    os.sync()
    with open(bench.mountpoint / "file", "rb") as stream:
        os.fsync(stream.fileno())
    bench.kill(pid)
    for command in (("status",), ("snapshot", "create"), ("snapshot", "list"), ("usage",), ("scrub",)):
        assert "gone" in bench.fails(7, *command, bench.mountpoint)
    assert bench.json("status") == []
    assert bench.json("status", bench.store)["mounted"] is False
    bench.mount()
    assert (bench.mountpoint / "file").read_bytes() == b"synced"
    bench.umount()


def test_umount_clears_a_dead_mount_point(bench: Bench) -> None:
    bench.mkfs()
    bench.kill(bench.mount())
    bench.umount()
    assert mounted_below(bench.top) == []
    assert not [name for name in os.listdir(bench.runtime) if name.endswith((".json", ".sock"))]
    bench.fails(7, "umount", bench.mountpoint)


def test_in_the_foreground_it_stays_and_logs_to_stderr(bench: Bench) -> None:
    bench.mkfs()
    arguments = ("mount", bench.store, bench.mountpoint, "--key-file", bench.key, "--foreground")
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.bind(str(bench.top / "notify"))
    environment = {**bench.environment, "NOTIFY_SOCKET": str(bench.top / "notify")}
    process = subprocess.Popen(bench.command(*arguments), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment)
    try:
        manager.settimeout(DEADLINE)
        assert manager.recv(100) == b"READY=1"
        assert os.path.ismount(bench.mountpoint)
        eventually("the mount", lambda: bench.run("status", bench.mountpoint).returncode == 0)
        assert bench.json("status", bench.mountpoint)["pid"] == process.pid
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=DEADLINE)
    finally:
        manager.close()
        process.kill()
        process.wait()
    assert process.returncode == 0
    assert b"is mounted on" in said
    assert b"Traceback" not in said
    assert mounted_below(bench.top) == []


def test_in_the_foreground_an_error_is_one_line(bench: Bench) -> None:
    bench.mkfs()
    wrong = bench.top / "wrong"
    wrong.write_bytes(KEY[::-1])
    wrong.chmod(0o600)
    bench.fails(4, "mount", bench.store, bench.mountpoint, "--key-file", wrong, "--foreground")


def test_umount_waits_for_a_daemon_of_another_registry_too(bench: Bench) -> None:
    bench.mkfs()
    pid = bench.mount()
    (bench.mountpoint / "file").write_bytes(b"x" * 300_000)
    bench.ok("umount", bench.mountpoint, env={**bench.environment, "ANQFS_RUNTIME_DIR": str(bench.top / "run2")})
    assert not is_alive(pid)
    assert bench.json("check", bench.store, "--key-file", bench.key)["counts"]["files"] == 1


def test_many_mounts_and_umounts_at_once(bench: Bench) -> None:
    """Of many mounts of one store at once, one succeeds and the others are refused; of many umounts all find it gone in the end."""
    bench.mkfs()
    points = [bench.top / f"mnt{number}" for number in range(4)]
    for point in points:
        point.mkdir()

    def at_once(commands: list[list[str]]) -> list[int]:
        running = [
            subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=bench.environment)
            for command in commands
        ]
        return sorted(process.wait(DEADLINE) for process in running)

    assert at_once([bench.command("mount", bench.store, point, "--key-file", bench.key) for point in points]) == [0, 5, 5, 5]
    (mounted_on,) = (Path(os.fsdecode(point)) for point in mounted_below(bench.top))
    (mounted_on / "file").write_text("kept")
    codes = at_once([bench.command("umount", mounted_on) for _ in range(4)])
    assert codes[0] == 0 and set(codes) <= {0, 7}
    assert mounted_below(bench.top) == []
    bench.mount()
    assert (bench.mountpoint / "file").read_text() == "kept"
    bench.umount()
