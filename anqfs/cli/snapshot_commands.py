"""`anqfs snapshot create|list|delete|restore`."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anqfs.cli import output
from anqfs.cli.watch import watch_job
from anqfs.control import wire
from anqfs.errors import FilesystemError, NotFound, NotMounted, UsageError

if TYPE_CHECKING:
    from anqfs.control.client import Client

app = typer.Typer(help="Take, list, lock, delete and restore snapshots of any directory.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
OfMount = Annotated[str | None, typer.Option("--mountpoint", metavar="MOUNTPOINT", help="The volume, when several are mounted.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only show what would be done.")]
Number = Annotated[int, typer.Argument(metavar="ID", min=1, help="The snapshot's id.")]


def daemon_of(mountpoint: str | None) -> Client:
    """Return the client of the daemon that --mountpoint names, or the only one there is. Raises NotMounted, UsageError."""
    from anqfs.control import client, locate

    return client.Client(locate.the_only(mountpoint))


def facts_of(path: str) -> os.stat_result:
    """Return the attributes of a path in a live mount. Raises NotFound, FilesystemError."""
    try:
        return os.stat(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFound(f"{wire.shown(path)}: does not exist") from error
    except OSError as error:
        raise FilesystemError(error.errno or 5, f"{wire.shown(path)}: {error.strerror}") from error


@contextmanager
def naming(path: str) -> Iterator[None]:
    """Put the path into the message of an errno that the daemon answers."""
    try:
        yield
    except FilesystemError as error:
        raise FilesystemError(error.errno, f"{wire.shown(path)}: {error}") from error


def directory_inode(path: str) -> int:
    """Return the inode number of a directory in a live mount. Raises UsageError when `path` is no directory."""
    facts = facts_of(path)
    if not stat.S_ISDIR(facts.st_mode):
        raise UsageError(f"{wire.shown(path)}: is no directory: name the directory that holds it")
    return facts.st_ino


@app.command()
def create(
    directory: Annotated[str, typer.Argument(metavar="DIR", help="A directory inside a mounted volume.")],
    name: Annotated[str | None, typer.Option("--name", help="The name after the id; OnDemand without it.")] = None,
    expires: Annotated[str | None, typer.Option("--expires", metavar="TIME", help="When it is deleted, as 2027-01-31T12:00:00Z.")] = None,
    json: Json = False,
) -> None:
    """Take a snapshot of a directory and all below it; it is durable when this returns.

    It costs no space and no time, whatever the directory's size. It is found as DIR/.snapshot/ID_NAME, and below every directory in it.

    Examples:

    \b
      anqfs snapshot create /archive/study --name before-cleanup
      anqfs snapshot create /archive --expires 2027-01-31T12:00:00Z --json
    """
    from anqfs.control import client, locate

    entry = locate.by_path(directory)
    daemon = client.Client(entry)
    body: dict[str, Any] = {"source_file_id": str(directory_inode(directory))}
    if name is not None:
        body["name_suffix"] = name
    if expires is not None:
        body["expiration"] = expires
    with naming(directory):
        number = daemon.post("/v3/snapshots/", body, patience=None)["id"]
        made = daemon.get(f"/anqfs/v1/snapshots/{number}")
    if json:
        output.json_document(made)
    else:
        output.say(wire.shown(made["path"]) if made["path"] else f"snapshot {made['id']}")


@app.command("list")
def listing(
    path: Annotated[str | None, typer.Argument(metavar="PATH", help="Only the snapshots that concern this directory.")] = None,
    json: Json = False,
) -> None:
    """List snapshots: of a directory, of those above it that cover it and of those below it; without PATH those of all mounted volumes.

    Examples:

    \b
      anqfs snapshot list
      anqfs snapshot list /archive/study --json
    """
    from anqfs.control import client, locate, registry

    if path is None:
        found = []
        for entry in registry.entries():
            try:
                found += client.Client(entry).get("/anqfs/v1/snapshots")
            except NotMounted:
                if registry.is_running(entry):
                    raise
    else:
        entry = locate.by_path(path)
        inode = directory_inode(path)
        with naming(path):
            found = client.Client(entry).get("/anqfs/v1/snapshots", inode=inode)
    if json:
        output.json_document(found)
        return
    rows = [
        (
            str(one["id"]),
            wire.shown(one["name"]),
            wire.shown(one["directory"]) if one["directory"] else "(deleted)",
            one["created"] or "",
            one["expires"] or "never",
            _kept(one),
        )
        for one in found
    ]
    output.table(("ID", "NAME", "DIRECTORY", "CREATED", "EXPIRES", ""), rows)


def _kept(one: dict[str, Any]) -> str:
    """Return what else is to be said of a snapshot."""
    facts = ["in delete"] if one["in_delete"] else []
    facts += [f"locked by key {one['lock_key']}"] if one["lock_key"] else []
    facts += [f"needed by {wire.shown(owner)}" for owner in one["owners"]]
    return ", ".join(facts)


@app.command()
def delete(
    ids: Annotated[list[int], typer.Argument(metavar="ID...", min=1, help="The snapshots' ids.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be deleted, and what would come back.")] = False,
    mountpoint: OfMount = None,
) -> None:
    """Delete snapshots. They are gone at once; the space comes back in the background.

    Examples:

    \b
      anqfs snapshot delete 17 18 --dry-run
      anqfs snapshot delete 17 18
      anqfs snapshot delete 17 --mountpoint /archive
    """
    daemon = daemon_of(mountpoint)
    numbers = list(dict.fromkeys(ids))
    if dry_run:
        from anqfs.cli import previews

        previews.delete(daemon, numbers)
        return
    for number in numbers:
        daemon.delete(f"/v3/snapshots/{number}")


@app.command()
def restore(
    number: Number,
    path: Annotated[
        str, typer.Option("--path", metavar="REL", help="Only this file or directory, relative to the snapshot's directory.")
    ] = "",
    to: Annotated[str | None, typer.Option("--to", metavar="DEST", help="A new path in the same volume.")] = None,
    in_place: Annotated[bool, typer.Option("--in-place", help="Where it was; what is there now is kept in a snapshot first.")] = False,
    dry_run: DryRun = False,
    mountpoint: OfMount = None,
    json: Json = False,
) -> None:
    """Restore a snapshot, or a part of it. No data is copied: the restored files share it, so it takes little time and space.

    Everything is kept: owners, modes, times, attributes, ACLs, hard links, holes. In place, a snapshot named before_restore is taken first.
    Ctrl-C ends only the watching: a restore goes on in the daemon to its end, and `anqfs status` shows it.

    Examples:

    \b
      anqfs snapshot restore 17 --to /archive/study.old
      anqfs snapshot restore 17 --path series1/image.dcm --in-place
      anqfs snapshot restore 17 --in-place --dry-run
    """
    from anqfs.control import client, locate

    if (to is None) == (not in_place):
        raise UsageError("say where to: --to DEST or --in-place")
    body: dict[str, Any] = {"snapshot": number, "path": path, "in_place": in_place}
    if to is not None:
        entry = locate.by_path(os.path.dirname(os.path.abspath(to)))
        if mountpoint is not None and locate.the_only(mountpoint) != entry:
            raise UsageError(f"{wire.shown(to)}: is in another volume: copy from the .snapshot directory instead")
        body.update(new_place(to))
    else:
        entry = locate.the_only(mountpoint)
    daemon = client.Client(entry)
    if dry_run:
        with naming(to if to is not None else f"snapshot {number}"):
            watch_job(daemon, daemon.post("/anqfs/v1/restores", {**body, "check_only": True}, patience=None), quiet=True)
        _would_restore(daemon, number, path, to, json)
        return
    with naming(to if to is not None else f"snapshot {number}"):
        job = watch_job(daemon, daemon.post("/anqfs/v1/restores", body, patience=None), quiet=json)
    if json:
        output.json_document(job)
    else:
        output.say(f"restored {job['files']} files, {output.size(job['bytes'])}")


def _would_restore(daemon: Client, number: int, path: str, to: str | None, json: bool) -> None:
    from anqfs.cli import previews

    if to is None:
        found = previews.revert(daemon, number, path)
        output.json_document(found) if json else previews.show_revert(found, number)
        return
    inside = os.path.join(daemon.get(f"/anqfs/v1/snapshots/{number}")["path"] or "", path)
    previews.show_beside(daemon, facts_of(inside).st_ino, to)


@app.command()
def revert(
    number: Number,
    path: Annotated[
        str, typer.Option("--path", metavar="REL", help="Only this file or directory, relative to the snapshot's directory.")
    ] = "",
    dry_run: DryRun = False,
    mountpoint: OfMount = None,
    json: Json = False,
) -> None:
    """Make a directory what it was in a snapshot, in place: the same as `restore --in-place`.

    What is there now is kept in a snapshot named before_restore, so reverting to that one undoes it. No data is copied.

    Examples:

    \b
      anqfs snapshot revert 17 --dry-run
      anqfs snapshot revert 17 --path series1
    """
    restore(number, path, None, True, dry_run, mountpoint, json)


def new_place(destination: str) -> dict[str, Any]:
    """Return what a request calls a new path: parent and name. Raises UsageError when it is there already, NotFound."""
    if os.path.lexists(destination):
        raise UsageError(f"{wire.shown(destination)}: exists already: name a new path")
    parent, name = os.path.split(os.path.abspath(destination))
    return {"parent": directory_inode(parent), "name": name}
