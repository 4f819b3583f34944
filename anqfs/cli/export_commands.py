"""`anqfs export`: serving a mounted volume over NFS and SMB."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from anqfs.cli import export_user_commands, output
from anqfs.cli.snapshot_commands import DryRun
from anqfs.control import wire
from anqfs.errors import UsageError

_TOUR = """Serve a mounted volume over NFS and SMB, with nfs-ganesha and Samba.

Nothing is exported until you say so, to nobody until you name clients, and only on the address you give:

\b
  anqfs mount /srv/archive.store /archive --key-file /root/archive.key --fsid-device
  anqfs export init /archive --bind 10.0.0.5
  anqfs export add nfs /archive --name archive --read-write --clients 10.0.0.0/24
  anqfs export add smb /archive/studies --name studies --read-write --clients 10.0.0.0/24
  anqfs export user add alice
  anqfs export start /archive
  anqfs export status /archive

Clients then mount 10.0.0.5:/archive, and \\\\10.0.0.5\\studies as alice.

One TOML file says what is exported to whom; the commands change it and keep your comments. `anqfs umount` stops the servers first.
"""
app = typer.Typer(help=_TOUR, no_args_is_help=True, rich_markup_mode=None)
add_app = typer.Typer(help="Export a directory over NFS or SMB.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(add_app, name="add")
app.add_typer(export_user_commands.app, name="user")

Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
MountPoint = Annotated[str, typer.Argument(metavar="MOUNTPOINT", help="Where the volume is mounted.")]
ByOption = Annotated[str | None, typer.Option("--mountpoint", metavar="M", help="Which volume, when several have exports.")]
Path = Annotated[str, typer.Argument(metavar="PATH", help="A directory in a mounted volume.")]
Name = Annotated[str, typer.Option("--name", metavar="N", help="What clients call it.")]
ReadWrite = Annotated[bool, typer.Option("--read-write/--read-only", help="Whether clients may change anything.")]
Clients = Annotated[
    list[str] | None, typer.Option("--clients", metavar="CIDR,...", help="Addresses and networks that may connect. None: nobody.")
]
KindArgument = Annotated[str, typer.Argument(metavar="nfs|smb", help="Which server.")]


def _listed(values: list[str] | None) -> tuple[str, ...]:
    return tuple(part.strip() for value in values or [] for part in value.split(",") if part.strip())


def _kind(word: str) -> Any:
    if word not in ("nfs", "smb"):
        raise UsageError(f"{word!a} is neither nfs nor smb")
    return word


@app.command()
def init(
    mountpoint: MountPoint,
    directory: Annotated[
        str | None, typer.Option("--dir", metavar="CONFDIR", help="Where its files go; else below /etc/anqfs/export.")
    ] = None,
    bind: Annotated[
        str, typer.Option("--bind", metavar="ADDR", help="The address the servers listen on; 0.0.0.0: every one.")
    ] = "127.0.0.1",
    nfs_port: Annotated[int, typer.Option("--nfs-port", metavar="PORT")] = 2049,
    smb_port: Annotated[int, typer.Option("--smb-port", metavar="PORT")] = 445,
) -> None:
    """Begin: make the file that says what is exported of a mounted volume. Nothing is, at first.

    CONFDIR gets export.toml, the generated configuration, and the servers' private state. Without --bind only this machine can connect.

    Examples:

    \b
      anqfs export init /archive --bind 10.0.0.5
      anqfs export init /archive --dir /srv/archive.export --bind 127.0.0.1 --nfs-port 12049 --smb-port 1445
    """
    from anqfs.control import exports

    layout = exports.init(mountpoint, directory, bind, nfs_port, smb_port)
    output.say(f"made {wire.shown(str(layout.file))}; nothing is exported yet: see `anqfs export add --help`")


@add_app.command("nfs")
def add_nfs(
    path: Path,
    name: Name,
    read_write: ReadWrite = False,
    root_squash: Annotated[bool, typer.Option("--root-squash/--no-root-squash", help="Whether root on a client is nobody here.")] = True,
    clients: Clients = None,
    sec: Annotated[
        list[str] | None, typer.Option("--sec", metavar="sys|krb5|krb5i|krb5p", help="How clients authenticate; krb5p also encrypts.")
    ] = None,
) -> None:
    """Export a directory over NFS: clients mount SERVER:/NAME.

    Read-only and with root squashed unless you say otherwise. With --sec sys a client is believed who its users are, and nothing is
    encrypted: for networks you trust, or a tunnel. krb5p needs a table [nfs.kerberos] in export.toml.

    A server that runs serves it at once.

    Examples:

    \b
      anqfs export add nfs /archive --name archive --read-write --clients 10.0.0.0/24
      anqfs export add nfs /archive/pacs --name pacs --clients 10.0.0.7,10.0.1.0/24
      anqfs export add nfs /archive --name sealed --read-write --sec krb5p --clients 10.0.0.0/24
    """
    from anqfs.control import exports

    who = _listed(clients)
    added = exports.add_nfs(path, name, read_write=read_write, clients=who, root_squash=root_squash, security=_listed(sec) or ("sys",))
    _added(*added, name, who)


@add_app.command("smb")
def add_smb(
    path: Path,
    name: Name,
    read_write: ReadWrite = False,
    clients: Clients = None,
    users: Annotated[list[str] | None, typer.Option("--users", metavar="USER,...", help="Who may connect. None: every SMB user.")] = None,
    encrypt: Annotated[
        str, typer.Option("--encrypt", metavar="required|desired|off", help="Whether clients must encrypt (AES-256-GCM).")
    ] = "required",
) -> None:
    """Export a directory over SMB: clients connect to \\\\SERVER\\NAME.

    SMB 3.1.1 only, encrypted unless you say otherwise. Users are made with `anqfs export user add`. Snapshots are Previous Versions.

    Examples:

    \b
      anqfs export add smb /archive/studies --name studies --read-write --clients 10.0.0.0/24
      anqfs export add smb /archive --name audit --clients 10.0.0.9 --users alice,bob
    """
    from anqfs.control import exports

    who = _listed(clients)
    _added(*exports.add_smb(path, name, read_write=read_write, clients=who, users=_listed(users), encrypt=encrypt), name, who)


def _added(layout: Any, served: bool, name: str, clients: tuple[str, ...]) -> None:
    who = f"for {', '.join(clients)}" if clients else "for nobody yet: name clients in export.toml"
    what = "it is served now" if served else "`anqfs export start` serves it"
    output.say(f"added {name} to {wire.shown(str(layout.file))}, {who}; {what}")


@app.command()
def remove(
    kind: KindArgument, name: Annotated[str, typer.Argument(metavar="NAME")], dry_run: DryRun = False, mountpoint: ByOption = None
) -> None:
    """Export something no longer. A server that runs stops serving it; clients that have it mounted get errors.

    Examples:

    \b
      anqfs export remove nfs archive
    """
    from anqfs.control import exports

    layout = exports.of_mount_point(mountpoint)
    if dry_run:
        export = exports.one(layout, _kind(kind), name)
        output.say(f"{wire.shown(export['path'])} would be exported over {kind} as {name} no longer")
        return
    exports.remove(layout, _kind(kind), name)


@app.command("list")
def list_exports(mountpoint: ByOption = None, json: Json = False) -> None:
    """List what is exported, to whom.

    Examples:

    \b
      anqfs export list
      anqfs export list --mountpoint /archive --json
    """
    from anqfs.control import exports

    found = exports.listing(exports.of_mount_point(mountpoint))
    if json:
        output.json_document(found)
        return
    if not found:
        output.say("nothing is exported")
        return
    rows = [
        (one["kind"], one["name"], wire.shown(one["path"]), one["access"], ", ".join(one["clients"]) or "nobody", _terms(one))
        for one in found
    ]
    output.table(("KIND", "NAME", "PATH", "ACCESS", "CLIENTS", "TERMS"), rows)


def _terms(export: dict[str, Any]) -> str:
    if export["kind"] == "smb":
        return f"encryption {export['encrypt']}" + (f", users {', '.join(export['users'])}" if export["users"] else "")
    return f"sec {','.join(export['security'])}, squash {export['squash']}"


@app.command()
def show(
    kind: Annotated[str | None, typer.Argument(metavar="[nfs|smb]")] = None,
    name: Annotated[str | None, typer.Argument(metavar="[NAME]")] = None,
    mountpoint: ByOption = None,
    json: Json = False,
) -> None:
    """Show one export, or everything export.toml says, once it is understood.

    Examples:

    \b
      anqfs export show
      anqfs export show nfs archive --json
    """
    from anqfs.control import exports

    layout = exports.of_mount_point(mountpoint)
    document = exports.whole(layout) if kind is None else exports.one(layout, _kind(kind), name or "")
    if json:
        output.json_document(document)
    else:
        output.facts(_lines("", document))


def _lines(above: str, document: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the leaves of a document with their names in the file."""
    found: list[tuple[str, str]] = []
    for key, value in document.items():
        if isinstance(value, dict):
            found += _lines(f"{above}{key}.", value)
        elif isinstance(value, list | tuple) and value and isinstance(value[0], dict):
            found += [line for one in value for line in _lines(f"{above}{key}.{one['name']}.", one) if not line[0].endswith(".name")]
        else:
            found.append((f"{above}{key}", ", ".join(value) or "-" if isinstance(value, list | tuple) else str(value)))
    return found


