"""What a client's connection may do to the server: speak HTTP/1.1 and end itself, nothing else. Imported by `server`; trio thread.

Hypercorn serves WebSockets and HTTP/2 besides, and lets an exception that it did not foresee leave a connection's task, which ends the
server and with it the mount. The API needs neither protocol, and whoever can connect must not be able to unmount a volume with a request.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from importlib.metadata import requires, version
from inspect import iscoroutinefunction
from typing import cast

import h11
import trio
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.tcp_server import TCPServer

from anqfs.errors import AnqfsError

_log = logging.getLogger("anqfs.control.server")
_INTERRUPTIONS = (trio.BusyResourceError, trio.BrokenResourceError, trio.ClosedResourceError)
"""What comes of closing a connection, and of refusing what is no HTTP, while an answer is still on its way."""
_REPLACED = ((H11Protocol, "_check_protocol"), (H11Protocol, "_create_stream"), (TCPServer, "run"))
"""Hypercorn has no setting for any of it, so these methods are replaced. pyproject.toml names the versions that they were tried with."""
_serve_connection = cast("Callable[[TCPServer], Awaitable[None]]", getattr(TCPServer, "run", None))
_create_stream = cast("Callable[[H11Protocol, h11.Request], Awaitable[None]]", getattr(H11Protocol, "_create_stream", None))


async def _only_http_1(self: H11Protocol, event: h11.Request) -> None:
    """Let no request change the protocol, with `Upgrade: h2c` or with the preface of HTTP/2: one is enough to be attacked through."""


async def _without_upgrade(self: H11Protocol, request: h11.Request) -> None:
    """Take a request that asks for another protocol, such as WebSocket, for one that does not: it may be ignored (RFC 9110, 7.8)."""
    if any(name == b"upgrade" for name, _ in request.headers):
        headers = [(name, value) for name, value in request.headers if name != b"upgrade"]
        request = h11.Request(method=request.method, headers=headers, target=request.target, http_version=request.http_version)
    await _create_stream(self, request)


async def _contained(self: TCPServer) -> None:
    """Serve one connection; a fault that nobody foresaw ends it and is logged, and all others go on."""
    try:
        await _serve_connection(self)
    except* _INTERRUPTIONS:
        _log.debug("a connection was closed while there was more to send", exc_info=True)
    except* Exception:
        _log.exception("a connection met an unforeseen fault and is closed")


def restrict() -> None:
    """Make Hypercorn serve connections so, in this process. Raises AnqfsError when it is a version that does not have what is replaced."""
    missing = [f"{owner.__name__}.{name}" for owner, name in _REPLACED if not iscoroutinefunction(getattr(owner, name, None))]
    if missing:
        wanted = next((one for one in requires("anqfs") or () if one.startswith("hypercorn")), "another")
        raise AnqfsError(f"hypercorn {version('hypercorn')} has no {', '.join(missing)}: install {wanted}")
    H11Protocol._check_protocol = _only_http_1  # type: ignore[method-assign]
    H11Protocol._create_stream = _without_upgrade  # type: ignore[method-assign]
    TCPServer.run = _contained  # type: ignore[method-assign]
