"""The scrub, as a job of the daemon. Used by `service`, on its trio thread; what is verified is verified on another one."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import trio

from anqfs.control import wire
from anqfs.errors import Damaged
from anqfs.namespace.scrub import Batch, Scrub
from anqfs.store.schema import SCRUB, ScrubState

if TYPE_CHECKING:
    from anqfs.control.requests import ScrubRequest
    from anqfs.control.service import Service

_log = logging.getLogger("anqfs.control.service")
_SCRUB_BUDGET = 256
"""How many records one step of a scrub verifies."""


class Scrubbing:
    """The scrub of one volume: at most one runs, and goes on where it was stopped."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._scrub: Scrub | None = None

    async def start(self, request: ScrubRequest) -> dict[str, Any]:
        """Start a scrub, or go on with the one that was stopped, and return its job."""
        self._service.must_stay()
        self._service.jobs.must_be_free("scrub")
        if self._service.is_writable():
            await self._service.session.flush()
            await self._service.session.durable()
        self._service.must_stay()
        self._service.jobs.must_be_free("scrub")
        work = self._scrub = Scrub(self._service.namespace)

        def look() -> Batch:
            batch = work.take(_SCRUB_BUDGET)
            work.verify(batch)
            return batch

        async def step() -> bool:
            more = work.settle(await trio.to_thread.run_sync(look))
            self._service.session.changed()
            return more

        async def finish(cancelled: bool) -> None:
            if self._service.is_writable():
                await self._service.session.durable()

        def progress() -> dict[str, Any]:
            state = self._record()
            return {"records": state.records, "extents": state.extents, "bytes": state.size}

        return self._service.jobs.start("scrub", step, progress, finish, request.rate * (1 << 20)).document()

    def _record(self) -> ScrubState:
        if self._scrub is not None:
            return self._scrub.state
        try:
            record = self._service.volume.get(SCRUB)
        except Damaged as error:
            _log.error("how far the scrub came is not known: %s", error)
            return ScrubState()
        return record if isinstance(record, ScrubState) else ScrubState()

    def state(self) -> dict[str, Any]:
        """Return how far the scrub is, whether it runs or not."""
        state, job = self._record(), self._service.jobs.last("scrub")
        return {
            "running": job is not None and job.is_running,
            "passes": state.passes,
            "started": wire.moment(state.started),
            "finished": wire.moment(state.finished),
            "records": state.records,
            "extents": state.extents,
            "bytes": state.size,
            "damaged": [wire.text(path) for path in state.damaged],
            "job": None if job is None else job.document(),
        }

    def cancel(self) -> dict[str, Any]:
        """Stop the scrub after its step; harmless when none runs."""
        job = self._service.jobs.last("scrub")
        if job is not None:
            job.cancel()
        return self.state()