@app.command()
def start(
    mountpoint: MountPoint,
    foreground: Annotated[bool, typer.Option("--foreground", help="Stay; log to stderr; stop the servers on SIGTERM or Ctrl-C.")] = False,
) -> None:
    """Start the servers. Returns when all of them answer; a supervisor in the background starts again whichever dies.

    The volume has to be mounted. If it goes away, the servers are stopped until it is back.

    Examples:

    \b
      anqfs export start /archive
      anqfs export start /archive --foreground
    """
    from anqfs.control import exports

    layout = exports.of_mount_point(mountpoint)
    if foreground:
        raise typer.Exit(exports.stay(layout))
    exports.start(layout)


@app.command()
def stop(mountpoint: MountPoint) -> None:
    """Stop the servers and their supervisor. Returns when they are gone; it is no error when none runs.

    Examples:

    \b
      anqfs export stop /archive
    """
    from anqfs.control import exports

    if not exports.stop(exports.of_mount_point(mountpoint)):
        output.say("no servers run")


@app.command()
def restart(mountpoint: MountPoint) -> None:
    """Stop the servers and start them again, as after changing an address or a port in export.toml. NFS clients get their locks back.

    Examples:

    \b
      anqfs export restart /archive
    """
    from anqfs.control import exports

    layout = exports.of_mount_point(mountpoint)
    exports.stop(layout)
    exports.start(layout)


