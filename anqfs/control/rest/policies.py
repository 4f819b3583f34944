"""`/v3/snapshots/policies/` and its `status/`: snapshots that are taken by themselves.

A policy's status also says when it takes the next snapshot, which ANQ's does not.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from anqfs.control import wire
from anqfs.control.rest import etags, moments, refs
from anqfs.control.rest.routing import Answer, Call, Route
from anqfs.control.rest.snapshots import path_of
from anqfs.errors import Damaged, UsageError
from anqfs.namespace.schedules import DAILY, EVERY_SO_OFTEN, MONTHLY
from anqfs.store.administration import Policy, Schedule
from anqfs.store.schema import ROOT_INO

_Text = Annotated[str, msgspec.Meta(max_length=4096)]
_FREQUENCIES = {"SCHEDULE_HOURLY_OR_LESS": EVERY_SO_OFTEN, "SCHEDULE_DAILY_OR_WEEKLY": DAILY, "SCHEDULE_MONTHLY": MONTHLY}
_INTERVALS = {"FIRE_IN_MINUTES": False, "FIRE_IN_HOURS": True}
_DAYS = ("MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN")
_EVERY_DAY = ("EVERY_DAY", "ALL")


class CreationSchedule(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """When snapshots are taken. Which fields there are depends on the frequency."""

    frequency: str
    timezone: _Text = ""
    hour: int | None = None
    minute: int | None = None
    on_days: list[_Text] | None = None
    day_of_month: int | None = None
    window_start_hour: int | None = None
    window_start_minute: int | None = None
    window_end_hour: int | None = None
    window_end_minute: int | None = None
    fire_every: int | None = None
    fire_every_interval: str | None = None


class WantedSchedule(msgspec.Struct):
    """When snapshots are taken, and how long they live: what is missing stays as it is."""

    creation_schedule: CreationSchedule | None = None
    expiration_time_to_live: _Text | None = None


class ShownSchedule(msgspec.Struct):
    """When snapshots are taken, and how long they live; an empty time to live is for ever."""

    id: int
    creation_schedule: CreationSchedule
    expiration_time_to_live: str


class Shown(msgspec.Struct):
    """A policy."""

    id: int
    version: int
    policy_name: str
    snapshot_name_template: str
    source_file_id: str
    enabled: bool
    lock_key_ref: str | None
    schedule: ShownSchedule


class Status(Shown):
    """A policy, its directory's path (empty when it is gone), and when it takes its next snapshot (empty when it is disabled)."""

    source_file_path: str
    lock_key: str | None
    owners: list[dict[str, str]]
    next_snapshot_time: str


class All(msgspec.Struct):
    """All policies, by id."""

    entries: list[Shown]


class Statuses(msgspec.Struct):
    """All policies, by id."""

    entries: list[Status]


class Creation(msgspec.Struct):
    """A policy to make, for the root when no directory is named."""

    policy_name: _Text
    schedule: WantedSchedule
    source_file_id: Annotated[str, msgspec.Meta(max_length=32760)] | None = None
    enabled: bool = True
    snapshot_name_template: _Text | None = None
    lock_key_ref: _Text | None = None


class Change(msgspec.Struct):
    """What is there is changed. A lock key of null: new snapshots are not locked."""

    policy_name: _Text | None = None
    schedule: WantedSchedule | None = None
    source_file_id: Annotated[str, msgspec.Meta(max_length=32760)] | None = None
    enabled: bool | None = None
    snapshot_name_template: _Text | None = None
    lock_key_ref: _Text | UnsetType | None = UNSET


# --- schedules


