"""Work that nobody waits for: orphans, dead lists, directories being deleted, fragmented files. Trio thread.

In bounded steps between requests, never while there is none to do.
"""

from __future__ import annotations

import logging
from time import perf_counter
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ..namespace.namespace import Namespace
    from ..store.volume import Volume
    from .durability import Durability

log = logging.getLogger(__name__)

BUDGET = 64
"""What one step may do, in the namespace's units (records), so that requests wait a millisecond or so at most."""
PAUSE_FACTOR = 2.0
"""A step is followed by a pause this many times as long as the step took."""


class Background:
    """Runs `namespace.work` after changes, until it says that nothing is left."""

    def __init__(self, namespace: Namespace, volume: Volume, durability: Durability) -> None:
        self._namespace = namespace
        self._volume = volume
        self._durability = durability
        self._wanted = trio.Event()
        self._wanted.set()
        self.steps = 0
        self.forget: Callable[[list[tuple[int, bytes | None]]], Awaitable[None]] | None = None
        """Makes the kernel forget (directory, name) of entries and (inode, None) of inodes that the work removed."""

    def kick(self) -> None:
        """Say that there may be work."""
        self._wanted.set()

    async def run(self) -> None:
        """Work whenever kicked, for ever."""
        while True:
            await self._wanted.wait()
            self._wanted = trio.Event()
            while self._volume.failed is None and not self._volume.read_only:
                if self._volume.must_wait():
                    await self._durability.room()
                begin = perf_counter()
                more = self._step()
                worked = perf_counter() - begin
                self._durability.changed()
                changes = self._namespace.tree_deletes.take_changes()
                if changes and self.forget is not None:
                    await self.forget(changes)
                if not more:
                    break
                await trio.sleep(PAUSE_FACTOR * worked)

    def _step(self) -> bool:
        self.steps += 1
        try:
            return self._namespace.work(BUDGET)
        except Exception:
            log.exception("background work failed; it is tried again after the next change")
            return False
