"""One SMB 3.1.1 client with a connection of its own (smbprotocol), and what its library leaves out: previous versions and locks."""

from __future__ import annotations

import datetime
import struct
from collections import OrderedDict
from contextlib import closing
from types import TracebackType
from typing import Any

import smbclient
from smbprotocol.connection import Commands, Connection
from smbprotocol.create_contexts import CreateContextName, SMB2CreateContextRequest, SMB2CreateTimewarpToken
from smbprotocol.exceptions import EndOfFile, SMBResponseException
from smbprotocol.file_info import FileInformationClass
from smbprotocol.ioctl import IOCTLFlags, SMB2IOCTLRequest, SMB2IOCTLResponse
from smbprotocol.open import (
    CreateDisposition,
    CreateOptions,
    FilePipePrinterAccessMask,
    ImpersonationLevel,
    InfoType,
    Open,
    ShareAccess,
    SMB2QueryInfoRequest,
    SMB2QueryInfoResponse,
    SMB2SetInfoRequest,
)
from smbprotocol.structure import BytesField, IntField, Structure
from smbprotocol.tree import TreeConnect

HOST = "127.0.0.1"
SRV_ENUMERATE_SNAPSHOTS = 0x00144064
TOKEN = "@GMT-%Y.%m.%d-%H.%M.%S"
NOT_GRANTED = 0xC0000055
SHARED_LOCK, EXCLUSIVE_LOCK, UNLOCK, FAIL_IMMEDIATELY = 1, 2, 4, 16
_OWNER, _DACL = 1, 4
_PIECE = 1 << 20
_ALL = ShareAccess.FILE_SHARE_READ | ShareAccess.FILE_SHARE_WRITE | ShareAccess.FILE_SHARE_DELETE


class LockRequest(Structure):  # type: ignore[misc]
    """SMB2 LOCK request with one element (MS-SMB2 2.2.26)."""

    COMMAND = Commands.SMB2_LOCK

    def __init__(self) -> None:
        self.fields = OrderedDict(
            [
                ("structure_size", IntField(size=2, default=48)),
                ("lock_count", IntField(size=2, default=1)),
                ("lock_sequence", IntField(size=4)),
                ("file_id", BytesField(size=16)),
                ("offset", IntField(size=8)),
                ("length", IntField(size=8)),
                ("flags", IntField(size=4)),
                ("reserved", IntField(size=4)),
            ]
        )
        super().__init__()


class SmbFile:
    """An open file whose handle the library's file objects would hide."""

    def __init__(self, client: SmbClient, opened: Open) -> None:
        self._client = client
        self._open = opened

    def __enter__(self) -> SmbFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._open.close()

    def read(self, offset: int, size: int) -> bytes:
        """Read; short, or nothing, at the end of the file."""
        try:
            return bytes(self._open.read(offset, size))
        except EndOfFile:
            return b""

    def write(self, offset: int, data: bytes) -> None:
        """Write all of `data`."""
        assert self._open.write(data, offset) == len(data)

    def close(self) -> None:
        """Close it."""
        self._open.close()

    def lock(self, offset: int, length: int, flags: int = EXCLUSIVE_LOCK | FAIL_IMMEDIATELY) -> bool:
        """Lock (or, with UNLOCK, unlock) a range; return whether it was granted."""
        request = LockRequest()
        request["file_id"] = self._open.file_id
        request["offset"], request["length"], request["flags"] = offset, length, flags
        try:
            self._client.call(request)
        except SMBResponseException as error:
            if error.status != NOT_GRANTED:
                raise
            return False
        return True

    def names(self) -> list[str]:
        """List this directory."""
        found = self._open.query_directory("*", FileInformationClass.FILE_NAMES_INFORMATION)
        names = [bytes(entry["file_name"].get_value()).decode("utf-16-le") for entry in found]
        return sorted(name for name in names if name not in (".", ".."))

    def versions(self) -> list[str]:
        """Return the tokens of the previous versions, as FSCTL_SRV_ENUMERATE_SNAPSHOTS gives them (MS-SMB2 2.2.32.2)."""
        request = SMB2IOCTLRequest()
        request["ctl_code"] = SRV_ENUMERATE_SNAPSHOTS
        request["file_id"] = self._open.file_id
        request["max_output_response"] = 1 << 16
        request["flags"] = IOCTLFlags.SMB2_0_IOCTL_IS_FSCTL
        response = SMB2IOCTLResponse()
        response.unpack(self._client.call(request)["data"].get_value())
        buffer = response["buffer"].get_value()
        total, returned, _size = struct.unpack("<III", buffer[:12])
        tokens = [token for token in buffer[12:].decode("utf-16-le").split("\0") if token]
        assert total == returned == len(tokens)
        return tokens


