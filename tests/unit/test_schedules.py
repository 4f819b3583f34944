"""The calendar of snapshot policies against a clock that is simply walked through, and its named hard days."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest

from anqfs.errors import UsageError
from anqfs.namespace import schedules
from anqfs.namespace.schedules import DAILY, EVERY_SO_OFTEN, LAST_DAY, MONTHLY, Schedule, expiration, next_firing, time_to_live

SECOND = 10**9


def moment(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * SECOND


def firings(schedule: Schedule, begin: str, count: int) -> list[str]:
    """Return the next firings, in UTC, to the minute."""
    schedules.check(schedule)
    now, found = moment(begin), []
    for _ in range(count):
        now = next_firing(schedule, now)
        found.append(datetime.fromtimestamp(now // SECOND, UTC).strftime("%m-%d %H:%M"))
    return found


def at(hour: int, minute: int = 0) -> int:
    return 60 * hour + minute


# --- a reference that walks from minute to minute


def _wanted(schedule: Schedule, wall: datetime) -> bool:
    """Tell whether a schedule wants this minute of its wall clock."""
    minute = 60 * wall.hour + wall.minute
    if schedule.frequency == MONTHLY:
        is_last = (wall + timedelta(days=1)).day == 1
        return minute == schedule.at and (is_last if schedule.day_of_month == LAST_DAY else wall.day == schedule.day_of_month)
    if schedule.days and wall.weekday() not in schedule.days:
        return False
    if schedule.frequency == DAILY:
        return minute == schedule.at
    if not schedule.window_start <= minute <= schedule.window_end:
        return False
    interval = schedule.every * (60 if schedule.in_hours else 1)
    since = minute - schedule.window_start
    if interval > 1440:
        since += (wall.replace(tzinfo=None) - datetime(1970, 1, 1)).days * 1440
    return since % interval == 0


def walked(schedule: Schedule, begin: datetime, minutes: int) -> list[int]:
    """Return the firings in so many minutes behind `begin`, found by looking at the clock every minute."""
    place, found = ZoneInfo(schedule.timezone), []
    repeats = schedule.frequency == EVERY_SO_OFTEN
    interval = schedule.every * (60 if schedule.in_hours else 1)
    before = begin.astimezone(place).replace(tzinfo=None)
    newest = before
    for number in range(1, minutes + 1):
        now = begin + timedelta(minutes=number)
        wall = now.astimezone(place).replace(tzinfo=None)
        step = int((wall - before).total_seconds()) // 60
        skipped = [before + timedelta(minutes=one) for one in range(1, step + 1)] if step > 0 else [wall]
        again = wall <= newest
        if any(_wanted(schedule, one) for one in skipped):
            fold = _fold_minutes(now, place)
            if not again or (repeats and interval <= fold):
                found.append(int(now.timestamp()) * SECOND)
        before, newest = wall, max(newest, wall)
    return found


def _fold_minutes(now: datetime, place: ZoneInfo) -> int:
    """Return how long the repeated time is that a moment is in the second half of; 0 for none."""
    local = now.astimezone(place)
    if not local.fold:
        return 0
    first, second = local.replace(fold=0).utcoffset(), local.utcoffset()
    assert first is not None and second is not None
    return int((first - second).total_seconds()) // 60


CHANGES = [
    ("Europe/Berlin", "2026-03-28"),
    ("Europe/Berlin", "2026-10-24"),
    ("America/New_York", "2027-03-13"),
    ("America/New_York", "2027-11-06"),
    ("Australia/Lord_Howe", "2026-04-03"),
    ("Australia/Lord_Howe", "2026-10-02"),
    ("Africa/Cairo", "2026-04-23"),
    ("Asia/Beirut", "2026-03-27"),
    ("America/Santiago", "2026-04-03"),
    ("Asia/Kathmandu", "2028-02-27"),
    ("UTC", "2027-12-30"),
]
"""Zones, and a day shortly before their clocks change (at 0:00 in Cairo and Beirut, by half an hour on Lord Howe), or a month's end."""


@pytest.mark.parametrize(("name", "day"), CHANGES)
def test_firings_are_those_of_a_clock_that_is_walked_through(name: str, day: str) -> None:
    draw = random.Random(name + day)
    begin = datetime.fromisoformat(day).replace(tzinfo=UTC)
    fired = 0
    for _ in range(6):
        start = draw.choice([0, 0, draw.randrange(1440), 90])
        schedule = Schedule(
            draw.choice([EVERY_SO_OFTEN, EVERY_SO_OFTEN, DAILY, MONTHLY]),
            name,
            tuple(sorted(draw.sample(range(7), draw.choice([0, 0, 5])))),
            draw.choice([0, 30, 90, 120, 150, 179, draw.randrange(1440)]),
            draw.choice([1, 24, 25, 27, LAST_DAY]),
            start,
            draw.choice([1439, draw.randrange(start, 1440)]),
            draw.choice([1, 5, 20, 30, 45, 60, 90]),
            False,
        )
        if draw.randrange(3) == 0:
            schedule = Schedule(EVERY_SO_OFTEN, name, (), 0, 0, start, 1439, draw.choice([1, 2, 6, 7, 24, 25, 36]), True)
        schedules.check(schedule)
        expected = walked(schedule, begin, 3 * 1440)
        now, found = int(begin.timestamp()) * SECOND, []
        while (now := next_firing(schedule, now)) <= int(begin.timestamp()) * SECOND + 3 * 1440 * 60 * SECOND:
            found.append(now)
        assert found == expected, schedule
        fired += len(found)
    assert fired > 10


# --- days with names


