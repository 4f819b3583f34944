"""Comparing snapshots, what deleting them gives back, previews and clones: the command line and the vendor's client, on a mount."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from .conftest import Bench
from .test_capacity import qq, qq_refused


def entries(printed: str) -> list[Any]:
    """Return the entries of all pages that the vendor's client printed."""
    decoder, found, at = json.JSONDecoder(), [], 0
    while at < len(printed):
        if printed[at].isspace():
            at += 1
            continue
        page, at = decoder.raw_decode(printed, at)
        found += page["entries"] if isinstance(page, dict) else page
    return found


def take(bench: Bench, directory: Path) -> str:
    """Take a snapshot and return its id."""
    return str(bench.json("snapshot", "create", directory)["id"])


def scene(bench: Bench) -> tuple[Path, str, str]:
    """Return a directory and two snapshots of it, between which much happened."""
    top = bench.mountpoint / "study"
    (top / "old" / "deep").mkdir(parents=True)
    for name in ("kept", "changed", "moved", "gone", "old/deep/inside"):
        (top / name).write_bytes(b"x" * 20_000)
    first = take(bench, top)
    with open(top / "changed", "r+b") as stream:
        stream.seek(8192)
        stream.write(b"y" * 4096)
    os.rename(top / "moved", top / "old" / "renamed")
    os.unlink(top / "gone")
    (top / "new").mkdir()
    (top / "new" / "file\xe9 \n").write_bytes(b"new")
    return top, first, take(bench, top)


def test_the_vendors_client_lists_what_differs(mounted: Bench) -> None:
    top, first, second = scene(mounted)
    expected = [
        ("MODIFY", "/study/"),
        ("MODIFY", "/study/changed"),
        ("CREATE", "/study/new/"),
        ("CREATE", "/study/new/file\xe9 \n"),
        ("MODIFY", "/study/old/"),
        ("CREATE", "/study/old/renamed"),
        ("DELETE", "/study/moved"),
        ("DELETE", "/study/gone"),
    ]
    for size in ((), ("--page-size", "1"), ("--page-size", "3")):
        found = entries(qq(mounted, "snapshot_diff", "--older-snapshot", first, "--newer-snapshot", second, *size))
        assert sorted((one["op"], one["path"]) for one in found) == sorted(expected)
    reference = ("--older-snapshot", first, "--newer-snapshot", second)
    by_path = entries(qq(mounted, "snapshot_file_diff", *reference, "--path", "/study/changed"))
    assert by_path == [{"type": "FILE_REGION_DATA", "offset": "8192", "size": "4096"}]
    inode = str((top / "changed").stat().st_ino)
    assert entries(qq(mounted, "snapshot_file_diff", *reference, "--file-id", inode)) == by_path
    assert "fs_no_such_entry_error" in qq_refused(mounted, "snapshot_file_diff", *reference, "--path", "/study/gone")
    assert "fs_not_a_file_error" in qq_refused(mounted, "snapshot_file_diff", *reference, "--path", "/study/new")
    assert "older" in qq_refused(mounted, "snapshot_diff", "--older-snapshot", second, "--newer-snapshot", first)
    total = json.loads(qq(mounted, "snapshot_get_total_used_capacity"))
    assert int(total["bytes"]) == mounted.json("snapshot", "reclaimable", "--all")["bytes"] >= 20_000


def test_the_command_line_tells_of_renames_and_of_the_live_tree(mounted: Bench) -> None:
    top, first, second = scene(mounted)
    found = mounted.json("snapshot", "diff", first, second, "--files")
    assert {(one["op"], one["path"], one["old_path"]) for one in found} == {
        ("MODIFY", "/study/changed", None),
        ("CREATE", "/study/new/file\xe9 \n", None),
        ("RENAME", "/study/old/renamed", "/study/moved"),
        ("DELETE", "/study/gone", None),
    }
    assert "R /study/moved -> /study/old/renamed" in mounted.ok("snapshot", "diff", first, second)
    assert "- /study/moved" in mounted.ok("snapshot", "diff", first, second, "--plain")
    assert mounted.json("snapshot", "diff", second, "--live") == []
    (top / "kept").write_bytes(b"z")
    assert mounted.ok("snapshot", "diff", second, "--live") == "M /study/kept\n"
    parts = mounted.json("snapshot", "file-diff", top / "kept", second, "--live")
    assert parts == [{"op": "MODIFY", "offset": 0, "size": 1}, {"op": "DELETE", "offset": 4096, "size": 15904}]
    assert "MODIFY" in mounted.ok("snapshot", "file-diff", top / "changed", first, second, "--exact")
    mounted.fails(2, "snapshot", "diff", first)
    mounted.fails(2, "snapshot", "diff", second, first)
    mounted.fails(8, "snapshot", "diff", first, "999")
    mounted.fails(2, "snapshot", "reclaimable")
    mounted.fails(8, "snapshot", "reclaimable", "999")


