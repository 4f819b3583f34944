"""`anqfs worm set|hold|release|show`."""

from __future__ import annotations

import stat
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from anqfs.cli import output
from anqfs.cli.snapshot_commands import DryRun, facts_of, naming
from anqfs.control import wire
from anqfs.errors import UsageError

app = typer.Typer(help="Lock files, so that nobody can change or delete them.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
File = Annotated[str, typer.Argument(metavar="FILE", help="A regular file in a mounted volume.")]


def _end(until: str | None, days: int | None, years: int | None) -> str:
    """Return when a retention ends, RFC 3339. Raises UsageError."""
    given = [name for name, value in (("--until", until), ("--days", days), ("--years", years)) if value is not None]
    if len(given) != 1:
        raise UsageError("say until when: --until TIME, --days N or --years N")
    if until is not None:
        return until
    span = timedelta(days=days or 365 * (years or 0))
    return f"{datetime.now(UTC) + span:%Y-%m-%dT%H:%M:%S.%f}Z"


def _change(path: str, body: dict[str, Any], *, dry_run: bool) -> dict[str, Any]:
    """Change a file's lock and return it; in a dry run, return what it would be."""
    from anqfs.control import client, locate

    daemon, inode = client.Client(locate.by_path(path)), _inode(path)
    with naming(path):
        if dry_run:
            return {**_lock(daemon, inode), **body, "dry_run": True}
        answer = daemon.call("PATCH", f"/v1/files/{inode}/file-lock", body, patience=None)
    return dict(answer["lock"])


def _inode(path: str) -> int:
    facts = facts_of(path)
    if not stat.S_ISREG(facts.st_mode):
        raise UsageError(f"{wire.shown(path)}: is no regular file: only those can be locked")
    return facts.st_ino


def _lock(daemon: Any, inode: int) -> dict[str, Any]:
    attributes = daemon.get(f"/v1/files/{inode}/info/attributes", **{"retrieve-file-lock": "true"})
    return dict(attributes["lock"])


def _print(path: str, lock: dict[str, Any], json: bool) -> None:
    if json:
        output.json_document({"path": path, **lock})
        return
    would = " (dry run: nothing was changed)" if lock.get("dry_run") else ""
    retention = f"locked until {lock['retention_period']}" if lock["retention_period"] else "no retention"
    output.say(f"{wire.shown(path)}: {retention}, {'a legal hold' if lock['legal_hold'] else 'no legal hold'}{would}")


@app.command("set")
def set_(
    file: File,
    until: Annotated[str | None, typer.Option("--until", metavar="TIME", help="RFC 3339, as 2036-01-31T12:00:00Z.")] = None,
    days: Annotated[int | None, typer.Option("--days", min=1, max=36500, help="Days from now.")] = None,
    years: Annotated[int | None, typer.Option("--years", min=1, max=100, help="Years of 365 days from now.")] = None,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Lock a file until a time: nobody, root included, can change, rename or delete it before. This cannot be taken back, only made longer.

    The file must not be open for writing. Directories above it can still be renamed, and it can be read and copied.

    Examples:

    \b
      anqfs worm set /archive/study/image.dcm --years 10 --dry-run
      anqfs worm set /archive/study/image.dcm --years 10
    """
    _print(file, _change(file, {"retention_period": _end(until, days, years)}, dry_run=dry_run), json)


@app.command()
def hold(file: File, dry_run: DryRun = False, json: Json = False) -> None:
    """Put a legal hold on a file: nobody can change, rename or delete it until the hold is released.

    Examples:

    \b
      anqfs worm hold /archive/study/image.dcm
    """
    _print(file, _change(file, {"legal_hold": True}, dry_run=dry_run), json)


@app.command()
def release(file: File, dry_run: DryRun = False, json: Json = False) -> None:
    """Take the legal hold off a file. A retention stays until its time comes.

    Examples:

    \b
      anqfs worm release /archive/study/image.dcm --dry-run
    """
    _print(file, _change(file, {"legal_hold": False}, dry_run=dry_run), json)


@app.command()
def show(file: File, json: Json = False) -> None:
    """Show what keeps a file from being changed.

    Examples:

    \b
      anqfs worm show /archive/study/image.dcm --json
    """
    from anqfs.control import client, locate

    daemon = client.Client(locate.by_path(file))
    with naming(file):
        _print(file, _lock(daemon, _inode(file)), json)
