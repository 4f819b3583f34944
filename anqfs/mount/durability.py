"""When transaction groups close, and who waits for them. Trio thread; the writer thread only rings the bell.

A group closes when it is due, when it is over its limit, or when someone asks for durability. While nothing is dirty this task sleeps
without a timer.
"""

from __future__ import annotations

import logging
from time import monotonic
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..store.ticket import Ticket
    from ..store.volume import Volume

log = logging.getLogger(__name__)

_AGAIN_SECONDS = 1.0
_JOIN_PASSES = 3
"""Passes of the scheduler for which an fsync lets other requests go first. In each, a task serves what waits, up to poll.YIELD_EVERY."""
_ROOM_SECONDS = 0.002
"""How often a writer that must wait looks again."""


class Durability:
    """The clock of the open group, fsync, and back-pressure."""

    def __init__(self, volume: Volume, hurry: Callable[[], None], pending: Callable[[], bool]) -> None:
        """`hurry` is called on the writer thread when a commit ended, so that the trio thread looks soon.

        `pending` tells whether a request waits to be served.
        """
        self._volume = volume
        self._hurry = hurry
        self._pending = pending
        self._armed = False
        self._wake = trio.Event()
        self._awaited: tuple[Ticket, trio.Event] | None = None
        """The ticket that was waited for last, with the event that is set when its commit has ended."""
        self.kick: Callable[[], None] = lambda: None
        """Called when a group with changes is about to close: there may be background work."""

    def changed(self) -> None:
        """Say that something may have become dirty. Cheap: called after each change."""
        if not self._armed:
            self._armed = True
            self._wake.set()

    def written(self) -> None:
        """Close the open group if it is over its limit. Called after each write, the only thing that can fill a group in a second."""
        due = self._volume.due()
        if due is not None and due <= monotonic():
            self._volume.close_group()

    async def run(self) -> None:
        """Close groups when they are due, for ever."""
        while True:
            due = self._volume.due()
            if due is None:
                self._armed = False
                await self._wake.wait()
                self._wake = trio.Event()
                continue
            self._armed = True
            await trio.sleep(max(0.0, due - monotonic()))
            self.kick()
            try:
                self._volume.close_group()
            except Exception:
                log.exception("a transaction group could not be closed; it is tried again")
                await trio.sleep(_AGAIN_SECONDS)

    async def durable(self) -> None:
        """Return when every change made before the call is durable. Raises CommitFailed, NoSpace.

        Requests that wait already are served first, most of them: what they change, and their own fsyncs, share the group.
        """
        for _ in range(_JOIN_PASSES):
            if not self._pending():
                break
            await trio.lowlevel.checkpoint()
        ticket = self._volume.commit()
        await self._settled(ticket)
        if ticket.error is not None:
            raise ticket.error

    async def room(self) -> None:
        """Return when the open group takes writes again: when the writer is done with the group before."""
        while self._volume.must_wait():
            await trio.sleep(_ROOM_SECONDS)

    async def _settled(self, ticket: Ticket) -> None:
        """Return when the ticket's commit has ended, well or not. Many calls share one commit, and its end wakes trio once for all."""
        if ticket.done:
            await trio.lowlevel.checkpoint()
            return
        if self._awaited is None or self._awaited[0] is not ticket:
            self._awaited = ticket, self._ring_when_settled(ticket)
        await self._awaited[1].wait()

    def _ring_when_settled(self, ticket: Ticket) -> trio.Event:
        event = trio.Event()
        token = trio.lowlevel.current_trio_token()

        def ring(_ticket: object) -> None:
            token.run_sync_soon(event.set)
            self._hurry()

        ticket.add_done_callback(ring)
        return event