@app.command()
def status(mountpoint: MountPoint, json: Json = False) -> None:
    """Show whether the servers run, where they listen, how often they were started again and why.

    Examples:

    \b
      anqfs export status /archive
      anqfs export status /archive --json
    """
    from anqfs.control import exports

    document = exports.status(exports.of_mount_point(mountpoint))
    if json:
        output.json_document(document)
        return
    output.facts(
        [
            ("mountpoint", wire.shown(document["mountpoint"])),
            ("directory", wire.shown(document["directory"])),
            ("exports", ", ".join(f"{number} {kind}" for kind, number in document["exports"].items())),
            ("servers", output.servers_line(document)),
            *((one["server"], _server_line(one)) for one in document["servers"]),
            ("NFS handles", _HANDLES[document["lasting_handles"]]),
        ]
    )


_HANDLES = {True: "outlast a remount", False: "are lost with this mount: mount with --fsid-device, and clients go on after a remount"}


def _server_line(server: dict[str, Any]) -> str:
    line = f"{server['state']}, {server['address']} port {server['port']}, pid {server['pid'] or '-'}, restarts {server['restarts']}"
    if server["last_error"]:
        line += f"; last error: {server['last_error']}"
    return f"{line}; next try {server['next_try']}" if server["next_try"] else line


@app.command()
def config(kind: KindArgument, mountpoint: ByOption = None) -> None:
    """Print the ganesha.conf or smb.conf that is made from export.toml, for those who run their own servers.

    Examples:

    \b
      anqfs export config nfs --mountpoint /archive > /etc/ganesha/ganesha.conf
    """
    from anqfs.control import exports

    output.say(exports.configuration(exports.of_mount_point(mountpoint), _kind(kind)).rstrip("\n"))
