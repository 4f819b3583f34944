"""A small NFSv4.0 client for what library clients do not show: raw handles, locks, and reclaiming after a server's restart.

Source: RFC 7530 (COMPOUND and its operations), RFC 5531 (RPC with AUTH_SYS), RFC 4506 (XDR).
"""

from __future__ import annotations

import os
import socket
import struct
from types import TracebackType

OK, DENIED, GRACE, STALE, NOENT, ROFS, BADHANDLE = 0, 10010, 10013, 70, 2, 30, 10001
READ, WRITE = 1, 2
_PROGRAM, _VERSION, _COMPOUND, _AUTH_SYS = 100003, 4, 1, 1
_PUTFH, _PUTROOTFH, _LOOKUP, _GETFH, _READ = 22, 24, 15, 10, 25
_OPEN, _OPEN_CONFIRM, _CLOSE, _LOCK, _SETCLIENTID, _CONFIRM = 18, 20, 4, 12, 35, 36
_ANONYMOUS = bytes(16)
_WRITE_LOCK = 2


class Refused(Exception):
    """The server answered an error; `status` is NFS4ERR_..."""

    def __init__(self, operation: int, status: int) -> None:
        super().__init__(f"operation {operation} answered {status}")
        self.status = status


def _opaque(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data + bytes(-len(data) % 4)


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def take(self, length: int) -> bytes:
        piece = self._data[self._at : self._at + length]
        assert len(piece) == length, "the answer is cut short"
        self._at += length
        return piece

    def number(self) -> int:
        return int(struct.unpack(">I", self.take(4))[0])

    def opaque(self) -> bytes:
        length = self.number()
        return self.take(length + -length % 4)[:length]


class Nfs4:
    """One client, with a connection and an identity of its own."""

    def __init__(self, port: int, name: str = "", address: str = "127.0.0.1") -> None:
        self._where = (address, port)
        self._stream = socket.create_connection(self._where, timeout=30)
        self._name = (name or os.urandom(8).hex()).encode()
        self._verifier = os.urandom(8)
        self._client = b""
        self._sequence = 0

    def __enter__(self) -> Nfs4:
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        self._stream.close()

    def reconnect(self) -> None:
        """Connect again, as a client does when the server was restarted."""
        self._stream.close()
        self._stream = socket.create_connection(self._where, timeout=30)

    def _send(self, body: bytes) -> _Reader:
        credential = struct.pack(">I", 0) + _opaque(b"client") + struct.pack(">III", 0, 0, 0)
        head = struct.pack(">IIIIII", 1, 0, 2, _PROGRAM, _VERSION, _COMPOUND)
        message = head + struct.pack(">I", _AUTH_SYS) + _opaque(credential) + struct.pack(">II", 0, 0) + body
        self._stream.sendall(struct.pack(">I", 0x80000000 | len(message)) + message)
        answer, last = b"", False
        while not last:
            mark = struct.unpack(">I", self._receive(4))[0]
            last = bool(mark & 0x80000000)
            answer += self._receive(mark & 0x7FFFFFFF)
        reader = _Reader(answer)
        assert struct.unpack(">III", reader.take(12)) == (1, 1, 0), "the call was not accepted"
        reader.number()
        reader.opaque()
        assert reader.number() == 0, "the program refused"
        return reader

    def _receive(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            piece = self._stream.recv(length - len(data))
            if not piece:
                raise ConnectionError("the server closed the connection")
            data += piece
        return data

    def _compound(self, *operations: bytes) -> _Reader:
        """Send operations; return the reader at the last one's result. The ones before may answer nothing but their status."""
        reader = self._send(_opaque(b"") + struct.pack(">II", 0, len(operations)) + b"".join(operations))
        reader.number()
        reader.opaque()
        for _ in range(reader.number()):
            operation, status = reader.number(), reader.number()
            if status:
                raise Refused(operation, status)
        return reader

    def handle(self, *names: str) -> bytes:
        """Return the handle of a path, the export's name first."""
        lookups = [struct.pack(">I", _LOOKUP) + _opaque(os.fsencode(name)) for name in names]
        return self._compound(struct.pack(">I", _PUTROOTFH), *lookups, struct.pack(">I", _GETFH)).opaque()

    def read(self, handle: bytes) -> bytes:
        """Return the first 64 KiB of a file, by its handle alone."""
        reader = self._compound(self._at(handle), struct.pack(">I", _READ) + _ANONYMOUS + struct.pack(">QI", 0, 65536))
        reader.number()
        return reader.opaque()

    def handle_below(self, directory: bytes, name: str) -> bytes:
        """Return the handle of a name in a directory that is known by its handle."""
        lookup = struct.pack(">I", _LOOKUP) + _opaque(os.fsencode(name))
        return self._compound(self._at(directory), lookup, struct.pack(">I", _GETFH)).opaque()

    @staticmethod
    def _at(handle: bytes) -> bytes:
        return struct.pack(">I", _PUTFH) + _opaque(handle)

    def introduce(self) -> None:
        """Tell the server who this is, as at a mount and after the server's restart."""
        call = (
            self._verifier + _opaque(self._name) + struct.pack(">I", 0) + _opaque(b"tcp") + _opaque(b"0.0.0.0.0.0") + struct.pack(">I", 0)
        )
        reader = self._compound(struct.pack(">I", _SETCLIENTID) + call)
        self._client, confirm = reader.take(8), reader.take(8)
        self._compound(struct.pack(">I", _CONFIRM) + self._client + confirm)
        self._sequence = 0

    def _next(self) -> int:
        self._sequence += 1
        return self._sequence - 1

    def open(self, directory: bytes, name: str) -> bytes:
        """Open a file for reading and writing; return the state id."""
        return self._open(directory, struct.pack(">I", 0) + _opaque(os.fsencode(name)))

    def reopen(self, file: bytes) -> bytes:
        """Reclaim an open after the server's restart; return the new state id."""
        return self._open(file, struct.pack(">II", 1, 0))

    def _open(self, handle: bytes, claim: bytes) -> bytes:
        owner = self._client + _opaque(b"opener")
        call = struct.pack(">IIII", _OPEN, self._next(), READ | WRITE, 0) + owner + struct.pack(">I", 0) + claim
        reader = self._compound(self._at(handle), call)
        state = reader.take(16)
        reader.take(20)
        if reader.number() & 2:
            file = handle if claim[3] == 1 else None
            return self._confirm(state, file or self._opened(handle, claim))
        return state

    def _opened(self, directory: bytes, claim: bytes) -> bytes:
        return self.handle_below(directory, _Reader(claim[4:]).opaque().decode())

    def _confirm(self, state: bytes, file: bytes) -> bytes:
        call = struct.pack(">I", _OPEN_CONFIRM) + state + struct.pack(">I", self._next())
        return self._compound(self._at(file), call).take(16)

    def lock(self, file: bytes, state: bytes, offset: int, length: int, *, reclaim: bool = False) -> bytes:
        """Lock a range for writing; return the lock's state id."""
        owner = (
            struct.pack(">I", 1) + struct.pack(">I", self._next()) + state + struct.pack(">I", 0) + self._client + _opaque(os.urandom(8))
        )
        call = struct.pack(">IIIQQ", _LOCK, _WRITE_LOCK, reclaim, offset, length) + owner
        return self._compound(self._at(file), call).take(16)
