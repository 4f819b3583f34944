"""The transport: waiting for requests, completing INIT, and that both notice when pyfuse3, libfuse or the kernel change."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyfuse3
import pytest
import trio
import trio.testing
from mounted import until

from anqfs.mount import negotiate, poll

SCRIPT = Path(__file__).with_name("idle_filesystem.py")


class IdleMount:
    """A mount of the do-nothing filesystem in a process of its own."""

    def __init__(self, point: Path) -> None:
        self.point = point
        self.process = subprocess.Popen(
            [sys.executable, str(SCRIPT), str(point)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        if self.process.stdout.readline() != "ready\n":
            raise AssertionError(self.process.communicate()[1])

    def counters(self) -> dict:
        return json.loads((self.point / "counters").read_bytes())

    def cpu_ticks(self) -> int:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    def close(self) -> str:
        """Unmount (whoever looks in just now makes it busy for a moment), wait for the process, and return what it complained of."""

        def unmounted() -> bool:
            return subprocess.run(["umount", str(self.point)], check=False, stdin=subprocess.DEVNULL).returncode == 0

        until(lambda: unmounted() or self.process.poll() is not None, "nobody uses the mount")
        return self.process.communicate(timeout=60)[1]


@pytest.fixture
def idle(tmp_path: Path) -> Iterator[IdleMount]:
    point = tmp_path / "mnt"
    point.mkdir()
    mount = IdleMount(point)
    try:
        yield mount
    finally:
        errors = mount.close()
    assert mount.process.returncode == 0
    assert errors == ""


def test_pyfuse3_still_waits_the_way_the_poll_replaces() -> None:
    """Fails when pyfuse3 changes: its loop must look the wait up as a global, and read the request right after it.

    What is replaced must do no more than to count the waiting tasks and to wait under a lock.
    """
    poll.check_pyfuse3()
    source = Path(pyfuse3.__file__).with_name("internal.pxi").read_text()
    start, end = source.index("async def _wait_fuse_readable"), source.index("async def _session_loop")
    assert source[:start].rstrip().endswith("cdef _WorkerData worker_data")  # no decorator, so the name is a global of the module
    code = [line.strip() for line in source[start:end].splitlines() if line.strip() and not line.strip().startswith("#")]
    for line in (
        "worker_data.read_lock = trio.Lock()",
        "worker_data.active_readers += 1",
        "async with worker_data.read_lock:",
        "if fuse_session_exited(session):",
        "await trio.lowlevel.wait_readable(session_fd)",
        "except trio.ClosedResourceError:",
        "worker_data.active_readers -= 1",
    ):
        code.remove(line)
    assert not [line for line in code if "await" in line or "worker_data" in line.replace("if worker_data.read_lock is None:", "")]
    loop = source[source.index("async def _session_loop") :]
    assert "while not fuse_session_exited(session):" in loop
    waited = loop.index("await _wait_fuse_readable()") + len("await _wait_fuse_readable()")
    assert "await" not in loop[waited : loop.index("fuse_session_receive_buf")]


def test_a_pyfuse3_without_the_global_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(pyfuse3, "_wait_fuse_readable")
    with pytest.raises(RuntimeError, match="must be adapted"):
        poll.install(0)


def test_a_real_mount_waits_through_the_poll_and_sleeps_when_idle(idle: IdleMount) -> None:
    """Whether a spin is won is the scheduler's business; that it was tried, and that sleep follows, is not."""
    for _ in range(200):
        os.stat(idle.point / "counters")
    before = idle.counters()
    until(lambda: idle.counters()["slept"] > before["slept"], "it sleeps between requests that are far apart")
    after = idle.counters()
    assert after["won"] + after["lost"] > 0
    assert after["won"] >= before["won"]


def test_an_idle_mount_uses_no_cpu(idle: IdleMount) -> None:
    """After its last request the process only sleeps: it neither polls nor ticks. Counted in voluntary context switches and CPU."""
    for _ in range(100):
        os.stat(idle.point / "counters")
    status = Path(f"/proc/{idle.process.pid}/status")

    def activity() -> tuple[int, int]:
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["voluntary_ctxt_switches"]), idle.cpu_ticks()

    def quiet() -> bool:
        before = activity()
        trio.run(trio.sleep, 0.5)
        return activity() == before

    until(quiet, "half a second passes without one switch or tick")


