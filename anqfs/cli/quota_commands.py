"""`anqfs quota set|list|show|remove`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anqfs.cli import output
from anqfs.cli.removal import about_to_go
from anqfs.cli.snapshot_commands import DryRun, directory_inode, naming
from anqfs.control import wire
from anqfs.errors import NotMounted, QuotaMissing

if TYPE_CHECKING:
    from anqfs.control.client import Client

app = typer.Typer(help="Limit how much a directory may hold.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
Directory = Annotated[str, typer.Argument(metavar="DIR", help="A directory in a mounted volume.")]
_QUOTAS = "/v1/files/quotas"


def _daemon(path: str) -> tuple[Client, int]:
    """Return who answers for a directory, and its id."""
    from anqfs.control import client, locate

    return client.Client(locate.by_path(path)), directory_inode(path)


def _document(status: dict[str, str]) -> dict[str, Any]:
    return {**status, "limit": int(status["limit"]), "capacity_usage": int(status["capacity_usage"])}


def _print(found: list[dict[str, Any]]) -> None:
    rows = []
    for one in found:
        limit, used = one["limit"], one["capacity_usage"]
        part = f"{100 * used / limit:.1f} %" if limit else "-"
        rows.append((one["id"], wire.shown(one["path"]), output.size(limit), output.size(used), part))
    output.table(("ID", "DIRECTORY", "LIMIT", "USED", ""), rows)


@app.command("set")
def set_(
    directory: Directory,
    limit: Annotated[str, typer.Argument(metavar="LIMIT", help="Bytes, or a number with a unit: 50GB, 1.5TiB.")],
    json: Json = False,
) -> None:
    """Give a directory a quota, or another limit. It takes effect at once; what is there already stays, however much it is.

    The limit is for all that is below the directory: bytes of file data held, and 4,096 for each name. Quotas may be nested: all that are
    above a file must allow a change, or it gets EDQUOT. A quota moves with its directory.

    Examples:

    \b
      anqfs quota set /archive/incoming 500GiB
      anqfs quota set /archive/incoming 1TB --json
    """
    size = output.size_of(limit)
    daemon, inode = _daemon(directory)
    body = {"id": str(inode), "limit": str(size)}
    with naming(directory):
        try:
            daemon.call("PUT", f"{_QUOTAS}/{inode}", body)
        except QuotaMissing:
            daemon.post(f"{_QUOTAS}/", body)
        status = _document(daemon.get(f"{_QUOTAS}/status/{inode}"))
    if json:
        output.json_document(status)
    else:
        output.say(f"{wire.shown(directory)}: {output.size(status['capacity_usage'])} of {output.size(status['limit'])} are taken")


@app.command("list")
def listing(
    path: Annotated[str | None, typer.Argument(metavar="PATH", help="Any path in a mounted volume; all volumes without it.")] = None,
    json: Json = False,
) -> None:
    """List all quotas of the volume that PATH is in, and how much of each is taken; without PATH those of all mounted volumes.

    Examples:

    \b
      anqfs quota list
      anqfs quota list /archive --json
    """
    from anqfs.control import client, locate, registry

    found: list[dict[str, Any]] = []
    if path is not None:
        found = _all(client.Client(locate.by_path(path)))
    for entry in registry.entries() if path is None else ():
        try:
            found += _all(client.Client(entry))
        except NotMounted:
            if registry.is_running(entry):
                raise
    if json:
        output.json_document(found)
    else:
        _print(found)


def _all(daemon: Client) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    target = f"{_QUOTAS}/status/"
    while target:
        page = daemon.get(target)
        found += [{**_document(one), "mountpoint": daemon.entry.mountpoint} for one in page["quotas"]]
        target = page["paging"]["next"]
    return found


@app.command()
def show(directory: Directory, json: Json = False) -> None:
    """Show the quotas that a directory counts for, its own and those above it, the nearest first.

    Examples:

    \b
      anqfs quota show /archive/incoming
    """
    from anqfs.control import client, locate

    entry = locate.by_path(directory)
    daemon = client.Client(entry)
    top, at, found = os.path.realpath(entry.mountpoint), os.path.realpath(directory), []
    while True:
        try:
            found.append(_document(daemon.get(f"{_QUOTAS}/status/{directory_inode(at)}")))
        except QuotaMissing:
            pass  # nothing to show of this one
        if at in (top, "/"):
            break
        at = os.path.dirname(at)
    if json:
        output.json_document(found)
    else:
        _print(found)


@app.command()
def remove(directory: Directory, dry_run: DryRun = False, json: Json = False) -> None:
    """Remove a directory's quota. Nothing else changes.

    Examples:

    \b
      anqfs quota remove /archive/incoming --dry-run
      anqfs quota remove /archive/incoming
    """
    daemon, inode = _daemon(directory)
    with naming(directory):
        status = about_to_go(
            lambda: _document(daemon.get(f"{_QUOTAS}/status/{inode}")),
            lambda: {"id": str(inode), "limit": None},
        )
        if not dry_run:
            daemon.delete(f"{_QUOTAS}/{inode}")
    if json:
        output.json_document({**status, "dry_run": dry_run})
    elif dry_run:
        limit = "unknown size, which is damaged," if status["limit"] is None else output.size(status["limit"])
        output.say(f"{wire.shown(directory)}: its quota of {limit} would be removed")
