"""Times of the REST API: RFC 3339 with nanoseconds, UTC, `Z`. Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from anqfs.errors import UsageError

_SECOND = 1_000_000_000
_LATEST = 253_402_300_799
"""The last second of the year 9999, beyond which RFC 3339 cannot write."""
_EARLIEST = -62_135_596_800
_RFC_3339 = re.compile(r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9})\d*)?(Z|z|[+-]\d\d:\d\d)", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def shown(nanoseconds: int) -> str:
    """Return ns since 1970 as RFC 3339; a time outside of the years 1 to 9999 becomes the nearest that can be written."""
    seconds, rest = divmod(nanoseconds, _SECOND)
    whole = _EPOCH + timedelta(seconds=max(_EARLIEST, min(seconds, _LATEST)))
    return f"{whole.year:04d}-{whole:%m-%dT%H:%M:%S}.{rest:09d}Z"


def parsed(text: str) -> int:
    """Return an RFC 3339 time as ns since 1970. Raises UsageError."""
    found = _RFC_3339.fullmatch(text)
    if found is None:
        raise UsageError(f"the time {text[:40]!a} is not RFC 3339, as 2026-01-31T12:00:00Z is")
    year, month, day, hour, minute, second, fraction, zone = found.groups()
    try:
        whole = datetime(int(year), int(month), int(day), int(hour), int(minute), min(int(second), 59), tzinfo=UTC)
        away = timedelta() if zone in "Zz" else timedelta(hours=int(zone[1:3]), minutes=int(zone[4:6]))
    except ValueError as error:
        raise UsageError(f"the time {text[:40]!a} does not exist: {error}") from error
    span = whole - _EPOCH + (away if zone[0] == "-" else -away)
    seconds = span.days * 86400 + span.seconds + (1 if second == "60" else 0)
    return seconds * _SECOND + int((fraction or "").ljust(9, "0"))


def expiration(text: str) -> int:
    """Return an expiration as ns since 1970; an empty one is 0, never. Raises UsageError."""
    if not text:
        return 0
    when = parsed(text)
    if not 0 < when < 1 << 63:
        raise UsageError(f"the expiration {text[:40]!a} is outside of the years 1970 to 2262")
    return when


def shown_expiration(nanoseconds: int) -> str:
    """Return an expiration; an empty string for 0, never."""
    return shown(nanoseconds) if nanoseconds else ""
