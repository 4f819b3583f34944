"""anqfs quota, worm and tree-delete, and the vendor's own client for the same: what they do to a mounted volume."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.refusals import refusal

from .conftest import DEADLINE, Bench, eventually, lasting

ENTRY = 4096


def qq(bench: Bench, *arguments: str | Path) -> str:
    """Run the vendor's client over the daemon's socket and return what it prints."""
    (entry,) = bench.runtime.glob("*.json")
    socket = json.loads(entry.read_text())["socket"]
    program = os.path.join(sysconfig.get_path("scripts"), "qq")
    command = [sys.executable, program, "--host", "localhost", "--socket-path", socket, *(str(one) for one in arguments)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=DEADLINE, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip())
    return done.stdout


def qq_refused(bench: Bench, *arguments: str | Path) -> str:
    with pytest.raises(RuntimeError) as caught:
        qq(bench, *arguments)
    return str(caught.value)


@pytest.fixture(scope="module")
def mounted() -> Iterator[Bench]:
    """One mounted volume for the whole module; each test has a directory of its own in it."""
    with lasting("anqfs-capacity-") as bench:
        yield bench


@pytest.fixture
def top(mounted: Bench, request: pytest.FixtureRequest) -> Path:
    """The test's own directory."""
    path = mounted.mountpoint / str(request.node.name).removeprefix("test_")
    path.mkdir()
    return path


def inside(path: Path, mounted: Bench) -> str:
    """Return a path as the API writes it."""
    return "/" + str(path.relative_to(mounted.mountpoint))


def test_a_quota_is_set_shown_changed_and_removed(mounted: Bench, top: Path) -> None:
    inner, path = top / "inner", inside(top, mounted)
    inner.mkdir()
    (inner / "f").write_bytes(b"x" * 10_000)
    outer = mounted.json("quota", "set", top, "1MB")
    assert outer == {"id": str(top.stat().st_ino), "path": f"{path}/", "limit": 1_000_000, "capacity_usage": 10_000 + 2 * ENTRY}
    assert "of 64.0 KiB are taken" in mounted.ok("quota", "set", inner, "64KiB")
    assert [(one["path"], one["limit"]) for one in mounted.json("quota", "show", inner)] == [
        (f"{path}/inner/", 65536),
        (f"{path}/", 1_000_000),
    ]
    assert {one["path"] for one in mounted.json("quota", "list", mounted.mountpoint)} == {f"{path}/", f"{path}/inner/"}
    assert {(one["path"], one["mountpoint"]) for one in mounted.json("quota", "list")} == {
        (f"{path}/", str(mounted.mountpoint)),
        (f"{path}/inner/", str(mounted.mountpoint)),
    }
    assert refusal((inner / "g").write_bytes, b"x" * 70_000) == "EDQUOT"
    mounted.remount()
    assert refusal((inner / "g").write_bytes, b"x" * 70_000) == "EDQUOT"
    assert mounted.json("quota", "set", inner, "0.5 MiB")["limit"] == 524_288
    assert "would be removed" in mounted.ok("quota", "remove", inner, "--dry-run")
    assert len(mounted.json("quota", "show", inner)) == 2
    mounted.ok("quota", "remove", inner)
    assert f"{path}/" in mounted.ok("quota", "show", inner)
    mounted.ok("quota", "remove", top)
    mounted.fails(8, "quota", "remove", inner)
    mounted.fails(2, "quota", "set", inner, "much")
    mounted.fails(2, "quota", "set", inner / "f", "1GB")
    mounted.fails(8, "quota", "set", top / "missing", "1GB")