class SmbClient:
    """A client: one connection, one session, one share."""

    def __init__(self, port: int, share: str, user: str, password: str) -> None:
        self._cache: dict[str, Connection] = {}
        self._options: dict[str, Any] = {"port": port, "username": user, "password": password, "connection_cache": self._cache}
        self._session = smbclient.register_session(HOST, **self._options)
        self._root = rf"\\{HOST}\{share}"
        self._tree = TreeConnect(self._session, self._root)
        self._tree.connect()

    @property
    def session(self) -> Any:
        """The library's session: dialect, cipher, whether it encrypts."""
        return self._session

    def close(self) -> None:
        """Log off and disconnect."""
        smbclient.reset_connection_cache(connection_cache=self._cache)

    def __enter__(self) -> SmbClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def path(self, path: str) -> str:
        """Return the UNC path of `path`, which has slashes."""
        return "\\".join([self._root, *filter(None, path.split("/"))])

    def call(self, request: Structure) -> Any:
        """Send a request of our own and return the response. Raises SMBResponseException."""
        connection = self._session.connection
        return connection.receive(connection.send(request, self._session.session_id, self._tree.tree_connect_id))

    def do(self, name: str, path: str, *arguments: Any, **more: Any) -> Any:
        """Call a function of smbclient's with a path in the share: `do("mkdir", "a/b")`."""
        return getattr(smbclient, name)(self.path(path), *arguments, **self._options, **more)

    def write(self, path: str, data: bytes) -> None:
        """Make or replace a file."""
        with self.do("open_file", path, mode="wb", share_access="rwd") as stream:
            stream.write(data)

    def read(self, path: str) -> bytes:
        """Return a file's content."""
        with self.do("open_file", path, mode="rb", share_access="rwd") as stream:
            return bytes(stream.read())

    def names(self, path: str = "") -> list[str]:
        """List a directory."""
        return sorted(self.do("listdir", path))

    def rename(self, path: str, to: str) -> None:
        """Rename a file or a directory."""
        self.do("rename", path, self.path(to))

    def open(self, path: str, *, write: bool = False, at: str | None = None, create: bool = False, share: int = _ALL) -> SmbFile:
        """Open a file or a directory, with `at` as it was then (a TWrp create context with the time of that token)."""
        access = FilePipePrinterAccessMask.GENERIC_READ | (FilePipePrinterAccessMask.GENERIC_WRITE if write else 0)
        opened = Open(self._tree, path.replace("/", "\\"))
        opened.create(
            ImpersonationLevel.Impersonation,
            access,
            0,
            share,
            CreateDisposition.FILE_OPEN_IF if create else CreateDisposition.FILE_OPEN,
            CreateOptions.FILE_NON_DIRECTORY_FILE if write else 0,
            create_contexts=None if at is None else [_then(at)],
        )
        return SmbFile(self, opened)

    def read_at(self, path: str, token: str) -> bytes:
        """Return a file's content as it was then."""
        with self.open(path, at=token) as file:
            content = b""
            while piece := file.read(len(content), _PIECE):
                content += piece
            return content

    def security(self, path: str) -> bytes:
        """Return a file's security descriptor, owner and DACL (MS-DTYP 2.4.6)."""
        with closing(self._open_for_security(path)) as opened:
            request = SMB2QueryInfoRequest()
            request["info_type"], request["file_id"] = InfoType.SMB2_0_INFO_SECURITY, opened.file_id
            request["additional_information"] = _OWNER | _DACL
            request["output_buffer_length"] = 1 << 16
            response = SMB2QueryInfoResponse()
            response.unpack(self.call(request)["data"].get_value())
            return bytes(response["buffer"].get_value())

    def set_dacl(self, path: str, *entries: tuple[int, int, bytes]) -> None:
        """Set a file's DACL: entries of (0 allowed or 1 denied, access mask, SID)."""
        aces = [struct.pack("<BBHI", kind, 0, 8 + len(sid), mask) + sid for kind, mask, sid in entries]
        dacl = struct.pack("<BBHHH", 2, 0, 8 + sum(map(len, aces)), len(aces), 0) + b"".join(aces)
        with closing(self._open_for_security(path)) as opened:
            request = SMB2SetInfoRequest()
            request["info_type"], request["file_id"], request["additional_information"] = (
                InfoType.SMB2_0_INFO_SECURITY,
                opened.file_id,
                _DACL,
            )
            request["buffer"] = struct.pack("<BBHIIII", 1, 0, 0x8004, 0, 0, 0, 20) + dacl
            self.call(request)

    def _open_for_security(self, path: str) -> Open:
        opened = Open(self._tree, path.replace("/", "\\"))
        opened.create(ImpersonationLevel.Impersonation, FilePipePrinterAccessMask.MAXIMUM_ALLOWED, 0, _ALL, CreateDisposition.FILE_OPEN, 0)
        return opened

    def versions(self, path: str = "") -> list[str]:
        """Return the tokens of the previous versions of a file or directory."""
        with self.open(path) as file:
            return file.versions()


def _then(token: str) -> SMB2CreateContextRequest:
    """Return the create context that asks for a version (MS-SMB2 2.2.13.2.7)."""
    version = SMB2CreateTimewarpToken()
    version["timestamp"] = datetime.datetime.strptime(token, TOKEN).replace(tzinfo=datetime.UTC)
    context = SMB2CreateContextRequest()
    context["buffer_name"] = CreateContextName.SMB2_CREATE_TIMEWARP_TOKEN
    context["buffer_data"] = version
    return context
