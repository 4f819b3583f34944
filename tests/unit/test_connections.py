"""The API's server outlives whatever a single connection does to it."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.tcp_server import TCPServer

from anqfs.control import connections, relay, server
from anqfs.control.service import Service
from anqfs.errors import AnqfsError, UsageError

ASKED = b"GET /v1/version HTTP/1.1\r\nHost: x\r\n\r\n"
HOSTILE = [
    ASKED[:-2] + b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Protocol: \xff\r\n\r\n",
    ASKED[:-2] + b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: \xfe\r\n\r\n",
    ASKED[:-2] + b"Transfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\nZZ\r\n",
    ASKED * 20,
    ASKED + b"\0" * 70_000,
]


async def answer_to(path: str, sent: bytes) -> bytes:
    answer = b""
    async with await trio.open_unix_socket(path) as stream:
        try:
            await stream.send_all(sent)
            await stream.send_eof()
            while piece := await stream.receive_some(65536):
                answer += piece
        except trio.BrokenResourceError:
            return answer
    return answer


def serving(tmp_path: Path, act: Any) -> None:
    """Serve the API of nobody's volume, to whom nobody has a token, while `act`, an async function, uses it."""
    service = cast(Service, SimpleNamespace(accounts=SimpleNamespace(who=lambda _authorization: None)))
    path = str(tmp_path / "api")

    async def main() -> None:
        stop = trio.Event()
        async with trio.open_nursery() as nursery:
            listener = server.listen(path)

            async def serve(task_status: Any) -> None:
                await server.run(service, listener, server.asking(service), stop=stop, task_status=task_status)

            await nursery.start(serve)
            with trio.fail_after(20):
                await act(path)
            stop.set()

    trio.run(main)


def test_no_request_ends_the_server(tmp_path: Path) -> None:
    async def act(path: str) -> None:
        for sent in HOSTILE:
            with trio.move_on_after(0.3):  # some are only answered when nothing more came for five seconds
                await answer_to(path, sent)
            assert (await answer_to(path, ASKED)).startswith(b"HTTP/1.1 401")

    serving(tmp_path, act)


def test_a_stranger_who_sends_a_body_slowly_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def act(path: str) -> None:
        for target, status in ((b"session/login", b"408"), (b"users/", b"401")):
            async with await trio.open_unix_socket(path) as stream:
                await stream.send_all(b"POST /v1/" + target + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
                answer = b""
                while piece := await stream.receive_some(65536):
                    answer += piece
                assert answer.startswith(b"HTTP/1.1 " + status)

    monkeypatch.setattr(server, "STRANGERS_SECONDS", 0.05)
    serving(tmp_path, act)


def test_an_unforeseen_fault_ends_one_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    whole = connections._serve_connection

    async def broken(connection: TCPServer) -> None:
        await connection.stream.aclose()
        raise ValueError("a fault")

    async def act(path: str) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(connections, "_serve_connection", broken)
            assert await answer_to(path, ASKED) == b""
        assert connections._serve_connection is whole
        assert (await answer_to(path, ASKED)).startswith(b"HTTP/1.1 401")

    serving(tmp_path, act)
    assert [record.exc_info is not None for record in caplog.records if record.levelno >= logging.WARNING] == [True]
    caplog.clear()


def test_a_certificate_is_kept_with_its_key_or_not_at_all(tmp_path: Path) -> None:
    place, certificate, key = relay.place_of("127.0.0.1:0"), tmp_path / "cert.pem", tmp_path / "there" / "key.pem"
    with pytest.raises(UsageError, match="cannot be written"):
        relay.context_of(place, str(certificate), str(key), self_signed=True)
    assert list(tmp_path.iterdir()) == []
    key.parent.mkdir()
    _, first = relay.context_of(place, str(certificate), str(key), self_signed=True)
    assert [path.stat().st_mode & 0o777 for path in (certificate, key)] == [0o600, 0o600]
    assert relay.context_of(place, str(certificate), str(key), self_signed=True)[1] == first


@pytest.mark.parametrize(("owner", "name"), [(H11Protocol, "_check_protocol"), (H11Protocol, "_create_stream"), (TCPServer, "run")])
def test_a_server_that_cannot_be_restricted_is_not_started(monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> None:
    monkeypatch.delattr(owner, name)
    with pytest.raises(AnqfsError, match=rf"hypercorn [0-9.]+ has no {owner.__name__}\.{name}: install hypercorn"):
        connections.restrict()
