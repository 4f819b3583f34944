"""`anqfs api` and `anqfs serve`: users and tokens, TLS and nothing but TLS, and a relay that has no rights and takes no harm."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import ssl
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from anqfs.control import relay as module
from anqfs.control.rest.table import table
from anqfs.errors import UsageError
from tests.places import secret_file

from .conftest import DEADLINE, Bench, eventually, lasting
from .serving import PASSWORD, Relay, add_user, serving, trusting_all

ALL_ROUTES = [route for route in table().routes if not route.public]


@pytest.fixture(scope="module")
def served() -> Iterator[Bench]:
    """One mounted volume with an admin, for what leaves it as it was."""
    with lasting("anqfs-serve-", PASSWORD.encode(), b"access-v1:") as bench:
        add_user(bench)
        add_user(bench, "watcher", "--role", "Observers")
        yield bench


@pytest.fixture(scope="module")
def relay(served: Bench) -> Iterator[Relay]:
    """One relay for what does it no harm."""
    with serving(served) as found:
        yield found
        assert found.process.poll() is None


# --- the commands


def test_users_come_and_go_on_the_command_line(mounted: Bench) -> None:
    other = secret_file(mounted.top / "other", "another password\n")
    assert "admin" in mounted.fails(2, "api", "user", "add", "bob", "--password-file", other)
    add_user(mounted)
    add_user(mounted, "watcher", "--role", "Observers")
    listed = mounted.json("api", "user", "list", "--mountpoint", mounted.mountpoint)
    assert [(one["name"], one["role"], one["id"]) for one in listed] == [
        ("admin", "Administrators", "500"),
        ("watcher", "Observers", "1000"),
    ]
    assert PASSWORD not in json.dumps(listed) and "password" not in {key for one in listed for key in one}
    mounted.ok("api", "user", "passwd", "watcher", "--password-file", other)
    assert "last administrator" in mounted.fails(2, "api", "user", "remove", "admin")
    assert "would be removed" in mounted.ok("api", "user", "remove", "watcher", "--dry-run")
    mounted.ok("api", "user", "remove", "watcher")
    mounted.fails(8, "api", "user", "remove", "watcher")
    mounted.fails(8, "api", "user", "list", "watcher")
    mounted.remount()
    assert "admin" in mounted.ok("api", "user", "list")


def test_tokens_are_made_shown_once_listed_and_revoked(served: Bench, relay: Relay) -> None:
    made = served.json("api", "token", "create", "admin", "--expires", "2100-01-01T00:00:00Z")
    assert served.ok("api", "token", "create", "admin").startswith("access-v1:")
    listed = served.json("api", "token", "list", "admin")
    assert len(listed) == 2 and made["bearer_token"] not in json.dumps(listed)
    assert relay.request("GET", "/v1/session/who-am-i", token=made["bearer_token"])[1]["name"] == "admin"
    assert "would be revoked" in served.ok("api", "token", "revoke", made["id"], "--dry-run")
    served.ok("api", "token", "revoke", made["id"])
    assert relay.request("GET", "/v1/version", token=made["bearer_token"])[0] == 401
    served.fails(8, "api", "token", "revoke", made["id"])
    served.fails(8, "api", "token", "revoke", made["id"], "--dry-run")
    served.fails(8, "api", "token", "create", "nobody")
    served.fails(2, "api", "token", "create", "admin", "--expires", "2001-01-01T00:00:00Z")
    assert b"access-v1:" not in served.logs()


def test_help_teaches_the_api() -> None:
    from typer.testing import CliRunner

    from anqfs.cli.app import app

    said = CliRunner().invoke(app, ["api", "--help"]).output
    assert "anqfs serve" in said and "qq --host" in said and "anqfs api user add admin" in said


def test_the_shell_completes_the_api_commands(served: Bench) -> None:
    for words, completions in (("anqfs api us", ["user"]), ("anqfs api token re", ["revoke"]), ("anqfs ser", ["serve"])):
        asked = {"_ANQFS_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        assert served.ok(env={**served.environment, **asked}).split() == completions


# --- what serve wants


def test_serve_wants_tls_and_somebody_who_can_log_in(mounted: Bench) -> None:
    assert "admin" in mounted.fails(2, "serve", mounted.mountpoint, "--tls-self-signed")
    add_user(mounted)
    assert "TLS" in mounted.fails(2, "serve", mounted.mountpoint)
    assert "--tls-key" in mounted.fails(2, "serve", mounted.mountpoint, "--tls-cert", mounted.key)
    assert "no certificate" in mounted.fails(2, "serve", mounted.mountpoint, "--tls-cert", mounted.key, "--tls-key", mounted.key)
    mounted.key.chmod(0o604)
    assert "0604" in mounted.fails(2, "serve", mounted.mountpoint, "--tls-cert", mounted.key, "--tls-key", mounted.key)
    mounted.key.chmod(0o640)
    assert "no certificate" in mounted.fails(2, "serve", mounted.mountpoint, "--tls-cert", mounted.key, "--tls-key", mounted.key)
    for place in ("8000", "192.0.2.1:0"):
        mounted.fails(2, "serve", mounted.mountpoint, "--tls-self-signed", "--listen", place)
    mounted.fails(7, "serve", mounted.top, "--tls-self-signed")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        assert "cannot listen" in mounted.fails(2, "serve", mounted.mountpoint, "--tls-self-signed", "--listen", place)


@pytest.mark.parametrize(
    ("text", "place"),
    [("127.0.0.1:8000", ("127.0.0.1", 8000)), ("[::1]:0", ("::1", 0)), ("archive.example:65535", ("archive.example", 65535))],
)
def test_places_to_listen_on(text: str, place: tuple[str, int]) -> None:
    assert module.place_of(text) == place


@pytest.mark.parametrize("text", ["", "8000", "nowhere:", ":8000", "127.0.0.1:99999", "127.0.0.1:-1", "127.0.0.1:x"])
def test_what_is_no_place_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        module.place_of(text)


def test_a_self_signed_certificate_is_kept_where_it_is_named_and_nowhere_else(served: Bench) -> None:
    certificate, key = served.top / "cert.pem", served.top / "key.pem"
    options = ("--tls-self-signed", "--tls-cert", certificate, "--tls-key", key)
    with serving(served, *options) as first:
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
        context = ssl.create_default_context(cafile=str(certificate))
        with (
            socket.create_connection((first.host, first.port), DEADLINE) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as tls,
        ):
            assert tls.version() in ("TLSv1.2", "TLSv1.3")
    with serving(served, *options) as again:
        assert again.fingerprint == first.fingerprint
    before = {path for path in served.top.rglob("*") if served.mountpoint not in path.parents}
    with serving(served, "--tls-self-signed") as passing:
        assert passing.fingerprint != first.fingerprint
        assert {path for path in served.top.rglob("*") if served.mountpoint not in path.parents} == before
    key.write_text("no key")
    with pytest.raises(UsageError):
        module.context_of(module.Place("127.0.0.1", 0), str(certificate), str(key), self_signed=True)


# --- the relay


def test_the_relay_has_given_up_its_rights(served: Bench, relay: Relay) -> None:
    facts = dict(line.split(":\t", 1) for line in Path(f"/proc/{relay.process.pid}/status").read_text().splitlines() if ":\t" in line)
    assert facts["NoNewPrivs"].strip() == "1"
    assert set(facts["Uid"].split()) == set(facts["Gid"].split()) == {"65534"}
    assert (facts["Groups"].strip(), int(facts["CapEff"], 16), int(facts["CapPrm"], 16)) == ("", 0, 0)
    assert relay.request("GET", "/v1/version", token=relay.login())[0] == 200


def test_the_relay_ends_with_the_volume(mounted: Bench) -> None:
    served = mounted
    add_user(served)
    with serving(served) as relay:
        relay.login()
        served.umount()
        assert relay.process.wait(DEADLINE) == 0


def test_the_daemon_dying_ends_the_relay_and_leaves_nothing_of_it(mounted: Bench) -> None:
    add_user(mounted)
    mounted.leftovers_expected = True
    pid = mounted.json("status", mounted.mountpoint)["pid"]
    with serving(mounted) as relay:
        mounted.kill(pid)
        assert relay.process.wait(DEADLINE) == 0
    mounted.ok("umount", mounted.mountpoint)
    assert [path.name for path in mounted.runtime.iterdir() if not path.name.endswith((".log", ".lock"))] == []


def test_nothing_but_tls_is_answered(served: Bench, relay: Relay) -> None:
    for sent in (b"GET /v1/version HTTP/1.1\r\nHost: x\r\n\r\n", b"\x00" * 100, b"\x16\x03\x01\xff\xff" + b"x" * 1000, b""):
        with socket.create_connection((relay.host, relay.port), DEADLINE) as plain:
            plain.sendall(sent)
            plain.shutdown(socket.SHUT_WR)
            answer = b""
            with contextlib.suppress(ConnectionError):
                while piece := plain.recv(1000):
                    answer += piece
            assert b"HTTP" not in answer
    old = trusting_all()
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    old.minimum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_connection((relay.host, relay.port), DEADLINE) as plain, old.wrap_socket(plain) as tls:
        assert tls.version() == "TLSv1.2"
    assert relay.login()


def test_many_half_open_clients_do_not_keep_others_out(relay: Relay) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(socket.create_connection((relay.host, relay.port), DEADLINE))
        for _ in range(20):
            plain = stack.enter_context(socket.create_connection((relay.host, relay.port), DEADLINE))
            tls = stack.enter_context(trusting_all().wrap_socket(plain))
            tls.sendall(b"POST /v1/session/login HTTP/1.1\r\nHost: x\r\nContent-Le")
        assert relay.request("GET", "/v1/version", token=relay.login())[0] == 200


def test_a_new_user_may_only_look_unless_the_request_says_more(served: Bench, relay: Relay) -> None:
    token = relay.login()
    wanted = [({}, "Observers"), ({"primary_group": "513"}, "Observers"), ({"primary_group": "512"}, "Administrators")]
    wanted.append(({"primary_group": "513", "role": "Administrators"}, "Administrators"))
    for number, (fields, role) in enumerate(wanted):
        status, made = relay.request("POST", "/v1/users/", {"name": f"new{number}", "password": "a password", **fields}, token=token)
        assert (status, made["role"]) == (200, role)
        assert relay.request("DELETE", f"/v1/users/{made['id']}", token=token)[0] == 200


def test_one_address_does_not_keep_others_out(relay: Relay) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(300):
            stack.enter_context(socket.create_connection((relay.host, relay.port), DEADLINE))
        # Half-open connections last for ten seconds: whoever waits for them is late.
        other = stack.enter_context(socket.create_connection((relay.host, relay.port), 8, source_address=("127.0.0.2", 0)))
        tls = stack.enter_context(trusting_all().wrap_socket(other))
        tls.sendall(b"GET /v1/version HTTP/1.1\r\nHost: x\r\n\r\n")
        assert tls.recv(100).startswith(b"HTTP/1.1 401")


def test_one_connection_carries_many_requests(served: Bench, relay: Relay) -> None:
    token = relay.login()
    connection = http.client.HTTPSConnection(relay.host, relay.port, timeout=DEADLINE, context=trusting_all())
    for _ in range(20):
        connection.request("GET", "/v1/version", headers={"Authorization": f"Bearer {token}"})
        assert connection.getresponse().read().startswith(b'{"revision_id"')
    connection.close()


@pytest.mark.parametrize(
    "sent",
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0",
        b"GET /v1/version HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
        b"HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n",
        b"GET /v1/version HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        b"GET /v1/version HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Protocol: \xff\r\n\r\n",
    ],
)
def test_no_other_protocol_is_spoken(relay: Relay, sent: bytes) -> None:
    with trusting_all().wrap_socket(socket.create_connection((relay.host, relay.port), DEADLINE)) as tls:
        tls.sendall(sent)
        answer = tls.recv(100)
    assert answer.startswith(b"HTTP/1.1 4"), answer
    assert relay.login()


def test_long_headers_and_bodies_are_refused(served: Bench, relay: Relay) -> None:
    token = relay.login()
    for size in (20 << 10, 1 << 20, 3 << 20):
        status, _ = relay.request("POST", "/v1/session/login", {"username": "x" * size, "password": ""})
        assert status == 413
    connection = http.client.HTTPSConnection(relay.host, relay.port, timeout=DEADLINE, context=trusting_all())
    with contextlib.suppress(ConnectionError):
        connection.request("GET", "/v1/version", headers={"Authorization": f"Bearer {token}", "X-Long": "x" * (1 << 20)})
        assert 400 <= connection.getresponse().status < 500
    connection.close()
    assert relay.request("GET", "/v1/version", token=token)[0] == 200


def test_a_refusal_reaches_a_client_that_is_still_sending(relay: Relay) -> None:
    token = relay.login()
    for _ in range(5):
        connection = http.client.HTTPSConnection(relay.host, relay.port, timeout=DEADLINE, context=trusting_all())
        connection.request("PUT", "/v1/files/%2Fnone/data", bytes(24 << 20), {"Authorization": f"Bearer {token}"})
        answer = connection.getresponse()
        assert (answer.status, json.loads(answer.read())["error_class"]) == (404, "fs_no_such_entry_error")
        connection.close()


# --- who may do what


def test_nothing_is_done_for_whoever_has_no_token_and_host_matters_stay_on_the_host(served: Bench, relay: Relay) -> None:
    token = relay.login()
    for route in ALL_ROUTES:
        target = route.path.replace("{ref}", "1").replace("{", "").replace("}", "")
        status, answer = relay.request(route.method, target, None if route.method in ("GET", "DELETE") else {})
        expected = (403, "http_forbidden_error") if route.local else (401, "http_unauthorized_error")
        assert (status, answer["error_class"]) == expected, route
    for wrong in ("", "session-v1:AAAA", token[:-1], token + "A", token.replace("session", "access")):
        assert relay.request("GET", "/v1/version", token=wrong)[0] == 401
    assert relay.request("POST", "/anqfs/v1/stop", {}, token=token)[0] == 403
    assert relay.request("GET", "/anqfs/v1/keys", token=token)[0] == 403
    assert relay.request("POST", "/v1/session/logout", token=token)[0] == 200
    assert relay.request("GET", "/v1/version", token=token)[0] == 401


def test_observers_look_and_touch_nothing(served: Bench, relay: Relay) -> None:
    (served.mountpoint / "secret").write_text("content")
    token = relay.login("watcher")
    assert relay.request("GET", "/v1/session/roles", token=token) == (200, ["Observers"])
    assert relay.request("GET", "/v1/files/%2Fsecret/info/attributes", token=token)[0] == 200
    denied = []
    for route in ALL_ROUTES:
        target = route.path.replace("{ref}", "%2Fsecret").replace("{", "").replace("}", "")
        if route.method != "GET" and not route.local and not route.personal:
            status, answer = relay.request(route.method, target, {}, token=token)
            denied.append((status, answer["error_class"]))
    assert set(denied) == {(403, "auth_rbac_denied_error")} and len(denied) > 20
    assert relay.request("GET", "/v1/files/%2Fsecret/data", token=token)[0] == 403
    changed = {"old_password": PASSWORD, "new_password": "something else"}
    assert relay.request("POST", "/v1/session/change-password", changed, token=token)[0] == 200
    assert relay.login("watcher", "something else")


def test_guessing_is_refused_after_a_while_and_nothing_secret_is_logged(served: Bench) -> None:
    with serving(served) as relay:
        token = relay.login()
        guess = {"username": "admin", "password": "guessed-password"}
        seen = [relay.request("POST", "/v1/session/login", guess)[0] for _ in range(12)]
        assert seen == [401] * 10 + [429] * 2
        assert relay.request("POST", "/v1/session/login", {"username": "admin", "password": PASSWORD})[0] == 429
        assert relay.request("GET", "/v1/version", token=token)[0] == 200
    for secret in (PASSWORD, "guessed-password", token):
        assert secret.encode() not in served.logs()


def test_sigterm_ends_the_relay_and_only_it(served: Bench) -> None:
    with serving(served) as relay:
        relay.process.send_signal(signal.SIGTERM)
        assert relay.process.wait(DEADLINE) == 0
    assert served.json("status", served.mountpoint)["mounted"]


def test_a_relay_that_is_killed_leaves_nothing(served: Bench) -> None:
    pid = served.json("status", served.mountpoint)["pid"]
    before = len(os.listdir(f"/proc/{pid}/fd"))
    with pytest.raises(AssertionError), serving(served) as relay:
        clients = [trusting_all().wrap_socket(socket.create_connection((relay.host, relay.port), DEADLINE)) for _ in range(5)]
        for client in clients:
            client.sendall(b"PUT /v1/files/1/data HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
        relay.process.kill()
        relay.process.wait(DEADLINE)
        for client in clients:
            client.close()
    eventually("the daemon to drop the connections", lambda: len(os.listdir(f"/proc/{pid}/fd")) <= before)