def test_a_handler_that_waits_does_not_stop_the_others(idle: IdleMount) -> None:
    with ThreadPoolExecutor(8) as pool:
        blocked = [pool.submit(os.path.exists, idle.point / "block") for _ in range(1)]
        for _ in range(200):
            os.stat(idle.point / "counters")
        assert not any(job.done() for job in blocked)
        assert not os.path.exists(idle.point / "unblock")
        assert all(job.result(timeout=60) for job in blocked)


def test_many_clients_at_once(idle: IdleMount) -> None:
    def work(_: int) -> int:
        return sum(os.stat(idle.point / "counters").st_size for _ in range(300))

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(work, range(8))) == {300 * 4096}


def test_an_unmount_by_someone_else_ends_the_session(tmp_path: Path) -> None:
    point = tmp_path / "mnt"
    point.mkdir()
    mount = IdleMount(point)
    os.stat(point / "counters")
    assert mount.close() == ""
    assert mount.process.returncode == 0


def test_init_is_completed_with_what_the_kernel_offers(idle: IdleMount) -> None:
    """Fails when libfuse or the kernel lay INIT out otherwise: then the reply would have gone out unchanged."""
    agreed = idle.counters()["negotiated"]
    assert agreed["completed"]
    for flag in ("HANDLE_KILLPRIV_V2", "DONT_MASK", "PARALLEL_DIROPS", "CACHE_SYMLINKS", "EXPLICIT_INVAL_DATA"):
        assert agreed["flags"] & getattr(negotiate, flag), flag
    assert not agreed["flags"] & negotiate.AUTO_INVAL_DATA
    assert agreed["max_write"] == 1 << 20


def _request(flags: int, *, opcode: int = 26, major: int = 7) -> bytes:
    body = struct.pack("<IIIII", major, 45, 131072, flags, 0).ljust(64, b"\0")
    return struct.pack("<IIQQIIII", 40 + len(body), opcode, 77, 0, 0, 0, 0, 0) + body


def _reply(flags: int, *, length: int = 80, error: int = 0, unique: int = 77, minor: int = 31) -> bytes:
    body = struct.pack("<IIIIHHIIHHI", 7, minor, 131072, flags, 12, 9, 1 << 20, 1, 256, 0, 0).ljust(length - 16, b"\0")
    return struct.pack("<IiQ", length, error, unique) + body


def test_only_offered_flags_are_set() -> None:
    reply, agreed = negotiate.complete(_request(negotiate.PARALLEL_DIROPS), _reply(1 | negotiate.AUTO_INVAL_DATA))
    assert agreed == negotiate.Negotiated(True, 1 | negotiate.AUTO_INVAL_DATA | negotiate.PARALLEL_DIROPS, 45, 1 << 20)
    fields = struct.unpack_from("<IIIIHHIIHHI", reply, 16)
    assert fields[3] == agreed.flags
    assert fields[4:6] == (negotiate.MAX_BACKGROUND, negotiate.CONGESTION_THRESHOLD)
    assert (len(reply), reply[:16]) == (80, _reply(0)[:16])


@pytest.mark.parametrize(
    ("request_", "reply"),
    [
        (_request(-1 & 0xFFFFFFFF, opcode=27), _reply(1)),
        (_request(-1 & 0xFFFFFFFF, major=8), _reply(1)),
        (_request(-1 & 0xFFFFFFFF)[:50], _reply(1)),
        (_request(-1 & 0xFFFFFFFF), _reply(1, length=40)),
        (_request(-1 & 0xFFFFFFFF), _reply(1, error=-71)),
        (_request(-1 & 0xFFFFFFFF), _reply(1, unique=78)),
        (_request(-1 & 0xFFFFFFFF), _reply(1, minor=12)),
    ],
)
def test_a_reply_of_another_layout_goes_out_unchanged(request_: bytes, reply: bytes, caplog: pytest.LogCaptureFixture) -> None:
    assert negotiate.complete(request_, reply) == (reply, negotiate.Negotiated(False, 0, 0, 0))
    assert "not laid out as expected" in caplog.text


def _pipe_poll(**named: object) -> tuple[poll.AdaptivePoll, int, int]:
    reading, writing = os.pipe()
    return poll.AdaptivePoll(reading, **named), reading, writing  # type: ignore[arg-type]


