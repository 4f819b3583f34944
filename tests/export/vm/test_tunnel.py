"""NFS through stunnel, as docs/operations.md has it: nothing is seen on the wire, and nobody without a certificate gets through."""

from __future__ import annotations

import contextlib
import secrets
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from . import recipes
from .capture import captured
from .network import Network, answers
from .site import ADDRESS, NFS_PORT, WIRE, Site, eventually
from .test_in_flight import plaintext

PLACE = "/etc/stunnel"
TUNNEL_PORT = 20049
HOST_LOOPBACK = "10.0.2.2"


class Tunnel:
    """The recipe at work. `place`: what it says to keep in /etc/stunnel; `files`: the volume that it leads to."""

    def __init__(self, place: Path, files: Path) -> None:
        self.place, self.files = place, files


@contextlib.contextmanager
def stunnel(network: Network, configuration: str, log: Path) -> Iterator[None]:
    """Run stunnel, in the foreground, with a configuration of the recipe."""
    with log.open("wb") as output:
        command = network.within("stunnel", "-fd", "0")
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=output)
    assert process.stdin is not None
    process.stdin.write(f"foreground = yes\npid =\n{configuration}".encode())
    process.stdin.close()
    try:
        yield
        assert process.poll() is None, log.read_text()
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="module")
def tunnel(site: Site) -> Iterator[Tunnel]:
    place = site.top / "stunnel"
    place.mkdir()
    commands, server, client, _ = (block.replace(PLACE, str(place)) for block in recipes.blocks("NFS through a TLS tunnel"))
    subprocess.run(["sh", "-ec", commands], check=True, capture_output=True, stdin=subprocess.DEVNULL)
    bench = site.mount_on_loopback(site.top / "second")
    try:
        with stunnel(site.server, server, site.top / "server.log"), stunnel(site.client, client, site.top / "client.log"):
            eventually("the server's end to listen", lambda: answers(site.client, ADDRESS, TUNNEL_PORT))
            eventually("the client's end to listen", lambda: answers(site.client, "127.0.0.1", NFS_PORT))
            yield Tunnel(place, bench.mountpoint)
    finally:
        bench.umount()


def test_what_goes_through_the_tunnel_is_not_seen_on_the_wire(site: Site, tunnel: Tunnel) -> None:
    mark, content = plaintext()
    name = secrets.token_hex(16)
    with captured(site.server, WIRE) as wire, captured(site.server, "lo") as inside, site.nfs("4.2", address=HOST_LOOPBACK) as target:
        site.machine.call("write", f"{target}/{name}", content)
        site.machine.call("drop_caches")
        assert site.machine.call("read", f"{target}/{name}") == content
    assert (tunnel.files / name).read_bytes() == content
    assert wire.payload(TUNNEL_PORT) > 2 * len(content)
    assert wire.payload(NFS_PORT) == 0
    assert not wire.holds(mark, TUNNEL_PORT) and not wire.holds(name.encode(), TUNNEL_PORT)
    assert inside.holds(mark, NFS_PORT) and inside.holds(name.encode(), NFS_PORT)


def connect(site: Site, context: ssl.SSLContext) -> bytes:
    """Connect to the tunnel's server and wait for what it says to a client that says nothing."""

    def work() -> bytes:
        with (
            socket.create_connection((ADDRESS, TUNNEL_PORT), timeout=20) as plain,
            context.wrap_socket(plain, server_hostname="fileserver.example.org") as wrapped,
        ):
            wrapped.settimeout(1)
            return wrapped.recv(1)

    return site.client.call(work)


def context(place: Path, *, certificate: bool) -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=str(place / "ca.pem"))
    if certificate:
        made.load_cert_chain(place / "client.pem", place / "client.key")
    return made


def test_the_tunnel_wants_a_certificate_and_tls_1_3(site: Site, tunnel: Tunnel) -> None:
    with pytest.raises(TimeoutError):  # let in: NFS waits for the client's first word
        connect(site, context(tunnel.place, certificate=True))
    with pytest.raises(ssl.SSLError, match=r"certificate.required"):
        connect(site, context(tunnel.place, certificate=False))
    old = context(tunnel.place, certificate=True)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError, match=r"protocol.version"):
        connect(site, old)
