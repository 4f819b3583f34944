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


class Durability:
    """The clock of the open group, fsync, and back-pressure."""

    def __init__(self, volume: Volume, hurry: Callable[[], None]) -> None:
        """`hurry` is called on the writer thread when a commit ended, so that the trio thread looks soon."""
        self._volume = volume
        self._hurry = hurry
        self._armed = False
        self._wake = trio.Event()
        self._complained = False
        self.kick: Callable[[], None] = lambda: None
        """Called when a group with changes is about to close: there may be background work."""

    def changed(self) -> None:
        """Say that something may have become dirty. Cheap: called after each change."""
        if not self._armed:
            self._armed = True
            self._wake.set()

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
            delay = due - monotonic()
            if delay > 0:
                await trio.sleep(delay)
                continue
            self.kick()
            await self._close()

    async def _close(self) -> None:
        await self._settled(self._volume.commit())
        self._complain()

    def _complain(self) -> None:
        if self._volume.failed is not None and not self._complained:
            self._complained = True
            log.error("the volume is read-only from now on: %s", self._volume.failed)

    async def durable(self) -> None:
        """Return when every change made before the call is durable. Raises CommitFailed, NoSpace, ReadOnlyVolume."""
        ticket = self._volume.commit()
        await self._settled(ticket)
        self._complain()
        if ticket.error is not None:
            raise ticket.error

    async def room(self) -> None:
        """Return when the open group takes writes again."""
        while self._volume.must_wait():
            await self._settled(self._volume.commit())

    async def _settled(self, ticket: Ticket) -> None:
        """Return when the ticket's commit has ended, well or not. Many tickets share one commit."""
        if ticket.done:
            await trio.lowlevel.checkpoint()
            return
        event = trio.Event()
        token = trio.lowlevel.current_trio_token()

        def ring(*_ticket: object) -> None:
            token.run_sync_soon(event.set)
            self._hurry()

        ticket.add_done_callback(ring)
        await event.wait()
