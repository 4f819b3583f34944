"""`anqfs snapshot diff|file-diff|reclaimable`: what changed, and what deleting snapshots gives back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anqfs.cli import output
from anqfs.cli.snapshot_commands import Json, OfMount, daemon_of, facts_of, naming
from anqfs.control import wire
from anqfs.errors import UsageError

if TYPE_CHECKING:
    from anqfs.control.client import Client

Older = Annotated[int, typer.Argument(metavar="OLDER", min=1, help="The older snapshot's id.")]
Newer = Annotated[int | None, typer.Argument(metavar="[NEWER]", min=1, help="The newer snapshot's id.")]
Live = Annotated[bool, typer.Option("--live", help="Compare with the live tree instead of a newer snapshot.")]
_MARKS = {"CREATE": "+", "DELETE": "-", "MODIFY": "M", "RENAME": "R"}


def changes(daemon: Client, older: int, newer: int | None, *, renames: bool) -> Iterator[dict[str, Any]]:
    """Yield the differences between a snapshot and a newer one (None: live), page after page."""
    query: dict[str, str | int] = {"renames": "true" if renames else "false"}
    if newer is not None:
        query["newer"] = newer
    page = daemon.call("GET", f"/anqfs/v1/snapshots/{older}/changes", patience=None, query=query)
    while True:
        yield from page["entries"]
        if not page["paging"]["next"]:
            return
        page = daemon.call("GET", page["paging"]["next"], patience=None)


def reclaimable(daemon: Client, snapshots: list[int] | None) -> dict[str, Any]:
    """Return what deleting snapshots (None: all) would give back."""
    answer = daemon.post("/anqfs/v1/reclaimable", {} if snapshots is None else {"snapshots": snapshots}, patience=None)
    return {"snapshots": snapshots, "bytes": int(answer["bytes"]), "extents": answer["extents"]}


def line_of(change: dict[str, Any]) -> str:
    """Return one difference as a line for people."""
    if change["op"] != "RENAME":
        return f"{_MARKS[change['op']]} {wire.shown(change['path'])}"
    changed = " (changed, too)" if change["modified"] else ""
    return f"R {wire.shown(change['old_path'])} -> {wire.shown(change['path'])}{changed}"


def _must_choose(newer: int | None, live: bool) -> None:
    if (newer is None) == (not live):
        raise UsageError("say with what to compare: a newer snapshot's id, or --live")


def diff(
    older: Older,
    newer: Newer = None,
    live: Live = False,
    files: Annotated[bool, typer.Option("--files", help="Leave directories out.")] = False,
    plain: Annotated[bool, typer.Option("--plain", help="Tell of a rename as a deletion and a creation, as Qumulo does.")] = False,
    mountpoint: OfMount = None,
    json: Json = False,
) -> None:
    """Show what differs between two snapshots of one directory, or between one and the live tree.

    It takes time for what changed, not for what there is. One line each: + came, - is gone, M differs in attributes or data, R was renamed.
    Of a renamed directory only what changed in it is shown. Paths begin at the volume's root; those of directories end in a slash.

    Examples:

    \b
      anqfs snapshot diff 17 18
      anqfs snapshot diff 17 --live --files
      anqfs snapshot diff 17 18 --plain --json
    """
    _must_choose(newer, live)
    daemon = daemon_of(mountpoint)
    found = (one for one in changes(daemon, older, newer, renames=not plain) if not files or one["type"] != "FS_FILE_TYPE_DIRECTORY")
    if json:
        output.json_document(list(found))
        return
    for one in found:
        output.say(line_of(one))


def file_diff(
    path: Annotated[str, typer.Argument(metavar="FILE", help="The file, as it is called now.")],
    older: Older,
    newer: Newer = None,
    live: Live = False,
    exact: Annotated[bool, typer.Option("--exact", help="Read both, and leave out blocks rewritten with what they held.")] = False,
    json: Json = False,
) -> None:
    """Show which parts of a file differ between two snapshots, or between one and the live file, in blocks of 4 KiB.

    CREATE is data where there was none, MODIFY other data, DELETE a hole now, or behind the end.

    Examples:

    \b
      anqfs snapshot file-diff /archive/study/volume.dcm 17 18
      anqfs snapshot file-diff /archive/study/volume.dcm 17 --live --exact --json
    """
    from anqfs.control import client, locate

    _must_choose(newer, live)
    daemon = client.Client(locate.by_path(path))
    query: dict[str, str | int] = {"exact": "true" if exact else "false"}
    if newer is not None:
        query["newer"] = newer
    target = f"/anqfs/v1/snapshots/{older}/changes/files/{facts_of(path).st_ino}"
    found = []
    with naming(path):
        page = daemon.call("GET", target, patience=None, query=query)
        while True:
            found += [{"op": one["op"], "offset": int(one["offset"]), "size": int(one["size"])} for one in page["entries"]]
            if not page["paging"]["next"]:
                break
            page = daemon.call("GET", page["paging"]["next"], patience=None)
    if json:
        output.json_document(found)
    else:
        output.table(("", "OFFSET", "SIZE"), [(one["op"], str(one["offset"]), str(one["size"])) for one in found])


def reclaimable_command(
    ids: Annotated[list[int] | None, typer.Argument(metavar="ID...", help="The snapshots' ids.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All snapshots of the volume.")] = False,
    mountpoint: OfMount = None,
    json: Json = False,
) -> None:
    """Show what deleting exactly these snapshots would give back; nothing is deleted.

    Counted is file data that no other snapshot and no live file holds. It is not the sum of the single ones: what two snapshots share comes
    back when both go.

    Examples:

    \b
      anqfs snapshot reclaimable 17
      anqfs snapshot reclaimable 17 18 19 --json
      anqfs snapshot reclaimable --all
    """
    if bool(ids) == every:
        raise UsageError("say which snapshots: their ids, or --all")
    found = reclaimable(daemon_of(mountpoint), list(dict.fromkeys(ids)) if ids else None)
    if json:
        output.json_document(found)
    else:
        output.say(f"{output.size(found['bytes'])} would come back")
