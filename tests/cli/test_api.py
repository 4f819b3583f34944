"""The control API under junk: every answer is a JSON error below 500, and the mount never notices."""

from __future__ import annotations

import http.client
import json
import os
import socket
import stat
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anqfs.control.client import connect

from .conftest import Bench, lasting


@pytest.fixture(scope="module")
def volume() -> Iterator[Bench]:
    """One mounted volume for the whole module."""
    with lasting("anqfs-api-") as bench:
        (bench.mountpoint / "a" / "b").mkdir(parents=True)
        (bench.mountpoint / "a" / "file").write_text("content")
        bench.json("snapshot", "create", bench.mountpoint / "a")
        yield bench


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
    assert set(value) >= {"error_class", "description", "module", "error", "message", "exit_code"}
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
    ("POST", "/v3/snapshots/", b"{"),
    ("POST", "/v3/snapshots/", b"[]"),
    ("POST", "/v3/snapshots/", b"\xff\xfe"),
    ("POST", "/v3/snapshots/", b"[" * 100_000),
    ("POST", "/v3/snapshots/", b'{"source_file_id": 1}'),
    ("POST", "/v3/snapshots/", b'{"source_file_id": "0"}'),
    ("POST", "/v3/snapshots/", b'{"source_file_id": "-1"}'),
    ("POST", "/v3/snapshots/", b'{"source_file_id": "99999"}'),
    ("POST", "/v3/snapshots/", b'{"source_file_id": "18446744073709551615"}'),
    ("POST", "/v3/snapshots/", b'{"source_file_id": "9223370937343148033"}'),
    ("POST", "/v3/snapshots/", b'{"source_file_id": "\\ud800"}'),
    ("POST", "/v3/snapshots/", b'{"expiration": 1e400}'),
    ("POST", "/v3/snapshots/", b'{"expiration": NaN}'),
    ("POST", "/v3/snapshots/", b'{"expiration": "tomorrow"}'),
    ("POST", "/v3/snapshots/", b'{"expiration": "2026-02-30T00:00:00Z"}'),
    ("POST", "/v3/snapshots/", b'{"expiration": "1960-01-01T00:00:00Z"}'),
    ("POST", "/v3/snapshots/", b'{"inode": 1}'),
    ("POST", "/v3/snapshots/", b'{"name_suffix": ""}'),
    ("POST", "/v3/snapshots/", b'{"name_suffix": "a/b"}'),
    ("POST", "/v3/snapshots/", b'{"name_suffix": "a\\u0000b"}'),
    ("POST", "/v3/snapshots/", b'{"name_suffix": "\\ud800"}'),
    ("POST", "/v3/snapshots/", b'{"name_suffix": "' + b"x" * 254 + b'"}'),
    ("POST", "/v3/snapshots/", b'{"name_suffix": "' + b"x" * 300 + b'"}'),
    ("POST", "/v3/snapshots/", b'{"source_file_id": "/a/file"}'),
    ("POST", "/v3/snapshots/", b'{"source_file_id": "/a/none"}'),
    ("POST", "/v3/snapshots/", b'{"source_file_id": "/a/.snapshot"}'),
    ("GET", "/v3/snapshots/?filter=none", None),
    ("GET", "/v4/snapshots/status/?filter=none", None),
    ("GET", "/v4/snapshots/status/99", None),
    ("PATCH", "/v3/snapshots/99", b'{"expiration": ""}'),
    ("PATCH", "/v3/snapshots/1", b'{"expires": ""}'),
    ("PATCH", "/v3/snapshots/1", b'{"expiration": "never"}'),
    ("POST", "/anqfs/v1/snapshots/99/holds", b'{"owner": "x"}'),
    ("POST", "/anqfs/v1/snapshots/1/holds", b'{"owner": ""}'),
    ("POST", "/anqfs/v1/snapshots/1/holds", b'{"owner": "\\ud800"}'),
    ("DELETE", "/anqfs/v1/snapshots/1/holds/1", None),
    ("POST", "/anqfs/v1/restores", b'{"snapshot": 1}'),
    ("POST", "/anqfs/v1/restores", b'{"snapshot": 99, "in_place": true}'),
    ("POST", "/anqfs/v1/restores", b'{"snapshot": 1, "in_place": true, "name": "x"}'),
    ("POST", "/anqfs/v1/restores", b'{"snapshot": 1, "parent": 1, "name": ".."}'),
    ("POST", "/anqfs/v1/restores", b'{"snapshot": 1, "parent": 1, "name": "a/b"}'),
    ("POST", "/anqfs/v1/restores", b'{"snapshot": 1, "path": "../..", "in_place": true}'),
    ("POST", "/anqfs/v1/scrub", b'{"rate": -1}'),
    ("POST", "/anqfs/v1/scrub", b'{"rate": "x"}'),
    ("POST", "/anqfs/v1/keys", b'{"kind": "passphrase", "material": "?"}'),
    ("POST", "/anqfs/v1/keys", b'{"kind": "passphrase", "material": ""}'),
    ("POST", "/anqfs/v1/keys", b'{"kind": "key-file", "material": "eA=="}'),
    ("POST", "/anqfs/v1/keys", b'{"kind": "other", "material": "eA=="}'),
    ("POST", "/anqfs/v1/keys", b'{"kind": 1}'),
    ("DELETE", "/anqfs/v1/keys/7", None),
    ("DELETE", "/anqfs/v1/keys/0", None),
    ("DELETE", "/anqfs/v1/keys/x", None),
    ("DELETE", "/v3/snapshots/99", None),
    ("DELETE", "/v3/snapshots/%FF", None),
    ("DELETE", "/v3/snapshots/99999999999999999999999999", None),
    ("GET", "/anqfs/v1/usage", None),
    ("GET", "/anqfs/v1/usage?inode=x", None),
    ("GET", "/anqfs/v1/usage?inode=99999", None),
    ("GET", "/anqfs/v1/usage?inode=18446744073709551615", None),
    ("GET", "/anqfs/v1/snapshots?inode=99999", None),
    ("GET", "/anqfs/v1/snapshots?inode=-1", None),
    ("GET", "/anqfs/v1/jobs/0", None),
    ("DELETE", "/anqfs/v1/jobs/0", None),
    ("GET", "/v1/none", None),
    ("GET", "/", None),
    ("GET", "//anqfs/v1/status", None),
    ("GET", "/anqfs//v1/status", None),
    ("GET", "/anqfs/v1/%73tatus", None),
    ("GET", "/%0A", None),
    ("PUT", "/anqfs/v1/status", b"{}"),
    ("PATCH", "/anqfs/v1/keys", b"{}"),
    ("DELETE", "/anqfs/v1/status", None),
    ("FROB", "/anqfs/v1/status", None),
]


