"""anqfs snapshot create, list, delete, restore; anqfs usage."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from anqfs.control import registry
from anqfs.control.client import Client
from anqfs.errors import MountFailed, StoreInUse, UsageError

from .conftest import Bench, eventually, is_alive

STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z")


def write(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def test_create_prints_the_path_of_the_snapshot(mounted: Bench) -> None:
    write(mounted.mountpoint / "a" / "file", "before")
    path = Path(mounted.ok("snapshot", "create", mounted.mountpoint / "a", "--name", "first").strip())
    write(mounted.mountpoint / "a" / "file", "after")
    assert (path / "file").read_text() == "before"
    assert (mounted.mountpoint / "a" / "file").read_text() == "after"
    assert path.parent == mounted.mountpoint / "a" / ".snapshot"


def test_create_json(mounted: Bench) -> None:
    directory = mounted.mountpoint / "a"
    directory.mkdir()
    made = mounted.json("snapshot", "create", directory)
    assert made["name"] == "OnDemand"
    assert made["path"] == f"{directory}/.snapshot/{made['id']}_OnDemand"
    assert made["directory"] == str(directory)
    assert STAMP.fullmatch(made["created"])
    assert made["expires"] is None
    assert os.path.isdir(made["path"])
    assert mounted.json("snapshot", "list", directory) == [made]


def test_what_was_written_but_not_flushed_is_in_the_snapshot(mounted: Bench) -> None:
    with open(mounted.mountpoint / "open", "w") as stream:
        stream.write("x" * 200_000)
        stream.flush()
        made = mounted.json("snapshot", "create", mounted.mountpoint)
        stream.write("later")
    assert (Path(made["path"]) / "open").read_text() == "x" * 200_000


def test_a_snapshot_is_durable_when_create_returns(bench: Bench) -> None:
    bench.mkfs()
    pid = bench.mount()
    write(bench.mountpoint / "file", "kept")
    made = bench.json("snapshot", "create", bench.mountpoint)
    bench.kill(pid)
    bench.mount()
    assert (Path(made["path"]) / "file").read_text() == "kept"
    bench.umount()


def test_create_wants_a_live_directory(mounted: Bench) -> None:
    file = write(mounted.mountpoint / "a" / "file", "x")
    made = mounted.json("snapshot", "create", mounted.mountpoint)
    assert "directory" in mounted.fails(2, "snapshot", "create", file)
    assert "snapshot" in mounted.fails(2, "snapshot", "create", made["path"])
    assert "snapshot" in mounted.fails(2, "snapshot", "create", f"{made['path']}/a")
    assert "snapshot" in mounted.fails(2, "snapshot", "create", mounted.mountpoint / ".snapshot")
    mounted.fails(8, "snapshot", "create", mounted.mountpoint / "missing")
    mounted.fails(8, "snapshot", "create", file / "below")
    mounted.fails(7, "snapshot", "create", mounted.top)
    assert len(mounted.json("snapshot", "list")) == 1


def test_create_by_a_relative_path_through_a_link_and_from_inside(mounted: Bench) -> None:
    (mounted.mountpoint / "a").mkdir()
    (mounted.top / "link").symlink_to(mounted.mountpoint / "a")
    assert mounted.json("snapshot", "create", mounted.top / "link")["directory"] == str(mounted.mountpoint / "a")
    inside = mounted.run("snapshot", "create", ".", "--json", cwd=mounted.mountpoint / "a")
    assert inside.returncode == 0, inside
    assert len(mounted.json("snapshot", "list", mounted.mountpoint / "a")) == 2


@pytest.mark.parametrize("name", ["", "a/b", "x" * 256, "."], ids=["empty", "slash", "long", "dot"])
def test_bad_snapshot_names(mounted: Bench, name: str) -> None:
    done = mounted.run("snapshot", "create", mounted.mountpoint, "--name", name)
    if name == ".":
        assert done.returncode == 0  # the entry is `1_.`, an ordinary name
    else:
        assert done.returncode in (1, 2)
        assert done.stderr.startswith("anqfs: ") and done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", [b"new\nline", b"quo'te\"s", b"b\xff\xfe", b"n" * 240, b"-x", b"[red]b"], ids=ascii)
def test_hostile_snapshot_and_directory_names(mounted: Bench, name: bytes) -> None:
    directory = os.fsencode(mounted.mountpoint) + b"/" + name
    os.mkdir(directory)
    made = mounted.json("snapshot", "create", directory, b"--name=" + name)
    assert os.fsencode(made["name"]) == name
    assert os.fsencode(made["directory"]) == directory
    assert os.path.isdir(os.fsencode(made["path"]))
    assert mounted.json("snapshot", "list", directory) == [made]
    assert len(mounted.ok("snapshot", "list", directory).splitlines()) == 2
    mounted.ok("snapshot", "delete", str(made["id"]))


def test_list_is_of_a_directory_those_above_and_those_below(mounted: Bench) -> None:
    top, a, b = mounted.mountpoint, mounted.mountpoint / "a", mounted.mountpoint / "b"
    (a / "deep").mkdir(parents=True)
    b.mkdir()
    of_top, of_a, of_deep, of_b = (mounted.json("snapshot", "create", path)["id"] for path in (top, a, a / "deep", b))
    ids = {place: [one["id"] for one in mounted.json("snapshot", "list", place)] for place in (top, a, a / "deep", b)}
    assert ids == {top: [of_top, of_a, of_deep, of_b], a: [of_top, of_a, of_deep], a / "deep": [of_top, of_a, of_deep], b: [of_top, of_b]}
    assert [one["id"] for one in mounted.json("snapshot", "list")] == [of_top, of_a, of_deep, of_b]
    inside = [a / ".snapshot", a / ".snapshot" / f"{of_a}_OnDemand", top / ".snapshot" / f"{of_top}_OnDemand" / "a"]
    assert all([one["id"] for one in mounted.json("snapshot", "list", place)] == ids[a] for place in inside)


def test_the_list_for_people(mounted: Bench) -> None:
    mounted.ok("snapshot", "create", mounted.mountpoint, "--name", "[bold]x")
    head, line = mounted.ok("snapshot", "list", mounted.mountpoint).splitlines()
    assert head.split() == ["ID", "NAME", "DIRECTORY", "CREATED", "EXPIRES"]
    assert "[bold]x" in line and str(mounted.mountpoint) in line and "never" in line


def test_a_snapshot_of_a_deleted_directory_is_still_listed(mounted: Bench) -> None:
    (mounted.mountpoint / "a").mkdir()
    made = mounted.json("snapshot", "create", mounted.mountpoint / "a")
    (mounted.mountpoint / "a").rmdir()
    (found,) = mounted.json("snapshot", "list")
    assert (found["id"], found["directory"], found["path"]) == (made["id"], None, None)
    assert "(deleted)" in mounted.ok("snapshot", "list")


def test_delete(mounted: Bench) -> None:
    ids = [str(mounted.json("snapshot", "create", mounted.mountpoint)["id"]) for _ in range(3)]
    mounted.ok("snapshot", "delete", ids[0], ids[2])
    eventually("the snapshots to go", lambda: [one["id"] for one in mounted.json("snapshot", "list")] == [int(ids[1])])
    assert len(os.listdir(mounted.mountpoint / ".snapshot")) == 1
    assert ids[0] in mounted.fails(8, "snapshot", "delete", ids[0])
    mounted.fails(8, "snapshot", "delete", "999", "--mountpoint", mounted.mountpoint)
    mounted.fails(2, "snapshot", "delete", "0")
    mounted.fails(2, "snapshot", "delete", "x")
    mounted.fails(2, "snapshot", "delete", "--", "-1")
    assert mounted.json("status", mounted.mountpoint)["snapshots"] == 1


def test_without_a_mount_there_is_nothing_to_delete(bench: Bench) -> None:
    bench.fails(7, "snapshot", "delete", "1")
    assert bench.json("snapshot", "list") == []


def test_restore_beside(mounted: Bench) -> None:
    source = mounted.mountpoint / "a"
    write(source / "sub" / "file", "old")
    os.link(source / "sub" / "file", source / "sub" / "linked")
    (source / "link").symlink_to("sub/file")
    os.setxattr(source / "sub", "user.note", b"value")
    os.chmod(source / "sub" / "file", 0o640)
    os.utime(source / "sub" / "file", ns=(1_000_000_007, 2_000_000_009))
    made = mounted.json("snapshot", "create", source)
    write(source / "sub" / "file", "new")
    restored = mounted.mountpoint / "restored"
    assert not restored.exists()
    assert "restored" in mounted.ok("snapshot", "restore", str(made["id"]), "--to", restored)
    file = restored / "sub" / "file"
    assert file.read_text() == "old"
    assert (restored / "link").is_symlink()
    facts = file.stat()
    assert (facts.st_mode & 0o7777, facts.st_mtime_ns, facts.st_nlink) == (0o640, 2_000_000_009, 2)
    assert os.path.samefile(file, restored / "sub" / "linked")
    assert os.getxattr(restored / "sub", "user.note") == b"value"
    assert (source / "sub" / "file").read_text() == "new"
    assert sorted(os.listdir(mounted.mountpoint)) == ["a", "restored"]


def test_restore_a_part_beside(mounted: Bench) -> None:
    write(mounted.mountpoint / "a" / "sub" / "file", "old")
    number = str(mounted.json("snapshot", "create", mounted.mountpoint)["id"])
    target = mounted.mountpoint / "one"
    report = mounted.json("snapshot", "restore", number, "--path", "a/sub/file", "--to", target)
    assert target.read_text() == "old"
    assert (report["kind"], report["state"], report["error"]) == ("restore", "done", None)
    assert "exists" in mounted.fails(2, "snapshot", "restore", number, "--path", "a", "--to", target)
    assert "a/none" in mounted.fails(8, "snapshot", "restore", number, "--path", "a/none", "--to", mounted.mountpoint / "two")
    mounted.fails(2, "snapshot", "restore", number, "--path", "../x", "--to", mounted.mountpoint / "two")
    mounted.fails(8, "snapshot", "restore", "77", "--to", mounted.mountpoint / "two")
    mounted.fails(7, "snapshot", "restore", number, "--to", mounted.top / "outside")
    mounted.fails(2, "snapshot", "restore", number)
    mounted.fails(2, "snapshot", "restore", number, "--in-place", "--to", mounted.mountpoint / "two")
    assert sorted(os.listdir(mounted.mountpoint)) == ["a", "one"]


def test_restore_in_place_keeps_what_it_replaces(mounted: Bench) -> None:
    source = mounted.mountpoint / "a"
    write(source / "changed", "old")
    write(source / "deleted", "gone?")
    made = mounted.json("snapshot", "create", source)
    write(source / "changed", "a much longer new content")
    (source / "deleted").unlink()
    write(source / "added", "new")
    assert (source / "changed").read_text() == "a much longer new content"
    mounted.ok("snapshot", "restore", str(made["id"]), "--in-place")
    assert sorted(os.listdir(source)) == ["changed", "deleted"]
    assert (source / "changed").read_text() == "old"
    assert (source / "deleted").read_text() == "gone?"
    kept = [one for one in mounted.json("snapshot", "list") if one["name"] == "before_restore"]
    assert len(kept) == 1
    before = Path(kept[0]["path"])
    found = next(path for path in (before, before / "a") if (path / "added").exists())
    assert (found / "changed").read_text() == "a much longer new content"
    mounted.remount()
    assert (source / "changed").read_text() == "old"


def test_usage(mounted: Bench) -> None:
    write(mounted.mountpoint / "a" / "one", "x" * 1000)
    write(mounted.mountpoint / "a" / "sub" / "two", "y" * 500_000)
    (mounted.mountpoint / "a" / "link").symlink_to("one")
    write(mounted.mountpoint / "b", "z")
    os.sync()
    found = mounted.json("usage", mounted.mountpoint / "a")
    assert (found["files"], found["directories"], found["symlinks"]) == (2, 1, 1)
    assert 501_000 <= found["bytes"] <= 501_000 + 16
    assert found["path"] == str(mounted.mountpoint / "a")
    assert mounted.json("usage", mounted.mountpoint)["files"] == 3
    assert "directories" in mounted.ok("usage", mounted.mountpoint)
    mounted.fails(8, "usage", mounted.mountpoint / "none")
    mounted.fails(7, "usage", "/")
    assert ".snapshot" in mounted.fails(1, "usage", mounted.mountpoint / ".snapshot")
    made = mounted.json("snapshot", "create", mounted.mountpoint)
    write(mounted.mountpoint / "a" / "three", "later")
    assert mounted.json("usage", made["path"])["files"] == 3
    assert mounted.json("usage", mounted.mountpoint / "b")["bytes"] == 1


def test_a_restore_holds_umount_back_and_survives_being_cut_short(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """`anqfs umount` is refused while a restore runs. umount(8) cannot be refused: the volume is valid then, and restored again in full."""
    monkeypatch.setenv("ANQFS_RUNTIME_DIR", str(bench.runtime))
    bench.mkfs()
    pid = bench.mount()
    for number in range(3000):
        (bench.mountpoint / f"file{number}").write_bytes(b"x" * 100)
    made = bench.json("snapshot", "create", bench.mountpoint)
    for number in range(3000):
        (bench.mountpoint / f"file{number}").unlink()
    (entry,) = registry.entries()
    daemon = Client(entry)
    job = daemon.post("/anqfs/v1/restores", {"snapshot": made["id"], "in_place": True})
    assert job["state"] == "running"
    with pytest.raises(MountFailed, match="restore"):
        daemon.post("/anqfs/v1/stop")
    with pytest.raises(StoreInUse, match="restore"):
        daemon.post("/anqfs/v1/restores", {"snapshot": made["id"], "in_place": True})
    with pytest.raises(UsageError):
        daemon.delete(f"/anqfs/v1/jobs/{job['job']}")
    assert daemon.get("/anqfs/v1/status")["restore"]["state"] == "running"
    subprocess.run(["umount", bench.mountpoint], check=True, stdin=subprocess.DEVNULL)
    eventually("the daemon to end", lambda: not is_alive(pid))
    assert b"cut short" in bench.logs()
    assert bench.json("check", bench.store, "--key-file", bench.key)["ok"] is True
    bench.mount()
    assert len(os.listdir(bench.mountpoint)) < 3000
    bench.ok("snapshot", "restore", str(made["id"]), "--in-place")
    assert len(os.listdir(bench.mountpoint)) == 3000
    bench.umount()
