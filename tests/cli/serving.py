"""`anqfs serve` for tests: a mounted volume, its admin, and the relay on a free port."""

from __future__ import annotations

import http.client
import json
import os
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.places import secret_file

from .conftest import DEADLINE, Bench

PASSWORD = "correct horse battery"


def trusting_all() -> ssl.SSLContext:
    """Return a TLS context of a client that does not ask who the server is."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class Relay:
    """A running `anqfs serve`."""

    def __init__(self, process: subprocess.Popen[str], host: str, port: int, fingerprint: str) -> None:
        self.process = process
        self.host = host
        self.port = port
        self.fingerprint = fingerprint
        self._connection: http.client.HTTPSConnection | None = None

    def request(
        self, method: str, target: str, body: Any = None, *, token: str | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        """Send a request and return the status and the JSON of the answer. One connection serves as long as the relay keeps it."""
        sent = {**(headers or {}), **({} if token is None else {"Authorization": f"Bearer {token}"})}
        text = None if body is None else json.dumps(body)
        try:
            return self._ask(method, target, text, sent)
        except (ConnectionError, ssl.SSLError, http.client.HTTPException):
            self.close()
            return self._ask(method, target, text, sent)

    def _ask(self, method: str, target: str, body: str | None, headers: dict[str, str]) -> tuple[int, Any]:
        if self._connection is None:
            self._connection = http.client.HTTPSConnection(self.host, self.port, timeout=DEADLINE, context=trusting_all())
        self._connection.request(method, target, body, headers)
        answer = self._connection.getresponse()
        data = answer.read()
        return answer.status, json.loads(data) if data else None

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def login(self, name: str = "admin", password: str = PASSWORD) -> str:
        """Log in and return the token."""
        status, answer = self.request("POST", "/v1/session/login", {"username": name, "password": password})
        assert status == 200, answer
        return str(answer["bearer_token"])


def add_user(bench: Bench, name: str = "admin", *more: str) -> None:
    """Add a user of the API with PASSWORD."""
    file = secret_file(bench.top / "password", PASSWORD + "\n")
    bench.ok("api", "user", "add", name, "--password-file", file, "--mountpoint", bench.mountpoint, *more)


@contextmanager
def serving(bench: Bench, *options: str | Path) -> Iterator[Relay]:
    """Serve the bench's volume on a free port; at the end the relay is gone, and must have said nothing bad."""
    arguments = ("serve", bench.mountpoint, "--listen", "127.0.0.1:0", *(options or ("--tls-self-signed",)))
    process = subprocess.Popen(
        bench.command(*arguments),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=bench.environment,
        cwd=bench.top,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert " on https://127.0.0.1:" in line, (line, process.stderr.read() if process.stderr is not None and not line else "")
        fingerprint = process.stdout.readline().split()[-1]
        relay = Relay(process, "127.0.0.1", int(line.rpartition(":")[2]), fingerprint)
        try:
            yield relay
        finally:
            relay.close()
    finally:
        process.terminate()
        _, said = process.communicate(timeout=DEADLINE)
    assert "Traceback" not in said, said
    assert process.returncode == 0


def home(bench: Bench) -> dict[str, str]:
    """Return an environment in which the vendor's client keeps what it keeps below the bench's directory."""
    return {**bench.environment, "HOME": str(bench.top), "XDG_CONFIG_HOME": str(bench.top / "config"), "PATH": os.environ.get("PATH", "")}
