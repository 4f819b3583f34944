"""The calendar of snapshot policies: when a schedule fires next, and when what it made expires. Pure; moments are ns since 1970.

A schedule goes by the wall clock of its zone:
- Daily (on chosen days of the week) and monthly (days 1 to 27, or the last): at a time of day.
- Every so many minutes or hours, inside of a window of the day (both ends belong to it) on chosen days: counted from the window's start,
  anew each day. Intervals longer than a day are counted on without a break from the window's start on 1970-01-01; what falls outside of the
  window or the days is left out.

A zone that the machine's tz database does not have counts as UTC: snapshots at another time of day are better than none.

When the clocks go forward, a time that does not exist that day is replaced by the first moment after the gap. When they go back, a time
that comes twice counts the first time only; but intervals not longer than the repeated hour go on through it, so that nothing is left out.
"""

from __future__ import annotations

import re
from calendar import monthrange
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from anqfs.errors import UsageError
from anqfs.store.administration import Schedule

EVERY_SO_OFTEN, DAILY, MONTHLY = range(3)
LAST_DAY = 128
"""The day of the month that is the last one, whichever that is."""
DAY_OF_MONTH_MAX = 27
QUANTITY_MAX = 99
_DAY = 1440
_NS = 10**9
_DAYS_AHEAD = 800
"""Any valid schedule fires within so many days: 99 hours meet the window's start on a given day of the week every 693 days."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TIME_TO_LIVE = re.compile(r"([1-9][0-9]?)(minute|hour|day|week|month)s?", re.ASCII)
_MINUTES = {"minute": 1, "hour": 60, "day": _DAY, "week": 7 * _DAY}


def zone(name: str) -> ZoneInfo:
    """Return a zone of the tz database. Raises UsageError."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise UsageError(f"there is no time zone {name[:64]!a}: use a name of the tz database, such as Europe/Berlin or UTC") from error


@lru_cache(maxsize=64)
def zone_or_utc(name: str) -> ZoneInfo:
    """Return a zone of the tz database; UTC for one that this machine does not know, so that a volume from another one goes on."""
    try:
        return zone(name)
    except UsageError:
        return ZoneInfo("UTC")


def check(schedule: Schedule) -> None:
    """Raise UsageError for a schedule that makes no sense."""
    zone(schedule.timezone)
    if schedule.frequency not in (EVERY_SO_OFTEN, DAILY, MONTHLY):
        raise UsageError("a schedule is hourly or less, daily or monthly")
    if any(not 0 <= minute < _DAY for minute in (schedule.at, schedule.window_start, schedule.window_end)):
        raise UsageError("times of day are 0:00 to 23:59")
    if any(not 0 <= day <= 6 for day in schedule.days) or len(set(schedule.days)) != len(schedule.days):
        raise UsageError("days of the week are MON to SUN, each at most once")
    if schedule.frequency == MONTHLY and schedule.day_of_month != LAST_DAY and not 1 <= schedule.day_of_month <= DAY_OF_MONTH_MAX:
        raise UsageError(f"the day of the month is 1 to {DAY_OF_MONTH_MAX}, or {LAST_DAY} for the last one")
    if schedule.frequency == EVERY_SO_OFTEN:
        if not 1 <= schedule.every <= QUANTITY_MAX:
            raise UsageError(f"the interval is 1 to {QUANTITY_MAX} minutes or hours")
        if schedule.window_start > schedule.window_end:
            raise UsageError("the window's start is behind its end")


# --- firing


def next_firing(schedule: Schedule, after: int) -> int:
    """Return the first moment behind `after` at which a valid schedule fires."""
    place = zone_or_utc(schedule.timezone)
    first = _local(after, place).date() - timedelta(days=1)
    for number in range(_DAYS_AHEAD):
        day = first + timedelta(days=number)
        found = min((moment for moment in _firings(schedule, place, day) if moment > after), default=None)
        if found is not None:
            return found
    raise AssertionError(f"a schedule that never fires: {schedule}")


