"""Jobs of the daemon: steps, cancelling, faults, pace; on a clock that jumps."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing

from anqfs.control.jobs import Job, Jobs
from anqfs.errors import NoSpace, NotFound, StoreInUse


class Work:
    """Counts steps; `bytes` grows by a MiB each."""

    def __init__(self, steps: int, fault: Exception | None = None) -> None:
        self.left = steps
        self.bytes = 5 << 20
        self.fault = fault
        self.ends: list[bool] = []

    async def step(self) -> bool:
        await trio.sleep(0.001)
        self.left -= 1
        self.bytes += 1 << 20
        if self.fault is not None and self.left == 0:
            raise self.fault
        return self.left > 0

    def progress(self) -> dict[str, Any]:
        return {"bytes": self.bytes}

    async def finish(self, cancelled: bool) -> None:
        await trio.sleep(0)
        self.ends.append(cancelled)


def played(scene: Callable[[], Awaitable[None]]) -> None:
    trio.run(scene, clock=trio.testing.MockClock(autojump_threshold=0))


def test_a_job_runs_to_its_end() -> None:
    async def scene() -> None:
        work = Work(3)
        async with trio.open_nursery() as nursery:
            jobs = Jobs(nursery)
            job = jobs.start("scrub", work.step, work.progress, work.finish)
            assert job.is_running
            with pytest.raises(StoreInUse, match="running"):
                jobs.start("scrub", work.step, work.progress, work.finish)
            jobs.must_be_free("restore")
        assert (job.document()["state"], job.document()["error"], work.left, work.ends) == ("done", None, 0, [False])
        assert jobs.by_number(job.number) is job
        jobs.must_be_free("scrub")
        with pytest.raises(NotFound):
            jobs.by_number(99)

    played(scene)


def test_a_cancelled_job_stops_after_its_step_and_still_finishes() -> None:
    async def scene() -> None:
        work = Work(1_000_000)
        async with trio.open_nursery() as nursery:
            jobs = Jobs(nursery)
            job = jobs.start("scrub", work.step, work.progress, work.finish)
            await trio.sleep(1)
            await jobs.stop()
            assert not job.is_running
        assert (job.document()["state"], work.ends) == ("cancelled", [True])
        assert work.left > 0

    played(scene)


@pytest.mark.parametrize(("fault", "kind", "code"), [(NoSpace("it is full"), "NoSpace", 10), (KeyError("x"), "AnqfsError", 1)])
def test_a_fault_ends_the_job_and_nothing_else(fault: Exception, kind: str, code: int) -> None:
    async def scene() -> None:
        work = Work(2, fault)
        async with trio.open_nursery() as nursery:
            job = Jobs(nursery).start("restore", work.step, work.progress, work.finish)
        document = job.document()
        assert (document["state"], document["error"]["error"], document["error"]["exit_code"]) == ("failed", kind, code)

    played(scene)


def test_a_rate_is_kept_and_counts_from_the_start_of_this_run() -> None:
    async def scene() -> None:
        work = Work(20)
        job = Job(1, "scrub", work.step, work.progress, work.finish, rate=2 << 20)
        begun = trio.current_time()
        await job.run()
        assert 9.5 <= trio.current_time() - begun <= 10.5

    played(scene)


def test_a_slow_rate_does_not_delay_cancelling() -> None:
    async def scene() -> None:
        work = Work(20)
        job = Job(1, "scrub", work.step, work.progress, work.finish, rate=1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(job.run)
            await trio.sleep(5)
            begun = trio.current_time()
            job.cancel()
        assert trio.current_time() - begun <= 0.5

    played(scene)


def test_others_run_between_the_steps() -> None:
    async def scene() -> None:
        turns = 0

        async def others() -> None:
            nonlocal turns
            while True:
                turns += 1
                await trio.sleep(0.0002)

        work = Work(50)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(others)
            await Job(1, "scrub", work.step, work.progress, work.finish).run()
            nursery.cancel_scope.cancel()
        assert turns >= 50

    played(scene)
