"""Where a mount may go, how it is found again, and how it goes away."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from mounted import NOBODY, Mount, in_child, libc, until

from anqfs.errors import MountFailed
from anqfs.mount import mountpoint as place

HOSTILE = [
    b"a space",
    b"new\nline",
    b"tab\there",
    b"back\\slash",
    b"quote'\"",
    b"hash#",
    b"\xff\xfe not UTF-8",
    "ümlaut".encode(),
    b"\\040",
]


CLONE_NEWNS = 0x20000
_AS_NOBODY = f"""
mount -t tmpfs -o mode=755,dev tmpfs "$1"
mknod -m 666 "$1/fuse" c 10 229
mount --bind "$1/fuse" /dev/fuse
shift
exec setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups --inh-caps=-all,+dac_read_search --ambient-caps=+dac_read_search -- "$@"
"""
"""Reading everything is allowed because the project and its Python may lie where nobody may look."""


def test_mountinfo_is_parsed_with_its_escapes() -> None:
    text = (
        rb"36 35 98:0 /root /mnt\040with\011odd\012names\134 rw,noatime shared:1 - fuse.anqfs anqfs\040x rw,user_id=0" + b"\n"
        b"37 35 0:39 / /plain rw - ext4 /dev/root rw\n"
        b"broken line\n"
    )
    assert place.parse_mountinfo(text) == [
        place.Mount(b"/mnt with\todd\nnames\\", os.makedev(98, 0), b"fuse.anqfs", b"anqfs x", 0),
        place.Mount(b"/plain", os.makedev(0, 39), b"ext4", b"/dev/root"),
    ]


def _unmounted(point: bytes) -> bool:
    try:
        place.unmount(point)
    except OSError as error:
        assert error.errno == errno.EBUSY
        return False
    return True


@pytest.mark.parametrize("name", HOSTILE)
def test_mount_points_of_any_name_are_found_again(name: bytes, tmp_path: Path) -> None:
    point = os.path.join(os.fsencode(tmp_path), name)
    os.mkdir(point)
    assert place.mounted_at(place.absolute(point)) is None
    subprocess.run([b"mount", b"-t", b"tmpfs", b"tmpfs", point], check=True, stdin=subprocess.DEVNULL)
    try:
        found = place.mounted_at(place.absolute(point))
        assert found is not None
        assert (found.kind, found.device) == (b"tmpfs", os.stat(point).st_dev)
        assert place.alive(point)
    finally:
        until(lambda: _unmounted(point), "nobody uses the mount")
    assert place.mounted_at(place.absolute(point)) is None


def test_a_mount_point_must_be_an_empty_directory_that_is_free(tmp_path: Path) -> None:
    def refusal(path: Path) -> str:
        with pytest.raises(MountFailed) as caught:
            place.prepare(place.absolute(path))
        return str(caught.value)

    assert "No such file" in refusal(tmp_path / "missing")
    (tmp_path / "file").touch()
    assert "not a directory" in refusal(tmp_path / "file")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    assert "not empty" in refusal(tmp_path / "full")
    busy = tmp_path / "busy"
    busy.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(busy)], check=True, stdin=subprocess.DEVNULL)
    try:
        assert "mounted on" in refusal(busy)
    finally:
        until(lambda: _unmounted(os.fsencode(busy)), "nobody uses the mount")
    place.prepare(place.absolute(busy))
    (tmp_path / "link").symlink_to(busy)
    assert place.absolute(tmp_path / "link") == os.fsencode(os.path.realpath(busy))


def test_a_missing_fuse_device_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place, "FUSE_DEVICE", str(tmp_path / "fuse"))
    with pytest.raises(MountFailed, match="load the fuse module"):
        place.prepare(place.absolute(tmp_path))


def test_a_killed_daemon_leaves_a_dead_mount_which_the_next_one_replaces(mount: Mount) -> None:
    """The daemon dying leaves a dead mount point, never an empty directory; what was synced is there after the next mount."""
    (mount.point / "kept").write_bytes(b"synced")
    descriptor = os.open(mount.point / "kept", os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
    mount.kill()
    assert not place.alive(os.fsencode(mount.point))
    with pytest.raises(OSError) as caught:
        os.listdir(mount.point)
    assert caught.value.errno == errno.ENOTCONN
    mount.start()
    assert place.alive(os.fsencode(mount.point))
    assert (mount.point / "kept").read_bytes() == b"synced"
    assert "daemon that was killed" in mount.log_text()


def test_umount_by_anyone_ends_the_daemon_with_everything_committed(mount: Mount) -> None:
    (mount.point / "file").write_bytes(b"x" * 3_000_000)
    mount.umount()
    mount.reap()
    assert os.listdir(mount.point) == []
    mount.start()
    assert (mount.point / "file").read_bytes() == b"x" * 3_000_000


def test_fusermount_ends_the_daemon_as_well(mount: Mount) -> None:
    (mount.point / "file").write_bytes(b"x")
    mount.umount("fusermount3", "-u")
    mount.reap()
    mount.start()
    assert (mount.point / "file").read_bytes() == b"x"


def test_sigterm_unmounts_and_returns_when_all_is_durable(mount: Mount) -> None:
    for number in range(200):
        (mount.point / f"f{number}").write_bytes(b"y" * number)
    mount.stop()
    assert place.mounted_at(place.absolute(mount.point)) is None
    mount.start()
    assert [(mount.point / f"f{number}").stat().st_size for number in range(200)] == list(range(200))


def test_sigterm_on_a_busy_mount_keeps_what_was_written(mount: Mount) -> None:
    """The mount goes although a file is open and half written; what was written before the signal is there afterwards."""
    mount.expect("is in use and is unmounted all the same")
    descriptor = os.open(mount.point / "open", os.O_WRONLY | os.O_CREAT)
    os.write(descriptor, b"z" * 1_000_000)
    mount.stop()
    try:
        with pytest.raises(OSError) as caught:
            os.fstat(descriptor)
            os.fsync(descriptor)
        assert caught.value.errno in (errno.ENOTCONN, errno.EIO, errno.ECONNABORTED)
    finally:
        try:
            os.close(descriptor)
        except OSError as error:
            assert error.errno in (errno.ENOTCONN, errno.EIO, errno.ECONNABORTED)
    mount.start()
    assert (mount.point / "open").read_bytes() == b"z" * 1_000_000


def test_a_mount_in_use_is_not_unmounted_politely(mount: Mount) -> None:
    with open(mount.point / "open", "wb"):
        with pytest.raises(OSError) as caught:
            place.unmount(os.fsencode(mount.point))
        assert caught.value.errno == errno.EBUSY
    until(lambda: place.alive(os.fsencode(mount.point)), "the mount still lives")


def test_a_read_only_volume_is_mounted_read_only(mount: Mount) -> None:
    (mount.point / "file").write_bytes(b"x")
    mount.remount(options=("read-only",))
    assert (mount.point / "file").read_bytes() == b"x"
    with pytest.raises(OSError) as caught:
        (mount.point / "new").touch()
    assert caught.value.errno == errno.EROFS
    assert os.statvfs(mount.point).f_flag & os.ST_RDONLY


def test_the_kernel_reads_ahead_further_than_it_does_by_default(mount: Mount) -> None:
    """Where /sys may be written, that is; in some containers it may not."""
    device = os.stat(mount.point).st_dev
    setting = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
    before = int(setting.read_text())
    assert before > 128 or not place.set_readahead(os.fsencode(mount.point), 256)


def test_an_ordinary_user_mounts_through_fusermount3(stopped: Mount) -> None:
    """The daemon as nobody: its own files, nobody else let in, unmounted with SIGTERM. In a mount namespace where /dev/fuse is for all."""
    shutil.rmtree(stopped.store)
    stopped.key_file.unlink()
    for path in (stopped.base, stopped.point):
        os.chown(path, NOBODY, NOBODY)
    in_child(NOBODY, stopped.make_store)
    (stopped.base / "dev").mkdir()
    stopped.start("unshare", "--mount", "sh", "-euc", _AS_NOBODY, "sh", str(stopped.base / "dev"))
    inside = Path(f"/proc/{stopped.pid}/root") / stopped.point.relative_to("/")
    with pytest.raises(PermissionError):
        os.listdir(inside)
    in_child(0, _as_nobody_in_namespace_of, stopped.pid, stopped.point)
    stopped.stop()
    stopped.start()
    assert (stopped.point / "file").read_bytes() == b"nobody's"
    assert (stopped.point / "file").stat().st_uid == NOBODY
    assert len(os.listdir(stopped.point / ".snapshot")) == 1


def _as_nobody_in_namespace_of(pid: int, point: Path) -> None:
    with open(f"/proc/{pid}/ns/mnt") as namespace:
        libc("setns", namespace.fileno(), CLONE_NEWNS)
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    (point / "file").write_bytes(b"nobody's")
    (point / "file").chmod(0o640)
    os.mkdir(point / ".snapshot" / "shot")
