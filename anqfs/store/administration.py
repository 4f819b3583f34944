"""The records of administration: what somebody asked of the volume, beside the tree itself.

Quotas, deletions of whole trees, snapshot policies, security keys, holds, users of the API, settings. The table in `schema` has their
keys; here are their values, and the functions that make the keys.
"""

from __future__ import annotations

from struct import Struct as _Packer

import msgspec

from anqfs.store.schema import Record

COUNTER_POLICY = b"Cpolicy"
COUNTER_SECURITY_KEY = b"Ckey"
COUNTER_HOLD = b"Chold"

_ONE = _Packer(">cQ")
_TWO = _Packer(">cQQ")


class Quota(Record, frozen=True, array_like=True, gc=False):
    """What everything below a directory may hold together, in bytes of capacity (namespace/quotas.py says what counts)."""

    limit: int


class TreeDelete(Record, frozen=True, array_like=True, gc=False):
    """A directory that the background deletes with all below it. The numbers are those of the beginning."""

    created: int
    """ns since 1970."""
    path: bytes
    capacity: int = 0
    files: int = 0
    """Everything but directories."""
    directories: int = 0
    error: bytes = b""
    """Why it stopped; empty while it goes on."""


class Schedule(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """When a policy takes snapshots (namespace/schedules.py), by the wall clock of a zone. Times of day are minutes since midnight."""

    frequency: int
    """0 every so often in a window of the day, 1 daily, 2 monthly."""
    timezone: str = "UTC"
    """A name of the tz database."""
    days: tuple[int, ...] = ()
    """Days of the week, 0 = Monday; none = every day. Not for monthly ones."""
    at: int = 0
    """Daily and monthly: the time of day."""
    day_of_month: int = 0
    """Monthly: 1 to 27, or 128 for the last day."""
    window_start: int = 0
    window_end: int = 1439
    """Every so often: the first and the last minute of the day in which snapshots are taken."""
    every: int = 0
    """Every so often: how many minutes, or hours if `in_hours`; 1 to 99."""
    in_hours: bool = False


class Policy(Record, frozen=True, array_like=True, gc=False):
    """When snapshots of the directory `root` are taken by themselves, how they are called, how long they live. Times are ns since 1970."""

    name: bytes
    root: int
    schedule: Schedule
    time_to_live: str = ""
    """Such as `7days` (namespace/schedules.py has the grammar); empty = the snapshots never expire."""
    template: bytes = b""
    """Of the snapshots' names; empty = ANQ's."""
    enabled: bool = True
    lock_key: int = 0
    """The security key that locks each new snapshot; 0 = none."""
    due_after: int = 0
    """What the schedule wants up to this moment is done with: it was set, enabled or last acted on then."""
    version: int = 1
    """Grows with each change that somebody makes."""


class SecurityKey(Record, frozen=True, array_like=True, gc=False):
    """A public key whose private half unlocks snapshots."""

    name: str
    public_key: bytes
    """ECDSA P-256, DER SubjectPublicKeyInfo."""
    comment: str = ""
    disabled: bool = False
    version: int = 1
    """Grows with each change; part of the challenges, which a change makes stale."""


class Hold(Record, frozen=True, array_like=True, gc=False):
    """Somebody who needs a snapshot."""

    owner: str
    created: int
    """ns since 1970."""


class Settings(Record, frozen=True, array_like=True, gc=False):
    """What an administrator chose for the volume (`Csettings`)."""

    snapshot_directory_mode: str = "visible"
    """How SMB shows `.snapshot`: visible (listed in a share's root), hidden (found by name) or disabled (previous versions only)."""
    cluster_name: str = "anqfs"
    """What clients of the API are shown."""


SETTINGS = b"Csettings"


class AccessToken(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A long-lived token of a user of the API. Only a digest of it is kept (SHA-256 of 32 random bytes). Times are ns since 1970."""

    id: bytes
    digest: bytes
    creator: int
    created: int
    expires: int = 0
    """0 = never."""
    enabled: bool = True


class ApiUser(Record, frozen=True, array_like=True, gc=False):
    """A user of the API. `password` is an scrypt hash (crypto/passwords); `role` one of ANQ's; times are ns since 1970."""

    name: str
    role: str
    password: bytes
    created: int
    changed: int
    """When the password was set."""
    tokens: tuple[AccessToken, ...] = ()


def quota_key(ino: int) -> bytes:
    """Return the key of a directory's quota."""
    return _ONE.pack(b"Q", ino)


def tree_delete_key(ino: int) -> bytes:
    """Return the key of a directory's deletion."""
    return _ONE.pack(b"T", ino)


def api_user_key(number: int) -> bytes:
    """Return the key of a user of the API."""
    return _ONE.pack(b"A", number)


def policy_key(policy: int) -> bytes:
    """Return the key of a snapshot policy."""
    return _ONE.pack(b"P", policy)


def security_key_key(number: int) -> bytes:
    """Return the key of a security key's record."""
    return _ONE.pack(b"Y", number)


def hold_key(snapshot: int, hold: int) -> bytes:
    """Return the key of a snapshot's hold."""
    return _TWO.pack(b"B", snapshot, hold)
