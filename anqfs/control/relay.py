"""`anqfs serve`: TLS from the network, relayed to a daemon's token-asking Unix socket. A process of its own, one trio loop.

Why a relay: what comes from the network is hostile, and the daemon has the master key and serves the mount. TLS handshakes, idle and slow
clients and floods of connections are met here, in a process that has no key, no volume, and, when it was started as root, no rights
(nobody, no new privileges, no core). Bytes are passed on as they are, one connection for one connection, so that nobody can smuggle a
request into another's; the daemon's own bounds on headers and bodies hold, and it asks for a token for each request.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import resource
import signal
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import trio

from anqfs.control import registry, wire
from anqfs.control.registry import Entry
from anqfs.crypto.certificate import fingerprint, self_signed
from anqfs.crypto.secrets import check_private
from anqfs.errors import NotMounted, UsageError

_log = logging.getLogger("anqfs.control.relay")

CONNECTIONS_MAX = 256
CONNECTIONS_OF_ONE = 192
"""Connections from one address, so that it alone cannot keep all others out; more are closed at once."""
HANDSHAKE_SECONDS = 10.0
IDLE_SECONDS = 300.0
"""A connection on which nothing moves for so long, in either direction, is closed."""
FIRST_SECONDS = 30.0
"""How long a client may take until its first byte."""
_PIECE = 64 << 10
_BACKLOG = 128
_NOBODY = 65534
_PR_SET_NO_NEW_PRIVS, _PR_SET_DUMPABLE = 38, 4


LINGER_SECONDS = 30.0
"""How long a client may go on sending after its answer is complete."""
TlsStream = trio.SSLStream[trio.SocketStream]
_ENDS = (trio.BrokenResourceError, trio.ClosedResourceError, OSError)


class Place(NamedTuple):
    """Where to listen."""

    host: str
    port: int


def place_of(text: str) -> Place:
    """Return the address that `HOST:PORT` or `[V6]:PORT` says. Raises UsageError."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise UsageError(f"{text[:80]!a} is no address to listen on: write it as 127.0.0.1:8000 or [::1]:8000")
    return Place(host.removeprefix("[").removesuffix("]"), int(port))


