"""What is exported to whom: the content of one `export.toml`, typed and validated. Imported by both ends, on any thread.

Everything is closed until it is opened: a description without exports serves nothing, an export without clients answers nobody, NFS
clients' root becomes nobody, SMB clients must encrypt, and the servers listen on the addresses that are named, by default the loopback.

The field names below are the names in the file. A description that was made is sound: `parse` refuses everything that a server would
misunderstand, with a message that names the key.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Any, Literal

import msgspec

from anqfs.errors import UsageError

Access = Literal["read-only", "read-write"]
Squash = Literal["root", "all", "none"]
Security = Literal["sys", "krb5", "krb5i", "krb5p"]
NfsVersion = Literal["3", "4.0", "4.1", "4.2"]
Encryption = Literal["required", "desired", "off"]
Kind = Literal["nfs", "smb"]

KINDS: tuple[Kind, ...] = ("nfs", "smb")
EVERYONE = ("0.0.0.0", "::")
"""Bind addresses that stand for every address of the machine."""
MAX_EXPORTS = 1000
MAX_ID = 65_535
"""An NFS export's id is 16 bits of every file handle."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,78}\$?")
_RESERVED = {"global", "homes", "printers", "print$", "ipc$", "admin$"}
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_UNWRITABLE = r"\s\"=#;%\\{}\[\]\x00-\x1f\x7f"
"""What means something in the servers' configuration, and in no principal, domain or realm."""
_PRINCIPAL = re.compile(rf"[^{_UNWRITABLE}]+@[^{_UNWRITABLE}]+")
_UNQUOTABLE = set('"%\\')


