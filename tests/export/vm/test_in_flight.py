"""What an observer of the network sees: nothing of the files when an export is encrypted. The same observer does see those that are not."""

from __future__ import annotations

import contextlib
import errno
import secrets

import pytest

from .capture import Capture, captured
from .site import NFS_PORT, SMB_PORT, WIRE, Site

SIZE = 200_000


def plaintext() -> tuple[bytes, bytes]:
    """Return a random mark, and content that is full of it: whatever packets it is cut into, most hold the mark."""
    mark = secrets.token_hex(16).encode()
    return mark, mark * (SIZE // len(mark))


def send(site: Site, protocol: str, name: bytes, content: bytes) -> Capture:
    """Write a file over a protocol and read it again, not from the client's cache; return what went over the wire."""
    export = {"sys": "archive", "krb5p": "sealed", "smb": "archive", "smb clear": "clear"}[protocol]
    with captured(site.server, WIRE) as capture, contextlib.ExitStack() as stack:
        if protocol == "smb":
            target = stack.enter_context(site.smb(export, more=""))
        elif protocol == "smb clear":
            stack.enter_context(site.smb_without_encryption())
            target = stack.enter_context(site.smb(export, more=""))
        else:
            target = stack.enter_context(site.nfs("4.1", export, security=protocol))
        path = f"{target}/{name.decode()}"
        site.machine.call("write", path, content)
        site.machine.call("drop_caches")
        assert site.machine.call("read", path) == content
    assert (site.files / export / name.decode()).read_bytes() == content
    return capture


@pytest.mark.parametrize(("protocol", "port"), [("krb5p", NFS_PORT), ("smb", SMB_PORT)])
def test_nothing_of_a_file_is_seen_on_the_wire(site: Site, protocol: str, port: int) -> None:
    mark, content = plaintext()
    name = secrets.token_hex(16).encode()
    seen = send(site, protocol, name, content)
    assert seen.payload(port) > 2 * SIZE
    for text in (mark, name, name.decode().encode("utf-16-le")):
        assert not seen.holds(text, port)


@pytest.mark.parametrize(("protocol", "port"), [("sys", NFS_PORT), ("smb clear", SMB_PORT)])
def test_the_observer_sees_what_is_not_encrypted(site: Site, protocol: str, port: int) -> None:
    mark, content = plaintext()
    name = secrets.token_hex(16).encode()
    seen = send(site, protocol, name, content)
    assert seen.payload(port) > 2 * SIZE
    assert seen.holds(mark, port)
    assert seen.holds(name if protocol == "sys" else name.decode().encode("utf-16-le"), port)


@pytest.mark.parametrize("dialect", ["2.1", "3.0", "3.02"])
def test_smb_refuses_older_dialects(site: Site, dialect: str) -> None:
    with pytest.raises(OSError) as refused, site.smb(more=f",vers={dialect}"):
        pass
    assert refused.value.errno == errno.EOPNOTSUPP


def test_smb_refuses_a_wrong_password(site: Site) -> None:
    with pytest.raises(OSError) as refused, site.smb(password="another word"):
        pass
    assert refused.value.errno == errno.EACCES
