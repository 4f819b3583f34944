"""An fsync lets the requests that wait already go first, so that their changes and their own fsyncs share its group; no longer than some
passes of the scheduler."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from anqfs.crypto.secrets import Secret
from anqfs.mount.durability import Durability
from anqfs.store.schema import Inode, inode_key
from anqfs.store.volume import Volume

SECRET = Secret.from_passphrase("correct horse")


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Volume]:
    """A volume whose first commit, which makes its sealing key durable, is done."""
    Volume.create(tmp_path / "store", SECRET, iterations=1)
    volume = Volume.open(tmp_path / "store", SECRET, group_seconds=1e6)
    volume.commit(to_stores=True).wait()
    yield volume
    volume.close()


def change(volume: Volume, number: int) -> None:
    volume.put(inode_key(number), Inode(1, 0o100644, 0, 0, 1, 0, 0, 1, 2, 3, 4))


def test_fsyncs_of_requests_that_wait_share_a_group(volume: Volume) -> None:
    requests = [2, 3, 4, 5]
    durability = Durability(volume, lambda: None, lambda: bool(requests))

    async def serve_one() -> None:
        change(volume, requests.pop())
        await durability.durable()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(len(requests)):
                nursery.start_soon(serve_one)
            change(volume, 1)
            await durability.durable()

    before = volume.counters["groups_logged"] + volume.counters["commits"]
    trio.run(main)
    assert volume.counters["groups_logged"] + volume.counters["commits"] == before + 1
    assert volume.dirty_bytes() == 0


def test_an_fsync_does_not_wait_for_requests_that_never_end(volume: Volume) -> None:
    durability = Durability(volume, lambda: None, lambda: True)
    change(volume, 1)
    trio.run(durability.durable)
    assert volume.counters["groups_logged"] + volume.counters["commits"] > 0
    assert volume.dirty_bytes() == 0
