"""`anqfs status` and `anqfs usage`: what there is."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer

from anqfs.cli import output
from anqfs.cli.snapshot_commands import facts_of, naming
from anqfs.cli.watch import line
from anqfs.control import wire
from anqfs.errors import AnqfsError, UsageError

Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


def status(
    place: Annotated[str | None, typer.Argument(metavar="[MOUNTPOINT|STORE]", help="A mounted volume or a store, mounted or not.")] = None,
    json: Json = False,
    latency: Annotated[bool, typer.Option("--latency", help="Also how long each kind of request takes.")] = False,
) -> None:
    """Show a volume's facts: capacity, snapshots, the last commit, the root digest, scrub, counters. Without argument, all mounts.

    Of a store that is not mounted it shows what needs no key. The root digest (`root` in JSON) can be pinned with
    `anqfs mount --expect-root`.

    Examples:

    \b
      anqfs status
      anqfs status /archive --json
      anqfs status /archive --latency
    """
    if place is None:
        _all(json=json, latency=latency)
        return
    document = _of(place, latency=latency)
    if json:
        output.json_document(document)
    else:
        _print(document)


def _ask(entry: Any, *, latency: bool) -> dict[str, Any]:
    from anqfs.control import client, exports

    daemon = client.Client(entry)
    answer: dict[str, Any] = daemon.get("/anqfs/v1/status", latency=1) if latency else daemon.get("/anqfs/v1/status")
    return {**answer, "exports": exports.status_of_mount(entry.mountpoint)}


def _of(place: str, *, latency: bool) -> dict[str, Any]:
    from anqfs.control import locate

    entry = locate.by_mount_point(place) or locate.by_store(place)
    if entry is None and locate.holding(place) is not None:
        entry = locate.by_path(place)
    if entry is not None:
        return _ask(entry, latency=latency)
    from anqfs.control import offline

    return offline.facts(place)


def _all(*, json: bool, latency: bool) -> None:
    from anqfs.control import registry

    found: list[dict[str, Any]] = []
    for entry in registry.entries():
        try:
            found.append(_ask(entry, latency=latency))
        except AnqfsError as error:
            if not registry.is_running(entry):
                continue  # it was unmounted meanwhile
            found.append(
                {"pid": entry.pid, "store": entry.store, "mountpoint": entry.mountpoint, "uuid": entry.uuid, "error": wire.to_fault(error)}
            )
    if json:
        output.json_document(found)
        return
    if not found:
        output.say("no anqfs volume is mounted")
    for number, document in enumerate(found):
        if number:
            output.say()
        _print(document)


def _print(document: dict[str, Any]) -> None:
    if "error" in document:
        output.facts([("mountpoint", wire.shown(document["mountpoint"])), ("error", document["error"]["message"])])
    elif not document["mounted"]:
        output.facts(
            [
                ("store", wire.shown(document["store"])),
                ("mounted", "no"),
                ("uuid", document["uuid"]),
                ("format", str(document["format"])),
                ("key slots", ", ".join(f"{slot['slot']} ({slot['kind']})" for slot in document["slots"])),
            ]
        )
    else:
        output.facts(_mounted_facts(document))
        if document.get("latency"):
            _print_latency(document["latency"])


def _mounted_facts(document: dict[str, Any]) -> list[tuple[str, str]]:
    capacity, commit, scrub = document["capacity"], document["last_commit"], document["scrub"]
    pairs = [
        ("mountpoint", wire.shown(document["mountpoint"]) + (" (read-only)" if document["read_only"] else "")),
        ("store", wire.shown(document["store"])),
        ("uuid", document["uuid"]),
        ("pid", f"{document['pid']}, since {document['started']}"),
        ("capacity", f"{output.size(capacity['available'])} available of {output.size(capacity['total'])}"),
        ("store holds", output.size(capacity["used"])),
        ("files", _totals(document["usage"])),
        ("snapshots", str(document["snapshots"])),
        ("last commit", f"{commit['number']}, {commit['time'] or 'never'}; {output.size(document['uncommitted_bytes'])} not yet committed"),
        ("root", document["root"]),
        ("scrub", f"{'running' if scrub['running'] else 'idle'}, {scrub['passes']} passes, {len(scrub['damaged'])} damaged"),
        ("log", wire.shown(document["log"])),
    ]
    if document["failed"] is not None:
        pairs.append(("FAILED", document["failed"]))
    if document["restore"] is not None:
        pairs.append(("restore", line(document["restore"])))
    if document["exports"] is not None:
        pairs.append(("file servers", output.servers_line(document["exports"])))
    return pairs


def _totals(usage: dict[str, Any] | None) -> str:
    if usage is None:
        return "not known: the record is damaged, see the log"
    return f"{usage['files']} files, {usage['directories']} directories, {output.size(usage['bytes'])}"


def _print_latency(latency: dict[str, Any]) -> None:
    columns = list(dict.fromkeys(name for row in latency.values() for name in row))
    rows = [(operation, *(str(row.get(name, "")) for name in columns)) for operation, row in latency.items()]
    output.table(("OPERATION", *(name.upper() for name in columns)), rows)


def usage(
    path: Annotated[str, typer.Argument(metavar="PATH", help="A path in a mounted volume.")],
    by_owner: Annotated[bool, typer.Option("--by-owner", help="Show who owns the files below a directory.")] = False,
    by_age: Annotated[bool, typer.Option("--by-age", help="Show how long ago the files below a directory were written.")] = False,
    json: Json = False,
) -> None:
    """Show the recursive totals below a directory at once, from its record; no tree is walked.

    --by-owner and --by-age are answered from kept totals for the whole volume, by a walk for any other directory. Each file counts once.

    A file with several names counts in each directory that names it. `allocated` leaves holes out; `capacity` is what quotas count, with
    4,096 bytes for each name.

    Examples:

    \b
      anqfs usage /archive/study
      anqfs usage /archive --json
      anqfs usage /archive --by-owner
      anqfs usage /archive --by-age --json
    """
    from anqfs.control import client, locate

    if by_owner and by_age:
        raise UsageError("give --by-owner or --by-age")
    entry = locate.by_path(path)
    if by_owner or by_age:
        from anqfs.cli import capacity

        capacity.show(client.Client(entry), path, "owner" if by_owner else "age", json)
        return
    inode = facts_of(path).st_ino
    with naming(path):
        totals = {"path": os.path.abspath(path), **client.Client(entry).get("/anqfs/v1/usage", inode=inode)}
    if json:
        output.json_document(totals)
        return
    output.facts(
        [
            ("bytes", f"{totals['bytes']} ({output.size(totals['bytes'])})"),
            ("allocated", f"{totals['allocated']} ({output.size(totals['allocated'])})"),
            ("capacity", f"{totals['capacity']} ({output.size(totals['capacity'])})"),
            ("files", str(totals["files"])),
            ("directories", str(totals["directories"])),
            ("symlinks", str(totals["symlinks"])),
            ("others", str(totals["others"])),
        ]
    )
