"""mkfs, mount, umount: the contract of each, with real mounts."""

from __future__ import annotations

import os
import pty
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import DEADLINE, KEY, Bench, daemons_of, eventually, is_alive, mounted_below


def test_mkfs_makes_a_private_directory(bench: Bench) -> None:
    said = bench.ok("mkfs", bench.store, "--key-file", bench.key)
    assert "uuid" in said
    assert stat.S_IMODE(bench.store.stat().st_mode) == 0o700
    assert all(stat.S_IMODE(path.stat().st_mode) & 0o077 == 0 for path in bench.store.rglob("*"))


def test_mkfs_into_an_empty_directory(bench: Bench) -> None:
    bench.store.mkdir(mode=0o755)
    bench.mkfs()
    assert stat.S_IMODE(bench.store.stat().st_mode) == 0o700


def test_mkfs_refuses_what_is_there(bench: Bench) -> None:
    bench.mkfs()
    before = sorted(os.listdir(bench.store))
    assert "not empty" in bench.fails(3, "mkfs", bench.store, "--key-file", bench.key)
    assert sorted(os.listdir(bench.store)) == before
    file = bench.top / "file"
    file.write_text("mine")
    assert "directory" in bench.fails(3, "mkfs", file, "--key-file", bench.key)
    assert file.read_text() == "mine"
    assert "does not exist" in bench.fails(3, "mkfs", bench.top / "no" / "store", "--key-file", bench.key)


def test_mkfs_wants_a_good_key_file_and_leaves_nothing_behind(bench: Bench) -> None:
    short = bench.top / "short"
    short.write_bytes(b"x" * 31)
    assert "32" in bench.fails(2, "mkfs", bench.store, "--key-file", short)
    assert "No such file" in bench.fails(2, "mkfs", bench.store, "--key-file", bench.top / "none")
    assert "not both" in bench.fails(2, "mkfs", bench.store, "--key-file", bench.key, "--passphrase-file", short)
    assert not bench.store.exists()


def test_without_a_terminal_a_passphrase_is_not_waited_for(bench: Bench) -> None:
    assert "terminal" in bench.fails(2, "mkfs", bench.store)
    assert not bench.store.exists()
    bench.mkfs()
    assert "terminal" in bench.fails(2, "mount", bench.store, bench.mountpoint)


def on_terminal(bench: Bench, answers: list[bytes], *arguments: str | Path) -> tuple[int, bytes]:
    """Run `anqfs` with a terminal of its own, answer each prompt, and return its exit code and what the terminal showed."""
    leader, follower = pty.openpty()
    become = "import fcntl, os, sys, termios; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
    process = subprocess.Popen(
        [sys.executable, "-c", become, *bench.command(*arguments)],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env=bench.environment,
        cwd=bench.top,
    )
    os.close(follower)
    shown = b""
    try:
        while True:
            try:
                piece = os.read(leader, 4096)
            except OSError:
                break
            if not piece:
                break
            shown += piece
            if shown.endswith(b": ") and answers:
                os.write(leader, answers.pop(0) + b"\n")
        return process.wait(DEADLINE), shown
    finally:
        process.kill()
        process.wait()
        os.close(leader)


def test_a_passphrase_from_the_terminal(bench: Bench) -> None:
    code, shown = on_terminal(bench, [b"s3cret words", b"s3cret words"], "mkfs", bench.store)
    assert code == 0, shown
    assert b"s3cret" not in shown
    code, shown = on_terminal(bench, [b"s3cret words"], "mount", bench.store, bench.mountpoint)
    assert code == 0, shown
    assert b"s3cret" not in shown
    bench.umount()
    code, shown = on_terminal(bench, [b"wrong words"], "mount", bench.store, bench.mountpoint)
    assert code == 4, shown
    file = bench.top / "passphrase"
    file.write_bytes(b"s3cret words\nsecond line\n")
    bench.ok("mount", bench.store, bench.mountpoint, "--passphrase-file", file)
    bench.umount()


def test_two_passphrases_that_differ_make_nothing(bench: Bench) -> None:
    code, shown = on_terminal(bench, [b"one", b"other"], "mkfs", bench.store)
    assert code == 2
    assert b"differ" in shown
    assert not bench.store.exists()


