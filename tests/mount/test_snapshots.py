"""Snapshots through the mount."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from mounted import NOBODY, Mount, in_child, until

from tests.refusals import refusal


def take(directory: Path, name: str = "shot") -> Path:
    """Take a snapshot with mkdir and return its path."""
    before = set(os.listdir(directory / ".snapshot"))
    (directory / ".snapshot" / name).mkdir()
    (made,) = set(os.listdir(directory / ".snapshot")) - before
    assert made.endswith(f"_{name}")
    return directory / ".snapshot" / made


def test_snapshot_is_in_every_directory_and_in_no_listing(mount: Mount) -> None:
    (mount.point / "a" / "b").mkdir(parents=True)
    shot = take(mount.point / "a")
    assert os.listdir(mount.point / "a") == ["b"]
    assert os.listdir(mount.point / ".snapshot") == []
    assert os.listdir(mount.point / "a" / "b" / ".snapshot") == [shot.name]
    assert (mount.point / "a" / ".snapshot").stat().st_mode & 0o777 == 0o755
    assert ".snapshot" not in os.listdir(shot)


def test_a_snapshot_keeps_what_was_there(mount: Mount) -> None:
    top = mount.point / "top"
    (top / "dir").mkdir(parents=True)
    (top / "dir" / "file").write_bytes(b"before")
    os.symlink("file", top / "dir" / "link")
    shot = take(top)
    (top / "dir" / "file").write_bytes(b"after, and longer")
    (top / "dir" / "new").touch()
    os.unlink(top / "dir" / "link")
    os.rename(top / "dir", top / "moved")
    assert sorted(os.listdir(shot / "dir")) == ["file", "link"]
    assert (shot / "dir" / "file").read_bytes() == b"before"
    assert os.readlink(shot / "dir" / "link") == "file"
    assert (shot / "dir" / "file").stat().st_ino != (top / "moved" / "file").stat().st_ino
    os.chdir(shot / "dir")
    try:
        assert os.getcwd() == str(shot / "dir")
        assert os.listdir("..") == ["dir"]
    finally:
        os.chdir("/")


def test_everything_in_a_snapshot_is_read_only_for_root_too(mount: Mount) -> None:
    (mount.point / "d").mkdir()
    (mount.point / "d" / "f").write_bytes(b"x")
    os.symlink("f", mount.point / "d" / "l")
    shot = take(mount.point)
    os.mkfifo(mount.point / "pipe")
    inside = shot / "d"
    refused: list[tuple[Callable[..., Any], tuple[Any, ...]]] = [
        (os.open, (inside / "f", os.O_WRONLY)),
        (os.open, (inside / "f", os.O_RDWR)),
        (os.open, (inside / "f", os.O_RDONLY | os.O_TRUNC)),
        (os.open, (inside / "new", os.O_CREAT | os.O_WRONLY)),
        (os.truncate, (inside / "f", 0)),
        (os.mkdir, (inside / "new",)),
        (os.mkfifo, (inside / "new",)),
        (os.symlink, ("x", inside / "new")),
        (os.link, (inside / "f", inside / "new")),
        (os.unlink, (inside / "f",)),
        (os.rmdir, (shot / "d",)),
        (os.rename, (inside / "f", inside / "g")),
        (os.rename, (mount.point / "pipe", inside / "g")),
        (os.rename, (inside / "f", mount.point / "g")),
        (os.chmod, (inside / "f", 0o600)),
        (os.chown, (inside / "f", 1, 1)),
        (os.utime, (inside / "f",)),
        (os.setxattr, (inside / "f", "user.x", b"y")),
        (os.setxattr, (shot, "user.x", b"y")),
        (os.chmod, (shot, 0o700)),
    ]
    for call, arguments in refused:
        assert refusal(call, *arguments) == "EROFS", (call.__name__, arguments)
    assert (inside / "f").read_bytes() == b"x"


def test_rmdir_drops_a_snapshot_and_its_name_is_gone_at_once(mount: Mount) -> None:
    (mount.point / "f").write_bytes(b"x")
    shot = take(mount.point)
    with open(shot / "f", "rb"):
        shot.rmdir()
    assert not shot.exists()
    assert os.listdir(mount.point / ".snapshot") == []
    assert refusal(os.rmdir, shot) == "ENOENT"


def test_a_snapshot_taken_behind_the_kernels_back_is_seen_at_once(mount: Mount) -> None:
    (mount.point / "d").mkdir()
    assert os.listdir(mount.point / "d" / ".snapshot") == []
    assert not (mount.point / "d" / ".snapshot" / "1_api").exists()
    number = mount.ask("snapshot", "d", "api")
    assert (mount.point / "d" / ".snapshot" / f"{number}_api").is_dir()
    assert os.listdir(mount.point / "d" / ".snapshot") == [f"{number}_api"]


def test_a_snapshot_holds_what_only_the_kernel_had_yet(mount: Mount) -> None:
    """write() returned, nobody closed or synced: the data must be in a snapshot that is asked for afterwards, on each of many tries."""
    directory = mount.point / "d"
    directory.mkdir()
    with ExitStack() as stack:
        files = [stack.enter_context(open(directory / f"f{number}", "w+b", buffering=0)) for number in range(8)]
        for turn in range(10):
            data = bytes((65 + turn,)) * (300_000 + 4096 * turn)
            for stream in files:
                os.pwrite(stream.fileno(), data, 0)
            shot = take(directory, f"s{turn}")
            for number in range(len(files)):
                assert (shot / f"f{number}").read_bytes() == data


def test_a_snapshot_holds_what_was_written_through_a_mapping(mount: Mount) -> None:
    (mount.point / "m").write_bytes(b"-" * 10_000)
    with open(mount.point / "m", "r+b") as stream, mmap.mmap(stream.fileno(), 10_000) as view:
        stream.close()
        view[5000:5006] = b"mapped"
        shot = take(mount.point)
        assert (shot / "m").read_bytes()[5000:5006] == b"mapped"


def test_a_daemon_that_is_killed_while_it_flushes_ends(mount: Mount) -> None:
    """Whoever waits for the kernel to write back sleeps deaf to SIGKILL; it must not be a thread that keeps /dev/fuse open."""
    mount.ask("stall")
    descriptor = os.open(mount.point / "f", os.O_WRONLY | os.O_CREAT)
    try:
        os.write(descriptor, os.urandom(1 << 20))
        taking = threading.Thread(target=_take_or_fail, args=(mount.point / ".snapshot" / "shot",))
        taking.start()
        until(lambda: "a write is stalled" in mount.log_text(), "the flush waits for a write")
        mount.kill()
        taking.join()
    finally:
        with contextlib.suppress(OSError):  # what the daemon never took is lost, and closing says so
            os.close(descriptor)
    mount.start()
    assert mount.ask("facts")["dirty"] >= 0


def _take_or_fail(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.mkdir()


def test_snapshots_while_others_write_do_not_hang(mount: Mount) -> None:
    """The flush waits for requests that come back into the same loop, from writers that never stop."""
    stop = threading.Event()

    def writer(number: int) -> None:
        turn = 0
        while not stop.is_set():
            with open(mount.point / f"w{number}-{turn % 5}", "wb") as stream:
                stream.write(b"data" * 20_000)
            turn += 1

    threads = [threading.Thread(target=writer, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    try:
        shots = [take(mount.point, f"s{turn}") for turn in range(5)]
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert all(sorted(os.listdir(shot)) == sorted(set(os.listdir(shot))) for shot in shots)


def test_a_user_takes_snapshots_of_directories_that_are_theirs(mount: Mount) -> None:
    os.chmod(mount.point, 0o755)
    (mount.point / "theirs").mkdir()
    os.chown(mount.point / "theirs", NOBODY, NOBODY)
    in_child(NOBODY, os.mkdir, mount.point / "theirs" / ".snapshot" / "mine")
    assert len(os.listdir(mount.point / "theirs" / ".snapshot")) == 1

    def refused() -> str:
        try:
            os.mkdir(mount.point / ".snapshot" / "not mine")
        except OSError as error:
            return errno.errorcode[error.errno or 0]
        return "taken"

    assert in_child(NOBODY, refused) in ("EACCES", "EPERM")
