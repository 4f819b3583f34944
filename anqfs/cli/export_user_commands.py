"""`anqfs export user`: who may connect over SMB."""

from __future__ import annotations

from typing import Annotated

import typer

from anqfs.cli import output
from anqfs.cli.secret_options import obtain
from anqfs.cli.snapshot_commands import DryRun
from anqfs.errors import NotFound

app = typer.Typer(help="Add, remove and list SMB users.", no_args_is_help=True, rich_markup_mode=None)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The user; a Unix user of this name has to exist.")]
ByOption = Annotated[str | None, typer.Option("--mountpoint", metavar="M", help="Which volume, when several have exports.")]


@app.command()
def add(
    name: Name,
    password_file: Annotated[
        str | None, typer.Option("--password-file", metavar="FILE", help="A file whose first line is the password.")
    ] = None,
    mountpoint: ByOption = None,
) -> None:
    """Add an SMB user, or give one a new password. Without a file the password is asked for twice on the terminal.

    Over SMB the user has the rights of the Unix user of the same name.

    Examples:

    \b
      useradd -M -s /usr/sbin/nologin alice
      anqfs export user add alice
      anqfs export user add alice --password-file /root/alice.password --mountpoint /archive
    """
    from anqfs.control import exports

    layout = exports.of_mount_point(mountpoint)
    secret = obtain(None, password_file, f"New SMB password for {name}", twice=True)
    exports.add_user(layout, name, secret.material)


@app.command()
def remove(name: Name, dry_run: DryRun = False, mountpoint: ByOption = None) -> None:
    """Remove an SMB user. The Unix user stays. Sessions that are open go on until they end.

    Examples:

    \b
      anqfs export user remove alice
    """
    from anqfs.control import exports

    layout = exports.of_mount_point(mountpoint)
    if dry_run:
        if name not in exports.user_names(layout):
            raise NotFound(f"{name}: is no SMB user: see `anqfs export user list`")
        output.say(f"SMB user {name} would be removed")
        return
    exports.remove_user(layout, name)


@app.command("list")
def list_users(
    mountpoint: ByOption = None, json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False
) -> None:
    """List the SMB users.

    Examples:

    \b
      anqfs export user list --json
    """
    from anqfs.control import exports

    found = exports.user_names(exports.of_mount_point(mountpoint))
    if json:
        output.json_document(found)
    else:
        for name in found:
            output.say(name)