def test_a_daily_time_that_does_not_exist_is_the_end_of_the_gap() -> None:
    schedule = Schedule(DAILY, "Europe/Berlin", at=at(2, 30))
    assert firings(schedule, "2026-03-27T12:00:00", 3) == ["03-28 01:30", "03-29 01:00", "03-30 00:30"]


def test_a_daily_time_that_comes_twice_counts_once() -> None:
    schedule = Schedule(DAILY, "Europe/Berlin", at=at(2, 30))
    assert firings(schedule, "2026-10-23T12:00:00", 3) == ["10-24 00:30", "10-25 00:30", "10-26 01:30"]


def test_half_hours_go_on_through_the_repeated_hour_and_six_hours_keep_to_the_clock() -> None:
    halves = Schedule(EVERY_SO_OFTEN, "Europe/Berlin", every=30)
    moments = firings(halves, "2026-10-25T00:00:00", 6)
    assert moments == ["10-25 00:30", "10-25 01:00", "10-25 01:30", "10-25 02:00", "10-25 02:30", "10-25 03:00"]
    sixes = Schedule(EVERY_SO_OFTEN, "Europe/Berlin", every=6, in_hours=True)
    assert firings(sixes, "2026-10-24T20:00:00", 4) == ["10-24 22:00", "10-25 05:00", "10-25 11:00", "10-25 17:00"]


def test_the_last_day_of_the_month_knows_leap_years() -> None:
    schedule = Schedule(MONTHLY, "UTC", at=at(23, 59), day_of_month=LAST_DAY)
    assert firings(schedule, "2028-01-15T00:00:00", 4) == ["01-31 23:59", "02-29 23:59", "03-31 23:59", "04-30 23:59"]
    assert firings(schedule, "2027-02-01T00:00:00", 1) == ["02-28 23:59"]
    assert firings(schedule, "2100-02-01T00:00:00", 1) == ["02-28 23:59"]


def test_a_window_holds_on_its_days_both_ends_included() -> None:
    schedule = Schedule(EVERY_SO_OFTEN, "UTC", days=(0, 4), window_start=at(9), window_end=at(10), every=30)
    # 2026-11-20 is a Friday.
    assert firings(schedule, "2026-11-20T09:30:00", 4) == ["11-20 10:00", "11-23 09:00", "11-23 09:30", "11-23 10:00"]


def test_a_day_that_a_zone_left_out_fires_at_the_next_ones_begin() -> None:
    """Samoa had no 2011-12-30."""
    schedule = Schedule(DAILY, "Pacific/Apia", at=at(12))
    assert firings(schedule, "2011-12-29T00:00:00", 3) == ["12-29 22:00", "12-30 10:00", "12-30 22:00"]


@pytest.mark.parametrize(("hours", "days"), [(25, ()), (36, ()), (48, ()), (97, ()), (99, (3,)), (99, ())])
def test_intervals_of_more_than_a_day_are_kept(hours: int, days: tuple[int, ...]) -> None:
    schedule = Schedule(EVERY_SO_OFTEN, "UTC", days=days, every=hours, in_hours=True)
    now, found = moment("2026-11-24T00:00:00"), []
    for _ in range(12):
        now = next_firing(schedule, now)
        found.append(now)
    gaps = {(after - before) // (3600 * SECOND) for before, after in pairwise(found)}
    assert gaps == {hours} if not days else all(gap % hours == 0 for gap in gaps)


@pytest.mark.parametrize(
    "schedule",
    [
        Schedule(3),
        Schedule(DAILY, "Europe/Nowhere"),
        Schedule(DAILY, "../../etc/passwd"),
        Schedule(DAILY, at=1440),
        Schedule(DAILY, days=(7,)),
        Schedule(DAILY, days=(1, 1)),
        Schedule(MONTHLY, day_of_month=0),
        Schedule(MONTHLY, day_of_month=28),
        Schedule(EVERY_SO_OFTEN, every=0),
        Schedule(EVERY_SO_OFTEN, every=100),
        Schedule(EVERY_SO_OFTEN, every=5, window_start=60, window_end=59),
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused(schedule: Schedule) -> None:
    with pytest.raises(UsageError):
        schedules.check(schedule)


# --- time to live


def test_the_grammar_of_times_to_live() -> None:
    assert [time_to_live(text) for text in ("", "never", "Never", "1hours", "5days", "99weeks", "1month", "12months")] == [
        *["", "", ""],
        *["1hours", "5days", "99weeks", "1months", "12months"],
    ]
    for text in ("0days", "100days", "5", "days", "5 days", "-1days", "1.5hours", "5years", "5seconds", "٥days"):
        with pytest.raises(UsageError):
            time_to_live(text)


@pytest.mark.parametrize(
    ("begin", "lifetime", "zone", "end"),
    [
        ("2026-11-24T10:00:07", "99minutes", "UTC", "2026-11-24T11:39:07"),
        ("2026-10-24T10:00:00", "1days", "Europe/Berlin", "2026-10-25T10:00:00"),
        ("2026-10-24T10:00:00", "2weeks", "UTC", "2026-11-07T10:00:00"),
        ("2027-12-31T10:00:07", "2months", "UTC", "2028-02-29T10:00:07"),
        ("2026-01-31T10:00:00", "13months", "UTC", "2027-02-28T10:00:00"),
        ("2026-09-25T10:00:00", "1months", "Europe/Berlin", "2026-10-25T11:00:00"),
        ("2026-01-31T23:30:00", "1months", "Europe/Berlin", "2026-02-28T23:30:00"),
    ],
)
def test_when_something_expires(begin: str, lifetime: str, zone: str, end: str) -> None:
    assert expiration(moment(begin), lifetime, zone) == moment(end)
    assert expiration(moment(begin), "", zone) == 0
