"""ganesha.conf and its idmapd.conf, made from a description. Pure text; nfs-ganesha 4 with FSAL_VFS.

Facts that the lines rest on: ganesha keeps directory listings and attributes of its own for ever unless it is told not to, and other
servers and programs change the same tree; a handle holds the export's id and the id of the filesystem; versions 4.x need neither rpcbind
nor DBus. Source of the options: ganesha-core-config(8), ganesha-export-config(8), ganesha-cache-config(8).
"""

from __future__ import annotations

import ipaddress
import sysconfig
from pathlib import Path

from anqfs.export.description import EVERYONE, Description, Kerberos, NfsExport
from anqfs.export.layout import Layout

NOBODY = 65534
_SQUASH = {"root": "Root_Squash", "all": "All_Squash", "none": "No_Root_Squash"}
_ACCESS = {"read-only": "RO", "read-write": "RW"}


def _protocols(description: Description) -> str:
    return ", ".join(dict.fromkeys(version[0] for version in description.nfs.versions))


def plugins() -> str:
    """Return the directory of ganesha's modules, where this distribution puts it."""
    triplet = sysconfig.get_config_var("MULTIARCH") or "x86_64-linux-gnu"
    candidates = [f"/usr/lib/{triplet}/ganesha", "/usr/lib64/ganesha", "/usr/lib/ganesha"]
    return next((path for path in candidates if Path(path).is_dir()), candidates[0])


def configuration(description: Description, layout: Layout) -> str:
    """Return the text of ganesha.conf."""
    blocks = [
        "# Made by `anqfs export` from export.toml: change that file, not this one.\n",
        _core(description),
        _version_4(description, layout),
        _kerberos(description.nfs.kerberos, layout),
        _CACHE,
        _defaults(description),
        *(_export(description, export) for export in sorted(description.nfs.export, key=lambda one: one.id)),
        _LOG,
    ]
    return "\n".join(blocks)


def _core(description: Description) -> str:
    nfs = description.nfs
    bind = (
        "# No Bind_addr: it listens on every address of this machine."
        if description.bind in EVERYONE
        else f"# It listens there only: no other network of this machine is answered.\n  Bind_addr = {description.bind};"
    )
    return f"""NFS_CORE_PARAM {{
  Protocols = {_protocols(description)};
  NFS_Port = {nfs.port};
  # The port of version 3's mount protocol is fixed, so that a firewall can name it.
  MNT_Port = {nfs.mountd_port};
  {bind}
  # Version 3 mounts SERVER:/NAME, too, and never learns where the volume is mounted here.
  mount_path_pseudo = true;
  Enable_UDP = false;
  # No locks over version 3 (clients mount with nolock): its lock daemons know nothing of leases, and of this volume's other clients.
  Enable_NLM = false;
  Enable_RQUOTA = false;
  Plugins_Dir = "{plugins()}";
}}
"""


def _version_4(description: Description, layout: Layout) -> str:
    nfs = description.nfs
    minors = ", ".join(version[2:] for version in sorted(nfs.versions) if version.startswith("4.")) or "1"
    users = f'\n  # Which principal is which user.\n  IdmapConf = "{layout.idmapd_conf}";' if nfs.kerberos is not None else ""
    return f"""NFSv4 {{
  Minor_Versions = {minors};
  # After a start, clients get their opens and locks back before anyone else can take them.
  Graceless = false;
  Grace_Period = {nfs.grace_seconds};
  Lease_Lifetime = {nfs.lease_seconds};
  RecoveryBackend = fs;
  # The clients that hold state are noted here: only they may reclaim.
  RecoveryRoot = "{layout.nfs_recovery}";
  # A delegated file would be changed by a client unseen by Samba and by local programs.
  Delegations = false;
  # Owners travel as numbers: the name of a principal that is somebody else here is no user to a client.
  Only_Numeric_Owners = true;
  Allow_Numeric_Owners = true;{users}
}}
"""


def _kerberos(kerberos: Kerberos | None, layout: Layout) -> str:
    if kerberos is None:
        return "NFS_KRB5 {\n  Active_krb5 = false;\n}\n"
    return f"""NFS_KRB5 {{
  Active_krb5 = true;
  PrincipalName = "{kerberos.principal}";
  KeytabPath = "{kerberos.keytab}";
  CCacheDir = "{layout.nfs_credentials}";
}}
"""


_CACHE = """MDCACHE {
  # Keep no directory listings: others change these directories, and ganesha would never notice.
  Dir_Chunk = 0;
}
"""


def _defaults(description: Description) -> str:
    return f"""EXPORT_DEFAULTS {{
  Protocols = {_protocols(description)};
  # Keep no attributes: what Samba or a local program changed shows at once.
  Attr_Expiration_Time = 0;
  # An export answers nobody but the clients it lists.
  Access_Type = None;
  Squash = Root_Squash;
  Anonymous_uid = {NOBODY};
  Anonymous_gid = {NOBODY};
  Transports = TCP;
  PrivilegedPort = false;
}}
"""


_LOG = """LOG {
  Default_Log_Level = EVENT;
}
"""


def _client(client: str) -> str:
    network = ipaddress.ip_network(client)
    if network.prefixlen == 0:
        return "*"
    return str(network.network_address) if network.num_addresses == 1 else str(network)


def _export(description: Description, export: NfsExport) -> str:
    clients = ", ".join(dict.fromkeys(_client(client) for client in export.clients))
    allowed = (
        f"CLIENT {{ Clients = {clients}; Access_Type = {_ACCESS[export.access]}; }}"
        if clients
        else "# No client is listed in export.toml: nobody may mount this."
    )
    return f"""EXPORT {{
  # It is in every handle that clients hold: never give it to another export.
  Export_Id = {export.id};
  Path = "{description.directory(export)}";
  Pseudo = "/{export.name}";
  SecType = {", ".join(export.security)};
  Squash = {_SQUASH[export.squash]};
  Access_Type = None;
  {allowed}
  FSAL {{ Name = VFS; }}
}}
"""


def identities(kerberos: Kerberos) -> str:
    """Return the text of idmapd.conf: principals to Unix users. Source: idmapd.conf(5)."""
    general = [f"Domain = {kerberos.domain}"] if kerberos.domain else []
    general += [f"Local-Realms = {kerberos.realm}"] if kerberos.realm else []
    return "\n".join(
        [
            "# Made by `anqfs export` from the table [nfs.kerberos] of export.toml: change that file, not this one.",
            "[General]",
            *general,
            "[Mapping]",
            "# Who is not known here is nobody.",
            "Nobody-User = nobody",
            "Nobody-Group = nogroup",
            "[Translation]",
            "Method = static,nsswitch",
            "GSS-Methods = static,nsswitch",
            "[Static]",
            *(f"{principal} = {user}" for principal, user in sorted(kerberos.users.items())),
            "",
        ]
    )
