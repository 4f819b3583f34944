"""SMB: who gets in and how it is encrypted; share modes, streams, ACLs, attributes; the access audit."""

from __future__ import annotations

import os
import re
import stat
import struct
import subprocess
import uuid

import pytest
from smbprotocol.connection import Ciphers, Connection, Dialects
from smbprotocol.exceptions import AccessDenied, SMBException, SMBOSError, SMBResponseException
from smbprotocol.session import Session
from smbprotocol.tree import TreeConnect

from tests.export.exported import OTHER, PASSWORD, USER, Exported
from tests.export.smb_client import HOST

AES_256_GCM = 4
SHARING_VIOLATION = 0xC0000043
HIDDEN, SYSTEM, ARCHIVE = 0x02, 0x04, 0x20
ALLOWED, DENIED = 0, 1
READ, FULL = 0x00120089, 0x001F01FF
EVERYONE = bytes((1, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0))
"""S-1-1-0."""
TIMED = re.compile(r"\[20\d\d/\d\d/\d\d \d\d:\d\d:\d\d")


def owner_of(descriptor: bytes) -> bytes:
    """Return the owner's SID in a security descriptor (MS-DTYP 2.4.6, 2.4.2)."""
    start = int.from_bytes(descriptor[4:8], "little")
    return descriptor[start : start + 8 + 4 * descriptor[start + 1]]


def connection(vol: Exported) -> Connection:
    return Connection(uuid.uuid4(), HOST, vol.smb_port)


def test_a_client_speaks_3_1_1_and_encrypts_with_aes_256_gcm(vol: Exported) -> None:
    with vol.smb() as client:
        assert client.session.connection.dialect == Dialects.SMB_3_1_1
        assert client.session.encrypt_data
        assert client.session.connection.cipher_id == AES_256_GCM


@pytest.mark.parametrize("dialect", [Dialects.SMB_2_0_2, Dialects.SMB_2_1_0, Dialects.SMB_3_0_0, Dialects.SMB_3_0_2])
def test_earlier_dialects_are_refused(vol: Exported, dialect: int) -> None:
    with pytest.raises(SMBException):
        connection(vol).connect(dialect, timeout=10)


def test_a_client_that_does_not_encrypt_is_refused(vol: Exported) -> None:
    client = connection(vol)
    client.connect(timeout=10)
    session = Session(client, USER, PASSWORD, require_encryption=False)
    session.connect()
    session.encrypt_data = False  # it ignores what the server asked for
    with pytest.raises(AccessDenied):
        TreeConnect(session, rf"\\{HOST}\vol").connect(require_secure_negotiate=False)
    client.disconnect(close=False)


def test_a_weaker_cipher_is_not_agreed_on(vol: Exported) -> None:
    client = connection(vol)
    client.connect(timeout=10, preferred_encryption_algos=[Ciphers.AES_128_GCM, Ciphers.AES_128_CCM])
    with pytest.raises(SMBException):
        session = Session(client, USER, PASSWORD)
        session.connect()
        TreeConnect(session, rf"\\{HOST}\vol").connect()
    client.disconnect(close=False)


@pytest.mark.parametrize(("user", "password"), [(USER, "wrong"), ("daemon", PASSWORD), ("no-such-user", PASSWORD)])
def test_who_does_not_know_a_password_is_refused(vol: Exported, user: str, password: str) -> None:
    client = connection(vol)
    client.connect(timeout=10)
    with pytest.raises(SMBException, match=r"LOGON_FAILURE|Logon|logon"):
        Session(client, user, password).connect()
    client.disconnect(close=False)


def test_an_anonymous_client_gets_nothing(vol: Exported) -> None:
    for words in (["-N", "-L", f"//{HOST}"], ["-N", f"//{HOST}/vol", "-c", "ls"]):
        command = ["smbclient", "-s", "/dev/null", "-m", "SMB3", "-p", str(vol.smb_port), *words]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        assert done.returncode != 0
        assert "vol" not in done.stdout.replace(f"//{HOST}/vol", "")


def test_files_belong_to_who_made_them_and_permissions_hold(vol: Exported) -> None:
    directory = vol.directory("owners")
    (directory / "root-only").write_bytes(b"secret")
    (directory / "root-only").chmod(0o600)
    with vol.smb() as one, vol.smb(OTHER) as two:
        one.write("owners/mine", b"x")
        (directory / "mine").chmod(0o600)
        for client, path in ((two, "owners/mine"), (one, "owners/root-only")):
            with pytest.raises(SMBOSError):
                client.read(path)
    assert (directory / "mine").owner() == USER


def test_a_file_that_is_opened_for_one_is_not_opened_by_another(vol: Exported) -> None:
    """Share modes: smbd finds who else has a file open, also when it works as different users."""
    vol.directory("shares")
    with vol.smb() as one, vol.smb(OTHER) as two:
        one.write("shares/f", b"x")
        (vol.point / "shares" / "f").chmod(0o666)
        with one.open("shares/f", write=True, share=0):
            for client in (one, two):
                with pytest.raises(SMBResponseException) as caught:
                    client.open("shares/f")
                assert caught.value.status == SHARING_VIOLATION
        with two.open("shares/f") as file:
            assert file.read(0, 9) == b"x"


