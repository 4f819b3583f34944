"""The tables of `anqfs usage --by-owner` and `--by-age`."""

from __future__ import annotations

import pwd
from typing import TYPE_CHECKING, Any

from anqfs.cli import output
from anqfs.cli.snapshot_commands import directory_inode, naming

if TYPE_CHECKING:
    from anqfs.control.client import Client


def show(daemon: Client, path: str, by: str, json: bool) -> None:
    """Print who owns what is below a directory, or how old it is. Raises UsageError for what is no directory."""
    inode = directory_inode(path)
    with naming(path):
        answer = daemon.call("GET", "/anqfs/v1/capacity", patience=None, query={"inode": inode, "by": by})
    numbers = ("bytes", "allocated", "files")
    names = ("uid",) if by == "owner" else ("min_days", "max_days")
    found = [{**{name: one[name] for name in names}, **{name: int(one[name]) for name in numbers}} for one in answer["entries"]]
    if json:
        output.json_document(found)
        return
    label = owner_of if by == "owner" else age_of
    rows = [(label(one), output.size(one["bytes"]), output.size(one["allocated"]), str(one["files"])) for one in found]
    output.table(("OWNER" if by == "owner" else "WRITTEN", "BYTES", "ALLOCATED", "FILES"), rows)


def owner_of(part: dict[str, Any]) -> str:
    """Return a user's name, or the number of one that this host does not know."""
    try:
        return pwd.getpwuid(part["uid"]).pw_name
    except (KeyError, OverflowError):
        return str(part["uid"])


def age_of(part: dict[str, Any]) -> str:
    """Return the class of age in words."""
    low, high = part["min_days"], part["max_days"]
    if high is None:
        return f"over {low} days ago"
    return "today" if high == 1 else f"{low} to {high} days ago"
