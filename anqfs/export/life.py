"""The life of one server: started, ready, found dead, started again later and later, stopped. Driven by the supervisor's loop.

Nothing here blocks for long, except `stop`, which waits until the server and all its children are gone.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import subprocess
import time
from typing import Any

from anqfs.errors import ExportFailed
from anqfs.export import servers, state
from anqfs.export.servers import Server

log = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0
"""Seconds before a dead server is started again: doubled each time, up to the longest."""
STEADY_SECONDS = 60.0
"""A server that was ready for so long has recovered: its next death is its first."""
READY_SECONDS = 60.0
"""A server that does not answer after so long is given up and started again."""
STOP_SECONDS = 30.0
_POLL_SECONDS = 0.05
_ORPHAN_SECONDS = 10.0


class Life:
    """One server. `state`: stopped, starting, running, or failed, and then it is tried again at `next_try` (monotonic)."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.state = "stopped"
        self.restarts = 0
        self.next_try: float | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._pidfd = -1
        self._since = 0
        self._changed = time.monotonic()
        self._began = 0
        self._deaths = 0
        self._error: str | None = None
        self._reread = False

    def start(self) -> None:
        """Start the server; what a killed supervisor left of it goes first. Raises ExportFailed."""
        if not state.end(self.server.pid_file, signal.SIGTERM, _ORPHAN_SECONDS) and not state.end(
            self.server.pid_file, signal.SIGKILL, _ORPHAN_SECONDS
        ):
            raise ExportFailed(f"{self.server.kind}: process {state.holder(self.server.pid_file)} of an earlier start does not end")
        self._since = servers.log_size(self.server)
        self._process = servers.start(self.server)
        self._pidfd = os.pidfd_open(self._process.pid)
        self._began = time.time_ns()
        self.next_try = None
        self._reread = False
        self._become("starting")

    def _become(self, what: str) -> None:
        self.state = what
        self._changed = time.monotonic()

    @property
    def descriptor(self) -> int | None:
        """What becomes readable when the server dies."""
        return self._pidfd if self._process is not None else None

    def patience(self) -> float | None:
        """Return after how many seconds `step` has something to do; None: when the server dies."""
        if self.state == "starting":
            return _POLL_SECONDS
        if self.next_try is not None:
            return max(0.0, self.next_try - time.monotonic())
        return None

    def step(self) -> None:
        """Do what is due: notice that it died or became ready, start it again. Never raises: what fails is tried again later."""
        if self._process is not None and self._process.poll() is not None:
            self._bury(_how(self._process.returncode))
        elif self.state == "starting":
            self._look_whether_ready()
        elif self.next_try is not None and time.monotonic() >= self.next_try:
            self.restarts += 1
            log.info("%s: starting it again (%d)", self.server.kind, self.restarts)
            try:
                self.start()
            except ExportFailed as error:
                self._fail(str(error))

    def _look_whether_ready(self) -> None:
        if servers.is_ready(self.server, self._since):
            self._become("running")
            log.info("%s: answers on %s port %d", self.server.kind, self.server.address, self.server.port)
            if self._reread:
                self.reread()
        elif time.monotonic() > self._changed + READY_SECONDS:
            self.stop()
            self._fail(f"did not answer within {READY_SECONDS:.0f} s")

    def _bury(self, how: str) -> None:
        said = servers.last_words(self.server, self._since)
        if self.state == "running" and time.monotonic() > self._changed + STEADY_SECONDS:
            self._deaths = 0
        self._reap()
        self._fail(f"{how}{': ' + said if said else ''}")

    def _fail(self, why: str) -> None:
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(self._deaths, 16))
        self._deaths += 1
        self._error = why
        self.next_try = time.monotonic() + pause
        self._become("failed")
        log.error("%s: %s; starting it again in %.1f s", self.server.kind, why, pause)

    def _reap(self) -> None:
        """End whatever is left of the server's process group."""
        assert self._process is not None
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self._process.pid, number)
            except ProcessLookupError:
                break
            _wait_for_group(self._process.pid, 2.0)
        os.close(self._pidfd)
        self._pidfd, self._process = -1, None

    def ask_to_end(self) -> None:
        """Tell the server to end; `stop` waits for it."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def stop(self) -> None:
        """End the server; return when it and its children are gone."""
        if self._process is not None:
            self.ask_to_end()
            if not select.select([self._pidfd], [], [], STOP_SECONDS)[0]:
                log.warning("%s: does not end: it is killed", self.server.kind)
                self._process.kill()
            self._process.wait()
            self._reap()
        self.next_try = None
        self._become("stopped")

    def reread(self) -> None:
        """Make the server read its configuration again, now or as soon as it answers: a signal before that would kill ganesha."""
        if self.state == "running" and self._process is not None:
            self._process.send_signal(signal.SIGHUP)
            self._reread = False
        else:
            self._reread = True

    def document(self) -> dict[str, Any]:
        """Return what there is to know. Times in ns since 1970."""
        wait = None if self.next_try is None else time.time_ns() + int((self.next_try - time.monotonic()) * 1e9)
        return {
            "server": self.server.kind,
            "state": self.state,
            "pid": None if self._process is None else self._process.pid,
            "address": self.server.address,
            "port": self.server.port,
            "since": self._began or None,
            "restarts": self.restarts,
            "next_try": wait,
            "last_error": self._error,
            "log": str(self.server.log),
        }

    @property
    def error(self) -> str | None:
        """Why it last failed."""
        return self._error


def _how(code: int) -> str:
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"


def _wait_for_group(group: int, patience: float) -> None:
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.01)
