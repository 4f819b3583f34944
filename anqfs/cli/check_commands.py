"""`anqfs check` (offline) and `anqfs scrub` (online): is every byte still what was written?"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anqfs.cli import output
from anqfs.cli.secret_options import KeyFile, PassphraseFile, obtain, only_one
from anqfs.cli.watch import line, watch_job
from anqfs.control import wire
from anqfs.errors import UsageError

if TYPE_CHECKING:
    from anqfs.control.client import Client

Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


def check(
    store: Annotated[str, typer.Argument(metavar="STORE", help="A store that is not mounted.")],
    key_file: KeyFile = None,
    passphrase_file: PassphraseFile = None,
    json: Json = False,
) -> None:
    """Verify a whole store offline: structure, counts, every tag, and the root digest. Nothing is changed.

    Damaged files are named by their paths. Exit code 0 only if all is well, 9 when something is damaged.

    Examples:

    \b
      anqfs check /srv/archive.store --key-file /root/archive.key
      anqfs check /srv/archive.store --key-file /root/archive.key --json
    """
    from anqfs.control import offline

    only_one(key_file, passphrase_file)
    offline.must_be_store(store)
    secret = obtain(key_file, passphrase_file, f"Passphrase of {wire.shown(store)}")
    progress = output.Progress(quiet=json)
    began = time.monotonic()
    try:
        report = offline.check(store, secret, progress.show)
    finally:
        progress.done()
    if json:
        output.json_document(report)
    else:
        for finding in report["findings"]:
            output.say(f"{wire.shown(finding['path'])}: {finding['what']}")
        if report["unlisted"]:
            output.say(f"and {report['unlisted']} more")
        if report["leftovers"]:
            output.say(
                f"{report['leftovers']} extents are newer than the records: a crash left them and the next mount deletes them, "
                "unless the records were put back (compare the root)"
            )
        counts = ", ".join(f"{value} {name}" for name, value in report["counts"].items())
        output.say(f"{counts}; {time.monotonic() - began:.1f} s")
        output.say("all is well" if report["ok"] else f"{len(report['findings'])} finding(s)")
    if not report["ok"]:
        raise typer.Exit(9)


def scrub(
    mountpoint: Annotated[str, typer.Argument(metavar="MOUNTPOINT", help="A mounted volume.")],
    rate: Annotated[float, typer.Option("--rate", metavar="MiB/s", min=0, help="At most so much a second; 0: no limit.")] = 0,
    status: Annotated[bool, typer.Option("--status", help="Only show how far it is.")] = False,
    cancel: Annotated[bool, typer.Option("--cancel", help="Stop it; the next scrub goes on from there.")] = False,
    json: Json = False,
) -> None:
    """Verify a mounted volume in the background of its work: every record and every extent.

    It goes on where the last one stopped, also after a remount. Ctrl-C ends only the watching. Exit code 9 when damage was found.

    Examples:

    \b
      anqfs scrub /archive --rate 200
      anqfs scrub /archive --status --json
      anqfs scrub /archive --cancel
    """
    from anqfs.control import client, locate

    if status and cancel:
        raise UsageError("give --status or --cancel, not both")
    daemon = client.Client(locate.by_path(mountpoint))
    if cancel:
        daemon.delete("/anqfs/v1/scrub")
    elif not status:
        _run(daemon, rate, quiet=json)
    state = daemon.get("/anqfs/v1/scrub")
    if json:
        output.json_document(state)
    else:
        _print(state)
    if state["damaged"] and not cancel:
        raise typer.Exit(9)


def _run(daemon: Client, rate: float, *, quiet: bool) -> None:
    watch_job(daemon, daemon.post("/anqfs/v1/scrub", {"rate": rate}), quiet=quiet)


def _print(state: dict[str, Any]) -> None:
    job = state["job"]
    output.facts(
        [
            ("state", "running" if state["running"] else "idle"),
            ("passes", str(state["passes"])),
            ("started", state["started"] or "never"),
            ("finished", state["finished"] or "not yet"),
            ("verified", f"{state['records']} records, {state['extents']} extents, {output.size(state['bytes'])}"),
            ("damaged", ", ".join(wire.shown(path) for path in state["damaged"]) or "none"),
            *([("job", line(job))] if job is not None else []),
        ]
    )
