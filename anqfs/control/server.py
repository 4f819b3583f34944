"""The daemon's HTTP API: Starlette, served by Hypercorn's trio worker on Unix sockets, all on the daemon's trio thread.

What can be asked for is in `rest`. Whoever can open the daemon's socket (mode 0600 in a private directory) is root or the daemon's owner,
and may do everything without a token. Still nothing is taken on trust: bodies are bounded and typed, junk is answered with 4xx and ANQ's
error envelope, and an unforeseen exception is logged and answered with 500; it never reaches the mount.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Awaitable, Callable
from math import inf
from typing import Any

import msgspec
import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from anqfs import errors
from anqfs.control import connections, wire
from anqfs.control.rest import faults
from anqfs.control.rest.faults import Refused
from anqfs.control.rest.identity import NOBODY, ROOT, Identity
from anqfs.control.rest.routing import Answer, Call, CutShort, Route, Table, converted
from anqfs.control.rest.table import table
from anqfs.control.service import Service

_log = logging.getLogger("anqfs.control.server")

_BACKLOG = 64
_JSON = "application/json"
STRANGERS_LIMIT = 16 << 10
"""Bytes of a body that are kept for somebody who has not logged in."""
STRANGERS_SECONDS = 30.0
"""How long the body of somebody who has not logged in, or of a request that is refused, may take."""
_LONG = 100
"""A longer list is turned into JSON on a thread."""

Application = Callable[[Scope, Receive, Send], Awaitable[None]]
Gate = Callable[[Request, Route], Identity]
"""Says who asks. Raises Refused (401, 403)."""


def trusting(service: Service) -> Gate:
    """Return the gate of the daemon's own socket: whoever can open it is root, or the user whose token is shown."""

    def gate(request: Request, route: Route) -> Identity:
        request.scope["anqfs.local"] = True
        return service.accounts.who(request.headers.get("authorization")) or ROOT

    return gate


def asking(service: Service) -> Gate:
    """Return the gate for requests from the network: a token is needed, and the role decides. Raises Refused (401, 403)."""

    def gate(request: Request, route: Route) -> Identity:
        if route.local:
            raise Refused(403, "http_forbidden_error", "this can only be done on the host itself, with the command line")
        if route.public:
            return NOBODY
        who = service.accounts.who(request.headers.get("authorization"))
        if who is None:
            raise Refused(401, "http_unauthorized_error", "log in first: there is no token, or it is not good any more")
        if not who.may_change and (route.private or not (request.method == "GET" or route.personal)):
            raise Refused(403, "auth_rbac_denied_error", f"the role {who.role} does not allow it")
        return who

    return gate


async def _body(request: Request, limit: int, seconds: float) -> bytes:
    """Return the whole body. Raises Refused when it is too long, cut short, or takes more than so many seconds."""
    data = bytearray()
    try:
        with trio.fail_after(seconds):
            async for part in request.stream():
                data += part
                if len(data) > limit:
                    raise Refused(413, "http_payload_too_large_error", f"the request's body is over {limit} bytes")
    except trio.TooSlowError as error:
        raise Refused(408, "http_request_timeout_error", f"the request's body took more than {seconds:.0f} s") from error
    except ClientDisconnect as error:
        raise Refused(400, "http_bad_request_error", "the request ended before its body did") from error
    return bytes(data)


async def _call(service: Service, request: Request, routes: Table, gate: Gate) -> Call:
    """Return the call that a request is: found, allowed, and its body and query of the right types."""
    route, parameters = routes.find(request.method, request.scope["raw_path"].decode("latin-1"))
    call = Call(service, request, route, parameters, gate(request, route))
    if route.query is not None:
        call.query = converted(dict(request.query_params), route.query, "query", strict=False)
    if not route.streams:
        limit, seconds = (STRANGERS_LIMIT, STRANGERS_SECONDS) if route.public else (wire.BODY_LIMIT, inf)
        data = await _body(request, limit, seconds)
        if route.body is not None:
            call.body = converted(wire.loads(data) if data else {}, route.body, "body", strict=True)
    return call


async def _encoded(value: Any) -> bytes:
    """Return the JSON of an answer; what is long is encoded on a thread."""
    if value is None:
        return b""
    parts = value.values() if isinstance(value, dict) else (value,)
    if any(isinstance(one, list) and len(one) > _LONG for one in parts):
        return await trio.to_thread.run_sync(_json, value)
    return _json(value)


