"""anqfs check and anqfs scrub: healthy volumes pass, damage is named by path."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from .conftest import Bench, on_terminal


def fill(bench: Bench) -> bytes:
    """Write a few files, one of them with data that is found again in the store's file by its sealed size alone."""
    (bench.mountpoint / "dir").mkdir()
    for number in range(3):
        (bench.mountpoint / "dir" / f"small{number}").write_bytes(b"s" * 100)
    data = os.urandom(900_000)
    (bench.mountpoint / "dir" / "big").write_bytes(data)
    return data


def damage_extents(bench: Bench) -> None:
    """Flip a bit in the middle of the extent that holds the big file: where the longest run of high-entropy bytes is."""
    path = max((bench.store / "extents").iterdir(), key=lambda file: file.stat().st_blocks)
    content = bytearray(path.read_bytes())
    block = 4096
    busy = [len(set(content[place : place + block])) > 200 for place in range(0, len(content), block)]
    best, run = 0, 0
    start = 0
    for number, is_busy in enumerate([*busy, False]):
        if is_busy:
            run += 1
            continue
        if run > best:
            best, start = run, number - run
        run = 0
    assert best * block > 500_000
    place = (start + best // 2) * block + 100
    with open(path, "r+b") as stream:
        stream.seek(place)
        stream.write(bytes((content[place] ^ 1,)))


def test_a_healthy_store(bench: Bench) -> None:
    bench.mkfs()
    bench.mount()
    fill(bench)
    bench.json("snapshot", "create", bench.mountpoint)
    bench.umount()
    report = bench.json("check", bench.store, "--key-file", bench.key)
    assert (report["ok"], report["findings"], report["unlisted"]) == (True, [], 0)
    assert report["counts"]["files"] == 4
    assert report["counts"]["snapshots"] == 1
    assert report["bytes"] >= 900_000
    number, _, digest = report["root"].partition(":")
    assert number.isdigit() and len(digest) == 64
    assert "all is well" in bench.ok("check", bench.store, "--key-file", bench.key)


def test_damage_is_named_and_exits_9(bench: Bench) -> None:
    bench.mkfs()
    bench.mount()
    data = fill(bench)
    bench.umount()
    damage_extents(bench)
    done = bench.run("check", bench.store, "--key-file", bench.key)
    assert done.returncode == 9
    assert "dir/big" in done.stdout
    assert "Traceback" not in done.stderr
    bench.mount()
    with pytest.raises(OSError, match="Input/output"):
        (bench.mountpoint / "dir" / "big").read_bytes()
    assert (bench.mountpoint / "dir" / "small1").read_bytes() == b"s" * 100
    assert len(data) == (bench.mountpoint / "dir" / "big").stat().st_size
    done = bench.run("scrub", bench.mountpoint, "--json")
    assert done.returncode == 9
    state = bench.run("scrub", bench.mountpoint, "--status", "--json")
    assert state.returncode == 9
    assert "dir/big" in state.stdout
    bench.umount()


def test_a_damaged_superblock(bench: Bench) -> None:
    bench.mkfs()
    path = bench.store / "superblock"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    for arguments in (("check", bench.store), ("mount", bench.store, bench.mountpoint)):
        bench.fails(9, *arguments, "--key-file", bench.key)
    bench.fails(9, "status", bench.store)


def test_a_newer_format(bench: Bench) -> None:
    bench.mkfs()
    path = bench.store / "superblock"
    content = bytearray(path.read_bytes())
    content[8:12] = (999).to_bytes(4, "big")
    path.write_bytes(content)
    assert "999" in bench.fails(9, "mount", bench.store, bench.mountpoint, "--key-file", bench.key)


def test_scrub(mounted: Bench) -> None:
    fill(mounted)
    os.sync()
    first = mounted.json("scrub", mounted.mountpoint)
    assert (first["running"], first["passes"], first["damaged"]) == (False, 1, [])
    assert first["job"]["state"] == "done"
    assert first["bytes"] >= 900_000
    assert "none" in mounted.ok("scrub", mounted.mountpoint, "--status")
    assert mounted.json("scrub", mounted.mountpoint, "--rate", "10000")["passes"] == 2
    assert mounted.json("status", mounted.mountpoint)["scrub"]["passes"] == 2
    mounted.remount()
    assert mounted.json("scrub", mounted.mountpoint, "--status")["passes"] == 2


def test_a_scrub_is_cancelled_and_goes_on(mounted: Bench) -> None:
    fill(mounted)
    os.sync()
    import subprocess

    slow = subprocess.Popen(
        mounted.command("scrub", mounted.mountpoint, "--rate", "0.01", "--json"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env=mounted.environment,
    )
    try:
        while not mounted.json("scrub", mounted.mountpoint, "--status")["running"]:
            assert slow.poll() is None or mounted.json("scrub", mounted.mountpoint, "--status")["passes"] > 0
            if slow.poll() is not None:
                break
        mounted.ok("scrub", mounted.mountpoint, "--cancel")
        slow.communicate(timeout=60)
    finally:
        slow.kill()
        slow.wait()
    assert mounted.json("scrub", mounted.mountpoint)["passes"] >= 1


def test_scrub_arguments(mounted: Bench) -> None:
    mounted.fails(2, "scrub", mounted.mountpoint, "--rate", "-1")
    mounted.fails(2, "scrub", mounted.mountpoint, "--rate", "fast")
    mounted.fails(2, "scrub", mounted.mountpoint, "--status", "--cancel")
    mounted.fails(7, "scrub", "/")
    mounted.ok("scrub", mounted.mountpoint, "--cancel")


def test_check_leaves_the_store_as_it_was(bench: Bench) -> None:
    bench.mkfs()
    bench.mount()
    fill(bench)
    bench.umount()
    before = {
        path: path.read_bytes() for path in sorted(bench.store.rglob("*")) if path.is_file() and path.name not in ("lock", "lock.mdb")
    }
    bench.ok("check", bench.store, "--key-file", bench.key)
    assert before == {path: path.read_bytes() for path in before}
    assert isinstance(next(iter(before)), Path)


def test_progress_on_a_terminal_leaves_the_result_readable(mounted: Bench) -> None:
    fill(mounted)
    code, shown = on_terminal(mounted, [], "scrub", mounted.mountpoint)
    assert code == 0, shown
    assert b"passes:" in shown and b"Traceback" not in shown
    number = str(mounted.json("snapshot", "create", mounted.mountpoint)["id"])
    code, shown = on_terminal(mounted, [], "snapshot", "restore", number, "--to", mounted.mountpoint / "again")
    assert code == 0, shown
    assert b"restored" in shown
    assert (mounted.mountpoint / "again" / "dir" / "small0").read_bytes() == b"s" * 100
