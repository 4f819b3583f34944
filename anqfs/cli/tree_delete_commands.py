"""`anqfs tree-delete DIR`, and `anqfs tree-delete list|show|cancel|restart`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from anqfs.cli import output
from anqfs.cli.snapshot_commands import OfMount, daemon_of, directory_inode, naming
from anqfs.control import wire
from anqfs.errors import AnqfsError, NotFound

if TYPE_CHECKING:
    from anqfs.control.client import Client

_JOBS = "/v1/tree-delete/jobs"
_NUMBERS = ("capacity", "directories", "files")
_PAUSE = 0.1


class _DirectoryFirst(TyperGroup):
    """Takes what is none of its commands for the directory to delete."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = ["start", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_DirectoryFirst,
    help="Delete a directory with all that is below it, in the background: `anqfs tree-delete DIR`. See `anqfs tree-delete start --help`.",
    no_args_is_help=True,
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
Id = Annotated[int, typer.Argument(metavar="ID", min=1, help="The directory's id, as `list` shows it.")]


def _document(job: dict[str, Any]) -> dict[str, Any]:
    return {**job, **{f"{when}_{what}": int(job[f"{when}_{what}"]) for when in ("initial", "remaining") for what in _NUMBERS}}


def _line(job: dict[str, Any]) -> str:
    return (
        f"{job['remaining_files']} files and {job['remaining_directories']} directories below it, {output.size(job['remaining_capacity'])}"
    )


def _print(jobs: list[dict[str, Any]]) -> None:
    rows = []
    for job in jobs:
        before, left = (job[f"{when}_files"] + job[f"{when}_directories"] for when in ("initial", "remaining"))
        error = job["last_error_message"]
        rows.append(
            (job["id"], wire.shown(job["initial_path"]), job["create_time"], f"{left} of {before} left", wire.shown(error) if error else "")
        )
    output.table(("ID", "DIRECTORY", "STARTED", "", "STOPPED BY"), rows)


@app.command()
def start(
    directory: Annotated[str, typer.Argument(metavar="DIR", help="A directory in a mounted volume.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be deleted.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Return when all is deleted.")] = False,
    json: Json = False,
) -> None:
    """Delete a directory with all that is below it. This returns at once; the directory shrinks in the background, over restarts, too.

    Snapshots keep what they show. What is put into the directory meanwhile is deleted as well. A locked file (see `anqfs worm`) stops the
    deletion: `list` shows it, and the same command goes on with it. `cancel` keeps what is not deleted yet.

    Examples:

    \b
      anqfs tree-delete /archive/old --dry-run
      anqfs tree-delete /archive/old
      anqfs tree-delete list
    """
    from anqfs.control import client, locate

    daemon, inode = client.Client(locate.by_path(directory)), directory_inode(directory)
    with naming(directory):
        job = _document(daemon.post(f"{_JOBS}/?dry-run={str(dry_run).lower()}", {"id": str(inode)}))
    if wait and not dry_run:
        _watch(daemon, job, quiet=json)
    if json:
        output.json_document({**job, "dry_run": dry_run})
    else:
        what = "would be deleted with" if dry_run else "was deleted with" if wait else "is being deleted with"
        output.say(f"{wire.shown(directory)} {what} {_line(job)}")


def _watch(daemon: Client, job: dict[str, Any], *, quiet: bool) -> None:
    """Return when a deletion is done. Raises AnqfsError when it stopped."""
    progress = output.Progress(quiet=quiet)
    try:
        while True:
            progress.show(f"tree-delete: {_line(job)} left")
            time.sleep(_PAUSE)
            job = _document(daemon.get(f"{_JOBS}/{job['id']}"))
            if job["last_error_message"]:
                raise AnqfsError(f"the deletion stopped: {wire.shown(job['last_error_message'])}")
    except NotFound:
        return
    finally:
        progress.done()


@app.command("list")
def listing(mountpoint: OfMount = None, json: Json = False) -> None:
    """List the deletions that are not done, and why those stopped that did.

    Examples:

    \b
      anqfs tree-delete list --json
    """
    jobs = [_document(job) for job in daemon_of(mountpoint).get(f"{_JOBS}/")["jobs"]]
    if json:
        output.json_document(jobs)
    else:
        _print(jobs)


@app.command()
def show(number: Id, mountpoint: OfMount = None, json: Json = False) -> None:
    """Show one deletion.

    Examples:

    \b
      anqfs tree-delete show 17
    """
    job = _document(daemon_of(mountpoint).get(f"{_JOBS}/{number}"))
    if json:
        output.json_document(job)
    else:
        _print([job])


@app.command()
def cancel(number: Id, mountpoint: OfMount = None) -> None:
    """End a deletion. What is deleted is gone; the rest stays.

    Examples:

    \b
      anqfs tree-delete cancel 17
    """
    daemon_of(mountpoint).delete(f"{_JOBS}/{number}")


@app.command()
def restart(number: Id, mountpoint: OfMount = None) -> None:
    """Go on with a deletion that had stopped.

    Examples:

    \b
      anqfs tree-delete restart 17
    """
    daemon_of(mountpoint).post(f"{_JOBS}/restart/{number}")
