"""The client of a daemon's HTTP API. Called by the command line; blocking. Only the standard library, so that commands start fast."""

from __future__ import annotations

import http.client
import os
import socket
from typing import Any
from urllib.parse import urlencode

from anqfs.control import wire
from anqfs.control.registry import Entry
from anqfs.errors import AnqfsError, NotMounted

_ANSWER_LIMIT = 256 << 20
_LONGEST_SOCKET_PATH = 107
_PATIENCE = 30.0


def connect(path: str, patience: float | None) -> socket.socket:
    """Connect to a Unix socket whose path may be longer than the 107 bytes that fit an address. Raises OSError."""
    stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    stream.settimeout(patience)
    try:
        if len(os.fsencode(path)) <= _LONGEST_SOCKET_PATH:
            stream.connect(os.fsencode(path))
            return stream
        handle = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            stream.connect(f"/proc/self/fd/{handle}/{os.path.basename(path)}")
        finally:
            os.close(handle)
    except BaseException:
        stream.close()
        raise
    return stream


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str, patience: float | None) -> None:
        super().__init__("anqfs", timeout=patience)
        self._path = path
        self._patience = patience

    def connect(self) -> None:
        self.sock = connect(self._path, self._patience)


class Client:
    """Speaks to one daemon; a new connection for each request, so that a poll never holds the daemon's stop."""

    def __init__(self, entry: Entry) -> None:
        self.entry = entry

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        patience: float | None = _PATIENCE,
        query: dict[str, str | int] | None = None,
    ) -> Any:
        """Send a request and return the answer's JSON.

        `patience` is seconds without an answer (None: wait). Raises the daemon's own error, or NotMounted when it does not answer.
        """
        target = f"{path}?{urlencode(query)}" if query else path
        payload = None if body is None else wire.dumps(body).encode()
        connection = _Connection(self.entry.socket, patience)
        try:
            connection.request(method, target, payload, {"Content-Type": "application/json"} if payload else {})
            answer = connection.getresponse()
            data = answer.read(_ANSWER_LIMIT)
        except TimeoutError as error:
            raise NotMounted(self._silent("does not answer; is it stopped? (kill -CONT)")) from error
        except (OSError, http.client.HTTPException) as error:
            raise NotMounted(self._silent(f"cannot be reached ({error})")) from error
        finally:
            connection.close()
        value = self._value(data)
        if answer.status >= 400:
            raise wire.from_fault(value)
        return value

    def _silent(self, how: str) -> str:
        return f"{wire.shown(self.entry.mountpoint)}: its daemon (pid {self.entry.pid}) {how}; see the log {wire.shown(self.entry.log)}"

    def _value(self, data: bytes) -> Any:
        try:
            return wire.loads(data) if data else None
        except AnqfsError as error:
            raise AnqfsError(self._silent("gave an answer that is not JSON")) from error

    def get(self, path: str, **query: str | int) -> Any:
        """GET `path`."""
        return self.call("GET", path, query=query)

    def post(self, path: str, body: Any = None, *, patience: float | None = _PATIENCE) -> Any:
        """POST `body` to `path`."""
        return self.call("POST", path, body, patience=patience)

    def delete(self, path: str) -> Any:
        """DELETE `path`."""
        return self.call("DELETE", path)
