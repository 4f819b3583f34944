"""The benchmark's own care: what its do-nothing filesystem keeps, what its report counts as a peer, and what it calls flat."""

from __future__ import annotations

import io
import random
import tarfile
from pathlib import Path

import pytest
from rich.console import Console

import bench_noop
import bench_rows
import bench_run
import bench_scale
from bench_noop import MIB, SHARED_MAX, Content
from bench_report import Results, print_table


@pytest.fixture(autouse=True)
def own_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_noop.Content, "shared", {})


@pytest.mark.parametrize("seed", range(4))
def test_content_is_what_was_written(seed: int) -> None:
    chance = random.Random(seed)
    blocks = [bytes([number]) * MIB for number in range(SHARED_MAX + 4)]
    content, model = Content(), bytearray()
    for _ in range(120):
        offset = chance.choice((0, 1, 2)) * MIB + chance.choice((0, 0, 4096, 17, MIB - 5))
        kind = chance.random()
        if kind < 0.15:
            size = chance.choice((0, 1, MIB, 2 * MIB, offset))
            content.truncate(size)
            model = model[:size] + bytes(max(0, size - len(model)))
        else:
            data = chance.choice(blocks) if kind < 0.5 else chance.randbytes(chance.choice((1, 4096, 70_000, MIB)))
            content.write(offset, data)
            model.extend(bytes(max(0, offset - len(model))))
            model[offset : offset + len(data)] = data
        start = chance.randrange(len(model) + 1)
        size = min(chance.choice((10, 4096, MIB, 3 * MIB)), len(model) - start)
        assert content.read(start, size) == model[start : start + size]
    assert content.read(0, len(model)) == model


@pytest.mark.parametrize("request_size", [MIB, MIB - 12_288, 128 << 10])
def test_a_stream_of_repeated_blocks_takes_the_memory_of_its_different_blocks(request_size: int) -> None:
    blocks = [random.Random(number).randbytes(MIB) for number in range(SHARED_MAX)]
    stream = b"".join(blocks) * 3
    content = Content()
    for offset in range(0, len(stream), request_size):
        content.write(offset, stream[offset : offset + request_size])
    assert len(content.parts) == 3 * SHARED_MAX
    assert len({id(part) for part in content.parts.values()}) == SHARED_MAX
    assert content.read(5 * MIB - 3, MIB) == stream[5 * MIB - 3 : 6 * MIB - 3]


def test_a_block_that_is_overwritten_changes_in_one_place_only() -> None:
    content = Content()
    for index in range(2):
        content.write(index * MIB, bytes(MIB))
    content.write(MIB + 8192, b"x" * 4096)
    assert content.read(0, MIB) == bytes(MIB)
    assert content.read(MIB + 8192, 4096) == b"x" * 4096


def _results(**medians: float) -> Results:
    results = Results()
    for peer, value in medians.items():
        results.add("unlink x1", peer, value)
    return results


def _printed(results: Results) -> str:
    out = io.StringIO()
    print_table(results, list(results.values["unlink x1"]), Console(file=out, width=250))
    return out.getvalue()


def test_the_filesystem_that_does_nothing_is_no_encrypted_peer_but_the_floor() -> None:
    results = _results(anqfs=5_000, securefs=10_000, gocryptfs=6_000, noop=20_000, ext4=90_000)
    assert results.best_encrypted("unlink x1") == ("securefs", 10_000)
    assert results.ratio("unlink x1") == 0.5
    assert results.ratio("unlink x1", "noop") == 2.0
    printed = _printed(results)
    assert "floor 2.00x" in printed
    assert "fsync that only answers" in printed


def test_a_row_that_meets_its_goal_needs_no_floor() -> None:
    assert "floor 0" not in _printed(_results(anqfs=20_000, securefs=10_000, noop=9_000))


def test_anqfs_runs_beside_each_encrypted_peer() -> None:
    peers = bench_run.DEFAULT_PEERS.split(",")
    assert bench_run.order(peers, "small", 0) == ["anqfs", "gocryptfs", "anqfs", "securefs", "ext4", "noop"]
    assert bench_run.order(peers, "tree", 1) == peers[::-1]
    assert bench_run.order(["anqfs", "noop"], "small", 0) == ["anqfs", "noop"]


def test_costs_that_grow_with_the_directory_are_named() -> None:
    by_size = {
        10: {"create": 100.0, "list": 10.0, "memory": 50.0, "commit": 4.0},
        1000: {"create": 140.0, "list": 16.0, "memory": 500.0, "commit": 3.0},
    }
    assert bench_scale.not_flat(by_size) == ["list"]
    assert bench_scale.growth(by_size, "create") == pytest.approx(1.4)
    assert bench_scale.growth(by_size, "snapshot") is None


@pytest.mark.parametrize("files", [30, 2_500])
def test_the_source_tree_has_as_many_files_as_its_row_says(tmp_path: Path, files: int) -> None:
    """Debian's library alone has 667."""
    with tarfile.open(bench_rows.source_archive(tmp_path, files)) as tar:
        assert len({member.name for member in tar if member.isfile()}) == files
