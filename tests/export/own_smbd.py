"""An smbd with a directory of its own, for tests that compare what it does on two filesystems."""

from __future__ import annotations

import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType

from tests.export.smb_client import HOST

USER, PASSWORD = "games", "Torture-2026"
"""An account that every Debian has and nobody uses, and its password for SMB."""


class OwnSmbd:
    """smbd with this configuration; started and ended with the `with` statement."""

    def __init__(self, configuration: Path, port: int, log: Path) -> None:
        self.configuration = configuration
        self.port = port
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> OwnSmbd:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                ["smbd", "-F", "-s", str(self.configuration), "--debug-stdout"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 30
        while not self._answers():
            assert self._process.poll() is None and time.monotonic() < deadline, self._log.read_text(errors="replace")
            time.sleep(0.02)
        return self

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((HOST, self.port)) == 0

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        assert self._process is not None
        self._process.terminate()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
