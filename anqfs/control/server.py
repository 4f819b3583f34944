"""The daemon's HTTP API: Starlette, served by Hypercorn's trio worker on a Unix socket, all on the daemon's trio thread.

Whoever can open the socket (mode 0600 in a private directory) is root or the daemon's owner, and may do everything. Still nothing is
taken on trust: bodies are bounded and typed, junk is answered with 4xx and `{"error", "message", "exit_code"}`, and an unforeseen
exception is logged and answered with 500; it never reaches the mount.

| request | body | answer |
|---|---|---|
| GET /v1/status?latency=1 | | facts of the volume and the daemon |
| GET /v1/snapshots?inode=N | | snapshots, all or those that concern a directory |
| POST /v1/snapshots | inode or path, name, expires | the snapshot, durable |
| DELETE /v1/snapshots/ID | | |
| POST /v1/restores | snapshot, path, in_place or parent + name | the job |
| GET /v1/jobs/N, DELETE /v1/jobs/N | | the job; cancelling |
| GET, POST, DELETE /v1/scrub | POST: rate | the scrub's state |
| GET /v1/usage?inode=N | | recursive totals |
| GET, POST /v1/keys, DELETE /v1/keys/SLOT, POST /v1/keys/rotate | POST: kind, material (base64) | the slots |
| GET, PATCH /v1/settings | PATCH: snapshot_directory_mode | the volume's settings |
| POST /v1/stop | | unmounts; answers when everything is durable |
"""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec
import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from anqfs import errors
from anqfs.control import wire
from anqfs.control.requests import KeyRequest, RestoreRequest, ScrubRequest, SettingsRequest, SnapshotRequest
from anqfs.control.service import Service

_log = logging.getLogger("anqfs.control.server")

_BACKLOG = 64
_JSON = "application/json"
_LONG = 500
"""A longer list is turned into JSON on a thread."""
_STATUS: dict[type[errors.AnqfsError], int] = {
    errors.UsageError: 400,
    errors.KeySlotError: 400,
    errors.WrongKey: 403,
    errors.NotFound: 404,
    errors.NotMounted: 404,
    errors.StoreInUse: 409,
    errors.MountFailed: 409,
    errors.StoreExists: 409,
    errors.ReadOnlyVolume: 409,
    errors.NoSpace: 507,
}
_ERRNO_STATUS = {errno.ENOENT: 404, errno.ESTALE: 404, errno.EIO: 500, errno.ENOSPC: 507, errno.EDQUOT: 507}

Body = TypeVar("Body")
Handler = Callable[[Service, Request], Awaitable[Any]]


class _Refused(errors.AnqfsError):
    """A request that is wrong as HTTP: its status is not that of an error of ours."""

    exit_code = 2

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def _answer(value: Any, status: int = 200) -> Response:
    return Response(wire.dumps(value), status, media_type=_JSON)


def _status_of(error: errors.AnqfsError) -> int:
    if isinstance(error, _Refused):
        return error.status
    if isinstance(error, errors.FilesystemError):
        return _ERRNO_STATUS.get(error.errno, 400)
    return next((status for kind, status in _STATUS.items() if isinstance(error, kind)), 500)


def _refusal(error: errors.AnqfsError) -> Response:
    fault = wire.to_fault(error)
    if isinstance(error, _Refused):
        fault["error"] = "UsageError"
    return _answer(fault, _status_of(error))


async def _body(request: Request) -> bytes:
    data = bytearray()
    try:
        async for part in request.stream():
            data += part
            if len(data) > wire.BODY_LIMIT:
                raise _Refused(413, f"the request's body is over {wire.BODY_LIMIT} bytes")
    except ClientDisconnect as error:
        raise _Refused(400, "the request ended before its body did") from error
    return bytes(data)


async def _parsed(request: Request, kind: type[Body]) -> Body:
    data: bytes = request.state.body
    try:
        return msgspec.convert(wire.loads(data) if data else {}, kind)
    except (msgspec.ValidationError, RecursionError) as error:
        raise errors.UsageError(f"the request's body makes no sense: {str(error)!a}") from error


def _number(text: str | None, what: str) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 19 and int(text) < 1 << 63):
        raise errors.UsageError(f"{what} is {text[:40]!a}, not a number")
    return int(text)


def _needed(text: str | None, what: str) -> int:
    number = _number(text, what)
    if number is None:
        raise errors.UsageError(f"{what} is missing")
    return number


async def _get_status(service: Service, request: Request) -> Any:
    return await service.status(latency=request.query_params.get("latency") == "1")


async def _get_snapshots(service: Service, request: Request) -> Any:
    return await service.snapshots(_number(request.query_params.get("inode"), "inode"))


async def _post_snapshot(service: Service, request: Request) -> Any:
    return await service.snapshot_create(await _parsed(request, SnapshotRequest))


async def _delete_snapshot(service: Service, request: Request) -> Any:
    return await service.snapshot_delete(_needed(request.path_params["id"], "the snapshot's id"))


