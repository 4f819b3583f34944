"""The control API under junk: every answer is a JSON error below 500, and the mount never notices."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anqfs.control.client import connect

from .conftest import Bench


@pytest.fixture(scope="module")
def volume() -> Iterator[Bench]:
    """One mounted volume for the whole module."""
    top = Path(tempfile.mkdtemp(prefix="anqfs-api-"))
    bench = Bench(top)
    try:
        bench.mkfs()
        bench.mount()
        (bench.mountpoint / "a" / "b").mkdir(parents=True)
        (bench.mountpoint / "a" / "file").write_text("content")
        bench.json("snapshot", "create", bench.mountpoint / "a")
        yield bench
        log = bench.logs()
        bench.umount()
    finally:
        left = bench.reap()
        shutil.rmtree(top)
    assert left == []
    assert b"Traceback" not in log


def entry(bench: Bench) -> dict[str, Any]:
    (path,) = bench.runtime.glob("*.json")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("anqfs", timeout=60)
        self.path = path

    def connect(self) -> None:
        self.sock = connect(self.path, 60)


def request(path: str, method: str, target: str, body: bytes | None = None) -> tuple[int, Any]:
    """Send a request and return the status and the answer's JSON."""
    connection = _Connection(path)
    try:
        try:
            connection.request(method, target, body)
        except BrokenPipeError:
            assert body is not None and len(body) > 1 << 20  # it was refused before it was all sent; the answer says why
        answer = connection.getresponse()
        data = answer.read()
        return answer.status, json.loads(data) if data else None
    finally:
        connection.close()


def must_be_refused(status: int, value: Any) -> None:
    assert 400 <= status < 500, (status, value)
    assert set(value) >= {"error", "message", "exit_code"}
    assert "\n" not in value["message"]


def well(bench: Bench) -> None:
    assert (bench.mountpoint / "a" / "file").read_text() == "content"


def test_the_socket_is_private(volume: Bench) -> None:
    facts = os.stat(entry(volume)["socket"])
    assert stat.S_ISSOCK(facts.st_mode)
    assert stat.S_IMODE(facts.st_mode) == 0o600
    assert facts.st_uid == os.geteuid()


def test_a_socket_path_longer_than_an_address(bench: Bench) -> None:
    bench.runtime = bench.top / ("long" * 40)
    bench.environment["ANQFS_RUNTIME_DIR"] = str(bench.runtime)
    bench.mkfs()
    bench.mount()
    assert len(entry(bench)["socket"]) > 108
    bench.umount()


MALFORMED = [
    ("POST", "/v1/snapshots", b""),
    ("POST", "/v1/snapshots", b"{"),
    ("POST", "/v1/snapshots", b"[]"),
    ("POST", "/v1/snapshots", b"\xff\xfe"),
    ("POST", "/v1/snapshots", b"[" * 100_000),
    ("POST", "/v1/snapshots", b'{"inode": "1"}'),
    ("POST", "/v1/snapshots", b'{"inode": 0}'),
    ("POST", "/v1/snapshots", b'{"inode": -1}'),
    ("POST", "/v1/snapshots", b'{"inode": 99999}'),
    ("POST", "/v1/snapshots", b'{"inode": 18446744073709551615}'),
    ("POST", "/v1/snapshots", b'{"inode": 9223370937343148033}'),
    ("POST", "/v1/snapshots", b'{"inode": 1e400}'),
    ("POST", "/v1/snapshots", b'{"inode": NaN}'),
    ("POST", "/v1/snapshots", b'{"inode": 1, "path": "a"}'),
    ("POST", "/v1/snapshots", b'{"inode": 1, "frob": 1}'),
    ("POST", "/v1/snapshots", b'{"inode": 1, "name": ""}'),
    ("POST", "/v1/snapshots", b'{"inode": 1, "name": "a/b"}'),
    ("POST", "/v1/snapshots", b'{"inode": 1, "name": "a\\u0000b"}'),
    ("POST", "/v1/snapshots", b'{"inode": 1, "name": "\\ud800"}'),
    ("POST", "/v1/snapshots", b'{"inode": 1, "expires": -1}'),
    ("POST", "/v1/snapshots", b'{"path": "a/file"}'),
    ("POST", "/v1/snapshots", b'{"path": "a/none"}'),
    ("POST", "/v1/snapshots", b'{"path": "a/.snapshot"}'),
    ("POST", "/v1/snapshots", b'{"path": "' + b"x" * 300 + b'"}'),
    ("POST", "/v1/restores", b'{"snapshot": 1}'),
    ("POST", "/v1/restores", b'{"snapshot": 99, "in_place": true}'),
    ("POST", "/v1/restores", b'{"snapshot": 1, "in_place": true, "name": "x"}'),
    ("POST", "/v1/restores", b'{"snapshot": 1, "parent": 1, "name": ".."}'),
    ("POST", "/v1/restores", b'{"snapshot": 1, "parent": 1, "name": "a/b"}'),
    ("POST", "/v1/restores", b'{"snapshot": 1, "path": "../..", "in_place": true}'),
    ("POST", "/v1/scrub", b'{"rate": -1}'),
    ("POST", "/v1/scrub", b'{"rate": "x"}'),
    ("POST", "/v1/keys", b'{"kind": "passphrase", "material": "?"}'),
    ("POST", "/v1/keys", b'{"kind": "passphrase", "material": ""}'),
    ("POST", "/v1/keys", b'{"kind": "key-file", "material": "eA=="}'),
    ("POST", "/v1/keys", b'{"kind": "other", "material": "eA=="}'),
    ("POST", "/v1/keys", b'{"kind": 1}'),
    ("DELETE", "/v1/keys/7", None),
    ("DELETE", "/v1/keys/0", None),
    ("DELETE", "/v1/keys/x", None),
    ("DELETE", "/v1/snapshots/99", None),
    ("DELETE", "/v1/snapshots/%FF", None),
    ("DELETE", "/v1/snapshots/99999999999999999999999999", None),
    ("GET", "/v1/usage", None),
    ("GET", "/v1/usage?inode=x", None),
    ("GET", "/v1/usage?inode=99999", None),
    ("GET", "/v1/usage?inode=18446744073709551615", None),
    ("GET", "/v1/snapshots?inode=99999", None),
    ("GET", "/v1/snapshots?inode=-1", None),
    ("GET", "/v1/jobs/0", None),
    ("DELETE", "/v1/jobs/0", None),
    ("GET", "/v1/none", None),
    ("GET", "/", None),
    ("GET", "/v1/status/", None),
    ("PUT", "/v1/status", b"{}"),
    ("PATCH", "/v1/keys", b"{}"),
    ("DELETE", "/v1/status", None),
    ("FROB", "/v1/status", None),
]


