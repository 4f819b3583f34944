"""Virtual extended attributes through the kernel, as file servers ask for them."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import cast

import pytest
from mounted import NOBODY, Mount, in_child, libc

REAL = "glusterfs.get_real_filename:"
BTIME = "ceph.snap.btime"


def outcome(path: Path, name: str) -> bytes | str:
    try:
        return os.getxattr(path, name)
    except OSError as error:
        return errno.errorcode[error.errno or 0]


def test_whoever_may_list_a_directory_may_ask_and_nobody_else(mount: Mount) -> None:
    open_one, closed = mount.point / "open", mount.point / "closed"
    for directory in (open_one, closed):
        directory.mkdir()
        (directory / "File").touch()
        (directory / ".snapshot" / "s").mkdir()
    (shot,) = (open_one / ".snapshot").iterdir()
    closed.chmod(0o711)
    for uid in (0, NOBODY):
        assert in_child(uid, outcome, open_one, REAL + "fILE") == b"File\0"
        assert in_child(uid, outcome, open_one, REAL + "none") == "ENODATA"
        assert b"." in in_child(uid, outcome, shot, BTIME)
        assert in_child(uid, os.listxattr, open_one) == []
        assert in_child(uid, os.listxattr, shot) == []
    assert outcome(closed, REAL + "fILE") == b"File\0"
    assert in_child(NOBODY, outcome, closed, REAL + "fILE") == "EACCES"


def test_the_time_of_a_snapshot_is_when_it_was_taken(mount: Mount) -> None:
    (mount.point / "d").mkdir()
    (mount.point / "d" / ".snapshot" / "s").mkdir()
    (shot,) = (mount.point / "d" / ".snapshot").iterdir()
    seconds, _, rest = os.getxattr(shot, BTIME).partition(b".")
    assert int(seconds) * 10**9 + int(rest) == shot.stat().st_mtime_ns
    assert outcome(mount.point / "d", BTIME) == "ENODATA"
    with pytest.raises(OSError):
        os.setxattr(mount.point / "d", BTIME, b"1.0")


def test_previous_versions_by_time_beside_the_snapshots_by_name(mount: Mount) -> None:
    """A file server's look-ups by time do not move the directories in which others are."""
    (mount.point / "d" / "sub").mkdir(parents=True)
    (mount.point / "d" / "sub" / "f").write_bytes(b"before")
    (mount.point / "d" / ".snapshot" / "s").mkdir()
    (mount.point / "d" / "sub" / "f").write_bytes(b"after")
    (by_name,) = (mount.point / "d" / ".snapshot").iterdir()
    (by_time,) = (mount.point / "d" / ".snapshot" / "@GMT").iterdir()
    assert by_time.name.startswith("@GMT-")
    os.chdir(by_name / "sub")
    try:
        assert (by_time / "sub" / "f").read_bytes() == b"before"
        assert os.getcwd() == str(by_name / "sub")
        assert by_time.stat().st_ino != by_name.stat().st_ino
        os.chdir(by_time / "sub")
        assert (by_name / "sub" / "f").read_bytes() == b"before"
        assert os.getcwd() == str(by_time / "sub")
    finally:
        os.chdir("/")
    for refused in (by_time.rmdir, (by_time.parent / "new").mkdir, (by_time / "new").touch):
        with pytest.raises(OSError) as caught:
            refused()
        assert caught.value.errno == errno.EROFS
    by_name.rmdir()
    assert list((mount.point / "d" / ".snapshot" / "@GMT").iterdir()) == []


def listing_as(name: bytes, working_directory: Path, directory: Path) -> list[str]:
    """List a directory in a process that is called `name` and works in `working_directory`."""

    def listing() -> list[str]:
        libc("prctl", 15, name, 0, 0, 0)  # PR_SET_NAME
        os.chdir(working_directory)
        return sorted(os.listdir(directory))

    return cast(list[str], in_child(0, listing))


def test_smbd_and_nobody_else_sees_the_snapshot_directory_in_the_root_of_its_share(mount: Mount) -> None:
    share = mount.point / "share"
    (share / "sub").mkdir(parents=True)
    (share / ".snapshot" / "s").mkdir()
    for number in range(2000):
        (share / f"file{number}").touch()
    everything = sorted(["sub", *(f"file{number}" for number in range(2000))])
    assert listing_as(b"smbd", share, share) == [".snapshot", *everything]
    assert listing_as(b"smbd", share, share / "sub") == []
    assert listing_as(b"smbd", mount.point, share) == everything
    assert listing_as(b"smbd", mount.point, mount.point) == [".snapshot", "share"]
    assert listing_as(b"smbx", share, share) == everything
    (shot,) = (share / ".snapshot").iterdir()
    assert listing_as(b"smbd", shot, shot) == ["sub"]
    assert os.getxattr(share / ".snapshot", "user.DOSATTRIB")[12:16] == bytes((0x16, 0, 0, 0)), "hidden, system, directory"
    assert os.listxattr(share / ".snapshot") == []