def test_previews_tell_what_would_be_done_and_do_nothing(mounted: Bench) -> None:
    top, first, second = scene(mounted)
    before = sorted(os.walk(top))
    would = mounted.ok("snapshot", "delete", first, second, "--dry-run")
    assert f"would delete {first}_OnDemand of {top}" in would and "would come back" in would
    assert len(mounted.json("snapshot", "list")) == 2
    actions = mounted.json("snapshot", "revert", first, "--dry-run")
    assert {"action": "move back", "path": "/study/moved", "now": "/study/old/renamed"} in actions
    assert {"action": "remove", "path": "/study/new/", "now": None} in actions
    assert {"action": "bring back", "path": "/study/gone", "now": None} in actions
    assert mounted.json("snapshot", "revert", first, "--path", "gone", "--dry-run") == [
        {"action": "bring back", "path": "/study/gone", "now": None}
    ]
    assert "before_restore" in mounted.ok("snapshot", "restore", first, "--in-place", "--dry-run")
    assert "5 files and 2 directories" in mounted.ok("snapshot", "restore", first, "--to", mounted.mountpoint / "copy", "--dry-run")
    assert sorted(os.walk(top)) == before and os.listdir(mounted.mountpoint) == ["study"]
    mounted.ok("snapshot", "revert", first)
    assert sorted(os.listdir(top)) == ["changed", "gone", "kept", "moved", "old"]
    assert (top / "changed").read_bytes() == b"x" * 20_000


def test_a_preview_of_a_restore_is_refused_as_the_restore_is(mounted: Bench) -> None:
    top, first, _ = scene(mounted)
    mounted.ok("worm", "hold", top / "changed")
    before = mounted.json("snapshot", "list")
    for options in (("--dry-run",), ()):
        assert "/study/changed is locked" in mounted.fails(1, "snapshot", "revert", first, *options)
    assert mounted.json("snapshot", "list") == before and mounted.json("status", mounted.mountpoint)["restore"]["state"] == "failed"
    mounted.ok("worm", "release", top / "changed")
    mounted.ok("snapshot", "revert", first)


def test_a_clone_is_writable_and_whole(mounted: Bench) -> None:
    top, first, _ = scene(mounted)
    copy, old = mounted.mountpoint / "copy", mounted.mountpoint / "old"
    assert "would make" in mounted.ok("clone", top, copy, "--dry-run") and not copy.exists()
    (top / "kept").write_bytes(b"only the kernel has it yet")
    assert mounted.json("clone", top, copy)["files"] == 5
    assert (copy / "kept").read_bytes() == b"only the kernel has it yet"
    (copy / "changed").write_bytes(b"in the copy")
    assert (top / "changed").read_bytes()[8192:12288] == b"y" * 4096
    assert "cloned 5 files" in mounted.ok("clone", mounted.mountpoint / "study" / ".snapshot" / f"{first}_OnDemand", old)
    assert sorted(os.listdir(old)) == ["changed", "gone", "kept", "moved", "old"]
    mounted.ok("clone", top / "changed", old / "one")
    assert (old / "one").read_bytes() == (top / "changed").read_bytes()
    mounted.fails(2, "clone", top, copy)
    mounted.fails(8, "clone", top / "missing", mounted.mountpoint / "new")
    assert len(mounted.json("snapshot", "list")) == 2 and sorted(os.listdir(mounted.mountpoint)) == ["copy", "old", "study"]


def test_usage_by_owner_and_by_age(mounted: Bench) -> None:
    top = mounted.mountpoint / "top"
    top.mkdir()
    for name, uid, age in (("a", 0, 0), ("b", 1234, 40), ("c", 1234, 4000)):
        (mounted.mountpoint / name).write_bytes(b"x" * 1000)
        os.chown(mounted.mountpoint / name, uid, uid)
        when = time.time() - 86400 * age
        os.utime(mounted.mountpoint / name, (when, when))
    os.rename(mounted.mountpoint / "b", top / "b")
    os.link(top / "b", top / "again")
    owners = mounted.json("usage", mounted.mountpoint, "--by-owner")
    assert [(one["uid"], one["bytes"], one["files"]) for one in owners] == [(1234, 2000, 2), (0, 1000, 1)]
    assert mounted.json("usage", top, "--by-owner") == [{"uid": 1234, "bytes": 1000, "allocated": 1000, "files": 1}]
    ages = {one["min_days"]: one["files"] for one in mounted.json("usage", mounted.mountpoint, "--by-age")}
    assert ages == {0: 1, 1: 0, 7: 0, 30: 1, 90: 0, 365: 0, 730: 0, 1825: 1}
    assert "1234" in mounted.ok("usage", top, "--by-owner") and "over 1825 days ago" in mounted.ok("usage", top, "--by-age")
    mounted.fails(2, "usage", top, "--by-owner", "--by-age")
    mounted.fails(2, "usage", top / "b", "--by-owner")