@pytest.mark.parametrize(("method", "target", "body"), MALFORMED)
def test_junk_is_refused(volume: Bench, method: str, target: str, body: bytes | None) -> None:
    must_be_refused(*request(entry(volume)["socket"], method, target, body))
    well(volume)


def test_a_body_over_the_limit_is_refused(volume: Bench) -> None:
    status, value = request(entry(volume)["socket"], "POST", "/v1/keys", b'{"kind": "' + b"x" * (2 << 20) + b'"}')
    must_be_refused(status, value)
    assert status == 413


TARGETS = [
    "/v1/status",
    "/v1/snapshots",
    "/v1/restores",
    "/v1/scrub",
    "/v1/usage",
    "/v1/keys",
    "/v1/jobs/1",
    "/v1/snapshots/7",
    "/v1/keys/3",
    "/v1/none",
]
FIELDS = ["inode", "path", "name", "expires", "snapshot", "in_place", "parent", "rate", "kind", "material"]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20), lambda inner: st.lists(inner, max_size=3), max_leaves=5
)
BODIES = st.binary(max_size=200) | st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=5).map(lambda body: json.dumps(body).encode())
QUERIES = st.dictionaries(
    st.sampled_from(["inode", "latency", "x"]), st.text(alphabet=st.characters(max_codepoint=126, min_codepoint=33), max_size=8)
)


@settings(max_examples=250)
@given(method=st.sampled_from(["GET", "POST", "PUT", "DELETE", "PATCH"]), target=st.sampled_from(TARGETS), query=QUERIES, body=BODIES)
def test_no_request_makes_a_fault(volume: Bench, method: str, target: str, query: dict[str, str], body: bytes) -> None:
    from urllib.parse import urlencode

    status, value = request(entry(volume)["socket"], method, f"{target}?{urlencode(query)}", body)
    assert status < 500, value
    if status >= 400:
        must_be_refused(status, value)


@settings(max_examples=60)
@given(
    junk=st.binary(min_size=1, max_size=300) | st.binary(max_size=100).map(lambda tail: b"GET /v1/status HTTP/1.1\r\n" + tail + b"\r\n\r\n")
)
def test_no_bytes_on_the_socket_end_the_daemon(volume: Bench, junk: bytes) -> None:
    stream = connect(entry(volume)["socket"], 60)
    with stream:
        stream.sendall(junk)
        stream.shutdown(socket.SHUT_WR)
        answer = b""
        try:
            while piece := stream.recv(65536):
                answer += piece
        except ConnectionError:
            answer += b""
    assert not answer.startswith(b"HTTP/1.1 5"), answer


def test_the_volume_is_well_after_all_that(volume: Bench) -> None:
    well(volume)
    assert volume.json("status", volume.mountpoint)["failed"] is None
    assert request(entry(volume)["socket"], "GET", "/v1/status")[0] == 200


def test_clients_that_go_away_leave_nothing(volume: Bench) -> None:
    path = entry(volume)["socket"]
    pid = entry(volume)["pid"]
    before = len(os.listdir(f"/proc/{pid}/fd"))
    for _ in range(50):
        connect(path, 60).close()
    from .conftest import eventually

    eventually("the connections to be closed", lambda: len(os.listdir(f"/proc/{pid}/fd")) <= before + 2)


def test_paths_from_the_root_work_as_well_as_inodes(volume: Bench) -> None:
    status, made = request(entry(volume)["socket"], "POST", "/v1/snapshots", b'{"path": "/a/b/", "name": "by-path"}')
    assert status == 200
    assert made["path"].endswith(f"/a/b/.snapshot/{made['id']}_by-path")
    assert os.path.isdir(made["path"])
