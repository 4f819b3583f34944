"""smb.conf, made from a description. Pure text; Samba 4.17 and later. Source of the options: smb.conf(5), vfs_*(8).

Facts that the lines rest on: comments stand on lines of their own; Samba keeps NT ACLs, streams and DOS attributes in extended
attributes; locks have to be the kernel's, because NFS clients and local programs take the same ones; what a client caches under an oplock
or a lease is not seen by those others.
"""

from __future__ import annotations

import ipaddress

from anqfs.export.description import EVERYONE, Description, SmbShare
from anqfs.export.layout import Layout

MODULES = ("shadow_copy2", "catia", "fruit", "streams_xattr", "acl_xattr", "glusterfs_fuse")
"""In this order: each sees what the ones before it left. The last asks the filesystem for a name in any case, which costs the same in
directories of any size. full_audit comes first when it is wanted, so that it sees what clients ask for."""
AUDITED = (
    "connect",
    "disconnect",
    "create_file",
    "openat",
    "mkdirat",
    "unlinkat",
    "renameat",
    "pwrite",
    "ftruncate",
    "fset_nt_acl",
    "fchmod",
)
_LOG_KIB = 20_000
_ENCRYPT = {"required": "required", "desired": "desired", "off": "off"}


def configuration(description: Description, layout: Layout) -> str:
    """Return the text of smb.conf."""
    shares = [line for share in description.smb.share for line in ("", f"[{share.name}]", *_share(description, share, layout))]
    head = ["# Made by `anqfs export` from export.toml: change that file, not this one.", "[global]"]
    return "\n".join([*head, *_global(description, layout), *shares, ""])


def snapshots(mode: str) -> str:
    """Return what each share includes for a snapshot directory mode of the volume: visible, hidden, disabled.

    The filesystem itself shows `.snapshot` to smbd in the root of a share, or not. Previous versions do not go through what is vetoed.
    """
    if mode != "disabled":
        return f"# .snapshot is {mode}: nothing is vetoed.\n"
    return "# .snapshot is disabled: clients do not find it, only previous versions.\nveto files = /.snapshot/\n"


def _global(description: Description, layout: Layout) -> list[str]:
    smb = description.smb
    return [
        "  server role = standalone server",
        f"  workgroup = {smb.workgroup}",
        "  # No NetBIOS: names come from DNS, and only this port is open.",
        "  disable netbios = yes",
        f"  smb ports = {smb.port}",
        *_interfaces(description.bind),
        "  # Everything Samba keeps is here; together, because user ids are cached beside the accounts.",
        *(f"  {key} = {path}" for key, path in layout.smb_directories().items()),
        f"  passdb backend = tdbsam:{layout.smb}/private/passdb.tdb",
        f"  log file = {layout.smb}/log/smbd.log",
        f"  max log size = {_LOG_KIB}",
        *_logging(layout, smb.audit),
        *_encryption(description),
        "  # No guests: an unknown user is refused, not made into somebody.",
        "  map to guest = never",
        "  restrict anonymous = 2",
        *_WITHOUT_PRINTERS,
        *_ATTRIBUTES,
        *_LOCKS,
    ]


def _logging(layout: Layout, audit: bool) -> list[str]:
    if not audit:
        return ["  log level = 1"]
    return [
        "  # The access audit has a file of its own, each line with its time.",
        f"  log level = 1 full_audit:1@{layout.smb_audit}",
        "  debug prefix timestamp = yes",
    ]


def _interfaces(bind: str) -> list[str]:
    if bind in EVERYONE:
        return ["  # It listens on every address of this machine."]
    return ["  # It listens there and nowhere else.", f"  interfaces = {bind}", "  bind interfaces only = yes"]


def _encryption(description: Description) -> list[str]:
    wanted = {share.encrypt for share in description.smb.share}
    if wanted == {"off"}:
        level = ["  # No share below encrypts.", "  server smb encrypt = off"]
    elif wanted <= {"required"}:
        level = ["  # A client that does not encrypt is refused.", "  server smb encrypt = required"]
    else:
        level = [
            "  # The shares below differ. Encryption belongs to the session: whoever can encrypts all of it.",
            "  server smb encrypt = desired",
        ]
    return [
        "  # SMB 3.1.1 only: earlier dialects have weaker encryption, or none, and can be talked down to it.",
        "  server min protocol = SMB3_11",
        "  server smb3 encryption algorithms = AES-256-GCM",
        *level,
        "  server signing = mandatory",
    ]


_WITHOUT_PRINTERS = [
    "  # No printers.",
    "  load printers = no",
    "  printing = bsd",
    "  printcap name = /dev/null",
    "  disable spoolss = yes",
]
_ATTRIBUTES = [
    "  # DOS attributes and EAs are extended attributes; the execute bits of a mode mean nothing else than themselves.",
    "  ea support = yes",
    "  store dos attributes = yes",
    "  map archive = no",
    "  map hidden = no",
    "  map system = no",
    "  map readonly = no",
]
_LOCKS = [
    "  # Locks are the kernel's, hence shared with NFS and local programs, and looked at on every access.",
    "  posix locking = yes",
    "  strict locking = yes",
    "  # Nothing is cached by clients: others may change the same files, and nobody could call the cache back.",
    "  kernel oplocks = no",
    "  kernel share modes = no",
    "  oplocks = no",
    "  level2 oplocks = no",
    "  smb2 leases = no",
]


def _share(description: Description, share: SmbShare, layout: Layout) -> list[str]:
    audit = description.smb.audit
    return [
        f"  path = {description.directory(share)}",
        f"  read only = {'yes' if share.access == 'read-only' else 'no'}",
        f"  server smb encrypt = {_ENCRYPT[share.encrypt]}",
        *_who(share),
        f"  vfs objects = {' '.join((*(('full_audit',) if audit else ()), *MODULES))}",
        "  # Previous versions: any snapshot of any directory, found by its time in the hidden .snapshot/@GMT of each.",
        "  shadow:snapdir = .snapshot/@GMT",
        "  shadow:snapdirseverywhere = yes",
        "  shadow:format = @GMT-%Y.%m.%d-%H.%M.%S",
        "  shadow:localtime = no",
        "  shadow:sort = desc",
        "  # How .snapshot shows: see `anqfs settings`.",
        f"  include = {layout.smb_snapshots_conf}",
        "  # What Macs keep beside a file is a stream of it.",
        "  fruit:metadata = stream",
        "  fruit:resource = stream",
        "  fruit:encoding = native",
        *(_audit() if audit else ()),
    ]


def _who(share: SmbShare) -> list[str]:
    clients = [_client(client) for client in share.clients]
    lines = [
        "  # Who is not listed is refused, this machine included.",
        "  hosts deny = ALL",
        *([f"  hosts allow = {' '.join(dict.fromkeys(clients))}"] if clients else []),
    ]
    return [*lines, f"  valid users = {' '.join(share.users)}"] if share.users else lines


def _client(client: str) -> str:
    network = ipaddress.ip_network(client)
    if network.prefixlen == 0:
        return "ALL"
    return str(network.network_address) if network.num_addresses == 1 else str(network)


def _audit() -> list[str]:
    return [
        "  # user|address|share before each line of the access audit.",
        "  full_audit:syslog = false",
        "  full_audit:prefix = %u|%I|%S",
        f"  full_audit:success = {' '.join(AUDITED)}",
        "  full_audit:failure = connect openat create_file",
    ]