def _of_wire(wanted: CreationSchedule) -> Schedule:
    """Return the schedule that a request asks for. Raises UsageError."""
    frequency = _FREQUENCIES.get(wanted.frequency)
    if frequency is None:
        raise UsageError(f"the frequency {wanted.frequency[:40]!a} is none of {', '.join(_FREQUENCIES)}")
    schedule = Schedule(frequency, wanted.timezone or "UTC", _days(wanted.on_days))
    if frequency == EVERY_SO_OFTEN:
        interval = wanted.fire_every_interval or ""
        if interval not in _INTERVALS or wanted.fire_every is None:
            raise UsageError(f"fire_every is how often a snapshot is taken, fire_every_interval one of {', '.join(_INTERVALS)}")
        start = _minutes(wanted.window_start_hour, wanted.window_start_minute, 0)
        end = _minutes(wanted.window_end_hour, wanted.window_end_minute, 1439)
        return msgspec.structs.replace(schedule, window_start=start, window_end=end, every=wanted.fire_every, in_hours=_INTERVALS[interval])
    at = _minutes(wanted.hour, wanted.minute, None)
    return msgspec.structs.replace(schedule, at=at, day_of_month=(wanted.day_of_month or 0) if frequency == MONTHLY else 0)


def _minutes(hour: int | None, minute: int | None, default: int | None) -> int:
    if hour is None and minute is None and default is not None:
        return default
    if hour is None or not 0 <= hour <= 23 or not 0 <= (minute or 0) <= 59:
        raise UsageError("a time of day has an hour of 0 to 23 and a minute of 0 to 59")
    return 60 * hour + (minute or 0)


def _days(names: list[str] | None) -> tuple[int, ...]:
    """Return days of the week; none stands for every day."""
    if names is None or any(name in _EVERY_DAY for name in names):
        return ()
    unknown = [name for name in names if name not in _DAYS]
    if unknown or not names:
        raise UsageError(f"on_days is [EVERY_DAY] or some of {', '.join(_DAYS)}")
    return tuple(sorted({_DAYS.index(name) for name in names}))


def _to_wire(schedule: Schedule) -> CreationSchedule:
    name = next(name for name, frequency in _FREQUENCIES.items() if frequency == schedule.frequency)
    shown = CreationSchedule(name, schedule.timezone)
    if schedule.frequency != MONTHLY:
        shown.on_days = [_DAYS[day] for day in schedule.days] or ["EVERY_DAY"]
    if schedule.frequency == EVERY_SO_OFTEN:
        shown.window_start_hour, shown.window_start_minute = divmod(schedule.window_start, 60)
        shown.window_end_hour, shown.window_end_minute = divmod(schedule.window_end, 60)
        shown.fire_every = schedule.every
        shown.fire_every_interval = "FIRE_IN_HOURS" if schedule.in_hours else "FIRE_IN_MINUTES"
        return shown
    shown.hour, shown.minute = divmod(schedule.at, 60)
    if schedule.frequency == MONTHLY:
        shown.day_of_month = schedule.day_of_month
    return shown


# --- what is shown


def _shown(call: Call, number: int, policy: Policy) -> dict[str, Any]:
    return {
        "id": number,
        "version": policy.version,
        "policy_name": wire.text(policy.name),
        "snapshot_name_template": wire.text(call.service.namespace.policies.template_of(policy)),
        "source_file_id": str(policy.root),
        "enabled": policy.enabled,
        "lock_key_ref": str(policy.lock_key) if policy.lock_key else None,
        "schedule": ShownSchedule(number, _to_wire(policy.schedule), policy.time_to_live),
    }


def _status(call: Call, number: int, policy: Policy) -> dict[str, Any]:
    when = call.service.namespace.policies.next_firing(number)
    shown = _shown(call, number, policy)
    return {
        **shown,
        "source_file_path": path_of(call, policy.root),
        "lock_key": shown["lock_key_ref"],
        "owners": [],
        "next_snapshot_time": "" if when is None else moments.shown(when),
    }


def _etag(number: int, policy: Policy) -> str:
    return etags.of(number, policy.version)


def _answer(call: Call, number: int) -> Answer:
    policy = call.service.namespace.policies.get(number)
    return Answer(_shown(call, number, policy), etag=_etag(number, policy))