def test_a_lock_is_set_made_longer_held_and_released(mounted: Bench, top: Path) -> None:
    file = top / "f"
    file.write_bytes(b"kept")
    none = {"path": str(file), "retention_period": None, "legal_hold": False}
    assert mounted.json("worm", "show", file) == none
    would = mounted.json("worm", "set", file, "--days", "2", "--dry-run")
    assert would["dry_run"] and would["retention_period"] > f"{time.strftime('%Y-%m-%d')}"
    assert mounted.json("worm", "show", file) == none
    mounted.ok("worm", "set", file, "--until", "2199-01-31T12:00:00Z")
    assert mounted.json("worm", "show", file)["retention_period"] == "2199-01-31T12:00:00.000000000Z"
    said = mounted.fails(1, "worm", "set", file, "--days", "3")
    assert "longer" in said
    assert refusal(file.unlink) == "EPERM"
    mounted.remount()
    assert refusal(file.write_bytes, b"changed") == "EPERM"
    assert "a legal hold" in mounted.ok("worm", "hold", file)
    assert mounted.json("worm", "release", file, "--dry-run")["legal_hold"] is False
    assert mounted.json("worm", "show", file)["legal_hold"] is True
    assert "no legal hold" in mounted.ok("worm", "release", file)
    mounted.fails(2, "worm", "set", file)
    mounted.fails(2, "worm", "set", mounted.mountpoint, "--days", "1")
    mounted.fails(2, "worm", "set", file, "--until", "2001-01-01T00:00:00Z")
    assert file.read_bytes() == b"kept"


def test_a_file_that_is_open_for_writing_is_not_locked(mounted: Bench, top: Path) -> None:
    file = top / "f"
    with file.open("wb") as stream:
        stream.write(b"half")
        stream.flush()
        assert "open for writing" in mounted.fails(1, "worm", "hold", file)
        stream.write(b" and the rest")
    mounted.ok("worm", "hold", file)
    assert refusal(os.open, file, os.O_WRONLY) == "EPERM"
    assert file.read_bytes() == b"half and the rest"
    mounted.ok("worm", "release", file)
    file.unlink()


def fill(top: Path, files: int) -> None:
    for number in range(files):
        if number % 50 == 0:
            place = top / f"d{number}"
            place.mkdir(parents=True)
        (place / f"f{number}").write_bytes(b"x" * 100)


def test_a_directory_is_deleted_in_the_background_and_the_kernel_sees_it(mounted: Bench, top: Path) -> None:
    fill(top, 300)
    kept = (top / "d0" / "f0").open("rb")
    would = mounted.json("tree-delete", top, "--dry-run")
    assert (would["initial_files"], would["initial_directories"], would["initial_capacity"]) == (300, 6, 300 * 100 + 306 * ENTRY)
    assert sum(len(files) for _, _, files in os.walk(top)) == 300
    assert mounted.json("tree-delete", "list") == []
    snapshot = mounted.json("snapshot", "create", top)["id"]
    mounted.ok("tree-delete", top, "--wait")
    assert not top.exists() and top.name not in os.listdir(mounted.mountpoint)
    assert refusal(os.stat, top / "d0" / "f0") == "ENOENT"
    with kept:
        assert kept.read() == b"x" * 100
        assert os.fstat(kept.fileno()).st_nlink == 0
    mounted.ok("snapshot", "delete", str(snapshot))
    mounted.fails(8, "tree-delete", top)
    mounted.fails(1, "tree-delete", mounted.mountpoint)


def test_a_deletion_goes_on_after_a_kill_and_stops_at_a_locked_file(mounted: Bench, top: Path) -> None:
    path = inside(top, mounted)
    fill(top, 1000)
    locked = top / "d0" / "f0"
    mounted.ok("worm", "hold", locked)
    pid = int(mounted.json("status", mounted.mountpoint)["pid"])
    inode = top.stat().st_ino
    mounted.json("tree-delete", top)
    mounted.kill(pid)
    mounted.mount()
    eventually("the deletion to stop", lambda: bool(mounted.json("tree-delete", "show", str(inode))["last_error_message"]))
    (job,) = mounted.json("tree-delete", "list")
    assert (job["id"], job["initial_path"], job["initial_files"]) == (str(inode), f"{path}/", 1000)
    assert job["last_error_message"] == f"{path}/d0/f0: the file is locked"
    assert 0 < job["remaining_files"] < 1000
    assert locked.read_bytes() == b"x" * 100
    assert "the file is locked" in mounted.fails(1, "tree-delete", top, "--wait")
    mounted.ok("tree-delete", "cancel", str(inode))
    assert mounted.json("tree-delete", "list") == []
    mounted.ok("worm", "release", locked)
    mounted.ok("tree-delete", top, "--wait")
    assert not top.exists()


