"""Secrets are nowhere but in the files they came from: not in arguments, environments, logs, sockets' files or the store."""

from __future__ import annotations

import base64
import os
import threading
from pathlib import Path

from tests.places import secret_file
from tests.unit.signing import new_pem

from .conftest import Bench

PASSPHRASE = b"correct-horse-battery-staple"
MATERIAL = b"SECRETKEYMATERIAL" * 4


class Watch:
    """Reads every process's arguments and environment, again and again, until it is left."""

    def __init__(self) -> None:
        self.seen: set[bytes] = set()
        self.looks = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def _look(self) -> None:
        while not self._end.is_set():
            for name in os.listdir("/proc"):
                if name.isdigit():
                    for kind in ("cmdline", "environ"):
                        self._read(f"/proc/{name}/{kind}")
            self.looks += 1

    def _read(self, path: str) -> None:
        try:
            with open(path, "rb") as stream:
                self.seen.add(stream.read())
        except OSError:
            self.seen.add(b"")

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()
        self._thread.join()


def forms(secret: bytes) -> list[bytes]:
    return [secret, base64.b64encode(secret).rstrip(b"="), secret.hex().encode()]


def test_secrets_are_nowhere(bench: Bench) -> None:
    passphrase = secret_file(bench.top / "passphrase", PASSPHRASE + b"\n")
    bench.key.write_bytes(MATERIAL)
    with Watch() as watch:
        bench.ok("mkfs", bench.store, "--passphrase-file", passphrase)
        bench.ok("key", "add", bench.store, "--passphrase-file", passphrase, "--new-key-file", bench.key)
        bench.ok("mount", bench.store, bench.mountpoint, "--passphrase-file", passphrase)
        bench.ok("key", "add", bench.mountpoint, "--new-passphrase-file", passphrase)
        (bench.mountpoint / "plain-name").write_text("plain-content" * 1000)
        bench.fails(4, "key", "rotate", bench.store, "--key-file", _other(bench))
        bench.umount()
        bench.mount()
        bench.umount()
        bench.fails(4, "mount", bench.store, bench.mountpoint, "--key-file", _other(bench))
    assert watch.looks >= 2
    assert any(b"anqfs.control.daemon" in words for words in watch.seen)
    stored = b"".join(path.read_bytes() for path in bench.store.rglob("*") if path.is_file())
    logs = bench.logs()
    assert b"is mounted on" in logs
    for secret in (PASSPHRASE, MATERIAL, b"not-the-key" * 8):
        for form in forms(secret):
            assert not any(form in words for words in watch.seen)
            assert form not in logs
            assert form not in stored
    assert b"plain-name" not in stored
    assert b"plain-content" not in stored


def _other(bench: Bench) -> Path:
    return secret_file(bench.top / "other", b"not-the-key" * 8)


def test_the_daemon_leaves_no_core(mounted: Bench) -> None:
    pid = mounted.json("status", mounted.mountpoint)["pid"]
    limits = Path(f"/proc/{pid}/limits").read_text()
    (line,) = (line for line in limits.splitlines() if line.startswith("Max core file size"))
    assert line.split()[4:6] == ["0", "0"]


def test_the_order_pipe_carries_a_key_file_larger_than_a_pipe(bench: Bench) -> None:
    bench.key.write_bytes(os.urandom(1 << 20))
    bench.mkfs()
    bench.mount()
    bench.umount()


def test_a_secret_that_others_can_read_is_refused_wherever_it_is_named(bench: Bench) -> None:
    key, private = bench.top / "open.key", bench.top / "open.pem"
    key.write_bytes(MATERIAL)
    private.write_bytes(new_pem())
    for path in (key, private):
        path.chmod(0o644)
    says = f"anqfs: '{key}': its mode is 0644, but a secret is for its owner alone: chmod 600 '{key}'"
    assert bench.fails(2, "mkfs", bench.store, "--key-file", key) == says
    assert not bench.store.exists()
    bench.mkfs()
    assert bench.fails(2, "mount", bench.store, bench.mountpoint, "--key-file", key) == says
    assert bench.fails(2, "mount", bench.store, bench.mountpoint, "--passphrase-file", key) == says
    bench.mount()
    try:
        for command in (
            ("key", "add", bench.mountpoint, "--new-key-file", key),
            ("key", "add", bench.mountpoint, "--new-passphrase-file", key),
            ("api", "user", "add", "admin", "--password-file", key),
        ):
            assert bench.fails(2, *command) == says
        assert f"chmod 600 '{private}'" in bench.fails(2, "security-key", "add", "vault", "--private-key-file", private)
        private.chmod(0o600)
        bench.ok("security-key", "add", "vault", "--private-key-file", private)
    finally:
        bench.umount()
    assert bench.fails(2, "check", bench.store, "--key-file", key) == says
    key.chmod(0o600)
    bench.fails(4, "check", bench.store, "--key-file", key)