def test_ctrl_c_at_the_prompt_ends_quietly(bench: Bench) -> None:
    code, shown = on_terminal(bench, [b"\x03"], "mkfs", bench.store)
    assert code == 130
    assert b"Traceback" not in shown
    assert not bench.store.exists()


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


def test_umount_8_ends_the_daemon_too(bench: Bench) -> None:
    bench.mkfs()
    pid = bench.mount()
    (bench.mountpoint / "file").write_bytes(b"x" * 300_000)
    subprocess.run(["umount", bench.mountpoint], check=True, stdin=subprocess.DEVNULL)
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
    process = subprocess.Popen(bench.command(*arguments), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, env=bench.environment)
    try:
        eventually("the mount", lambda: bench.run("status", bench.mountpoint).returncode == 0)
        assert bench.json("status", bench.mountpoint)["pid"] == process.pid
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=DEADLINE)
    finally:
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
    bench.fails(4, "mount", bench.store, bench.mountpoint, "--key-file", wrong, "--foreground")


def test_read_only(bench: Bench) -> None:
    bench.mkfs()
    bench.mount()
    (bench.mountpoint / "file").write_bytes(b"x")
    bench.umount()
    bench.mount("-o", "ro")
    assert bench.json("status", bench.mountpoint)["read_only"] is True
    assert (bench.mountpoint / "file").read_bytes() == b"x"
    with pytest.raises(OSError, match="Read-only"):
        (bench.mountpoint / "other").touch()
    done = bench.run("snapshot", "create", bench.mountpoint)
    assert done.returncode != 0 and "Traceback" not in done.stderr
    bench.umount()


def test_kernel_options_reach_the_mount(bench: Bench) -> None:
    bench.mkfs()
    bench.mount("-o", "noexec,nosuid,x-test.comment=1,nofail", "-o", "noatime")
    with open("/proc/self/mountinfo", "rb") as stream:
        line = next(line for line in stream if line.split()[4] == os.fsencode(bench.mountpoint))
    flags = line.split()[5].split(b",")
    assert {b"noexec", b"nosuid", b"noatime"} <= set(flags)
    assert b"nodev" not in flags
    assert b"fuse.anqfs" in line
    bench.umount()


def test_an_unknown_option_is_refused_by_name(bench: Bench) -> None:
    bench.mkfs()
    assert "frobnicate" in bench.fails(2, "mount", bench.store, bench.mountpoint, "--key-file", bench.key, "-o", "ro,frobnicate")


def test_a_pinned_root(bench: Bench) -> None:
    bench.mkfs()
    bench.mount()
    (bench.mountpoint / "old").touch()
    bench.umount()
    shutil.copytree(bench.store, bench.top / "old")
    bench.mount()
    (bench.mountpoint / "new").touch()
    os.sync()
    bench.umount()
    root = bench.json("check", bench.store, "--key-file", bench.key)["root"]
    old = bench.fails(9, "mount", bench.top / "old", bench.mountpoint, "--key-file", bench.key, "--expect-root", root)
    assert "root" in old
    bench.fails(2, "mount", bench.store, bench.mountpoint, "--key-file", bench.key, "--expect-root", "12")
    bench.mount("--expect-root", root)
    assert (bench.mountpoint / "new").exists()
    bench.umount()
    bench.fails(9, "mount", bench.top / "old", bench.mountpoint, "-o", f"keyfile={bench.key},expect_root={root}")


HELPER = shutil.which("mount.fuse3")