def test_one_task_sleeps_on_the_descriptor_and_another_takes_its_place() -> None:
    """Two tasks wait; the first that wakes goes off into a long handler, and the second still gets the next request."""
    waiter, reading, writing = _pipe_poll(spin_ns=1000)
    got: list[str] = []

    async def worker(name: str, release: trio.Event) -> None:
        await waiter.wait()
        os.read(reading, 1)
        got.append(name)
        await release.wait()

    async def main() -> None:
        release = trio.Event()
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for name in ("a", "b", "c"):
                    nursery.start_soon(worker, name, release)
                for count in (1, 2, 3):
                    await trio.testing.wait_all_tasks_blocked()
                    os.write(writing, b"x")
                    while len(got) < count:
                        await trio.sleep(0)
                release.set()

    try:
        trio.run(main)
    finally:
        os.close(reading)
        os.close(writing)
    assert sorted(got) == ["a", "b", "c"]


def test_a_busy_client_does_not_starve_timers() -> None:
    """Requests that are always there already: trio's scheduler must run all the same, within YIELD_EVERY of them."""
    waiter, reading, writing = _pipe_poll()
    os.write(writing, b"x")
    served = 0
    seen_at: list[int] = []

    async def busy() -> None:
        nonlocal served
        while not seen_at:
            await waiter.wait()
            served += 1

    async def other() -> None:
        seen_at.append(served)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(busy)
            nursery.start_soon(other)

    try:
        trio.run(main)
    finally:
        os.close(reading)
        os.close(writing)
    assert seen_at[0] <= poll.YIELD_EVERY


def test_hurry_yields_at_the_next_request() -> None:
    waiter, reading, writing = _pipe_poll()
    os.write(writing, b"x")
    ran: list[bool] = []

    async def other() -> None:
        ran.append(True)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            await waiter.wait()
            nursery.start_soon(other)
            await waiter.wait()
            assert not ran
            waiter.hurry()
            await waiter.wait()
            assert ran

    try:
        trio.run(main)
    finally:
        os.close(reading)
        os.close(writing)


class LatePoller:
    """Says "nothing yet" so many times before it tells the truth."""

    def __init__(self, real: Any, late: int) -> None:
        self.real, self.late = real, late

    def poll(self, timeout: int) -> list[tuple[int, int]]:
        self.late -= 1
        return [] if self.late >= 0 else self.real.poll(timeout)


def test_a_request_that_comes_while_spinning_needs_no_sleep() -> None:
    waiter, reading, writing = _pipe_poll(spin_ns=10**12)
    os.write(writing, b"x")
    real = waiter._poller
    try:
        for late in (0, 1, 5, 100):
            waiter._poller = LatePoller(real, late)
            trio.run(waiter.wait)
    finally:
        os.close(reading)
        os.close(writing)
    assert (waiter.spins_won, waiter.spins_lost, waiter.slept) == (3, 0, 0)


def test_credit_is_spent_on_vain_spins() -> None:
    """A client that is always too late gets no more spins: each wait goes straight to sleep."""
    reading, writing = os.pipe()

    async def late(_descriptor: int) -> None:
        await trio.sleep(0.002)
        os.write(writing, b"x")

    waiter = poll.AdaptivePoll(reading, spin_ns=10_000, sleep=late)

    async def main() -> None:
        for _ in range(poll.CREDIT_MAX + 20):
            await waiter.wait()
            os.read(reading, 1)

    try:
        trio.run(main)
    finally:
        os.close(reading)
        os.close(writing)
    assert waiter.spins_lost == poll.CREDIT_MAX
    assert waiter.slept == poll.CREDIT_MAX + 20


def test_a_spin_is_tried_again_while_requests_flow() -> None:
    """On a busy machine each wake comes late, so that no request seems to follow closely: that is found out anew now and then."""
    reading, writing = os.pipe()

    async def late(_descriptor: int) -> None:
        await trio.sleep(0.0002)
        os.write(writing, b"x")

    waiter = poll.AdaptivePoll(reading, spin_ns=10_000, sleep=late)

    async def main() -> None:
        with trio.fail_after(60):
            while waiter.spins_lost < poll.CREDIT_MAX + 3:
                await waiter.wait()
                os.read(reading, 1)

    try:
        trio.run(main)
    finally:
        os.close(reading)
        os.close(writing)
    assert waiter.slept >= poll.CREDIT_MAX + 2 * poll.TRY_EVERY
