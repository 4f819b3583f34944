"""A bench for the command line: stores, mounts and daemons made in a temporary directory, reaped whatever happens.

Every test has its own registry (ANQFS_RUNTIME_DIR), so neither foreign mounts nor other tests' are ever seen. What a test leaves
mounted or running without saying so fails it.
"""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.places import open_temporary

DEADLINE = 60.0
KEY = bytes(range(32))


def eventually(what: str, ready: Callable[[], bool]) -> None:
    """Poll `ready` until it is true; TimeoutError names `what`."""
    limit = time.monotonic() + DEADLINE
    while not ready():
        if time.monotonic() > limit:
            raise TimeoutError(what)
        time.sleep(0.01)


def mounted_below(top: Path) -> list[bytes]:
    """Return the mount points below `top`, the newest first."""
    prefix = os.fsencode(top) + b"/"
    found = []
    with open("/proc/self/mountinfo", "rb") as stream:
        for line in stream:
            parts = line.split()[4].split(b"\\")
            point = parts[0] + b"".join(bytes((int(part[:3], 8),)) + part[3:] for part in parts[1:])
            if point.startswith(prefix):
                found.append(point)
    return found[::-1]


def is_alive(pid: int) -> bool:
    """Tell whether a process runs; a zombie does not."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stream:
            return stream.read().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except (FileNotFoundError, ProcessLookupError):
        return False


def daemons_of(top: Path) -> list[int]:
    """Return the pids of running daemons that serve stores below `top`."""
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/cmdline", "rb") as stream:
                words = stream.read().split(b"\0")
        except OSError:
            continue
        if b"anqfs.control.daemon" in words and any(word.startswith(os.fsencode(top) + b"/") for word in words) and is_alive(int(name)):
            found.append(int(name))
    return found


class Bench:
    """One test's directory: `store`, `mountpoint`, `key`, and the command line."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.runtime = top / "run"
        self.store = top / "store"
        self.mountpoint = top / "mnt"
        self.key = top / "key"
        self.mountpoint.mkdir()
        self.key.write_bytes(KEY)
        self.key.chmod(0o600)
        self.environment = {**os.environ, "ANQFS_RUNTIME_DIR": str(self.runtime), "LC_ALL": "C.UTF-8", "COLUMNS": "120"}
        self.leftovers_expected = False

    def command(self, *arguments: str | bytes | Path) -> list[str]:
        """Return the argv of `anqfs` with these arguments, run by the interpreter that runs the tests."""
        return [sys.executable, "-m", "anqfs.cli.app", *(os.fsdecode(argument) for argument in arguments)]

    def run(self, *arguments: str | bytes | Path, **more: Any) -> subprocess.CompletedProcess[str]:
        """Run `anqfs`, without a terminal, and return what it did."""
        options: dict[str, Any] = {"env": self.environment, "cwd": self.top, "timeout": DEADLINE, **more}
        return subprocess.run(
            self.command(*arguments),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            start_new_session=True,
            check=False,
            **options,
        )

    def ok(self, *arguments: str | bytes | Path, **more: Any) -> str:
        """Run `anqfs`, expect success and silence on stderr, and return stdout."""
        done = self.run(*arguments, **more)
        assert (done.returncode, done.stderr) == (0, ""), (arguments, done)
        return done.stdout

    def json(self, *arguments: str | bytes | Path) -> Any:
        """Run a command with --json and return its document."""
        return json.loads(self.ok(*arguments, "--json"))

    def fails(self, code: int, *arguments: str | bytes | Path, **more: Any) -> str:
        """Run `anqfs`, expect this exit code and one line on stderr, and return that line."""
        done = self.run(*arguments, **more)
        assert done.returncode == code, (arguments, done)
        assert done.stdout == ""
        lines = done.stderr.splitlines()
        assert len(lines) == 1 and lines[0].startswith("anqfs: "), done.stderr
        assert "Traceback" not in done.stderr
        return lines[0]

    def mkfs(self) -> None:
        """Make the store."""
        self.ok("mkfs", self.store, "--key-file", self.key)

    def mount(self, *options: str) -> int:
        """Mount the store and return the daemon's pid."""
        self.ok("mount", self.store, self.mountpoint, "--key-file", self.key, *options)
        return int(self.json("status", self.mountpoint)["pid"])

    def umount(self) -> None:
        """Unmount the store."""
        self.ok("umount", self.mountpoint)

    def remount(self) -> int:
        """Unmount and mount again."""
        self.umount()
        return self.mount()

    def kill(self, pid: int) -> None:
        """Kill a daemon as the kernel would, and wait until it is gone."""
        os.kill(pid, signal.SIGKILL)
        eventually("the daemon to die", lambda: not is_alive(pid))

    def logs(self) -> bytes:
        """Return everything in the runtime directory's files."""
        if not self.runtime.is_dir():
            return b""
        return b"".join(path.read_bytes() for path in self.runtime.iterdir() if path.is_file())

    def reap(self) -> list[str]:
        """Take away what is mounted and running below `top`; return what there was."""
        left = [f"mount {point!r}" for point in mounted_below(self.top)]
        for pid in daemons_of(self.top):
            left.append(f"daemon {pid}")
            os.kill(pid, signal.SIGKILL)
            eventually("a left-over daemon to die", lambda pid=pid: not is_alive(pid))  # type: ignore[misc]
        for point in mounted_below(self.top):
            subprocess.run(["umount", "-l", os.fsdecode(point)], stdin=subprocess.DEVNULL, check=True)
        return left


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


@contextmanager
def lasting(prefix: str, *forbidden: bytes) -> Iterator[Bench]:
    """A mounted volume for all tests of a module. Nothing of it is left, and no traceback nor anything `forbidden` is in its log."""
    made = Bench(open_temporary(prefix))
    try:
        made.mkfs()
        made.mount()
        yield made
        log = made.logs()
        made.umount()
    finally:
        left = made.reap()
        shutil.rmtree(made.top)
    assert left == []
    assert not [words for words in (b"Traceback", *forbidden) if words in log], log.decode("utf-8", "replace")[-3000:]


@pytest.fixture
def bench() -> Iterator[Bench]:
    """A bench; whatever it leaves mounted or running is taken away and fails the test."""
    top = open_temporary("anqfs-cli-")
    made = Bench(top)
    try:
        yield made
    finally:
        left = made.reap()
        warnings = [line for line in made.logs().decode("utf-8", "replace").splitlines() if "Traceback" in line]
        shutil.rmtree(top)
    assert warnings == []
    assert left == [] or made.leftovers_expected, left


@pytest.fixture
def mounted(bench: Bench) -> Iterator[Bench]:
    """A bench with a mounted store, unmounted cleanly afterwards if it still is mounted."""
    bench.mkfs()
    bench.mount()
    yield bench
    if mounted_below(bench.top):
        bench.umount()