def test_streams_of_files_and_directories(vol: Exported) -> None:
    top = vol.directory("streams")
    content = os.urandom(40_000)
    with vol.smb() as client:
        client.write("streams/file", b"main")
        client.write("streams/file:notes", content)
        client.write("streams:about", b"a directory has streams too")
        assert client.read("streams/file:NOTES") == content
        assert {each.name for each in client.do("liststreams", "streams/file")} == {"::$DATA", ":notes:$DATA"}
        client.rename("streams/file", "streams/renamed")
        assert client.read("streams/renamed:notes") == content
        assert client.read("streams/renamed") == b"main"
        assert client.read("streams:about") == b"a directory has streams too"
        assert client.names("streams") == ["renamed"]
        client.do("remove", "streams/renamed:notes")
        assert len(client.do("liststreams", "streams/renamed")) == 1
    assert os.listdir(top) == ["renamed"]


def test_dos_attributes_and_creation_time_stay(vol: Exported) -> None:
    top = vol.directory("dos")
    with vol.smb() as client:
        client.write("dos/f", b"x")
        born = client.do("stat", "dos/f").st_ctime
    vol.smbclient(r"setmode dos\f +h; setmode dos\f +s; setmode dos\f -a")
    (top / "f").chmod(0o666)
    with vol.smb() as client:
        assert client.do("stat", "dos/f").st_file_attributes & (HIDDEN | SYSTEM | ARCHIVE) == HIDDEN | SYSTEM
        with client.open("dos/f", write=True) as file:
            file.write(0, b"changed")
        now = client.do("stat", "dos/f")
        assert now.st_ctime == born
        assert now.st_file_attributes & (HIDDEN | SYSTEM | ARCHIVE) == HIDDEN | SYSTEM | ARCHIVE, "a write sets the archive bit"


def test_extended_attributes_are_those_of_the_file(vol: Exported) -> None:
    top = vol.directory("eas")
    with vol.smb() as client:
        client.write("eas/f", b"x")
        client.do("setxattr", "eas/f", b"PATIENT", b"P-0001")
        assert os.getxattr(top / "f", "user.PATIENT") == b"P-0001"
        os.setxattr(top / "f", "user.LOCAL", b"made here")
        assert client.do("getxattr", "eas/f", b"LOCAL") == b"made here"
        assert set(client.do("listxattr", "eas/f")) == {b"PATIENT", b"LOCAL"}
        client.do("removexattr", "eas/f", b"PATIENT")
    assert "user.PATIENT" not in os.listxattr(top / "f")


def test_nt_acls_are_kept_and_hold(vol: Exported) -> None:
    vol.directory("acls")
    with vol.smb() as one, vol.smb(OTHER) as two:
        one.write("acls/f", b"x")
        two.write("acls/of-two", b"y")
        theirs, ours = owner_of(two.security("acls/of-two")), owner_of(one.security("acls/f"))
        assert two.read("acls/f") == b"x"
        one.set_dacl("acls/f", (DENIED, READ, theirs), (ALLOWED, FULL, ours), (ALLOWED, READ, EVERYONE))
        kept = one.security("acls/f")
        assert [kept.count(sid) for sid in (theirs, EVERYONE)] == [1, 1]
        with pytest.raises(SMBOSError):
            two.read("acls/f")
        assert one.read("acls/f") == b"x"
        one.set_dacl("acls/f", (ALLOWED, FULL, ours), (ALLOWED, READ, EVERYONE))
        assert two.read("acls/f") == b"x"


def test_what_macs_keep_beside_a_file_is_kept_in_its_streams(vol: Exported) -> None:
    """AFP_AfpInfo (Finder's type and flags: 60 bytes, MS-AFP 2.2) and AFP_Resource."""
    top = vol.directory("mac")
    info = struct.pack(">4sIII16s16s12s", b"AFP\0", 0x00000100, 0, 0, b"TEXTttxt".ljust(16, b"\0"), bytes(16), bytes(12))
    with vol.smb() as client:
        client.write("mac/f", b"x")
        with client.open("mac/f:AFP_AfpInfo", write=True, create=True) as file:
            file.write(0, info)
        client.write("mac/f:AFP_Resource", b"resource" * 100)
        assert client.read("mac/f:AFP_AfpInfo")[16:24] == b"TEXTttxt"
        assert client.read("mac/f:AFP_Resource") == b"resource" * 100
        client.write("mac/colon\uf022quote", b"x")
    assert sorted(os.listdir(top)) == ["colon:quote", "f"], "no ._ files; a colon of a Mac is a colon here"


def test_every_access_is_in_the_audit(vol: Exported) -> None:
    vol.directory("audited")
    log = vol.conf / "state" / "smb" / "log" / "audit.log"
    with vol.smb() as client:
        client.write("audited/made", b"x")
        client.read("audited/made")
        client.rename("audited/made", "audited/renamed")
        client.do("mkdir", "audited/dir")
        client.do("remove", "audited/renamed")
    with vol.smb(OTHER) as client, pytest.raises(SMBOSError):
        client.read("audited/none")
    assert stat.S_IMODE(log.parent.stat().st_mode) == 0o700
    lines = [line for line in log.read_text().splitlines() if "audited" in line]
    prefix = f"{USER}|{HOST}|vol|"
    for operation, name in (("renameat", "renamed"), ("mkdirat", "dir"), ("unlinkat", "renamed")):
        assert any(f"{prefix}{operation}|ok|" in line and name in line for line in lines), (operation, lines)
    assert any(f"{prefix}" in line and "made" in line and "openat" in line for line in lines), lines
    assert all(TIMED.match(line) for line in lines), lines
