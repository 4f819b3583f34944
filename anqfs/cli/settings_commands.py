"""`anqfs settings show|set`."""

from __future__ import annotations

from typing import Annotated

import typer

from anqfs.cli import output

app = typer.Typer(help="Show and change what was chosen for a mounted volume.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
Place = Annotated[str, typer.Argument(metavar="PATH", help="Any path in the mounted volume.")]


def _print(settings: dict[str, str], json: bool) -> None:
    if json:
        output.json_document(settings)
    else:
        output.facts((name.replace("_", " "), value) for name, value in settings.items())


@app.command()
def show(path: Place, json: Json = False) -> None:
    """Show the settings of the volume that PATH is in.

    Examples:

    \b
      anqfs settings show /archive
    """
    from anqfs.control import client, locate

    _print(client.Client(locate.by_path(path)).get("/anqfs/v1/settings"), json)


@app.command("set")
def change(
    path: Place,
    snapshot_directory_mode: Annotated[
        str | None,
        typer.Option("--snapshot-directory-mode", metavar="visible|hidden|disabled", help="How `.snapshot` shows over SMB."),
    ] = None,
    json: Json = False,
) -> None:
    """Change settings of the volume that PATH is in. They are kept with the volume.

    The snapshot directory mode is what SMB shares show of `.snapshot`: visible lists it in a share's root, hidden only finds it by name,
    and disabled does not find it. Previous versions work in each mode; the local mount and NFS are the same in each.

    Examples:

    \b
      anqfs settings set /archive --snapshot-directory-mode hidden
    """
    from anqfs.control import client, locate

    body = {} if snapshot_directory_mode is None else {"snapshot_directory_mode": snapshot_directory_mode}
    _print(client.Client(locate.by_path(path)).call("PATCH", "/anqfs/v1/settings", body), json)
