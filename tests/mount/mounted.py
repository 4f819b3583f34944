"""A store and its real mount, in a process of its own, and what tests need around it: children as other users, libc, patience."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import pickle
import re
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from anqfs.crypto.secrets import Secret
from anqfs.mount import mountpoint as place
from anqfs.namespace.namespace import Namespace
from anqfs.store.volume import Volume

LAUNCHER = Path(__file__).with_name("launch.py")
NOBODY = 65534
_BAD = re.compile(r"^(WARNING|ERROR|CRITICAL) .*|^Traceback.*", re.MULTILINE)


def until(condition: Callable[[], Any], what: str, seconds: float = 60) -> Any:
    """Return the first true value of `condition`; fail the test after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"waited in vain until {what}")
        time.sleep(0.005)
    return value


def drop_caches(what: str) -> None:
    """Make the kernel forget: "2" names and inodes, "3" pages as well. Where /proc/sys is read-only (containers), through a fresh one."""
    try:
        Path("/proc/sys/vm/drop_caches").write_text(what)
    except OSError:
        with tempfile.TemporaryDirectory() as fresh:
            subprocess.run(["mount", "-t", "proc", "proc", fresh], check=True, stdin=subprocess.DEVNULL)
            try:
                Path(fresh, "sys/vm/drop_caches").write_text(what)
            finally:
                place.unmount(os.fsencode(fresh))


def in_child(uid: int, function: Callable[..., Any], *arguments: Any) -> Any:
    """Run `function(*arguments)` in a forked process as `uid` (and that gid, no other groups) and return or raise what it did."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(reading)
            if uid:
                os.setgroups([])
                os.setresgid(uid, uid, uid)
                os.setresuid(uid, uid, uid)
            os.umask(0o22)
            try:
                outcome = (True, function(*arguments))
            except BaseException as error:
                outcome = (False, "".join(traceback.format_exception(error)))
            with os.fdopen(writing, "wb") as stream:
                pickle.dump(outcome, stream)
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    try:
        with os.fdopen(reading, "rb") as stream:
            data = stream.read()
    finally:
        status = os.waitpid(child, 0)[1]
    assert status == 0, f"the child ended with status {status}"
    good, value = pickle.loads(data)
    if not good:
        raise AssertionError(f"as uid {uid}:\n{value}")
    return value


@contextmanager
def loop_ext4(base: Path, inode: int = 256) -> Iterator[Path]:
    """A directory on ext4: a loop image, so that it is the same everywhere. What its `inode` bytes have room for takes no block."""
    image, point = base / "image", base / "ext4"
    point.mkdir()
    with image.open("wb") as stream:
        stream.truncate(256 << 20)
    subprocess.run(
        ["mkfs.ext4", "-q", "-b", "4096", "-I", str(inode), str(image)], check=True, stdin=subprocess.DEVNULL, capture_output=True
    )
    subprocess.run(["mount", "-o", "loop,noatime", str(image), str(point)], check=True, stdin=subprocess.DEVNULL, capture_output=True)
    try:
        (point / "lost+found").rmdir()
        point.chmod(0o1777)
        yield point
    finally:
        until(lambda: subprocess.run(["umount", str(point)], check=False, capture_output=True).returncode == 0, "ext4 is unmounted")


class Mount:
    """A store and its mount."""

    def __init__(self, base: Path, options: tuple[str, ...] = ()) -> None:
        self.base = base
        self.store = base / "store"
        self.point = base / "mnt"
        self.log = base / "log"
        self.key_file = base / "key"
        self.options = options
        self.expected: list[str] = []
        self.process: subprocess.Popen[str] | None = None
        if not self.point.exists():
            self.point.mkdir()

    def make_store(self) -> None:
        """mkfs."""
        self.key_file.write_bytes(os.urandom(32))
        self.key_file.chmod(0o600)
        secret = Secret.from_key_file(str(self.key_file))
        Volume.create(str(self.store), secret)
        volume = Volume.open(str(self.store), secret)
        try:
            Namespace.format(volume)
        finally:
            volume.close()

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def start(self, *prefix: str, options: tuple[str, ...] | None = None) -> Mount:
        """Start the daemon; `prefix` is put before its command (strace, setpriv)."""
        command = [*prefix, sys.executable, str(LAUNCHER), str(self.store), str(self.point), str(self.key_file)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, *(self.options if options is None else options)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.process.stdout is not None
        if self.process.stdout.readline() != "ready\n":
            self.process.wait(timeout=60)
            raise AssertionError(f"the daemon did not start:\n{self.log_text()}")
        return self

    def ask(self, question: str, *arguments: Any) -> Any:
        """Ask the daemon (launch.py says what)."""
        assert self.process is not None and self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps([question, *arguments]) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def log_text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def expect(self, pattern: str) -> None:
        """Say that a log line of WARNING or worse, or a traceback, that matches `pattern` is what this test is about."""
        self.expected.append(pattern)

    def complaints(self) -> list[str]:
        """Return what the log says that no test expected."""
        lines = [match.group(0) for match in _BAD.finditer(self.log_text())]
        return [line for line in lines if not any(re.search(pattern, line) for pattern in self.expected)]

    def umount(self, *command: str) -> None:
        """Unmount with umount(8), or `command`. Who looks in just now (a `df`, an indexer) makes it busy for a moment."""

        def unmounted() -> bool:
            words = [*(command or ("umount",)), str(self.point)]
            done = subprocess.run(
                words, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"}
            )
            assert done.returncode == 0 or "busy" in done.stderr, done
            return done.returncode == 0

        until(unmounted, "nobody uses the mount")

    def stop(self) -> None:
        """SIGTERM, and wait for the end."""
        assert self.process is not None
        self.process.terminate()
        self.reap()

    def kill(self) -> None:
        """SIGKILL: a crash."""
        assert self.process is not None
        self.process.kill()
        self.reap(code=-9)

    def reap(self, code: int = 0) -> None:
        """Wait for the daemon's end."""
        assert self.process is not None
        process, self.process = self.process, None
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            subprocess.run(["umount", "-f", str(self.point)], check=False, stdin=subprocess.DEVNULL)  # wakes whoever waits for the mount
            process.wait()
            raise
        finally:
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    stream.close()
        assert process.returncode == code, self.log_text()

    def remount(self, options: tuple[str, ...] | None = None) -> Mount:
        self.stop()
        return self.start(options=options)

    def clean_up(self) -> None:
        """Leave nothing, however the test ended."""
        process, self.process = self.process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    stream.close()
        if place.mounted_at(os.fsencode(self.point)) is not None:
            place.detach(os.fsencode(self.point))


_libc = ctypes.CDLL(None, use_errno=True)


def libc(name: str, *arguments: Any) -> int:
    """Call a function of the C library and raise OSError when it returns -1."""
    result = getattr(_libc, name)(*arguments)
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, errno.errorcode[number])
    return int(result)
