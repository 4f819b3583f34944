"""Background jobs of the daemon: a restore and a scrub. They run on the trio thread, one bounded step at a time.

Between two steps the job gives way, so the mount keeps answering. A job belongs to the daemon, not to the command that asked for it:
Ctrl-C on the command ends only the watching, and a restore is not left half done. Its progress is polled with GET.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import trio

from anqfs.control import wire
from anqfs.errors import AnqfsError, NotFound, StoreInUse

_log = logging.getLogger("anqfs.control.jobs")

_LEAST_REST = 0.0005
"""Seconds a job sleeps after a step, at least: a request that came during the step is served first."""
_WORK_SHARE = 0.75
"""A job uses at most this part of the trio thread."""
_REMEMBERED = 64
"""Jobs that can be asked for by number: whoever watches one must learn its end, though others were started since."""


class Job:
    """One piece of background work.

    `step` does a bounded part and returns whether there is more; `progress` returns numbers and names for people; `finish` is awaited
    after the last step, and also after a cancellation. `rate` is the most bytes a second, as counted by progress()["bytes"] from now on;
    0: no limit.
    """

    def __init__(
        self,
        number: int,
        kind: str,
        step: Callable[[], Awaitable[bool]],
        progress: Callable[[], dict[str, Any]],
        finish: Callable[[bool], Awaitable[None]],
        rate: float = 0.0,
    ) -> None:
        self.number = number
        self.kind = kind
        self.state = "running"
        self.fault: dict[str, Any] | None = None
        self.rate = rate
        self._step = step
        self._progress = progress
        self._finish = finish
        self._cancelled = False
        self._started = trio.current_time()
        self._before = float(progress().get("bytes", 0))
        self._ended = 0.0

    @property
    def is_running(self) -> bool:
        """Whether steps are still to come."""
        return self.state == "running"

    def cancel(self) -> None:
        """Ask the job to stop after the step it is in."""
        self._cancelled = True

    def document(self) -> dict[str, Any]:
        """Return the job as JSON."""
        seconds = (self._ended or trio.current_time()) - self._started
        return {
            "job": self.number,
            "kind": self.kind,
            "state": self.state,
            "seconds": round(seconds, 3),
            "error": self.fault,
            **self._progress(),
        }

    async def run(self) -> None:
        """Run to the end. A foreseen error ends the job with state "failed"; an unforeseen one is logged too, and never leaves."""
        try:
            more = True
            while more and not self._cancelled:
                before = trio.current_time()
                more = await self._step()
                await self._rest(trio.current_time() - before)
            await self._finish(more)
            self.state = "cancelled" if more else "done"
            if more:
                _log.warning("job %d (%s) was cut short", self.number, self.kind)
        except AnqfsError as error:
            self._fail(error)
        except Exception as error:
            _log.exception("job %d (%s)", self.number, self.kind)
            self._fail(AnqfsError(f"the {self.kind} met an unforeseen fault ({type(error).__name__}); the log has the details"))
        finally:
            self._ended = trio.current_time()

    async def _rest(self, worked: float) -> None:
        pause = max(_LEAST_REST, worked * (1.0 - _WORK_SHARE) / _WORK_SHARE)
        if self.rate > 0:
            done = float(self._progress().get("bytes", 0)) - self._before
            pause = max(pause, done / self.rate - (trio.current_time() - self._started))
        while pause > 0 and not self._cancelled:
            await trio.sleep(min(pause, 0.2))
            pause -= 0.2

    def _fail(self, error: AnqfsError) -> None:
        self.state = "failed"
        self.fault = wire.to_fault(error)
        _log.error("job %d (%s) failed: %s", self.number, self.kind, error)


class Jobs:
    """The jobs of one daemon: at most one of each kind runs; the last _REMEMBERED are remembered."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._last: dict[str, Job] = {}
        self._recent: deque[Job] = deque(maxlen=_REMEMBERED)
        self._count = 0

    def must_be_free(self, kind: str) -> None:
        """Raise StoreInUse while a job of this kind runs."""
        job = self._last.get(kind)
        if job is not None and job.is_running:
            raise StoreInUse(f"a {kind} is running already (job {job.number}): wait for it, `anqfs status` shows how far it is")

    def start(
        self,
        kind: str,
        step: Callable[[], Awaitable[bool]],
        progress: Callable[[], dict[str, Any]],
        finish: Callable[[bool], Awaitable[None]],
        rate: float = 0.0,
    ) -> Job:
        """Start a job (arguments as for Job). Raises StoreInUse while one of its kind runs."""
        self.must_be_free(kind)
        self._count += 1
        job = Job(self._count, kind, step, progress, finish, rate)
        self._last[kind] = job
        self._recent.append(job)
        self._nursery.start_soon(job.run)
        return job

    def last(self, kind: str) -> Job | None:
        """Return the running or the last job of a kind."""
        return self._last.get(kind)

    def by_number(self, number: int) -> Job:
        """Return a remembered job. Raises NotFound."""
        for job in (*self._last.values(), *self._recent):
            if job.number == number:
                return job
        raise NotFound(f"there is no job {number}")

    async def stop(self) -> None:
        """Cancel what runs and wait until the steps are over."""
        for job in self._last.values():
            job.cancel()
        while any(job.is_running for job in self._last.values()):
            await trio.sleep(0.01)