def tls(certificate: str, key: str) -> ssl.SSLContext:
    """Return the settings of TLS: 1.2 and newer, HTTP/1.1 only. Raises UsageError when the files are no certificate and its key."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except (OSError, ssl.SSLError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and not isinstance(error, ssl.SSLError) else str(error)
        raise UsageError(f"{wire.shown(certificate)}, {wire.shown(key)}: are no certificate and its key, both PEM: {reason}") from error
    return context


def context_of(place: Place, certificate: str | None, key: str | None, *, self_signed: bool) -> tuple[ssl.SSLContext, str]:
    """Return the settings of TLS and the certificate's fingerprint.

    A self-signed certificate is made for the place; it is kept in the files that are named, 0600, and taken from there the next time;
    when none are named it is never written anywhere. Raises UsageError.
    """
    if (certificate is None) != (key is None):
        raise UsageError("give --tls-cert and --tls-key together")
    if certificate is not None and key is not None:
        if self_signed and not os.path.lexists(certificate) and not os.path.lexists(key):
            _keep(place, certificate, key)
        _check_key(key)
        context = tls(certificate, key)
        return context, fingerprint(_read(certificate))
    if not self_signed:
        raise UsageError("say which certificate to use: --tls-cert and --tls-key, or --tls-self-signed; without TLS nothing is served")
    made, secret = self_signed_for(place)
    with _in_memory(made) as certificate_path, _in_memory(secret) as key_path:
        return tls(certificate_path, key_path), fingerprint(made)


def self_signed_for(place: Place) -> tuple[bytes, bytes]:
    """Return a certificate for where a relay listens, and its key."""
    names = ["localhost", "127.0.0.1", "::1", socket.gethostname() or "localhost"]
    return self_signed([place.host, *names] if place.host not in ("0.0.0.0", "::") else names)


def _keep(place: Place, certificate: str, key: str) -> None:
    """Make a certificate and its key and write them to new files: both or none, or the next start would find half of them."""
    made: list[str] = []
    for path, content in zip((certificate, key), self_signed_for(place), strict=True):
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            made.append(path)
            with os.fdopen(handle, "wb") as stream:
                stream.write(content)
        except OSError as error:
            for one in made:
                os.unlink(one)
            raise UsageError(f"{wire.shown(path)}: cannot be written: {error.strerror}") from error


def _check_key(key: str) -> None:
    try:
        check_private(key, os.stat(key))
    except OSError as error:
        raise UsageError(f"{wire.shown(key)}: {error.strerror}: name the private key") from error


def _read(path: str) -> bytes:
    with open(path, "rb") as stream:
        return stream.read()


@contextmanager
def _in_memory(content: bytes) -> Iterator[str]:
    """Give bytes a path without writing them anywhere: the TLS library reads files only."""
    handle = os.memfd_create("anqfs-tls", os.MFD_CLOEXEC)
    try:
        os.write(handle, content)
        yield f"/proc/self/fd/{handle}"
    finally:
        os.close(handle)


def _no_password() -> str:
    raise ValueError("the key has a passphrase: `anqfs serve` cannot ask for it")


def listeners(place: Place) -> list[socket.socket]:
    """Return TCP sockets that listen at a place. Raises UsageError."""
    try:
        found = socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise UsageError(f"{place.host!a} is no address of this host: {error.strerror}") from error
    opened: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in found:
            one = socket.socket(family, kind, protocol)
            opened.append(one)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            one.bind(address)
            one.listen(_BACKLOG)
    except OSError as error:
        for one in opened:
            one.close()
        raise UsageError(f"cannot listen on {place.host}:{place.port}: {error.strerror}") from error
    return opened


def _give_up_rights() -> None:
    """Keep nothing that TLS and a Unix socket do not need."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    library = ctypes.CDLL(None)
    library.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    library.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


class Relay:
    """One relay, for one daemon."""

    def __init__(self, entry: Entry, context: ssl.SSLContext, sockets: list[socket.socket]) -> None:
        """Opens what is needed of the daemon before rights are given up. Raises NotMounted when it is gone."""
        self._entry = entry
        self._context = context
        self._sockets = sockets
        self._limit = trio.CapacityLimiter(CONNECTIONS_MAX)
        self._by_address: Counter[str] = Counter()
        path = registry.relay_socket(entry)
        try:
            self._daemon = os.pidfd_open(entry.pid)
            self._directory = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise NotMounted(f"{wire.shown(entry.mountpoint)}: its daemon cannot be reached: {error.strerror}") from error
        self._target = os.path.basename(path)

    def run(self, ready: Callable[[list[str]], None]) -> None:
        """Serve until the daemon ends, or SIGTERM or SIGINT. `ready` is called with the addresses once clients can come."""
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # a client that goes away must not take us along
        os.fchdir(self._directory)  # the one place that can be reached without rights
        _give_up_rights()
        trio.run(self._run, ready)

    async def _run(self, ready: Callable[[list[str]], None]) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as arrivals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch_daemon, nursery.cancel_scope)
                for one in self._sockets:
                    nursery.start_soon(self._accept, trio.SocketListener(trio.socket.from_stdlib_socket(_nonblocking(one))), nursery)
                ready([f"{_shown(one)}" for one in self._sockets])
                async for _ in arrivals:
                    nursery.cancel_scope.cancel()
                    break

    async def _watch_daemon(self, scope: trio.CancelScope) -> None:
        """End when the daemon does: a pidfd is readable then. Source: pidfd_open(2)."""
        await trio.lowlevel.wait_readable(self._daemon)
        _log.info("the volume is not mounted any more: the relay ends")
        scope.cancel()

    async def _accept(self, listener: trio.SocketListener, nursery: trio.Nursery) -> None:
        while True:
            await self._limit.acquire_on_behalf_of(token := object())
            try:
                stream = await listener.accept()
            except OSError as error:
                self._limit.release_on_behalf_of(token)
                if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.ECONNABORTED):
                    raise
                await trio.sleep(0.1)
                continue
            except BaseException:
                self._limit.release_on_behalf_of(token)
                raise
            nursery.start_soon(self._serve, stream, token)

    async def _serve(self, stream: trio.SocketStream, token: object) -> None:
        """Relay one connection. Whatever goes wrong ends this connection and no other."""
        address = ""
        try:
            address = stream.socket.getpeername()[0]
            self._by_address[address] += 1
            if self._by_address[address] <= CONNECTIONS_OF_ONE:
                await self._relay(trio.SSLStream(stream, self._context, server_side=True, https_compatible=True))
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError, OSError, ssl.SSLError) as error:
            _log.debug("a connection ended: %s", type(error).__name__)
        except Exception:
            _log.exception("a connection met an unforeseen fault")
        finally:
            await trio.aclose_forcefully(stream)
            self._limit.release_on_behalf_of(token)
            self._by_address[address] -= 1
            if self._by_address[address] <= 0:
                del self._by_address[address]

    async def _relay(self, client: TlsStream) -> None:
        with trio.fail_after(HANDSHAKE_SECONDS):
            await client.do_handshake()
        with trio.fail_after(FIRST_SECONDS):
            first = await client.receive_some(_PIECE)
        if not first:
            return
        daemon = await trio.open_unix_socket(self._target)
        async with daemon:
            idle = _Idle()
            await daemon.send_all(first)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(idle.watch, nursery.cancel_scope)
                nursery.start_soon(_requests, client, daemon, idle)
                await _answers(daemon, client, idle)
                with trio.move_on_after(LINGER_SECONDS):
                    await idle.client_is_gone.wait()
                nursery.cancel_scope.cancel()


