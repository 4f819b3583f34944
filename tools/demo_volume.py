"""A volume for a demonstration: a temporary directory with store, keys and mount point, the anqfs commands run on it, and its removal.

Used by demo_run.py as a context manager: however the block ends, the volume is unmounted and everything is removed, unless it shall be
kept.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console

import leftovers

COMMAND = str(Path(sys.executable).with_name("anqfs"))
PATIENCE = 300
"""Seconds that one anqfs command may take."""
LOG_LINES = 20


class DemoFailed(Exception):
    """Something was not as promised; the message says what."""


class DemoVolume:
    """The volume's places, and commands that say what they do."""

    def __init__(self, console: Console, *, keep: bool) -> None:
        self._console = console
        self._keep = keep
        self.directory = Path(tempfile.mkdtemp(prefix="anqfs-demo."))
        self.store = self.directory / "store"
        self.mountpoint = self.directory / "volume"
        self.key_file = self.directory / "volume.key"
        self.passphrase_file = self.directory / "second.passphrase"
        self._runtime = self.directory / "run"
        self._environment = {**os.environ, "ANQFS_RUNTIME_DIR": str(self._runtime)}

    def __enter__(self) -> DemoVolume:
        """Make keys and mount point."""
        self.mountpoint.mkdir()
        self._write_secret(self.key_file, secrets.token_bytes(32))
        self._write_secret(self.passphrase_file, secrets.token_urlsafe(24).encode("ascii") + b"\n")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Unmount and remove, or say where things were left. A second Ctrl-C does not stop this."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if isinstance(error, Exception):
            self._show_log()
        self._clean_up()
        if self._keep:
            self._console.print(
                f"kept: {self.directory}\nmount it:  anqfs mount {self.store} {self.mountpoint} --key-file {self.key_file}", markup=False
            )
        else:
            shutil.rmtree(self.directory)

    def run(self, *arguments: str | Path, fails_with: int = 0) -> str:
        """Run an anqfs command, shown to the person who watches; return its output.

        Raises DemoFailed when its exit code is not `fails_with`.
        """
        shown = " ".join(str(argument).replace(str(self.directory), "$DEMO") for argument in arguments)
        self._console.print(f"  $ anqfs {shown}", style="dim", markup=False, highlight=False, soft_wrap=True)
        done = subprocess.run(
            [COMMAND, *map(str, arguments)],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        if done.returncode != fails_with:
            said = done.stderr.strip() or done.stdout.strip() or "nothing"
            raise DemoFailed(f"anqfs {shown}: exit code {done.returncode} in place of {fails_with}; it said: {said}")
        return done.stdout if fails_with == 0 else done.stderr.strip()

    def ask(self, *arguments: str | Path) -> Any:
        """Run an anqfs command with --json and return what it says."""
        answer = self.run(*arguments, "--json")
        try:
            return json.loads(answer)
        except ValueError as error:
            raise DemoFailed(f"anqfs {arguments[0]} --json printed something else: {answer[:200]!r}") from error

    def mount(self, *secret: str | Path) -> None:
        """Mount with the key file, or with other options."""
        self.run("mount", self.store, self.mountpoint, *(secret or ("--key-file", self.key_file)))
        if not os.path.ismount(self.mountpoint):
            raise DemoFailed(f"{self.mountpoint} is not mounted after anqfs mount")

    def unmount(self) -> None:
        """Unmount; everything is durable afterwards."""
        self.run("umount", self.mountpoint)
        if os.path.ismount(self.mountpoint):
            raise DemoFailed(f"{self.mountpoint} is still mounted after anqfs umount")

    def _write_secret(self, path: Path, secret: bytes) -> None:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secret)

    def _show_log(self) -> None:
        """Show the end of the daemon's log, which says why something failed."""
        for log in self._runtime.glob("*.log"):
            for line in log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:]:
                self._console.print(f"  log: {line}", style="yellow", markup=False, highlight=False, soft_wrap=True)

    def _clean_up(self) -> None:
        """Unmount, the polite way first, and wait for daemons to go: one that was just starting when interrupted may mount even now.

        What is still a mount point after that would make the removal walk into the volume.
        """
        if leftovers.mounts_below(self.directory):
            subprocess.run(
                [COMMAND, "umount", str(self.mountpoint)], stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False
            )
        leftovers.remove(self.directory, patience=20)
        if leftovers.mounts_below(self.directory):
            raise DemoFailed(f"{self.mountpoint} cannot be unmounted; {self.directory} was left as it is")