@pytest.mark.parametrize(("method", "target", "body"), MALFORMED)
def test_junk_is_refused(volume: Bench, method: str, target: str, body: bytes | None) -> None:
    must_be_refused(*request(entry(volume)["socket"], method, target, body))
    well(volume)


def test_a_body_over_the_limit_is_refused(volume: Bench) -> None:
    status, value = request(entry(volume)["socket"], "POST", "/anqfs/v1/keys", b'{"kind": "' + b"x" * (2 << 20) + b'"}')
    must_be_refused(status, value)
    assert status == 413


TARGETS = [
    "/anqfs/v1/status",
    "/v3/snapshots/",
    "/anqfs/v1/restores",
    "/anqfs/v1/scrub",
    "/anqfs/v1/usage",
    "/anqfs/v1/keys",
    "/anqfs/v1/jobs/1",
    "/v3/snapshots/7",
    "/anqfs/v1/keys/3",
    "/v1/none",
]
FIELDS = ["source_file_id", "name_suffix", "expiration", "path", "name", "snapshot", "in_place", "parent", "rate", "kind", "material"]
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
    junk=st.binary(min_size=1, max_size=300)
    | st.binary(max_size=100).map(lambda tail: b"GET /anqfs/v1/status HTTP/1.1\r\n" + tail + b"\r\n\r\n")
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
    assert request(entry(volume)["socket"], "GET", "/anqfs/v1/status")[0] == 200


def test_clients_that_go_away_leave_nothing(volume: Bench) -> None:
    path = entry(volume)["socket"]
    pid = entry(volume)["pid"]
    before = len(os.listdir(f"/proc/{pid}/fd"))
    for _ in range(50):
        connect(path, 60).close()
    from .conftest import eventually

    eventually("the connections to be closed", lambda: len(os.listdir(f"/proc/{pid}/fd")) <= before + 2)


def test_paths_from_the_root_work_as_well_as_inodes(volume: Bench) -> None:
    status, made = request(entry(volume)["socket"], "POST", "/v3/snapshots/", b'{"source_file_id": "/a/b/", "name_suffix": "by-path"}')
    assert status == 200
    assert made["name"] == f"{made['id']}_by-path"
    assert os.path.isdir(volume.mountpoint / "a" / "b" / ".snapshot" / made["name"])


def test_a_client_that_goes_away_does_not_end_a_daemon_in_the_foreground(bench: Bench) -> None:
    from .conftest import DEADLINE, eventually

    bench.mkfs()
    arguments = ("mount", bench.store, bench.mountpoint, "--key-file", bench.key, "--foreground")
    process = subprocess.Popen(bench.command(*arguments), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, env=bench.environment)
    try:
        eventually("the mount", lambda: any(bench.runtime.glob("*.json")))
        (bench.mountpoint / "file").write_bytes(bytes(32 << 20))
        for _ in range(5):
            with connect(entry(bench)["socket"], DEADLINE) as stream:
                stream.sendall(b"GET /v1/files/%2Ffile/data HTTP/1.1\r\nHost: x\r\n\r\n")
                assert stream.recv(12) == b"HTTP/1.1 200"
        assert request(entry(bench)["socket"], "GET", "/v1/version")[0] == 200
        bench.umount()
        assert process.wait(DEADLINE) == 0
    finally:
        process.kill()
        process.communicate()
