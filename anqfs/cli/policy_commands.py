"""`anqfs snapshot policy create|modify|list|show|enable|disable|delete`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anqfs.cli import output
from anqfs.cli.removal import about_to_go
from anqfs.cli.snapshot_commands import DryRun, Json, OfMount, daemon_of, directory_inode, naming
from anqfs.control import wire
from anqfs.errors import NotFound, UsageError

if TYPE_CHECKING:
    from anqfs.control.client import Client

app = typer.Typer(help="Take snapshots by themselves: every so often, daily or monthly.", no_args_is_help=True)

_POLICIES = "/v3/snapshots/policies"
_LAST_DAY = 128
_TIME = re.compile(r"(\d{1,2}):(\d\d)", re.ASCII)
_INTERVAL = re.compile(r"([1-9]\d?)(minute|hour)s?", re.ASCII)

Ref = Annotated[str, typer.Argument(metavar="POLICY", help="The policy's id or name.")]
Every = Annotated[str | None, typer.Option("--every", metavar="15minutes|6hours", help="Take one every 1 to 99 minutes or hours.")]
From = Annotated[str | None, typer.Option("--from", metavar="HH:MM", help="With --every: not before this time of day; counted from it.")]
Until = Annotated[str | None, typer.Option("--until", metavar="HH:MM", help="With --every: not after this time of day.")]
Daily = Annotated[str | None, typer.Option("--daily", metavar="HH:MM", help="Take one daily.")]
Days = Annotated[str | None, typer.Option("--days", metavar="MON,TUE,...", help="With --every and --daily: only on these days.")]
Monthly = Annotated[str | None, typer.Option("--monthly", metavar="1..27|last", help="Take one monthly, on this day, at the time of --at.")]
At = Annotated[str | None, typer.Option("--at", metavar="HH:MM", help="With --monthly: the time of day.")]
Zone = Annotated[str | None, typer.Option("--timezone", metavar="ZONE", help="The clock that counts, such as Europe/Berlin; else UTC.")]
Keep = Annotated[
    str | None, typer.Option("--keep", metavar="7days|never", help="When they expire: after 1 to 99 minutes, hours, days, weeks or months.")
]
Template = Annotated[
    str | None,
    typer.Option(
        "--template", help="Names, of {ID} {Year} {Month} {Day} {Hour} {Minute} {Policy} {Directory}; else {ID}_{Policy}_{Directory}."
    ),
]
LockKey = Annotated[str | None, typer.Option("--lock-key", metavar="KEY", help="Lock each with this security key (id or name).")]


# --- what is asked for


def _time(text: str, option: str) -> tuple[int, int]:
    found = _TIME.fullmatch(text)
    if found is None or int(found[1]) > 23 or int(found[2]) > 59:
        raise UsageError(f"{option}: {text!a} is no time of day: write hours and minutes, as 20:00")
    return int(found[1]), int(found[2])


def _schedule(
    every: str | None,
    begin: str | None,
    end: str | None,
    daily: str | None,
    days: str | None,
    monthly: str | None,
    at: str | None,
    timezone: str | None,
) -> dict[str, Any] | None:
    """Return the schedule that options ask for, None when they ask for none. Raises UsageError."""
    chosen = [option for option, value in (("--every", every), ("--daily", daily), ("--monthly", monthly)) if value is not None]
    if len(chosen) > 1:
        raise UsageError(f"give {chosen[0]} or {chosen[1]}, not both")
    for option, value, needed in (("--from", begin, every), ("--until", end, every), ("--at", at, monthly)):
        if value is not None and needed is None:
            raise UsageError(f"{option} is for {'--monthly' if option == '--at' else '--every'} only")
    if days is not None and monthly is not None:
        raise UsageError("--days is not for --monthly")
    if not chosen:
        if days is not None or timezone is not None:
            raise UsageError("give --every, --daily or --monthly, too: a schedule is changed as a whole")
        return None
    schedule: dict[str, Any] = {"timezone": timezone or "UTC"}
    if monthly is not None:
        return {**schedule, **_monthly(monthly, at)}
    schedule["on_days"] = ["EVERY_DAY"] if days is None else [day.strip().upper() for day in days.split(",")]
    if daily is not None:
        hour, minute = _time(daily, "--daily")
        return {**schedule, "frequency": "SCHEDULE_DAILY_OR_WEEKLY", "hour": hour, "minute": minute}
    return {**schedule, **_often(str(every), begin or "0:00", end or "23:59")}


def _monthly(day: str, at: str | None) -> dict[str, Any]:
    if day != "last" and not (day.isascii() and day.isdigit() and 1 <= int(day) <= 27):
        raise UsageError(f"--monthly: {day!a} is neither a day from 1 to 27 nor last")
    hour, minute = _time(at if at is not None else "0:00", "--at")
    return {"frequency": "SCHEDULE_MONTHLY", "day_of_month": _LAST_DAY if day == "last" else int(day), "hour": hour, "minute": minute}


def _often(every: str, begin: str, end: str) -> dict[str, Any]:
    found = _INTERVAL.fullmatch(every)
    if found is None:
        raise UsageError(f"--every: {every!a} is no interval: write 1 to 99 and minutes or hours, as 15minutes")
    (start_hour, start_minute), (end_hour, end_minute) = _time(begin, "--from"), _time(end, "--until")
    return {
        "frequency": "SCHEDULE_HOURLY_OR_LESS",
        "fire_every": int(found[1]),
        "fire_every_interval": "FIRE_IN_HOURS" if found[2] == "hour" else "FIRE_IN_MINUTES",
        "window_start_hour": start_hour,
        "window_start_minute": start_minute,
        "window_end_hour": end_hour,
        "window_end_minute": end_minute,
    }


def _find(daemon: Client, ref: str) -> dict[str, Any]:
    """Return the status of the policy with this name or id. Raises NotFound, Damaged for the id of one whose record is damaged."""
    every = daemon.get(f"{_POLICIES}/status/")["entries"]
    for one in every:
        if one["policy_name"] == ref:
            return dict(one)
    for one in every:
        if str(one["id"]) == ref:
            return dict(one)
    if ref.isascii() and ref.isdigit():
        daemon.get(f"{_POLICIES}/{ref}")  # it is not listed: this raises why
    raise NotFound(f"there is no snapshot policy {wire.shown(ref)}: `anqfs snapshot policy list` shows them")


# --- what is shown


def when(schedule: dict[str, Any]) -> str:
    """Return a creation schedule as a person reads it."""
    days = schedule.get("on_days", ["EVERY_DAY"])
    on = "" if days == ["EVERY_DAY"] else f" on {','.join(days)}"
    zone = f" {schedule['timezone']}"
    if schedule["frequency"] == "SCHEDULE_HOURLY_OR_LESS":
        unit = "hours" if schedule["fire_every_interval"] == "FIRE_IN_HOURS" else "minutes"
        window = [f"{schedule[f'window_{end}_hour']}:{schedule[f'window_{end}_minute']:02d}" for end in ("start", "end")]
        inside = "" if window == ["0:00", "23:59"] else f" from {window[0]} to {window[1]}"
        return f"every {schedule['fire_every']} {unit}{inside}{on}{zone}"
    at = f"at {schedule['hour']}:{schedule['minute']:02d}"
    if schedule["frequency"] == "SCHEDULE_MONTHLY":
        day = schedule["day_of_month"]
        return f"monthly on {'the last day' if day == _LAST_DAY else f'day {day}'} {at}{zone}"
    return f"daily {at}{on}{zone}"


def _print(found: list[dict[str, Any]]) -> None:
    rows = [
        (
            str(one["id"]),
            wire.shown(one["policy_name"]),
            wire.shown(one["source_file_path"]) if one["source_file_path"] else "(deleted)",
            when(one["schedule"]["creation_schedule"]),
            one["schedule"]["expiration_time_to_live"] or "never",
            one["next_snapshot_time"] or "disabled",
            f"key {one['lock_key']}" if one["lock_key"] else "",
        )
        for one in found
    ]
    output.table(("ID", "NAME", "DIRECTORY", "TAKES ONE", "EXPIRES AFTER", "NEXT", "LOCKED BY"), rows)


def _finish(daemon: Client, number: int, json: bool) -> None:
    one = daemon.get(f"{_POLICIES}/status/{number}")
    output.json_document(one) if json else _print([one])


# --- commands


@app.command()
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The policy's name.")],
    directory: Annotated[str, typer.Argument(metavar="DIR", help="The directory of which it takes snapshots.")],
    every: Every = None,
    begin: From = None,
    until: Until = None,
    daily: Daily = None,
    days: Days = None,
    monthly: Monthly = None,
    at: At = None,
    timezone: Zone = None,
    keep: Keep = None,
    template: Template = None,
    lock_key: LockKey = None,
    disabled: Annotated[bool, typer.Option("--disabled", help="Take none until `enable`.")] = False,
    json: Json = False,
) -> None:
    """Make a policy: one of --every, --daily and --monthly says when it takes snapshots.

    The daemon takes them, so they are taken while the volume is mounted; if some were missed, one is taken as soon as it is mounted again.
    With --lock-key, nobody can delete the snapshots before they expire, unless the key's owner unlocks them.

    Examples:

    \b
      anqfs snapshot policy create hourly /archive --every 1hours --keep 2days
      anqfs snapshot policy create office /archive/new --every 15minutes --from 8:00 --until 18:00 --days MON,TUE,WED,THU,FRI
      anqfs snapshot policy create nightly /archive --daily 2:30 --timezone Europe/Berlin --keep 1months --lock-key vault
      anqfs snapshot policy create yearbook /archive --monthly last --at 23:00
    """
    from anqfs.control import client, locate

    schedule = _schedule(every, begin, until, daily, days, monthly, at, timezone)
    if schedule is None:
        raise UsageError("say when snapshots are taken: --every, --daily or --monthly")
    daemon = client.Client(locate.by_path(directory))
    body = {
        "policy_name": name,
        "source_file_id": str(directory_inode(directory)),
        "schedule": {"creation_schedule": schedule, "expiration_time_to_live": keep or ""},
        "enabled": not disabled,
        "snapshot_name_template": template,
        "lock_key_ref": lock_key,
    }
    with naming(directory):
        made = daemon.post(f"{_POLICIES}/", body)
    _finish(daemon, made["id"], json)


@app.command()
def modify(
    ref: Ref,
    name: Annotated[str | None, typer.Option("--name", help="Another name.")] = None,
    directory: Annotated[str | None, typer.Option("--directory", metavar="DIR", help="Another directory of the same volume.")] = None,
    every: Every = None,
    begin: From = None,
    until: Until = None,
    daily: Daily = None,
    days: Days = None,
    monthly: Monthly = None,
    at: At = None,
    timezone: Zone = None,
    keep: Keep = None,
    template: Template = None,
    lock_key: LockKey = None,
    no_lock_key: Annotated[bool, typer.Option("--no-lock-key", help="Do not lock new snapshots any more.")] = False,
    mountpoint: OfMount = None,
    json: Json = False,
) -> None:
    """Change a policy: what is not given stays. The snapshots that it has taken keep their names, expirations and locks.

    A new schedule begins now; what the old one missed is not made up for.

    Examples:

    \b
      anqfs snapshot policy modify nightly --keep 3months
      anqfs snapshot policy modify nightly --daily 4:00 --timezone Europe/Berlin
      anqfs snapshot policy modify 3 --no-lock-key
    """
    if lock_key is not None and no_lock_key:
        raise UsageError("give --lock-key or --no-lock-key, not both")
    wanted: dict[str, Any] = {"creation_schedule": _schedule(every, begin, until, daily, days, monthly, at, timezone)}
    wanted["expiration_time_to_live"] = keep
    body: dict[str, Any] = {"schedule": {field: value for field, value in wanted.items() if value is not None}}
    if directory is not None:
        body["source_file_id"] = str(directory_inode(directory))
        mountpoint = _same_volume(directory, mountpoint)
    if lock_key is not None or no_lock_key:
        body["lock_key_ref"] = lock_key
    body.update({field: value for field, value in (("policy_name", name), ("snapshot_name_template", template)) if value is not None})
    if body == {"schedule": {}}:
        raise UsageError("nothing is to be changed: say what")
    daemon = daemon_of(mountpoint)
    number = _find(daemon, ref)["id"]
    daemon.call("PATCH", f"{_POLICIES}/{number}", body)
    _finish(daemon, number, json)


def _same_volume(directory: str, mountpoint: str | None) -> str:
    from anqfs.control import locate

    entry = locate.by_path(directory)
    if mountpoint is not None and locate.the_only(mountpoint) != entry:
        raise UsageError(f"{wire.shown(directory)}: is in another volume")
    return entry.mountpoint


@app.command("list")
def listing(mountpoint: OfMount = None, json: Json = False) -> None:
    """List policies, when they take their next snapshots and how long those live.

    Examples:

    \b
      anqfs snapshot policy list
      anqfs snapshot policy list --json
    """
    found = daemon_of(mountpoint).get(f"{_POLICIES}/status/")["entries"]
    output.json_document(found) if json else _print(found)


@app.command()
def show(ref: Ref, mountpoint: OfMount = None, json: Json = False) -> None:
    """Show a policy.

    Examples:

    \b
      anqfs snapshot policy show nightly
    """
    one = _find(daemon_of(mountpoint), ref)
    if json:
        output.json_document(one)
        return
    output.facts(
        (
            ("id", str(one["id"])),
            ("name", wire.shown(one["policy_name"])),
            ("directory", wire.shown(one["source_file_path"]) if one["source_file_path"] else "(deleted)"),
            ("takes one", when(one["schedule"]["creation_schedule"])),
            ("expires after", one["schedule"]["expiration_time_to_live"] or "never"),
            ("names", wire.shown(one["snapshot_name_template"])),
            ("next", one["next_snapshot_time"] or "disabled"),
            ("locked by", f"key {one['lock_key']}" if one["lock_key"] else "nothing"),
        )
    )


def _enable(ref: str, enabled: bool, mountpoint: str | None, json: bool) -> None:
    daemon = daemon_of(mountpoint)
    number = _find(daemon, ref)["id"]
    daemon.call("PATCH", f"{_POLICIES}/{number}", {"enabled": enabled})
    _finish(daemon, number, json)


@app.command()
def enable(ref: Ref, mountpoint: OfMount = None, json: Json = False) -> None:
    """Let a policy take snapshots again, from now on.

    Examples:

    \b
      anqfs snapshot policy enable nightly
    """
    _enable(ref, True, mountpoint, json)


@app.command()
def disable(ref: Ref, mountpoint: OfMount = None, json: Json = False) -> None:
    """Let a policy take no snapshots until it is enabled. Those that it has taken stay.

    Examples:

    \b
      anqfs snapshot policy disable nightly
    """
    _enable(ref, False, mountpoint, json)


@app.command()
def delete(ref: Ref, dry_run: DryRun = False, mountpoint: OfMount = None, json: Json = False) -> None:
    """Delete a policy. The snapshots that it has taken stay, and expire as they would have.

    One whose record is damaged (the log tells) is named by its id.

    Examples:

    \b
      anqfs snapshot policy delete nightly --dry-run
      anqfs snapshot policy delete nightly
    """
    daemon = daemon_of(mountpoint)
    one = about_to_go(lambda: _find(daemon, ref), lambda: {"id": int(ref), "policy_name": None})
    taken = [each["id"] for each in daemon.get("/v4/snapshots/status/")["entries"] if each["policy_id"] == one["id"]]
    if not dry_run:
        daemon.delete(f"{_POLICIES}/{one['id']}")
    if json:
        output.json_document({**one, "snapshots": taken, "dry_run": dry_run})
    elif dry_run:
        name = "(damaged)" if one["policy_name"] is None else wire.shown(one["policy_name"])
        output.say(f"policy {one['id']} {name} would be deleted; its {len(taken)} snapshots would stay")
