"""Wait for the next FUSE request without sleeping when it is about to come.

pyfuse3's session loop waits with `_wait_fuse_readable()`, found through its module's globals, and that with trio's wait_readable under
a `trio.Lock`. A sleep and a wake across cores cost more than most requests, and the lock with what is around it as much as many a
handler. So that function is replaced by one that polls the descriptor for some tens of microseconds before it sleeps and needs no
lock: it lets one task sleep on the descriptor and parks the others.

What holds, and must go on holding:

- After `wait` returned True there is no await until pyfuse3 has read the request: the descriptor is blocking, and a read of a
  request that another task took would stop the whole daemon. Hence each return is preceded by a poll that said "readable".
- Whenever a task leaves its sleep on the descriptor another idle task takes its place, since the first one's handler may await.
- pyfuse3 counts the waiting tasks in the function that is replaced. So it takes none to be waiting: it starts a task with each
  request up to `max_tasks`, and ends none. Who parked last is unparked first, so that few of them are used.
- Every `YIELD_EVERY` requests, and at once when `hurry` was called, trio's scheduler runs, so that timers and answers from other
  threads are not starved by a busy client.
- Spinning is earned: credit grows when requests follow each other closely and shrinks when a spin was in vain. While requests flow, a
  spin is tried now and then. An idle or slow mount sleeps at once and uses no CPU.

Called by `session`, on the trio thread. `hurry` may be called on any thread.
"""

from __future__ import annotations

import select
from collections.abc import Awaitable, Callable
from time import perf_counter_ns
from typing import Any

import pyfuse3
import trio

SPIN_NS = 40_000
"""How long one wait polls before it sleeps."""
CREDIT_MAX = 16
FLOWING_NS = 2_000_000
"""A sleep shorter than this says that requests are flowing, however late the wake came."""
TRY_EVERY = 8
"""Such sleeps after which a spin is tried again: on a busy machine waking alone takes so long that no request seems to follow closely."""
YIELD_EVERY = 32
"""Requests served in a row before trio's scheduler runs once."""
_HURRY_PASSES = 3
"""Passes of the scheduler that bring an answer from another thread to the task that waits for it."""

_PYFUSE3_WAIT = getattr(pyfuse3, "_wait_fuse_readable", None)


class AdaptivePoll:
    """The wait for one FUSE descriptor. Its counters are for tests and `statistics`."""

    def __init__(self, descriptor: int, *, spin_ns: int = SPIN_NS, sleep: Callable[[int], Awaitable[None]] | None = None) -> None:
        """Watch `descriptor`; `sleep` is what waits for it (trio's wait_readable unless a test gives another)."""
        self._descriptor = descriptor
        self._poller = select.poll()
        self._poller.register(descriptor, select.POLLIN)
        self._spin_ns = spin_ns
        self._sleep = sleep or trio.lowlevel.wait_readable
        self._parked: list[trio.lowlevel.Task] = []
        self._asleep = False
        self._hurry = False
        self._closed = False
        self._turn = 0
        self._credit = CREDIT_MAX
        self._naps = 0
        self.slept = 0
        self.spins_won = 0
        self.spins_lost = 0

    def hurry(self) -> None:
        """Make the next wait run trio's scheduler: another thread has just answered. Any thread."""
        self._hurry = True

    def pending(self) -> bool:
        """Tell whether a request is waiting to be read."""
        return bool(self._poller.poll(0))

    async def wait(self) -> bool:
        """Return True when a request can be read, False when the session ends. Raises trio.Cancelled."""
        self._turn += 1
        if self._hurry or self._turn >= YIELD_EVERY:
            await self._yield()
        if self._poller.poll(0) or (self._credit > 0 and self._spin()):
            return True
        return await self._wait()

    async def _yield(self) -> None:
        for _ in range(_HURRY_PASSES if self._hurry else 1):
            self._hurry = False
            await trio.lowlevel.checkpoint()
        self._turn = 0

    def _spin(self) -> bool:
        poll = self._poller.poll
        end = perf_counter_ns() + self._spin_ns
        while not poll(0):
            if self._hurry or perf_counter_ns() > end:
                self._credit -= 1
                self.spins_lost += 1
                return False
        if self._credit < CREDIT_MAX:
            self._credit += 1
        self.spins_won += 1
        return True

    async def _wait(self) -> bool:
        self._turn = 0
        self._hurry = False
        try:
            while not self._closed:
                if self._asleep:
                    await self._park()
                else:
                    await self._sleep_on_descriptor()
                if not self._closed and self._poller.poll(0):
                    return True
            return False
        finally:
            if self._parked and not self._asleep:
                trio.lowlevel.reschedule(self._parked.pop())

    async def _park(self) -> None:
        task = trio.lowlevel.current_task()
        self._parked.append(task)

        def leave(_raise_cancel: object) -> trio.lowlevel.Abort:
            self._parked.remove(task)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(leave)

    async def _sleep_on_descriptor(self) -> None:
        self._asleep = True
        self.slept += 1
        begin = perf_counter_ns()
        try:
            await self._sleep(self._descriptor)
        except trio.ClosedResourceError:
            self._closed = True
            return
        finally:
            self._asleep = False
        slept = perf_counter_ns() - begin
        if slept < 3 * self._spin_ns:
            self._credit = min(CREDIT_MAX, self._credit + 2)
        elif slept < FLOWING_NS:
            self._naps += 1
            if self._naps >= TRY_EVERY:
                self._naps = 0
                self._credit = max(self._credit, 1)


class _Overlay:
    """Everything of `base`, except what is set on the overlay."""

    def __init__(self, base: object, **overrides: object) -> None:
        self._base = base
        self.__dict__.update(overrides)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._base, name)
        self.__dict__[name] = value
        return value


def overlay(**lowlevel: object) -> object:
    """Return a stand-in for the module `trio` with these of `trio.lowlevel` replaced."""
    return _Overlay(trio, lowlevel=_Overlay(trio.lowlevel, **lowlevel))


def check_pyfuse3() -> None:
    """Raise RuntimeError when pyfuse3 no longer waits the way this module relies on."""
    if not all(callable(getattr(pyfuse3, name, None)) for name in ("_wait_fuse_readable", "_session_loop")):
        raise RuntimeError("this pyfuse3 has no `_wait_fuse_readable` or no `_session_loop`: anqfs.mount.poll must be adapted")


def install(descriptor: int, *, spin_ns: int = SPIN_NS) -> AdaptivePoll:
    """Let pyfuse3 wait for `descriptor` through an AdaptivePoll, which is returned. Undo with `uninstall`."""
    check_pyfuse3()
    poll = AdaptivePoll(descriptor, spin_ns=spin_ns)
    pyfuse3._wait_fuse_readable = poll.wait  # type: ignore[attr-defined]
    return poll


def uninstall() -> None:
    """Give pyfuse3 its own wait back."""
    pyfuse3._wait_fuse_readable = _PYFUSE3_WAIT  # type: ignore[attr-defined]
