"""Who owns the capacity below a directory, and how old it is: `/anqfs/v1/capacity`.

For the volume's root the answer comes from totals that are kept; for any other directory, and in snapshots, it takes a walk.
"""

from __future__ import annotations

import time
from typing import Any, Literal

import msgspec
import trio

from anqfs.control.requests import Node
from anqfs.control.rest.routing import Call, Route
from anqfs.errors import FilesystemError
from anqfs.namespace.owners import DAY, OwnerWalk, Sums
from anqfs.store.schema import ROOT_INO

_STEPS = 512
AGES = (1, 7, 30, 90, 365, 730, 1825)
"""Days since the last change of data at which one class of age ends and the next begins."""


class Query(msgspec.Struct):
    """A directory, and what to tell apart."""

    inode: Node
    by: Literal["owner", "age"] = "owner"


class Part(msgspec.Struct):
    """What one owner has, or what is of one age: `min_days` to `max_days`, null: and older. Bytes are strings."""

    bytes: str
    allocated: str
    files: str
    uid: int | None = None
    min_days: int | None = None
    max_days: int | None = None


class Parts(msgspec.Struct):
    """The parts; `walked`: whether the files were looked at one by one."""

    entries: list[Part]
    walked: bool


async def _get(call: Call) -> Any:
    """Tell who owns the capacity below a directory, or how old it is."""
    namespace, node = call.service.namespace, call.query.inode
    owners = namespace.core.owners
    walked = node != ROOT_INO or not owners.kept
    sums = await _walk(call, node) if walked else owners.totals()
    groups = _by_owner(sums) if call.query.by == "owner" else _by_age(sums, time.time_ns() // DAY)
    return Parts(groups, walked)


async def _walk(call: Call, node: int) -> Sums:
    walk = OwnerWalk(call.service.namespace, node)
    try:
        while walk.step(_STEPS):
            await trio.sleep(0)
    except FilesystemError as error:
        raise FilesystemError(error.errno, f"the directory changed while it was looked at: {error}") from error
    return walk.sums


def _by_owner(sums: Sums) -> list[Part]:
    found: dict[int, tuple[int, int, int]] = {}
    for (uid, _), numbers in sums.items():
        found[uid] = _plus(found.get(uid, (0, 0, 0)), numbers)
    largest = sorted(found.items(), key=lambda item: (-item[1][1], item[0]))
    return [_part(numbers, uid=uid) for uid, numbers in largest]


def _by_age(sums: Sums, today: int) -> list[Part]:
    bounds = (0, *AGES)
    found = [(0, 0, 0)] * len(bounds)
    for (_, day), numbers in sums.items():
        at = max(number for number, bound in enumerate(bounds) if bound <= max(0, today - day))
        found[at] = _plus(found[at], numbers)
    ends: tuple[int | None, ...] = (*AGES, None)
    return [_part(numbers, min_days=low, max_days=high) for numbers, low, high in zip(found, bounds, ends, strict=True)]


def _part(numbers: tuple[int, int, int], uid: int | None = None, min_days: int | None = None, max_days: int | None = None) -> Part:
    size, allocated, files = numbers
    return Part(str(size), str(allocated), str(files), uid, min_days, max_days)


def _plus(one: tuple[int, int, int], other: tuple[int, int, int]) -> tuple[int, int, int]:
    return one[0] + other[0], one[1] + other[1], one[2] + other[2]


ROUTES = [Route("GET", "/anqfs/v1/capacity", _get, query=Query, answer=Parts)]