# --- routes


async def _get_all(call: Call) -> Any:
    """List snapshot policies."""
    return {"entries": [_shown(call, number, policy) for number, policy in call.service.namespace.policies.all()]}


async def _get_statuses(call: Call) -> Any:
    """List snapshot policies with their directories and when they take their next snapshots."""
    return {"entries": [_status(call, number, policy) for number, policy in call.service.namespace.policies.all()]}


async def _get(call: Call) -> Any:
    """Return a snapshot policy."""
    return _answer(call, call.number("id"))


async def _get_status(call: Call) -> Any:
    """Return a snapshot policy with its directory and when it takes its next snapshot."""
    number = call.number("id")
    policy = call.service.namespace.policies.get(number)
    return Answer(_status(call, number, policy), etag=_etag(number, policy))


async def _create(call: Call) -> Any:
    """Make a snapshot policy."""
    service, wanted = call.service, call.body
    service.must_be_writable()
    if wanted.schedule.creation_schedule is None:
        raise UsageError("the policy has no creation_schedule: say when it takes snapshots")
    directory = ROOT_INO
    if wanted.source_file_id is not None:
        directory = refs.node_of(service, wire.raw(wanted.source_file_id), None)
    number = service.namespace.policies.create(
        wire.raw(wanted.policy_name),
        directory,
        _of_wire(wanted.schedule.creation_schedule),
        time_to_live=wanted.schedule.expiration_time_to_live or "",
        template=_template(wanted.snapshot_name_template) or b"",
        enabled=wanted.enabled,
        lock_key=wanted.lock_key_ref,
    )
    await service.durable()
    return _answer(call, number)


async def _change(call: Call) -> Any:
    """Change a snapshot policy; the snapshots that it has taken stay as they are."""
    service, wanted, number = call.service, call.body, call.number("id")
    service.must_be_writable()
    policies = service.namespace.policies
    call.must_match(_etag(number, policies.get(number)))
    schedule = wanted.schedule or WantedSchedule()
    lock_key: str | Literal[False] | None = None
    if wanted.lock_key_ref is not UNSET:
        lock_key = wanted.lock_key_ref if wanted.lock_key_ref is not None else False
    policies.change(
        number,
        name=None if wanted.policy_name is None else wire.raw(wanted.policy_name),
        directory=None if wanted.source_file_id is None else refs.node_of(service, wire.raw(wanted.source_file_id), None),
        schedule=None if schedule.creation_schedule is None else _of_wire(schedule.creation_schedule),
        time_to_live=schedule.expiration_time_to_live,
        template=_template(wanted.snapshot_name_template),
        enabled=wanted.enabled,
        lock_key=lock_key,
    )
    await service.durable()
    return _answer(call, number)


def _template(text: str | None) -> bytes | None:
    return None if text is None else wire.raw(text)


async def _delete(call: Call) -> Any:
    """Delete a snapshot policy; its snapshots stay."""
    call.service.must_be_writable()
    number, policies = call.number("id"), call.service.namespace.policies
    with suppress(Damaged):  # of what is damaged nobody knows a version
        call.must_match(_etag(number, policies.get(number)))
    policies.delete(number)
    await call.service.durable()
    return None


_POLICIES = "/v3/snapshots/policies/"
ROUTES = [
    Route("GET", _POLICIES, _get_all, answer=All),
    Route("POST", _POLICIES, _create, body=Creation, answer=Shown),
    Route("GET", _POLICIES + "status/", _get_statuses, answer=Statuses),
    Route("GET", _POLICIES + "status/{id}", _get_status, answer=Status),
    Route("GET", _POLICIES + "{id}", _get, answer=Shown),
    Route("PUT", _POLICIES + "{id}", _change, body=Change, answer=Shown),
    Route("PATCH", _POLICIES + "{id}", _change, body=Change, answer=Shown),
    Route("DELETE", _POLICIES + "{id}", _delete),
]
