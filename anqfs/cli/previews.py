"""What a destructive snapshot command would do: the text of `--dry-run`. Nothing is changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anqfs.cli import output
from anqfs.cli.diff_commands import changes, reclaimable
from anqfs.control import wire
from anqfs.errors import SnapshotHeld, SnapshotLocked

if TYPE_CHECKING:
    from anqfs.control.client import Client


def delete(daemon: Client, numbers: list[int]) -> None:
    """Show what deleting snapshots would do. Raises SnapshotLocked, SnapshotHeld, as doing it would."""
    for number in numbers:
        one = daemon.get(f"/anqfs/v1/snapshots/{number}")
        if one["lock_key"]:
            raise SnapshotLocked(f"snapshot {number} is locked by security key {one['lock_key']}: unlock it first")
        if one["owners"]:
            raise SnapshotHeld(f"snapshot {number} is needed by {wire.shown(one['owners'][0])}: it cannot be deleted meanwhile")
        where = wire.shown(one["directory"]) if one["directory"] else "a deleted directory"
        output.say(f"would delete {number}_{wire.shown(one['name'])} of {where}")
    output.say(f"{output.size(reclaimable(daemon, numbers)['bytes'])} would come back")


def revert(daemon: Client, number: int, path: str) -> list[dict[str, Any]]:
    """Return what a restore in place of a snapshot, or of a path in it, would do: {action, path, now}."""
    top = daemon.get(f"/v4/snapshots/status/{number}")["source_file_path"]
    inside = "/".join(part for part in path.split("/") if part not in ("", "."))
    place = top + inside
    found = []
    for one in changes(daemon, number, None, renames=True):
        then = one["old_path"] or one["path"]
        if any(_is_in(each, place) for each in (then, one["path"])) or not inside:
            found.append({"action": _ACTIONS[one["op"]], "path": then, "now": one["path"] if one["op"] == "RENAME" else None})
    return found


_ACTIONS = {"CREATE": "remove", "DELETE": "bring back", "MODIFY": "restore", "RENAME": "move back"}


def _is_in(path: str, place: str) -> bool:
    return path.rstrip("/") == place or path.startswith(place + "/")


def show_revert(found: list[dict[str, Any]], number: int) -> None:
    """Print what `revert` returned."""
    for one in found:
        now = f", now {wire.shown(one['now'])}" if one["now"] else ""
        output.say(f"would {one['action']} {wire.shown(one['path'])}{now}")
    output.say(f"what is there now would be kept in a snapshot named before_restore: no space comes back ({len(found)} changes)")


def show_beside(daemon: Client, inode: int, destination: str) -> None:
    """Print what making a copy of a directory or file, live or in a snapshot, would make."""
    usage = daemon.get("/anqfs/v1/usage", inode=inode)
    what = f"{usage['files']} files and {usage['directories']} directories, {output.size(usage['bytes'])} of shared data"
    output.say(f"would make {wire.shown(destination)}: {what}")
