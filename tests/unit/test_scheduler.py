"""The scheduler on a virtual clock, over a real volume: what it does, how seldom it wakes, and that nothing stops it."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
import trio
import trio.testing

from anqfs.control.scheduler import Scheduler
from anqfs.errors import FilesystemError, UsageError
from anqfs.namespace import ROOT, Namespace, schedules, snapshots
from anqfs.namespace.schedules import DAILY, EVERY_SO_OFTEN, Schedule
from anqfs.namespace.snapshots import label
from tests.unit.namespace_volume import work_off

BEGIN = int(datetime(2026, 11, 24, 1, tzinfo=UTC).timestamp()) * 10**9
HOUR = 3600.0


class Mounted:
    """A mount whose faults the test makes."""

    def __init__(self, ns: Namespace) -> None:
        self.ns = ns
        self.flushes = self.commits = self.kicks = 0
        self.fault: FilesystemError | None = None
        self.background = self

    def kick(self) -> None:
        self.kicks += 1

    def changed(self) -> None:
        """Nothing waits for it."""

    async def flush(self) -> None:
        await trio.sleep(0)
        self.flushes += 1
        if self.fault is not None:
            raise self.fault

    async def durable(self) -> None:
        self.ns.volume.commit().wait()
        self.commits += 1
        await trio.sleep(0)


class Day:
    """Time that passes at once; `ahead` is by how much the wall clock was set."""

    def __init__(self, ns: Namespace, mounted: Mounted) -> None:
        self.mounted = mounted
        self.ahead = 0.0
        self.looks = 0
        ns.core.clock = self.now

    def now(self) -> int:
        self.looks += 1
        return BEGIN + round((trio.current_time() + self.ahead) * 1e9)


def run(ns: Namespace, act: Callable[[Day], object]) -> Day:
    """Run the scheduler while `act`, an async function, lets time pass."""
    mounted = Mounted(ns)
    day = Day(ns, mounted)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Scheduler(ns, mounted).run)
            await act(day)  # type: ignore[misc]
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    return day


@contextmanager
def logged(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """Collect the warnings of the scheduler."""
    found: list[str] = []
    with caplog.at_level(logging.WARNING, "anqfs.control.scheduler"):
        yield found
    found += [record.getMessage() for record in caplog.records if record.name == "anqfs.control.scheduler"]
    caplog.clear()


def names(ns: Namespace) -> list[bytes]:
    return [label(one) for one in ns.snapshots()]


def test_policies_take_snapshots_and_snapshots_expire_without_anybody(ns: Namespace) -> None:
    async def act(day: Day) -> None:
        ns.policies.create(b"often", 1, Schedule(EVERY_SO_OFTEN, every=20), time_to_live="1hours")
        ns.policies.create(b"daily", 1, Schedule(DAILY, at=120))
        await trio.sleep(3 * HOUR + 1)
        assert names(ns) == [b"4_daily", b"8_often", b"9_often", b"10_often"]
        assert len(ns.snapshots_in_deletion()) == 6

    day = run(ns, act)
    # The two of 2:00 were brought in and made durable together.
    assert (day.mounted.flushes, day.mounted.commits) == (9, 9)
    assert day.mounted.kicks == 6
    work_off(ns)


def test_what_is_changed_while_it_sleeps_takes_effect(ns: Namespace) -> None:
    async def act(day: Day) -> None:
        number = ns.policies.create(b"daily", 1, Schedule(DAILY, at=1380))
        await trio.sleep(HOUR)
        ns.policies.change(number, schedule=Schedule(EVERY_SO_OFTEN, every=1))
        await trio.sleep(61)
        assert names(ns) == [b"1_daily"]
        ns.policies.change(number, enabled=False)
        ns.snapshot_modify(1, ns.core.clock() + 5 * 10**9)
        await trio.sleep(4)
        assert names(ns) == [b"1_daily"]
        await trio.sleep(2)
        assert names(ns) == []

    run(ns, act)


def test_with_nothing_to_come_it_never_wakes(ns: Namespace) -> None:
    async def act(day: Day) -> None:
        ns.policies.create(b"disabled", 1, Schedule(DAILY), enabled=False)
        ns.snapshot_create(1)
        await trio.sleep(60)
        before = day.looks
        await trio.sleep(1000 * HOUR)
        assert day.looks == before

    run(ns, act)


def test_a_clock_that_is_set_ahead_is_noticed_within_a_minute(ns: Namespace) -> None:
    async def act(day: Day) -> None:
        ns.policies.create(b"daily", 1, Schedule(DAILY, at=720))
        await trio.sleep(1)
        day.ahead = 20 * HOUR
        await trio.sleep(60)
        assert names(ns) == [b"1_daily"]

    run(ns, act)


def test_a_missing_directory_and_a_full_list_of_snapshots_stop_nobody_else(
    ns: Namespace, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "SNAPSHOTS_MAX", 3)

    async def act(day: Day) -> None:
        top, _ = ns.mkdir(1, b"top", 0o755, ROOT)
        ns.policies.create(b"gone", top, Schedule(EVERY_SO_OFTEN, every=30))
        ns.policies.create(b"other", 1, Schedule(EVERY_SO_OFTEN, every=30))
        ns.rmdir(1, b"top")
        await trio.sleep(0.6 * HOUR)
        assert names(ns) == [b"1_other"]
        await trio.sleep(2 * HOUR)
        assert names(ns) == [b"1_other", b"2_other", b"3_other"]
        ns.snapshot_delete(1)
        work_off(ns)
        await trio.sleep(HOUR)
        assert names(ns) == [b"2_other", b"3_other", b"4_other"]

    with logged(caplog) as lines:
        run(ns, act)
    gone = "snapshot policy 1 (b'gone') took no snapshot, it is tried again in 1 minutes: the directory of snapshot policy 'gone' is gone"
    assert lines[0] == gone
    assert "snapshot policy 2 (b'other') took no snapshot, it is tried again in 1 minutes: there are 3 snapshots already" in lines
    assert 10 <= len(lines) <= 20
    assert not any("\n" in line for line in lines)


def test_a_flush_that_fails_is_tried_again_and_the_snapshot_is_taken_then(ns: Namespace, caplog: pytest.LogCaptureFixture) -> None:
    async def act(day: Day) -> None:
        ns.policies.create(b"daily", 1, Schedule(DAILY, at=120))
        day.mounted.fault = FilesystemError(errno.EBUSY, "programs write on and on")
        await trio.sleep(1.2 * HOUR)
        assert names(ns) == []
        day.mounted.fault = None
        await trio.sleep(0.3 * HOUR)
        assert names(ns) == [b"1_daily"]
        await trio.sleep(20 * HOUR)
        assert names(ns) == [b"1_daily"]

    with logged(caplog) as lines:
        run(ns, act)
    assert [line.partition(" again in ")[2] for line in lines] == [f"{pause} minutes: programs write on and on" for pause in (1, 2, 4, 8)]


def test_an_expiration_that_fails_is_tried_again(ns: Namespace, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    async def act(day: Day) -> None:
        ns.snapshot_create(1, b"a", ns.core.clock() + 10**9)
        with monkeypatch.context() as patch:

            def fail() -> None:
                raise FilesystemError(errno.EIO, "a record is damaged")

            patch.setattr(ns, "snapshot_expire", fail)
            await trio.sleep(30)
        assert names(ns) == [b"1_a"]
        await trio.sleep(60)
        assert names(ns) == []

    with logged(caplog) as lines:
        run(ns, act)
    assert lines == ["an expired snapshot is not deleted, it is tried again in 1 minutes: a record is damaged"]


def test_many_expired_snapshots_go_at_once_and_others_get_their_turn(ns: Namespace) -> None:
    async def act(day: Day) -> None:
        for _ in range(300):
            ns.snapshot_create(1, b"a", ns.core.clock() + 10**9)
        turns = 0
        with trio.move_on_after(2):
            await trio.sleep(1)
            while ns.snapshots():
                turns += 1
                await trio.sleep(0)
        assert ns.snapshots() == [] and turns > 250

    run(ns, act)


def test_a_volume_that_was_opened_read_only_takes_and_drops_nothing(tmp_path: Path) -> None:
    from tests.unit.namespace_volume import make_store, opened

    make_store(tmp_path / "store")
    with opened(tmp_path / "store") as ns:
        ns.core.clock = lambda: BEGIN
        ns.policies.create(b"often", 1, Schedule(EVERY_SO_OFTEN, every=1))
        ns.snapshot_create(1, b"a", BEGIN + 1)
        ns.volume.commit().wait()
    with opened(tmp_path / "store", read_only=True) as ns:

        async def act(day: Day) -> None:
            await trio.sleep(HOUR)
            assert names(ns) == [b"1_a"]

        assert run(ns, act).looks == 0


def test_an_unforeseen_fault_is_logged_and_the_timetable_goes_on(
    ns: Namespace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> list[int]:
        raise ValueError("a fault")

    async def act(day: Day) -> None:
        ns.policies.create(b"often", 1, Schedule(EVERY_SO_OFTEN, every=10))
        with monkeypatch.context() as patch:
            patch.setattr(ns.policies, "due", broken)
            await trio.sleep(900)
        await trio.sleep(400)
        assert names(ns) == [b"1_often", b"2_often"]

    with logged(caplog) as said:
        run(ns, act)
    assert "unforeseen fault" in said[0]


def test_a_policy_whose_time_zone_this_machine_does_not_know_goes_by_utc(
    ns: Namespace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def act(day: Day) -> None:
        await trio.sleep(HOUR - 60)
        assert names(ns) == [b"1_daily"]  # made up for
        await trio.sleep(120)
        assert names(ns) == [b"1_daily", b"2_daily"]

    def unknown(name: str) -> ZoneInfo:
        raise UsageError(f"there is no time zone {name}")

    number = ns.policies.create(b"daily", 1, Schedule(DAILY, "Asia/Tokyo", at=120), time_to_live="1months")
    with caplog.at_level(logging.ERROR, "anqfs.namespace.policies"), monkeypatch.context() as patch:
        patch.setattr(schedules, "zone", unknown)
        schedules.zone_or_utc.cache_clear()
        ns.policies.load()
        run(ns, act)
    schedules.zone_or_utc.cache_clear()
    assert f"snapshot policy {number} goes by UTC" in caplog.text
    caplog.clear()
