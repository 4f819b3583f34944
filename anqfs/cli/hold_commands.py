"""`anqfs snapshot hold|release|holds`: commands of the group that `snapshot_commands` begins."""

from __future__ import annotations

from typing import Annotated

import typer

from anqfs.cli import output
from anqfs.cli.snapshot_commands import DryRun, Json, Number, OfMount, daemon_of
from anqfs.control import wire
from anqfs.errors import NotFound


def hold(
    number: Number,
    owner: Annotated[str, typer.Option("--owner", metavar="NAME", help="Who needs the snapshot, for people to read.")],
    mountpoint: OfMount = None,
    json: Json = False,
) -> None:
    """Keep a snapshot while something needs it, such as a backup that reads it.

    Until the hold is released nobody deletes the snapshot or changes when it expires, and it outlives its expiration. A snapshot may have
    several holds; each is released by its number. Whoever may use this command may release it: against that, see `snapshot lock`.

    Examples:

    \b
      anqfs snapshot hold 17 --owner backup
      anqfs snapshot hold 17 --owner backup --json
    """
    made = daemon_of(mountpoint).post(f"/anqfs/v1/snapshots/{number}/holds", {"owner": owner})
    if json:
        output.json_document(made)
    else:
        output.say(f"snapshot {number} is held: `anqfs snapshot release {number} {made['hold']}` ends it")


def release(
    number: Number,
    hold: Annotated[int, typer.Argument(metavar="HOLD", min=1, help="The hold's number in `anqfs snapshot holds`.")],
    dry_run: DryRun = False,
    mountpoint: OfMount = None,
) -> None:
    """Release a hold. When none is left, the snapshot can be deleted again, and is if it has expired.

    Examples:

    \b
      anqfs snapshot release 17 3 --dry-run
      anqfs snapshot release 17 3
    """
    daemon, place = daemon_of(mountpoint), f"/anqfs/v1/snapshots/{number}/holds"
    if not dry_run:
        daemon.delete(f"{place}/{hold}")
        return
    found = daemon.get(place)
    owner = next((one["owner"] for one in found if one["hold"] == hold), None)
    if owner is None:
        raise NotFound(f"snapshot {number} has no hold {hold}")
    output.say(f"the hold of {wire.shown(owner)} would be released; {len(found) - 1} others would stay")


def holds(number: Number, mountpoint: OfMount = None, json: Json = False) -> None:
    """List who needs a snapshot.

    Examples:

    \b
      anqfs snapshot holds 17
    """
    found = daemon_of(mountpoint).get(f"/anqfs/v1/snapshots/{number}/holds")
    if json:
        output.json_document(found)
    else:
        output.table(("HOLD", "OWNER", "SINCE"), [(str(one["hold"]), wire.shown(one["owner"]), one["created"] or "?") for one in found])
