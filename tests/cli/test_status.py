"""anqfs status, the help, junk on the command line, interrupted and broken pipes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from anqfs.cli.app import COMMANDS, app, mount_helper_arguments

from .conftest import DEADLINE, Bench, eventually


def test_status_of_a_mounted_volume(mounted: Bench) -> None:
    (mounted.mountpoint / "file").write_bytes(b"x" * 5000)
    mounted.json("snapshot", "create", mounted.mountpoint)
    found = mounted.json("status", mounted.mountpoint)
    assert found["mounted"] is True
    assert found["store"] == str(mounted.store)
    assert found["mountpoint"] == str(mounted.mountpoint)
    assert os.path.isdir(f"/proc/{found['pid']}")
    assert set(found["capacity"]) >= {"total", "free", "available", "used"}
    assert found["snapshots"] == 1
    number, _, digest = found["root"].partition(":")
    assert int(number) == found["last_commit"]["number"] and len(digest) == 64
    assert found["last_commit"]["time"].endswith("Z")
    assert found["scrub"]["running"] is False
    assert found["restore"] is None
    assert found["failed"] is None
    assert found["read_only"] is False
    assert found["usage"]["files"] == 1
    assert isinstance(found["counters"], dict) and found["counters"]["commits"] >= 1
    assert "latency" not in found


def test_status_by_mount_point_store_inner_path_and_link(mounted: Bench) -> None:
    (mounted.mountpoint / "a").mkdir()
    (mounted.top / "link").symlink_to(mounted.mountpoint / "a")
    made = mounted.json("snapshot", "create", mounted.mountpoint)
    uuid = mounted.json("status", mounted.mountpoint)["uuid"]
    for place in (
        mounted.store,
        mounted.mountpoint / "a",
        mounted.top / "link",
        Path(made["path"]) / "a",
        mounted.mountpoint / ".snapshot",
    ):
        assert mounted.json("status", place)["uuid"] == uuid, place
    (listed,) = mounted.json("status")
    assert listed["uuid"] == uuid


def test_status_for_people(mounted: Bench) -> None:
    for arguments in ((), (mounted.mountpoint,)):
        shown = mounted.ok("status", *arguments)
        for word in (str(mounted.mountpoint), str(mounted.store), "root:", "snapshots:", "scrub:"):
            assert word in shown


def test_latency(mounted: Bench) -> None:
    (mounted.mountpoint / "file").write_text("x")
    found = mounted.json("status", mounted.mountpoint, "--latency")["latency"]
    assert found["create"]["requests"] >= 1
    assert 0 < found["create"]["p50_us"] <= found["create"]["max_us"]
    assert "OPERATION" in mounted.ok("status", mounted.mountpoint, "--latency")


def test_status_of_a_store_that_is_not_mounted_needs_no_key(bench: Bench) -> None:
    bench.mkfs()
    found = bench.json("status", bench.store)
    assert (found["mounted"], found["format"], found["generations"]) == (False, 2, 1)
    assert found["slots"][0]["kind"] == "key-file"
    bench.mount()
    assert bench.json("status", bench.store)["uuid"] == found["uuid"]
    bench.umount()
    assert "uuid" in bench.ok("status", bench.store)


def test_status_of_nothing(bench: Bench) -> None:
    assert bench.json("status") == []
    assert "no anqfs volume" in bench.ok("status")
    bench.fails(3, "status", bench.top / "none")
    bench.fails(3, "status", "/")


def test_a_stopped_daemon_is_told_apart(mounted: Bench) -> None:
    """`status` of all mounts does not hang for ever on one that does not answer (SIGSTOP), and goes on when it does."""
    pid = mounted.json("status", mounted.mountpoint)["pid"]
    waiting = subprocess.Popen(
        mounted.command("status", "--json"), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=mounted.environment
    )
    os.kill(pid, signal.SIGSTOP)
    try:
        eventually("the daemon to stop", lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "Tt")
    finally:
        os.kill(pid, signal.SIGCONT)
    out, _ = waiting.communicate(timeout=DEADLINE)
    assert waiting.returncode == 0 and b'"pid"' in out


COMMAND_LINES = [
    (),
    ("mkfs",),
    ("mount",),
    ("umount",),
    ("status",),
    ("snapshot",),
    ("snapshot", "create"),
    ("snapshot", "list"),
    ("snapshot", "delete"),
    ("snapshot", "restore"),
    ("key",),
    ("key", "list"),
    ("key", "add"),
    ("key", "remove"),
    ("key", "rotate"),
    ("check",),
    ("scrub",),
    ("usage",),
]


@pytest.mark.parametrize("words", COMMAND_LINES, ids=" ".join)
def test_every_command_explains_itself_with_examples(bench: Bench, words: tuple[str, ...]) -> None:
    shown = bench.ok(*words, "--help")
    assert "Usage: anqfs" in shown
    if words not in ((), ("snapshot",), ("key",)):
        assert "Examples:" in shown
        assert f"anqfs {' '.join(words)}" in shown


def test_the_help_teaches(bench: Bench) -> None:
    shown = bench.ok("--help")
    assert "tour" in shown and "Exit codes" in shown
    assert all(command in shown for command in COMMANDS)
    assert bench.ok("--version").startswith("anqfs ")


def test_the_known_commands_are_those_of_the_program() -> None:
    assert frozenset(typer.main.get_command(app).commands) == COMMANDS  # type: ignore[attr-defined]


def test_the_shell_completes_commands(bench: Bench) -> None:
    words = {"_ANQFS_COMPLETE": "complete_bash", "COMP_WORDS": "anqfs snapshot cr", "COMP_CWORD": "2"}
    assert bench.ok(env={**bench.environment, **words}).split() == ["create"]


JUNK = [
    ("frobnicate",),
    ("mkfs",),
    ("mkfs", "a", "b"),
    ("mkfs", "a", "--frob"),
    ("mount", "a"),
    ("umount",),
    ("snapshot", "frob"),
    ("snapshot", "create"),
    ("snapshot", "restore", "one"),
    ("snapshot", "delete"),
    ("key", "frob"),
    ("key", "remove", "a"),
    ("key", "remove", "a", "x"),
    ("check",),
    ("scrub",),
    ("usage",),
    ("--frob",),
    ("", ""),
    ("status", "a", "b"),
]


@pytest.mark.parametrize("words", JUNK, ids=" ".join)
def test_junk_is_one_line_and_exit_2(bench: Bench, words: tuple[str, ...]) -> None:
    bench.fails(2, *words)


def test_odd_paths_never_make_a_traceback(bench: Bench) -> None:
    for path in (b"\xff\xfe", b"new\nline", b"x" * 5000, b"/dev/null", b"/proc/self/mem", b"--"):
        for command in (("status",), ("umount",), ("usage",), ("snapshot", "create"), ("key", "list"), ("check",)):
            done = bench.run(*command, "--", path)
            assert done.returncode in (1, 2, 3, 6, 7), (command, path, done)
            assert "Traceback" not in done.stderr, (command, path, done)
            assert done.stderr.count("\n") == 1, done


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["/s", "/m", "-o", "rw"], ("/s", "/m", ["rw"])),
        (["/s", "/m", "-o", "rw", "-o", "dev"], ("/s", "/m", ["rw", "dev"])),
        (["mount", "/m", "-o", "rw"], None),
        (["/s", "/m"], None),
        (["/s", "/m", "-o"], None),
        (["/s", "/m", "-x", "rw"], None),
        (["--help"], None),
        ([], None),
    ],
)
def test_the_form_of_a_mount_helper(arguments: list[str], expected: object) -> None:
    assert mount_helper_arguments(arguments) == expected


def test_a_broken_pipe_is_quiet(mounted: Bench) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        mounted.command("status"), stdin=subprocess.DEVNULL, stdout=write, stderr=subprocess.PIPE, env=mounted.environment, check=False
    )
    os.close(write)
    assert done.stderr == b""


def test_a_full_standard_output_is_an_error(mounted: Bench) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            mounted.command("status"), stdin=subprocess.DEVNULL, stdout=full, stderr=subprocess.PIPE, env=mounted.environment, check=False
        )
    assert done.returncode != 0
    assert done.stderr.startswith(b"anqfs: ") and b"Traceback" not in done.stderr


def test_ctrl_c_while_waiting_exits_130_without_a_traceback(mounted: Bench) -> None:
    pid = mounted.json("status", mounted.mountpoint)["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        waiting = subprocess.Popen(
            mounted.command("snapshot", "list"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=mounted.environment,
        )
        eventually("the command to connect", lambda: any(link.startswith("socket:") for link in _descriptors(waiting.pid)))
        waiting.send_signal(signal.SIGINT)
        out, err = waiting.communicate(timeout=DEADLINE)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert (waiting.returncode, out) == (130, b"")
    assert b"Traceback" not in err


def _descriptors(pid: int) -> list[str]:
    """Return what the process's descriptors refer to; those that are being closed just now are left out."""
    found = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(FileNotFoundError):
                found.append(os.readlink(f"/proc/{pid}/fd/{name}"))
    return found


def test_light_commands_import_nothing_heavy(bench: Bench) -> None:
    program = "import sys; from anqfs.cli.app import run; run(sys.argv[1:]); print(' '.join(sorted(sys.modules)), file=sys.stderr)"
    for arguments in (["--help"], ["status"]):
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=bench.environment,
            check=True,
        )
        loaded = {name.split(".")[0] for name in done.stderr.split()}
        assert not loaded & {"starlette", "hypercorn", "httpx", "trio", "lmdb", "pyfuse3", "cryptography", "rich", "msgspec"}, arguments