async def _post_restore(service: Service, request: Request) -> Any:
    return await service.restore(await _parsed(request, RestoreRequest))


async def _get_job(service: Service, request: Request) -> Any:
    return service.job(_needed(request.path_params["number"], "the job's number"))


async def _delete_job(service: Service, request: Request) -> Any:
    return service.cancel(_needed(request.path_params["number"], "the job's number"))


async def _get_scrub(service: Service, request: Request) -> Any:
    return service.scrub_state()


async def _post_scrub(service: Service, request: Request) -> Any:
    return await service.scrub(await _parsed(request, ScrubRequest))


async def _delete_scrub(service: Service, request: Request) -> Any:
    return service.scrub_cancel()


async def _get_usage(service: Service, request: Request) -> Any:
    return service.usage(_needed(request.query_params.get("inode"), "inode"))


async def _get_settings(service: Service, request: Request) -> Any:
    return service.settings()


async def _patch_settings(service: Service, request: Request) -> Any:
    return await service.settings_change(await _parsed(request, SettingsRequest))


async def _get_keys(service: Service, request: Request) -> Any:
    return service.keys()


async def _post_key(service: Service, request: Request) -> Any:
    return await service.key_add(await _parsed(request, KeyRequest))


async def _delete_key(service: Service, request: Request) -> Any:
    return await service.key_remove(_needed(request.path_params["slot"], "the slot"))


async def _post_rotate(service: Service, request: Request) -> Any:
    return await service.key_rotate()


async def _post_stop(service: Service, request: Request) -> Any:
    return await service.stop()


ROUTES: list[tuple[str, dict[str, Handler]]] = [
    ("/v1/status", {"GET": _get_status}),
    ("/v1/snapshots", {"GET": _get_snapshots, "POST": _post_snapshot}),
    ("/v1/snapshots/{id}", {"DELETE": _delete_snapshot}),
    ("/v1/restores", {"POST": _post_restore}),
    ("/v1/jobs/{number}", {"GET": _get_job, "DELETE": _delete_job}),
    ("/v1/scrub", {"GET": _get_scrub, "POST": _post_scrub, "DELETE": _delete_scrub}),
    ("/v1/usage", {"GET": _get_usage}),
    ("/v1/settings", {"GET": _get_settings, "PATCH": _patch_settings}),
    ("/v1/keys", {"GET": _get_keys, "POST": _post_key}),
    ("/v1/keys/rotate", {"POST": _post_rotate}),
    ("/v1/keys/{slot}", {"DELETE": _delete_key}),
    ("/v1/stop", {"POST": _post_stop}),
]


def _endpoint(service: Service, handlers: dict[str, Handler]) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        handler = handlers.get(request.method)
        try:
            request.state.body = await _body(request)
            if handler is None:
                raise _Refused(405, f"{request.url.path!a} takes {', '.join(handlers)}, not {request.method!a}")
            value = await handler(service, request)
            is_long = isinstance(value, list) and len(value) > _LONG
            return Response(await trio.to_thread.run_sync(wire.dumps, value), media_type=_JSON) if is_long else _answer(value)
        except errors.AnqfsError as error:
            return _refusal(error)
        except Exception:
            _log.exception("%s %s", request.method, ascii(request.url.path))
            return _refusal(errors.AnqfsError("the daemon met an unforeseen fault; its log has the details"))

    return endpoint


async def _http_error(request: Request, error: Exception) -> Response:
    try:
        await _body(request)  # a client that is still sending would miss the answer
    except _Refused as refused:
        return _refusal(refused)
    status = error.status_code if isinstance(error, HTTPException) else 400
    return _refusal(_Refused(status, f"there is nothing at {request.url.path!a}" if status == 404 else "the request is refused"))


_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


def application(service: Service) -> Starlette:
    """Return the ASGI application for one daemon."""
    routes = [Route(path, _endpoint(service, handlers), methods=_METHODS) for path, handlers in ROUTES]
    app = Starlette(routes=routes, exception_handlers={HTTPException: _http_error})
    app.router.redirect_slashes = False
    return app


def listen(path: str) -> socket.socket:
    """Return a Unix socket of mode 0600 bound to `path`, which may be longer than an address can be. Raises OSError."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    handle = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    mask = os.umask(0o177)
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


async def run(
    service: Service, listener: socket.socket, *, stop: trio.Event, task_status: trio.TaskStatus[Any] = trio.TASK_STATUS_IGNORED
) -> None:
    """Serve the API on a bound socket until `stop` is set. The socket is closed at the end."""
    config = Config()
    config.bind = [f"fd://{listener.detach()}"]
    config.backlog = _BACKLOG
    config.graceful_timeout = 2.0
    config.keep_alive_timeout = 5.0
    config.read_timeout = None
    config.include_server_header = False
    config.accesslog = None
    config.errorlog = None
    await serve(application(service), config, shutdown_trigger=stop.wait, task_status=task_status)  # type: ignore[arg-type]