def _json(value: Any) -> bytes:
    return wire.dumps(msgspec.to_builtins(value, str_keys=True)).encode("ascii")


async def _response(route: Route, value: Any) -> Response:
    answer = value if isinstance(value, Answer) else Answer(value, route.status)
    headers = dict(answer.headers)
    if answer.etag is not None:
        headers["ETag"] = answer.etag
    if answer.parts is not None:
        return StreamingResponse(answer.parts, answer.status, headers, media_type="application/octet-stream")
    return Response(await _encoded(answer.value), answer.status, headers, media_type=_JSON)


def _refusal(error: errors.AnqfsError) -> Response:
    status, _ = faults.named(error)
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
    return Response(wire.dumps(faults.envelope(error)), status, headers, media_type=_JSON)


async def _drained(request: Request) -> None:
    """Take what is left of a small body for a while: a client that is still sending would miss the answer."""
    left = wire.BODY_LIMIT
    try:
        with trio.move_on_after(STRANGERS_SECONDS):
            async for part in request.stream():
                left -= len(part)
                if left < 0:
                    return
    except (ClientDisconnect, RuntimeError):
        return  # gone, or all of it was taken already


def _endpoint(service: Service, routes: Table, gate: Gate) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        try:
            call = await _call(service, request, routes, gate)
            return await _response(call.route, await call.route.handler(call))
        except errors.AnqfsError as error:
            refusal = _refusal(error)
        except Exception:
            _log.exception("%s %s", ascii(request.method), ascii(request.url.path))
            refusal = _refusal(errors.AnqfsError("the daemon met an unforeseen fault; its log has the details"))
        await _drained(request)
        return refusal

    return endpoint


def application(service: Service, gate: Gate) -> Application:
    """Return the ASGI application for one daemon; `gate` says who asks. Paths are matched undecoded, so not by Starlette."""
    endpoint = _endpoint(service, table(), gate)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send)
        elif scope["type"] == "http":
            response = await endpoint(Request(scope, receive))
            try:
                await response(scope, receive, send)
            except (ClientDisconnect, CutShort):
                return  # what was sent so far is less than was said: the connection is closed
        else:
            await send({"type": "websocket.close", "code": 1008})

    return app


async def _live(receive: Receive, send: Send) -> None:
    """Answer the server's start and end. Source: the ASGI lifespan protocol 2.0."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


def listen(path: str, mode: int = 0o600) -> socket.socket:
    """Return a Unix socket of a mode, bound to `path`, which may be longer than an address can be. Raises OSError."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    handle = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    mask = os.umask(0o777 & ~mode)
    try:
        listener.bind(f"/proc/self/fd/{handle}/{os.path.basename(path)}")
    except BaseException:
        listener.close()
        raise
    finally:
        os.umask(mask)
        os.close(handle)
    listener.listen(_BACKLOG)
    return listener


def listen_for_relay(path: str) -> socket.socket:
    """Return the socket on which tokens are asked for, in a directory of its own.

    Nobody but us can get at the directory, because the one above it is ours; a relay that has given up its rights can, if it opened the
    directory before. Raises OSError.
    """
    directory = os.path.dirname(path)
    mask = os.umask(0)
    try:
        os.mkdir(directory, 0o711)
    finally:
        os.umask(mask)
    return listen(path, 0o666)


async def run(
    service: Service, listener: socket.socket, gate: Gate, *, stop: trio.Event, task_status: trio.TaskStatus[Any] = trio.TASK_STATUS_IGNORED
) -> None:
    """Serve the API on a bound socket until `stop` is set; `gate` says who asks. The socket is closed at the end."""
    connections.restrict()
    config = Config()
    config.bind = [f"fd://{listener.detach()}"]
    config.backlog = _BACKLOG
    config.graceful_timeout = 2.0
    config.keep_alive_timeout = 5.0
    config.read_timeout = None
    config.include_server_header = False
    config.accesslog = None
    config.errorlog = None
    await serve(application(service, gate), config, shutdown_trigger=stop.wait, task_status=task_status)  # type: ignore[arg-type]