def _firings(schedule: Schedule, place: ZoneInfo, day: date) -> Iterator[int]:
    """Yield the moments at which a schedule fires for a day of its zone, in no order."""
    if schedule.frequency == MONTHLY:
        last = monthrange(day.year, day.month)[1]
        if day.day == (last if schedule.day_of_month == LAST_DAY else schedule.day_of_month):
            yield _moments(day, schedule.at, place)[0]
        return
    if schedule.days and day.weekday() not in schedule.days:
        return
    if schedule.frequency == DAILY:
        yield _moments(day, schedule.at, place)[0]
        return
    interval = schedule.every * (60 if schedule.in_hours else 1)
    for minute in range(schedule.window_start + _phase(day, interval), schedule.window_end + 1, interval):
        moments = _moments(day, minute, place)
        yield moments[0]
        if moments[-1] - moments[0] >= interval * 60 * _NS:
            yield moments[-1]


def _phase(day: date, interval: int) -> int:
    """Return how many minutes behind the window's start the first firing of a day is."""
    if interval <= _DAY:
        return 0
    return -(day - _EPOCH.date()).days * _DAY % interval


def _moments(day: date, minute: int, place: ZoneInfo) -> tuple[int, ...]:
    """Return the moment at which it is this time of day: two when clocks go back over it, the end of the gap when they go forward."""
    wall = datetime(day.year, day.month, day.day, minute // 60, minute % 60, tzinfo=place)
    first, second = _moment(wall), _moment(wall.replace(fold=1))
    if first == second:
        return (first,)
    if first < second:
        return (first, second)
    return (_change_between(second, first, place),)


def _change_between(low: int, high: int, place: ZoneInfo) -> int:
    """Return the moment, between two, from which on the clocks show what they show at `high`."""
    low, high = low // _NS, high // _NS
    offset = _local(high * _NS, place).utcoffset()
    while high - low > 1:
        middle = (low + high) // 2
        if _local(middle * _NS, place).utcoffset() == offset:
            high = middle
        else:
            low = middle
    return high * _NS


def _moment(when: datetime) -> int:
    span = when.astimezone(UTC) - _EPOCH
    return (span.days * 86400 + span.seconds) * _NS


def _local(moment: int, place: ZoneInfo) -> datetime:
    return (_EPOCH + timedelta(seconds=moment // _NS)).astimezone(place)


def local_time(moment: int, timezone: str) -> datetime:
    """Return a moment, to the second, as the clocks of a zone show it."""
    return _local(moment, zone_or_utc(timezone))


# --- expiring


def time_to_live(text: str) -> str:
    """Return a time to live in its one form, such as `7days`; an empty text for an empty one and for `never`. Raises UsageError."""
    if text.strip().lower() in ("", "never"):
        return ""
    found = _TIME_TO_LIVE.fullmatch(text.strip().lower())
    if found is None:
        raise UsageError(
            f"{text[:40]!a} is no time to live: write 1 to {QUANTITY_MAX} and minutes, hours, days, weeks or months, as 7days, or never"
        )
    return f"{found[1]}{found[2]}s"


def expiration(moment: int, lifetime: str, timezone: str) -> int:
    """Return when something made at `moment` expires; 0 for an empty time to live.

    Days are 24 hours. Months go by the zone's calendar; where a month is too short, its last day is taken.
    """
    if not lifetime:
        return 0
    found = _TIME_TO_LIVE.fullmatch(lifetime)
    assert found is not None
    quantity, unit = int(found[1]), found[2]
    if unit != "month":
        return moment + quantity * _MINUTES[unit] * 60 * _NS
    begin = local_time(moment, timezone)
    year, month = divmod(begin.year * 12 + begin.month - 1 + quantity, 12)
    day = date(year, month + 1, min(begin.day, monthrange(year, month + 1)[1]))
    seconds = begin.second * _NS + moment % _NS
    return _moments(day, begin.hour * 60 + begin.minute, zone_or_utc(timezone))[0] + seconds
