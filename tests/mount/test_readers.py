"""Fetching what is cold, on threads: never the same piece twice at a time, ahead of sequential readers, bounded."""

from __future__ import annotations

import threading
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

    def cold(self, node: int, offset: int, size: int) -> list[readers.Piece]:
        end = min(self.size, offset + size)
        pieces = [(window, 0, MIB, 1) for window in range(offset // MIB, -(-end // MIB))]
        return [piece for piece in pieces if piece not in self.fetched]

    def extent_is_warm(self, extent: int, offset: int, length: int) -> bool:
        return (extent, offset, length, 1) in self.fetched

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
                reading.start(nursery)
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


def test_a_sequential_reader_is_fetched_ahead_of_and_nothing_twice() -> None:
    disk = Disk(20 * MIB)
    disk.go.set()
    handle = Handle(7, False, True)

    async def main(reading: readers.Readers, nursery: trio.Nursery) -> None:
        for window in range(20):
            await reading.fetch(disk.cold(7, window * MIB, MIB))
            reading.ahead(handle, (window + 1) * MIB)
            await trio.testing.wait_all_tasks_blocked()
            assert handle.ahead <= (window + 1) * MIB + readers.AHEAD

    _run(disk, main)
    assert sorted(disk.fetched) == [(window, 0, MIB, 1) for window in range(20)]


def test_a_fetch_that_fails_fails_its_reader_and_nobody_else() -> None:
    disk = Disk(20 * MIB)
    disk.go.set()
    disk.broken = True

    async def main(reading: readers.Readers, nursery: trio.Nursery) -> None:
        with pytest.raises(OSError, match="disk is gone"):
            await reading.fetch([(1, 0, MIB, 1)])
        reading.ahead(Handle(7, False, True), 0)
        await trio.testing.wait_all_tasks_blocked()
        disk.broken = False
        await reading.fetch([(9, 0, MIB, 1)])

    _run(disk, main)


def test_a_reader_that_overtakes_the_fetch_ahead_does_not_wait_for_ever() -> None:
    """The fetch ahead is only scheduled when the next reader begins the same piece, and a third one waits for whoever fetches it."""
    disk = Disk(20 * MIB)

    async def main(reading: readers.Readers, nursery: trio.Nursery) -> None:
        reading.ahead(Handle(7, False, True), 0)
        async with trio.open_nursery() as inner:
            for _ in range(3):
                inner.start_soon(reading.fetch, disk.cold(7, 0, 2 * MIB))
            await reading_later(reading, disk)
            await trio.testing.wait_all_tasks_blocked()
            disk.go.set()

    async def reading_later(reading: readers.Readers, disk: Disk) -> None:
        task = reading.fetch(disk.cold(7, 0, 2 * MIB))
        disk.go.set()
        await task

    _run(disk, main)
    assert sorted(disk.fetched) == [(window, 0, MIB, 1) for window in range(4)]


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
