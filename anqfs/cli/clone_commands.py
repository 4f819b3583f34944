"""`anqfs clone`: a writable copy that shares its data."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from anqfs.cli import output, previews
from anqfs.cli.snapshot_commands import DryRun, Json, facts_of, naming, new_place
from anqfs.cli.watch import watch_job
from anqfs.control import wire
from anqfs.errors import UsageError


def clone(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A directory or file in a mounted volume, or in its .snapshot.")],
    destination: Annotated[str, typer.Argument(metavar="DEST", help="A new path in the same volume.")],
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Make a writable copy of a directory or file that shares its data with the source: it takes little time and space.

    Owners, modes, times, attributes, ACLs, hard links and holes are kept. The copy is what the source is at this moment, and appears under
    its name when it is whole. Ctrl-C ends only the watching.

    Examples:

    \b
      anqfs clone /archive/study /archive/study.work
      anqfs clone /archive/.snapshot/17_daily/study /archive/study.old
      anqfs clone /archive/study /archive/study.work --dry-run
    """
    from anqfs.control import client, locate

    entry = locate.by_path(source)
    if locate.by_path(os.path.dirname(os.path.abspath(destination))) != entry:
        raise UsageError(f"{wire.shown(destination)}: is in another volume: copy instead")
    inode = facts_of(source).st_ino
    place = new_place(destination)
    daemon = client.Client(entry)
    if dry_run:
        previews.show_beside(daemon, inode, destination)
        return
    with naming(destination):
        job = watch_job(daemon, daemon.post("/anqfs/v1/clones", {"source": inode, **place}, patience=None), quiet=json)
    if json:
        output.json_document(job)
    else:
        output.say(f"cloned {job['files']} files, {output.size(job['bytes'])} of shared data")
