"""`anqfs api user|token ...` and `anqfs serve`: who may use the API, and letting it be reached from the network."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from anqfs.cli import output
from anqfs.cli.removal import about_to_go
from anqfs.cli.snapshot_commands import DryRun, daemon_of
from anqfs.control import wire
from anqfs.errors import NotFound, UsageError

_HELP = """The API: its users and their access tokens.

The daemon of a mounted volume speaks ANQ's REST API on a Unix socket that only root can open; the commands of anqfs use it. Over the
network there is nothing before `anqfs serve` runs, and then TLS and a token for each request.

\b
  anqfs api user add admin --password-file /root/admin.password
  anqfs serve /archive --listen 127.0.0.1:8000 --tls-self-signed
  qq --host 127.0.0.1 login -u admin          (the vendor's client, from PyPI: qumulo-api)

Users live in the volume and come with it wherever it is mounted. They act as root of the volume: modes and ACLs do not hold them back.
"""

app = typer.Typer(help=_HELP, no_args_is_help=True)
users = typer.Typer(help="Add, list and remove users of the API, and set their passwords. The first is admin.", no_args_is_help=True)
tokens = typer.Typer(help="Make, list and revoke access tokens: what programs log in with.", no_args_is_help=True)
app.add_typer(users, name="user")
app.add_typer(tokens, name="token")

Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
OfMount = Annotated[str | None, typer.Option("--mountpoint", metavar="MOUNTPOINT", help="The volume, when several are mounted.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The user's name.")]
PasswordFile = Annotated[
    str | None, typer.Option("--password-file", metavar="FILE", help="A file whose first line is the password; else it is asked for.")
]


def _password(path: str | None, name: str) -> str:
    from anqfs.cli.secret_options import ask, from_files

    found = from_files(None, path)
    secret = found if found is not None else ask(f"Password of {name}", twice=True)
    return secret.material.decode("utf-8", "surrogateescape")


def _user(daemon: Any, name: str) -> dict[str, Any]:
    """Return a user by name. Raises NotFound, Damaged for the id of one whose record is damaged."""
    for user in daemon.get("/v1/users/"):
        if user["name"] == name:
            found: dict[str, Any] = user
            return found
    if name.isascii() and name.isdigit():
        daemon.get(f"/v1/users/{name}")  # it is not listed: this raises why
    raise NotFound(f"there is no API user {wire.shown(name)}: `anqfs api user list` shows them")


@users.command("add")
def user_add(
    name: Name,
    password_file: PasswordFile = None,
    role: Annotated[
        str, typer.Option("--role", metavar="ROLE", help="Administrators may do everything; Observers may look, but not into files.")
    ] = "Administrators",
    mountpoint: OfMount = None,
    json: Json = False,
) -> None:
    """Add a user of the API. The first one is admin.

    Examples:

    \b
      anqfs api user add admin --password-file /root/admin.password --mountpoint /archive
      anqfs api user add monitoring --role Observers
    """
    daemon = daemon_of(mountpoint)
    body = {"name": name, "role": role, "password": _password(password_file, name)}
    made = daemon.post("/v1/users/", body)
    if json:
        output.json_document(made)
    else:
        output.say(f"added API user {name} (id {made['id']}, {made['role']})")


@users.command("passwd")
def user_passwd(name: Name, password_file: PasswordFile = None, mountpoint: OfMount = None) -> None:
    """Set a user's password. The user's sessions end; access tokens stay.

    Examples:

    \b
      anqfs api user passwd admin --password-file /root/admin.password
    """
    daemon = daemon_of(mountpoint)
    user = _user(daemon, name)
    daemon.post(f"/v1/users/{user['id']}/setpassword", {"new_password": _password(password_file, name)})


@users.command("remove")
def user_remove(name: Name, dry_run: DryRun = False, mountpoint: OfMount = None) -> None:
    """Remove a user with all sessions and access tokens. The last administrator cannot be removed.

    One whose record is damaged (the log tells) is named by its id.

    Examples:

    \b
      anqfs api user remove monitoring
    """
    daemon = daemon_of(mountpoint)
    user = about_to_go(lambda: _user(daemon, name), lambda: {"id": name, "access_tokens": "all"})
    if dry_run:
        output.say(f"API user {name} would be removed, with {user['access_tokens']} access tokens")
        return
    daemon.delete(f"/v1/users/{user['id']}")


@users.command("list")
def user_list(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Only this user.")] = None,
    mountpoint: OfMount = None,
    json: Json = False,
) -> None:
    """List the users of the API.

    Examples:

    \b
      anqfs api user list --json
    """
    daemon = daemon_of(mountpoint)
    found = daemon.get("/v1/users/") if name is None else [_user(daemon, name)]
    if json:
        output.json_document(found)
        return
    rows = [(one["id"], one["name"], one["role"], str(one["access_tokens"]), one["password_last_changed"]) for one in found]
    output.table(("ID", "NAME", "ROLE", "TOKENS", "PASSWORD SET"), rows)


# --- access tokens


@tokens.command("create")
def token_create(
    name: Name,
    expires: Annotated[
        str | None, typer.Option("--expires", metavar="TIME", help="When it ends, as 2027-01-31T12:00:00Z; without it, never.")
    ] = None,
    mountpoint: OfMount = None,
    json: Json = False,
) -> None:
    """Make an access token for a user and print it. It is shown this once: the volume keeps only a digest.

    A program sends it as `Authorization: Bearer TOKEN`.

    Examples:

    \b
      anqfs api token create admin --expires 2027-01-31T12:00:00Z
    """
    body: dict[str, Any] = {"user": {"name": name}}
    if expires is not None:
        body["expiration_time"] = expires
    made = daemon_of(mountpoint).post("/v1/auth/access-tokens/", body)
    if json:
        output.json_document(made)
    else:
        output.say(made["bearer_token"])


@tokens.command("list")
def token_list(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Only this user's.")] = None,
    mountpoint: OfMount = None,
    json: Json = False,
) -> None:
    """List the access tokens, not what they are.

    Examples:

    \b
      anqfs api token list admin
    """
    daemon = daemon_of(mountpoint)
    found: list[dict[str, Any]] = []
    page = daemon.get("/v1/auth/access-tokens/", **({} if name is None else {"user": _user(daemon, name)["id"]}))
    found += page["entries"]
    while page["paging"]["next"]:
        page = daemon.get(page["paging"]["next"])
        found += page["entries"]
    if json:
        output.json_document(found)
        return
    rows = [
        (one["id"], one["user"]["name"], one["creation_time"], one["expiration_time"] or "never", "" if one["enabled"] else "disabled")
        for one in found
    ]
    output.table(("ID", "USER", "CREATED", "EXPIRES", ""), rows)


@tokens.command("revoke")
def token_revoke(
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Their ids in `anqfs api token list`.")],
    dry_run: DryRun = False,
    mountpoint: OfMount = None,
) -> None:
    """Revoke access tokens, at once.

    Examples:

    \b
      anqfs api token revoke 90d7a5a6b1e2c3d4
    """
    from urllib.parse import quote

    daemon = daemon_of(mountpoint)
    for number in dict.fromkeys(ids):
        path = f"/v1/auth/access-tokens/{quote(number, '')}"
        if dry_run:
            daemon.get(path)
            output.say(f"access token {wire.shown(number)} would be revoked")
        else:
            daemon.delete(path)


# --- the network


def serve(
    mountpoint: Annotated[str, typer.Argument(metavar="MOUNTPOINT", help="Where the volume is mounted.")],
    listen: Annotated[str, typer.Option("--listen", metavar="HOST:PORT", help="The address to listen on.")] = "127.0.0.1:8000",
    tls_cert: Annotated[str | None, typer.Option("--tls-cert", metavar="FILE", help="The certificate with its chain, PEM.")] = None,
    tls_key: Annotated[str | None, typer.Option("--tls-key", metavar="FILE", help="Its private key, PEM, not encrypted.")] = None,
    tls_self_signed: Annotated[
        bool, typer.Option("--tls-self-signed", help="Make a certificate; kept in --tls-cert and --tls-key if they are named.")
    ] = False,
) -> None:
    """Let the API of a mounted volume be reached from the network, with TLS and tokens, until Ctrl-C or the volume is unmounted.

    It stays in the foreground. It needs a user who may log in: `anqfs api user add admin`. Without TLS nothing is ever served. As root it
    gives up all rights once it listens: it holds no key and no volume, it relays to the daemon, which asks for a token each time.

    Examples:

    \b
      anqfs serve /archive --listen 0.0.0.0:8000 --tls-cert /etc/ssl/archive.pem --tls-key /etc/ssl/private/archive.key
      anqfs serve /archive --tls-self-signed
    """
    import logging
    import sys

    from anqfs.control import client, launch, locate, relay

    entry = locate.by_mount_point(mountpoint) or locate.by_path(mountpoint)
    place = relay.place_of(listen)
    context, fingerprint = relay.context_of(place, tls_cert, tls_key, self_signed=tls_self_signed)
    if not client.Client(entry).get("/v1/users/"):
        raise UsageError("nobody could log in: add the first user with `anqfs api user add admin`, then serve again")
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    server = relay.Relay(entry, context, relay.listeners(place))

    def ready(addresses: list[str]) -> None:
        output.say(f"serving {wire.shown(entry.mountpoint)} on {', '.join(addresses)}")
        output.say(f"the certificate's SHA-256 fingerprint is {fingerprint}")
        output.flush()
        launch.tell_service_manager("READY=1")

    server.run(ready)
