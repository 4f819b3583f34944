"""Reading what is cold, in place or on threads: never the same piece twice at a time, bounded, asked for ahead of sequential readers."""

from __future__ import annotations

import threading
from itertools import groupby, pairwise
from typing import Any

import pytest
import trio
import trio.testing

from anqfs.mount import readers
from anqfs.mount.handles import Handle

MIB = 1 << 20


class Disk:
    """A namespace and a volume in one, whose fetches end when they are let go."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.fetched: list[readers.Piece] = []
        self.running = 0
        self.most = 0
        self.go = threading.Event()
        self.lock = threading.Lock()
        self.broken = False
        self.expected: list[tuple[int, int]] = []
        self.asked: list[int] = []
        self.arriving: set[int] | None = None

    def expect(self, node: int, offset: int, size: int) -> None:
        self.expected.append((offset, size))

    def cold(self, node: int, offset: int, size: int) -> list[readers.Piece]:
        end = min(self.size, offset + size)
        pieces = [(window, 0, MIB, 1) for window in range(offset // MIB, -(-end // MIB))]
        return [piece for piece in pieces if piece not in self.fetched]

    def extent_is_warm(self, extent: int, offset: int, length: int) -> bool:
        self.asked.append(extent)
        return (extent, offset, length, 1) in self.fetched or (self.arriving is not None and extent in self.arriving)

    def fetch(self, pieces: list[readers.Piece]) -> None:
        with self.lock:
            self.running += 1
            self.most = max(self.most, self.running)
        assert self.go.wait(60)
        with self.lock:
            self.running -= 1
            self.fetched += pieces
        if self.broken:
            raise OSError("the disk is gone")


def _run(disk: Disk, main: Any) -> None:
    hurried: list[bool] = []

    async def run() -> None:
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                reading = readers.Readers(disk, disk, lambda: hurried.append(True), lambda: False)  # type: ignore[arg-type]
                await main(reading, nursery)

    trio.run(run)
    assert hurried


def test_concurrent_readers_of_one_piece_fetch_it_once() -> None:
    disk = Disk(10 * MIB)

    async def main(reading: readers.Readers, nursery: trio.Nursery) -> None:
        for _ in range(5):
            nursery.start_soon(reading.fetch, [(1, 0, MIB, 1), (2, 0, MIB, 1)])
        nursery.start_soon(reading.fetch, [(2, 0, MIB, 1), (3, 0, MIB, 1)])
        await trio.testing.wait_all_tasks_blocked()
        disk.go.set()

    _run(disk, main)
    assert sorted(disk.fetched) == [(1, 0, MIB, 1), (2, 0, MIB, 1), (3, 0, MIB, 1)]


def test_the_number_of_threads_is_bounded() -> None:
    disk = Disk(100 * MIB)

    async def main(reading: readers.Readers, nursery: trio.Nursery) -> None:
        for number in range(40):
            nursery.start_soon(reading.fetch, [(number, 0, MIB, 1)])
        while disk.running < readers.THREADS:
            await trio.sleep(0.001)
        disk.go.set()

    _run(disk, main)
    assert disk.most == readers.THREADS
    assert len(disk.fetched) == 40


def test_the_disk_is_asked_ahead_of_a_sequential_reader_and_for_nothing_twice() -> None:
    disk = Disk(20 * MIB)
    reading = readers.Readers(disk, disk, lambda: None, lambda: False)  # type: ignore[arg-type]
    handle = Handle(7, False, True)
    for window in range(1, 20):
        reading.ahead(handle, window * MIB)
        assert window * MIB + readers.AHEAD // 2 <= handle.ahead <= window * MIB + readers.AHEAD
    assert disk.expected[0] == (MIB, readers.AHEAD)
    for (offset, size), (following, _) in pairwise(disk.expected):
        assert following == offset + size
    reading.ahead(handle, 100 * MIB)
    assert disk.expected[-1] == (100 * MIB, readers.AHEAD)


def test_a_fetch_that_fails_fails_its_reader_and_nobody_else() -> None:
    disk = Disk(20 * MIB)
    disk.go.set()
    disk.broken = True

    async def main(reading: readers.Readers, nursery: trio.Nursery) -> None:
        with pytest.raises(OSError, match="disk is gone"):
            await reading.fetch([(1, 0, MIB, 1)])
        disk.broken = False
        await reading.fetch([(9, 0, MIB, 1)])

    _run(disk, main)


def test_one_reader_at_a_time_looks_whether_its_data_has_come() -> None:
    """The others have asked the disk already; looking again would only take time from whoever is first."""
    disk = Disk(20 * MIB)
    disk.arriving = set()
    arrived: list[int] = []

    async def main(reading: readers.Readers, nursery: trio.Nursery) -> None:
        async def one(number: int) -> None:
            await reading.fetch([(number, 0, MIB, 1)])
            arrived.append(number)

        for number in range(5):
            nursery.start_soon(one, number)

    def pending() -> bool:
        """Between two looks: what was asked for first comes first."""
        disk.arriving.add(disk.asked[-1])  # type: ignore[union-attr]
        return True

    async def run() -> None:
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                await main(readers.Readers(disk, disk, lambda: None, pending), nursery)  # type: ignore[arg-type]

    trio.run(run)
    assert sorted(arrived) == [0, 1, 2, 3, 4]
    assert not disk.fetched, "none was fetched on a thread"
    assert [number for number, _ in groupby(disk.asked)] == arrived


def test_whoever_queued_behind_a_wait_in_vain_looks_once() -> None:
    disk = Disk(20 * MIB)
    disk.go.set()

    async def main(reading: readers.Readers, nursery: trio.Nursery) -> None:
        for number in range(4):
            nursery.start_soon(reading.fetch, [(number, 0, MIB, 1)])

    _run(disk, main)
    looks = [disk.asked.count(number) for number in range(4)]
    assert sorted(looks)[:3] == [1, 1, 1]
    assert looks[disk.asked[0]] > 1
    assert len(disk.fetched) == 4


def test_a_disk_that_is_slow_is_waited_for_in_place_only_now_and_then() -> None:
    disk = Disk(64 * MIB)
    disk.go.set()

    async def main() -> int:
        fetching = readers.Readers(disk, disk, lambda: None, lambda: False)
        for number in range(64):
            await fetching.fetch([(number, 0, 4096, 1)])
        return fetching.awaited

    assert trio.run(main) == readers.CREDIT_MAX + (64 - readers.CREDIT_MAX) // readers.TRY_EVERY
    assert len(disk.fetched) == 64
