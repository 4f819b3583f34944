"""Starts, kills and stops real daemons on stores made for a test."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

REPOSITORY = Path(__file__).resolve().parents[2]
DEADLINE = 60.0


def module(name: str, *arguments: str) -> list[str]:
    """Return the command line that runs a module of this package."""
    return [sys.executable, "-m", f"tests.crash.{name}", *arguments]


def eventually(what: str, ready: object, *, deadline: float | None = None) -> None:
    """Poll the callable `ready` until it is true; TimeoutError names `what`."""
    assert callable(ready)
    limit = time.monotonic() + (DEADLINE if deadline is None else deadline)
    while not ready():
        if time.monotonic() > limit:
            raise TimeoutError(what)
        time.sleep(0.01)


def is_mounted(path: Path) -> bool:
    wanted = os.fsencode(path).replace(b" ", b"\\040")
    with open("/proc/self/mountinfo", "rb") as file:
        return any(line.split()[4] == wanted for line in file)


def detach(path: Path) -> None:
    """Take a dead (or living) mount away, whatever still uses it."""
    while is_mounted(path):
        subprocess.run(["umount", "-l", str(path)], check=True, stdin=subprocess.DEVNULL)


def make_store(directory: Path) -> tuple[Path, Path]:
    """Make a volume in `directory` and return its (store, key file)."""
    from anqfs.crypto.secrets import Secret
    from anqfs.namespace.namespace import Namespace
    from anqfs.store.volume import Volume

    key_file = directory / "key"
    key_file.write_bytes(b"a key file of a crash test " * 4)
    key_file.chmod(0o600)
    secret = Secret.from_key_file(key_file)
    store = directory / "store"
    Volume.create(store, secret)
    volume = Volume.open(store, secret)
    Namespace.format(volume)
    volume.close()
    return store, key_file


class Daemon:
    """One mounted daemon process."""

    def __init__(
        self,
        store: Path,
        key_file: Path,
        mountpoint: Path,
        log: Path,
        *,
        environment: dict[str, str] | None = None,
        group_seconds: float = 1.0,
    ) -> None:
        self.store, self.key_file, self.mountpoint, self.log = store, key_file, mountpoint, log
        self.group_seconds = group_seconds
        self.environment = environment or {}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *, expect_failure: bool = False) -> int | None:
        """Mount. With `expect_failure` return the exit code if it ends before it is ready."""
        self.mountpoint.mkdir(exist_ok=True)
        # The daemon ends with the test, even when the test is killed.
        command = ["setpriv", "--pdeathsig", "TERM", *self._command()]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                cwd=REPOSITORY,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self.environment},
                start_new_session=True,
            )
        process = self.process
        eventually("the daemon to mount", lambda: is_mounted(self.mountpoint) or process.poll() is not None)
        if process.poll() is None:
            os.stat(self.mountpoint)
            return None
        if not expect_failure:
            raise RuntimeError(f"the daemon ended with {process.returncode}:\n{self.log_tail()}")
        return process.returncode

    def _command(self) -> list[str]:
        command = module("launcher", str(self.store), str(self.mountpoint), "--key-file", str(self.key_file))
        return [*command, "--group-seconds", str(self.group_seconds)]

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def kill(self, *, leave_mount: bool = False) -> None:
        """SIGKILL the daemon and take its dead mount away (later, with `leave_mount`, so that nobody writes below it)."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        try:
            self.process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            subprocess.run(["umount", "-f", str(self.mountpoint)], check=False, stdin=subprocess.DEVNULL)  # wakes whoever waits for it
            self.process.wait()
            raise TimeoutError("the killed daemon to end") from None
        if not leave_mount:
            detach(self.mountpoint)

    def stop(self) -> int:
        """Unmount cleanly and return the daemon's exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(DEADLINE)
        detach(self.mountpoint)
        return code

    def log_tail(self, size: int = 4000) -> str:
        return self.log.read_text(errors="replace")[-size:]

    def __enter__(self) -> Daemon:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill()
        detach(self.mountpoint)


class CommandDaemon(Daemon):
    """The daemon as `anqfs mount --foreground` starts it, with its API and a registry of its own in `runtime`."""

    def __init__(self, store: Path, key_file: Path, mountpoint: Path, log: Path, runtime: Path) -> None:
        runtime.mkdir(mode=0o700, exist_ok=True)
        super().__init__(store, key_file, mountpoint, log, environment={"ANQFS_RUNTIME_DIR": str(runtime)})

    def _command(self) -> list[str]:
        return anqfs("mount", str(self.store), str(self.mountpoint), "--key-file", str(self.key_file), "--foreground")

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run an anqfs command that finds this daemon."""
        environment = {**os.environ, **self.environment}
        return subprocess.run(anqfs(*arguments), env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=REPOSITORY)


def end_orderly() -> None:
    """Let SIGTERM end this process as an exception does, so that mounts and files are cleaned up."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def anqfs(*arguments: str) -> list[str]:
    """Return the command line of an anqfs command."""
    return [sys.executable, "-m", "anqfs.cli.app", *arguments]


def memory_kib(pid: int, field: str = "RssAnon") -> int:
    """Return a field of /proc/PID/status in KiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1])
    raise LookupError(field)


def check_store(store: Path, key_file: Path) -> list[str]:
    """Run the offline check, with what the intent log holds in the stores, and return its findings as text."""
    from anqfs.crypto.secrets import Secret
    from anqfs.namespace.check import check
    from anqfs.store import structure
    from anqfs.store.volume import Volume

    faults = structure.faults(os.fsencode(store))
    if faults:
        return faults
    secret = Secret.from_key_file(key_file)
    Volume.open(store, secret).close()
    volume = Volume.open(store, secret, read_only=True)
    with contextlib.closing(volume):
        return [f"{os.fsdecode(finding.path or b'')}: {finding.what}" for finding in check(volume).findings]


@contextlib.contextmanager
def writers(
    count: int,
    top: Path,
    logs: Path,
    seed: int,
    *extra: str,
    first: int = 1,
    shared_log: Path | None = None,
    environment: dict[str, str] | None = None,
) -> Iterator[list[subprocess.Popen[str]]]:
    """Start `count` writer processes, each in its own new directory w<number> below `top`; end them all on leaving."""
    started = []
    try:
        for number in range(first, first + count):
            (top / f"w{number}").mkdir()
            log = ["--log", str(shared_log), "--marks"] if shared_log else ["--log", str(logs / f"log{number}")]
            command = module("workload", "--writer", str(number), "--top", str(top / f"w{number}"), "--seed", str(seed), *log, *extra)
            added = {**os.environ, **(environment or {})}
            started.append(
                subprocess.Popen(command, cwd=REPOSITORY, env=added, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
            )
        yield started
    finally:
        for process in started:
            if process.poll() is None:
                process.kill()
            process.communicate()


def have_begun(logs: list[Path], *words: bytes) -> bool:
    """Tell whether each of these logs has a few acknowledgements, and one of them each of `words`."""
    texts = [log.read_bytes() for log in logs if log.exists()]
    return sum(text.count(b'"ack"') >= 3 for text in texts) == len(logs) and all(any(word in text for text in texts) for word in words)


def end_writers(processes: list[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    """Tell the writers to stop after their current step, and return each one's (exit code, last words)."""
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
    results = []
    for process in processes:
        process.wait(DEADLINE)
        assert process.stdout is not None
        results.append((process.returncode, process.stdout.read().strip()))
    return results