class Kerberos(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Kerberos for NFS.

    `principal`: the server's, as `nfs@fileserver.example.org`. `keytab`, `config` (a krb5.conf): absolute paths; "" is the system's.
    `users`: which Unix user a client's principal is, where nsswitch does not say; others are nobody.
    """

    principal: str = "nfs"
    keytab: str = "/etc/krb5.keytab"
    config: str = ""
    domain: str = ""
    realm: str = ""
    users: dict[str, str] = {}


class NfsExport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A directory served over NFS as SERVER:/`name`.

    `path` is relative to the mount point, "" for all of it. `id` is in every file handle and never used for another export.
    `clients`: addresses and networks (CIDR); none: nobody. `squash`: whose requests become nobody's: root's, everyone's, or no one's.
    """

    name: str
    id: int
    path: str = ""
    access: Access = "read-only"
    clients: tuple[str, ...] = ()
    squash: Squash = "root"
    security: tuple[Security, ...] = ("sys",)


class Nfs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The NFS server. Times in seconds. `last_id` is the highest id an export ever had. Version 3 needs rpcbind on this machine."""

    port: int = 2049
    mountd_port: int = 20048
    versions: tuple[NfsVersion, ...] = ("4.0", "4.1", "4.2")
    grace_seconds: int = 90
    lease_seconds: int = 60
    last_id: int = 0
    kerberos: Kerberos | None = None
    export: tuple[NfsExport, ...] = ()


class SmbShare(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A directory served over SMB as \\\\SERVER\\`name`.

    `path` is relative to the mount point, "" for all of it. `clients` as for NFS. `users`: who may connect; none named: every SMB user
    that `anqfs export user add` made, within the files' permissions.
    """

    name: str
    path: str = ""
    access: Access = "read-only"
    clients: tuple[str, ...] = ()
    users: tuple[str, ...] = ()
    encrypt: Encryption = "required"


class Smb(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The SMB server. `audit`: write a line for every access into state/smb/log/audit.log."""

    port: int = 445
    workgroup: str = "WORKGROUP"
    audit: bool = False
    share: tuple[SmbShare, ...] = ()


class Description(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All of it. `mountpoint` is absolute; `volume` the uuid of the volume that is meant; `bind` the address the servers listen on."""

    mountpoint: str
    volume: str
    bind: str = "127.0.0.1"
    nfs: Nfs = Nfs()
    smb: Smb = Smb()

    def names(self, kind: Kind) -> list[str]:
        """Return the names of the exports of one kind."""
        return [one.name for one in (self.nfs.export if kind == "nfs" else self.smb.share)]

    def served(self) -> list[Kind]:
        """Return the servers that have something to serve."""
        return [kind for kind in KINDS if self.names(kind)]

    def directory(self, export: NfsExport | SmbShare) -> str:
        """Return the absolute path of what an export serves."""
        return f"{self.mountpoint.rstrip('/')}/{export.path}" if export.path else self.mountpoint


def parse(document: dict[str, Any]) -> Description:
    """Return the description that a TOML document holds. Raises UsageError naming the key, what is wrong, and what it should be."""
    try:
        description = msgspec.convert(document, Description)
    except msgspec.ValidationError as error:
        text, _, where = str(error).partition(" - at ")
        raise UsageError(f"{where.strip('`').removeprefix('$.') or 'the file'}: {_lower(text)}") from error
    _check_whole(description)
    for number, export in enumerate(description.nfs.export):
        _check_nfs(export, f"nfs.export[{number}]", description.nfs)
    for number, share in enumerate(description.smb.share):
        _check_smb(share, f"smb.share[{number}]")
    for kind in KINDS:
        _check_unique(kind, [name.lower() for name in description.names(kind)])
    ids = [one.id for one in description.nfs.export]
    if len(set(ids)) != len(ids):
        raise UsageError("nfs.export: two exports have the same id: give each a number that no export ever had")
    return description


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _check_whole(description: Description) -> None:
    check_path("mountpoint", description.mountpoint)
    check_address("bind", description.bind)
    nfs, smb = description.nfs, description.smb
    for key, port in (("nfs.port", nfs.port), ("nfs.mountd_port", nfs.mountd_port), ("smb.port", smb.port)):
        if not 1 <= port <= 65_535:
            raise UsageError(f"{key}: {port} is no port: it is a number from 1 to 65535")
    for key, seconds, most in (("nfs.grace_seconds", nfs.grace_seconds, 180), ("nfs.lease_seconds", nfs.lease_seconds, 120)):
        if not 1 <= seconds <= most:
            raise UsageError(f"{key}: {seconds} is not within 1 and {most}")
    if not nfs.versions:
        raise UsageError('nfs.versions: name at least one of "3", "4.0", "4.1", "4.2"')
    if not _NAME.fullmatch(smb.workgroup) or len(smb.workgroup) > 15:
        raise UsageError(f"smb.workgroup: {smb.workgroup!a} is no workgroup: up to 15 letters and digits")
    if nfs.kerberos is not None:
        _check_kerberos(nfs.kerberos)


def _check_kerberos(kerberos: Kerberos) -> None:
    for key, path in (("keytab", kerberos.keytab), ("config", kerberos.config)):
        if path:
            check_path(f"nfs.kerberos.{key}", path)
    for key, word in (("principal", kerberos.principal), ("domain", kerberos.domain), ("realm", kerberos.realm)):
        if re.search(f"[{_UNWRITABLE}]", word):
            raise UsageError(f"nfs.kerberos.{key}: {word!a} holds a blank or a sign that no {key} has")
    for principal, user in kerberos.users.items():
        if not _PRINCIPAL.fullmatch(principal) or not _USER.fullmatch(user):
            raise UsageError(f'nfs.kerberos.users: {principal!a} = {user!a} is not "user@REALM" = "unix user"')


def _check_nfs(export: NfsExport, key: str, nfs: Nfs) -> None:
    _check_common(export, key)
    if not 1 <= export.id <= MAX_ID:
        raise UsageError(f"{key}.id: {export.id} is not within 1 and {MAX_ID}")
    if not export.security:
        raise UsageError(f"{key}.security: name at least one of sys, krb5, krb5i, krb5p")
    if any(one != "sys" for one in export.security) and nfs.kerberos is None:
        raise UsageError(f"{key}.security: Kerberos needs a table [nfs.kerberos] with the server's principal and keytab")


def _check_smb(share: SmbShare, key: str) -> None:
    _check_common(share, key)
    if share.name.lower() in _RESERVED:
        raise UsageError(f"{key}.name: {share.name} means something else to Samba: take another")
    for user in share.users:
        check_user(f"{key}.users", user)


def _check_common(export: NfsExport | SmbShare, key: str) -> None:
    check_name(f"{key}.name", export.name)
    if export.path:
        check_path(f"{key}.path", "/" + export.path)
        if export.path != export.path.strip("/") or {"", ".", ".."} & set(export.path.split("/")):
            raise UsageError(f"{key}.path: {export.path!a} is not a path below the mount point, as `study/2026`")
    for client in export.clients:
        check_client(f"{key}.clients", client)


def _check_unique(kind: Kind, names: list[str]) -> None:
    if len(names) > MAX_EXPORTS:
        raise UsageError(f"{kind}: {len(names)} exports are more than {MAX_EXPORTS}")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(f"{kind}: two exports are named {twice[0]}: names differ in more than case")


def check_name(key: str, name: str) -> None:
    """Raise UsageError unless `name` can be an export's name."""
    if not _NAME.fullmatch(name):
        raise UsageError(f"{key}: {name!a} is no name for an export: letters, digits, dots, dashes and underscores, 79 at most")


def check_user(key: str, user: str) -> None:
    """Raise UsageError unless `user` can be the name of a Unix user."""
    if not _USER.fullmatch(user):
        raise UsageError(f"{key}: {user!a} is no user name: letters, digits, dots, dashes and underscores")


def check_path(key: str, path: str) -> None:
    """Raise UsageError unless `path` is absolute and can be written into both servers' configuration."""
    if not path.startswith("/"):
        raise UsageError(f"{key}: {path!a} is not an absolute path")
    if not path.isprintable() or _UNQUOTABLE & set(path) or path != path.strip():
        raise UsageError(
            f'{key}: {path!a} holds ", %, \\ or a sign that cannot be seen, or ends in a blank: the servers cannot be told of it'
        )


def check_address(key: str, address: str) -> None:
    """Raise UsageError unless `address` is an IP address, and no network or host name."""
    try:
        _check_unscoped(address)
        ipaddress.ip_address(address)
    except ValueError:
        raise UsageError(f"{key}: {address!a} is no IP address, as 10.0.0.5; 0.0.0.0 is every address of this machine") from None


def _check_unscoped(address: str) -> None:
    """Raise ValueError for an IPv6 address with a zone: anything at all may stand behind the %, and the servers would read it."""
    if "%" in address:
        raise ValueError("an address has no zone here")


def check_client(key: str, client: str) -> None:
    """Raise UsageError unless `client` is an IP address or a network."""
    try:
        _check_unscoped(client)
        ipaddress.ip_network(client)
    except ValueError as error:
        raise UsageError(f"{key}: {client!a} is no address or network, as 10.0.0.7 or 10.0.0.0/24 ({error})") from None