def test_as_a_helper_of_mount_8(bench: Bench) -> None:
    """`mount -t fuse.anqfs` as fstab does it: mount.fuse3 runs `anqfs STORE MOUNTPOINT -o ...` through sh, without PATH.

    Here the type names the program by its path, because sh then looks for it in /usr/local/bin and the like only.
    """
    assert HELPER is not None, "install fuse3"
    bench.mkfs()
    programs = bench.top / "bin"
    programs.mkdir()
    script = programs / "anqfs"
    script.write_text(f'#!/bin/sh\nANQFS_RUNTIME_DIR="{bench.runtime}" exec "{sys.executable}" -m anqfs.cli.app "$@"\n')
    script.chmod(0o755)
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    asked = ["mount", "-t", f"fuse.{script}", "-o", f"keyfile={bench.key},nofail,x-test", str(bench.store), str(bench.mountpoint)]
    done = subprocess.run(asked, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (bench.mountpoint / "file").write_text("by mount")
    assert bench.json("status", bench.mountpoint)["store"] == str(bench.store)
    bench.umount()
    wrong = bench.top / "wrong"
    wrong.write_bytes(KEY[::-1])
    asked[4] = f"keyfile={wrong}"
    done = subprocess.run(asked, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "key" in done.stderr


def test_the_helper_form_without_a_secret_needs_a_terminal(bench: Bench) -> None:
    bench.mkfs()
    assert "terminal" in bench.fails(2, bench.store, bench.mountpoint, "-o", "rw")
    bench.fails(3, bench.top / "none", bench.mountpoint, "-o", "rw")
    bench.fails(2, bench.store, bench.mountpoint, "-o", "rw,nonsense")


HOSTILE = [
    b"new\nline",
    b"quo'te\"s `$(x)`",
    b"b\xff\xfe",
    b"x" * 255,
    b"-x",
    b"a b\tc\\d,e",
    b"[red]bold",
    "K\u00fcche\u202e".encode(),
]


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_hostile_names_of_store_and_mount_point(bench: Bench, name: bytes) -> None:
    top = os.fsencode(bench.top) + b"/names"
    os.mkdir(top)
    os.mkdir(top + b"/" + name)
    store = b"store" + name[:250]
    inside = {"cwd": top, "env": bench.environment}
    bench.ok("mkfs", "--key-file", bench.key, "--", store, **inside)
    bench.ok("mount", "--key-file", bench.key, "--", store, name, **inside)
    try:
        found = bench.json("status", top + b"/" + name)
        assert os.fsencode(found["store"]) == top + b"/" + store
        assert os.fsencode(found["mountpoint"]) == top + b"/" + name
        assert len(bench.ok("status").splitlines()) == len(bench.ok("status", top + b"/" + store).splitlines())
        made = bench.json("snapshot", "create", top + b"/" + name)
        assert os.path.isdir(os.fsencode(made["path"]))
    finally:
        bench.ok("umount", "--", name, **inside)
    assert bench.json("check", "--key-file", bench.key, top + b"/" + store)["ok"] is True


_AS_NOBODY = """
set -e
mknod -m 666 "$TOP/fuse" c 10 229
mount --bind "$TOP/fuse" /dev/fuse
chown -R nobody "$TOP"
exec setpriv --reuid=nobody --regid=nogroup --clear-groups --inh-caps=+dac_read_search --ambient-caps=+dac_read_search sh -c '
    set -e
    anqfs() { "$PYTHON" -m anqfs.cli.app "$@"; }
    anqfs mkfs "$TOP/store" --key-file "$TOP/key"
    anqfs mount "$TOP/store" "$TOP/mnt" --key-file "$TOP/key" -o allow_other || test $? = 2
    anqfs mount "$TOP/store" "$TOP/mnt" --key-file "$TOP/key"
    echo hello > "$TOP/mnt/file"
    anqfs snapshot create "$TOP/mnt" --name user
    cat "$TOP"/mnt/.snapshot/*_user/file
    anqfs status "$TOP/mnt" > /dev/null
    anqfs umount "$TOP/mnt"
    anqfs check "$TOP/store" --key-file "$TOP/key"
    kill -0 $(cat "$TOP/store/lock") 2> /dev/null && exit 1
    exit 0
'
"""


def test_an_ordinary_user_mounts_a_store_of_their_own(bench: Bench) -> None:
    """As `nobody`, through fusermount3, in a mount namespace whose /dev/fuse everyone may open; allow_other is refused."""
    os.chmod(bench.top, 0o755)
    environment = {**bench.environment, "TOP": str(bench.top), "PYTHON": sys.executable}
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", _AS_NOBODY],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == 0, done
    assert "user_allow_other" in done.stderr
    assert "hello" in done.stdout
