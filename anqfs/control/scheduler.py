"""What happens by itself in a mounted volume: policies take snapshots, expired snapshots go. Trio thread; one task of the daemon.

It sleeps until the next thing is due, and wakes when the timetable changes. The machine's clock may be set, and stands still for us while
the machine sleeps, so it is looked at every minute while anything is to come; when nothing is, there is no waking at all. A snapshot that
cannot be taken is told of in one line and tried again after a minute, then later and later, at most an hour apart.
"""

from __future__ import annotations

import logging
from math import inf
from typing import Any, Protocol

import trio

from anqfs.errors import AnqfsError
from anqfs.namespace.namespace import Namespace
from anqfs.namespace.snapshots import label

_log = logging.getLogger("anqfs.control.scheduler")

LOOK_EVERY = 60.0
"""Seconds after which the clock is looked at again."""
_FIRST_RETRY, _LAST_RETRY = 60.0, 3600.0
_NS = 1e9
_EXPIRATIONS = 0
"""Stands for the expirations among the numbers of policies."""


class Mounted(Protocol):
    """What the scheduler needs of a session: `mount.session.Session` is one."""

    @property
    def background(self) -> Any:
        """What reclaims the space of deleted snapshots."""

    def changed(self) -> None:
        """Say that the namespace was changed."""

    async def flush(self) -> None:
        """Bring in what programs wrote."""

    async def durable(self) -> None:
        """Make everything durable."""


class Scheduler:
    """Acts on the timetable of one volume."""

    def __init__(self, namespace: Namespace, session: Mounted) -> None:
        self._namespace = namespace
        self._session = session
        self._wanted = trio.Event()
        self._retries: dict[int, tuple[float, float]] = {}
        """What failed -> (when it is tried again, in trio's time; how long the pause before was)."""

    async def run(self) -> None:
        """Act whenever something is due, for ever."""
        self._namespace.core.timetable_changed = lambda: self._wanted.set()
        while True:
            self._wanted = trio.Event()
            try:
                if self._is_writable():
                    await self._expire()
                    await self._take()
                pause = self._pause()
            except Exception:  # whatever it is, the mount outlives it
                _log.exception("the timetable met an unforeseen fault and is looked at again in a minute")
                pause = LOOK_EVERY
            with trio.move_on_after(pause):
                await self._wanted.wait()

    def _is_writable(self) -> bool:
        return not self._namespace.volume.read_only and self._namespace.volume.failed is None

    def _pause(self) -> float:
        """Return for how many seconds nothing is due, at most LOOK_EVERY; infinity when nothing will be."""
        if not self._is_writable():
            return inf if self._namespace.volume.read_only else LOOK_EVERY
        policies = self._namespace.policies
        moments = {number: policies.next_firing(number) for number, _ in policies.all()}
        moments[_EXPIRATIONS] = self._namespace.next_expiration()
        now, pauses = self._namespace.core.clock(), [inf]
        for number, moment in moments.items():
            if moment is not None:
                pauses.append(max((moment - now) / _NS, self._must_wait(number), 0.0))
        pause = min(pauses)
        return pause if pause == inf else min(pause, LOOK_EVERY)

    # --- expired snapshots

    async def _expire(self) -> None:
        """Drop what has expired, one snapshot after the other, giving way in between."""
        dropped = False
        try:
            while not self._must_wait(_EXPIRATIONS):
                number = self._namespace.snapshot_expire()
                if number is None:
                    break
                self._retries.pop(_EXPIRATIONS, None)
                _log.info("snapshot %d expired", number)
                dropped = True
                self._session.changed()
                await trio.sleep(0)
        except AnqfsError as error:
            self._failed(_EXPIRATIONS, "an expired snapshot is not deleted", error)
        if dropped:
            self._session.background.kick()

    # --- policies

    async def _take(self) -> None:
        """Take the snapshots that are due: what programs wrote is brought in once for all of them, and made durable once."""
        due = [number for number in self._namespace.policies.due() if not self._must_wait(number)]
        if not due:
            return
        try:
            await self._session.flush()
        except AnqfsError as error:
            for number in due:
                self._failed(number, self._what(number), error)
            return
        taken = [number for number in due if self._fire(number)]
        if not taken:
            return
        try:
            await self._session.durable()
        except AnqfsError as error:
            for number in taken:
                self._failed(number, f"{self._what(number)} durably", error)

    def _fire(self, number: int) -> bool:
        """Take a policy's snapshot; tell whether it was. The policy may have been changed or deleted while programs' data came in."""
        policies = self._namespace.policies
        try:
            if number not in policies.due():
                return False
            snapshot = policies.fire(number)
        except AnqfsError as error:
            self._failed(number, self._what(number), error)
            return False
        self._retries.pop(number, None)
        _log.info("snapshot %d is taken by policy %a: %a", snapshot.id, policies.get(number).name, label(snapshot))
        return True

    def _what(self, number: int) -> str:
        name = self._namespace.policies.name_of(number)
        return f"snapshot policy {number} ({name!a}) took no snapshot"

    # --- what failed

    def _must_wait(self, number: int) -> float:
        """Return for how many seconds something that failed is not tried again."""
        when, _ = self._retries.get(number, (0.0, 0.0))
        return max(0.0, when - trio.current_time())

    def _failed(self, number: int, what: str, error: AnqfsError) -> None:
        _, before = self._retries.get(number, (0.0, _FIRST_RETRY / 2))
        pause = min(2 * before, _LAST_RETRY)
        self._retries[number] = (trio.current_time() + pause, pause)
        _log.warning("%s, it is tried again in %d minutes: %s", what, pause // 60, error)