class _Idle:
    """Notices when nothing moves any more."""

    def __init__(self) -> None:
        self.moved = trio.current_time()
        self.client_is_gone = trio.Event()

    async def watch(self, scope: trio.CancelScope) -> None:
        """Cancel `scope` when nothing moved for IDLE_SECONDS."""
        while True:
            left = self.moved + IDLE_SECONDS - trio.current_time()
            if left <= 0:
                scope.cancel()
                return
            await trio.sleep(left)


async def _requests(client: TlsStream, daemon: trio.SocketStream, idle: _Idle) -> None:
    """Pass on what the client sends. When the daemon takes no more, because it has refused a body, the rest is thrown away:

    a client that is still sending when its connection goes would never see the answer.
    """
    is_taken = True
    try:
        while data := await client.receive_some(_PIECE):
            idle.moved = trio.current_time()
            if is_taken:
                is_taken = await _sent(daemon, data)
        if is_taken:
            await daemon.send_eof()
    except _ENDS as error:
        _log.debug("a client went away: %s", type(error).__name__)
    idle.client_is_gone.set()


async def _answers(daemon: trio.SocketStream, client: TlsStream, idle: _Idle) -> None:
    """Pass on what the daemon answers, up to the end, which the client is told."""
    try:
        while data := await daemon.receive_some(_PIECE):
            idle.moved = trio.current_time()
            await client.send_all(data)
            idle.moved = trio.current_time()
    except _ENDS as error:
        _log.debug("a connection ended: %s", type(error).__name__)
    await _ended(client.transport_stream)


async def _sent(stream: trio.SocketStream, data: bytes | bytearray) -> bool:
    try:
        await stream.send_all(data)
    except _ENDS:
        return False
    return True


async def _ended(stream: trio.SocketStream) -> None:
    try:
        await stream.send_eof()
    except _ENDS as error:
        _log.debug("a client went away before the end: %s", type(error).__name__)


def _nonblocking(one: socket.socket) -> socket.socket:
    one.setblocking(False)
    return one


def _shown(one: socket.socket) -> str:
    host, port = one.getsockname()[:2]
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