def test_the_vendors_client_manages_quotas(mounted: Bench, top: Path) -> None:
    a, b, c = (top / name for name in "abc")
    paths = [inside(each, mounted) for each in (a, b, c)]
    for each in (a, b, c):
        each.mkdir()
    number = str(a.stat().st_ino)
    assert json.loads(qq(mounted, "quota_create_quota", "--path", paths[0], "--limit", "50MB")) == {"id": number, "limit": "50000000"}
    assert "fs_quota_limit_already_set_error" in qq_refused(mounted, "quota_create_quota", "--path", paths[0], "--limit", "1GiB")
    for each in (b, c):
        os.setxattr(each, "ceph.quota.max_bytes", b"%d" % (1 << 30))
    (a / "f").write_bytes(b"x" * 5000)
    shown = json.loads(qq(mounted, "quota_get_quota", "--path", paths[0]))
    assert shown == {"id": number, "path": f"{paths[0]}/", "limit": "50000000", "capacity_usage": str(5000 + ENTRY)}
    totals = json.loads(qq(mounted, "fs_read_dir_aggregates", "--path", paths[0]))
    assert (totals["total_capacity"], totals["total_data"], totals["total_meta"]) == (str(5000 + ENTRY), "5000", str(ENTRY))
    listed = json.loads(qq(mounted, "quota_list_quotas", "--page-size", "2"))["quotas"]
    assert [(one["path"], one["limit"]) for one in listed] == list(
        zip([f"{path}/" for path in paths], ["50000000", *2 * [str(1 << 30)]], strict=True)
    )
    qq(mounted, "quota_update_quota", "--id", number, "--limit", "10KB")
    assert refusal((a / "g").write_bytes, b"x" * 5000) == "EDQUOT"
    qq(mounted, "quota_delete_quota", "--path", paths[0])
    assert "fs_quota_limit_does_not_exist_error" in qq_refused(mounted, "quota_get_quota", "--path", paths[0])
    (a / "g").write_bytes(b"x" * 5000)
    shutil.rmtree(top)


def test_the_vendors_client_deletes_trees_and_locks_files(mounted: Bench, top: Path) -> None:
    fill(top, 60)
    path, number = inside(top, mounted), str(top.stat().st_ino)
    lock = json.loads(qq(mounted, "fs_file_modify_lock", "--path", f"{path}/d0/f0", "--enable-legal-hold"))
    assert lock == {"retention_period": None, "legal_hold": True}
    shown = json.loads(qq(mounted, "fs_file_get_attr", "--path", f"{path}/d0/f0", "--retrieve-file-lock"))
    assert shown["lock"] == lock
    qq(mounted, "tree_delete_create", path, "--force")
    eventually("the deletion to stop", lambda: "is locked" in qq(mounted, "tree_delete_list"))
    job = json.loads(qq(mounted, "tree_delete_get", number, "--json"))
    assert (job["id"], job["mode"], job["initial_files"]) == (number, "IN_PLACE", "60")
    qq(mounted, "fs_file_modify_lock", "--path", f"{path}/d0/f0", "--disable-legal-hold")
    qq(mounted, "tree_delete_restart", number)
    eventually("all to be deleted", lambda: not top.exists())
    assert "http_not_found_error" in qq_refused(mounted, "tree_delete_get", number)
    assert "http_not_found_error" in qq_refused(mounted, "tree_delete_cancel", number)


def test_the_vendors_client_cannot_shorten_a_retention(mounted: Bench, top: Path) -> None:
    file = top / "f"
    file.write_bytes(b"kept")
    path = inside(file, mounted)
    until = json.loads(qq(mounted, "fs_file_modify_lock", "--path", path, "--retention-years", "7"))["retention_period"]
    assert int(until[:4]) >= int(time.strftime("%Y")) + 6
    assert "fs_access_perm_not_owner_error" in qq_refused(mounted, "fs_file_modify_lock", "--path", path, "--retention-days", "1")
    assert refusal(file.unlink) == "EPERM"
