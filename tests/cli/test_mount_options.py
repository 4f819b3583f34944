"""Mount options, pinned roots, and being a helper of mount(8)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.places import plain_temporary

from .conftest import KEY, Bench


def test_read_only(bench: Bench) -> None:
    bench.mkfs()
    bench.mount()
    (bench.mountpoint / "file").write_bytes(b"x")
    bench.json("snapshot", "create", bench.mountpoint)
    bench.umount()
    bench.mount("-o", "ro")
    assert bench.json("status", bench.mountpoint)["read_only"] is True
    assert (bench.mountpoint / "file").read_bytes() == b"x"
    with pytest.raises(OSError, match="Read-only"):
        (bench.mountpoint / "other").touch()
    assert "read-only" in bench.fails(11, "snapshot", "create", bench.mountpoint)
    bench.fails(11, "key", "rotate", bench.mountpoint)
    bench.fails(11, "snapshot", "delete", "1")
    assert bench.json("scrub", bench.mountpoint)["job"]["state"] == "done"
    bench.umount()


def test_kernel_options_reach_the_mount(bench: Bench) -> None:
    bench.mkfs()
    bench.mount("-o", "noexec,nosuid,x-test.comment=1,nofail", "-o", "noatime")
    with open("/proc/self/mountinfo", "rb") as stream:
        line = next(line for line in stream if line.split()[4] == os.fsencode(bench.mountpoint))
    flags = line.split()[5].split(b",")
    assert {b"noexec", b"nosuid", b"noatime"} <= set(flags)
    assert b"nodev" not in flags
    assert b"fuse.anqfs" in line
    bench.umount()


def test_an_unknown_option_is_refused_by_name(bench: Bench) -> None:
    bench.mkfs()
    assert "frobnicate" in bench.fails(2, "mount", bench.store, bench.mountpoint, "--key-file", bench.key, "-o", "ro,frobnicate")


def test_a_pinned_root(bench: Bench) -> None:
    bench.mkfs()
    bench.mount()
    (bench.mountpoint / "old").touch()
    bench.umount()
    shutil.copytree(bench.store, bench.top / "old")
    bench.mount()
    (bench.mountpoint / "new").touch()
    os.sync()
    bench.umount()
    root = bench.json("check", bench.store, "--key-file", bench.key)["root"]
    old = bench.fails(9, "mount", bench.top / "old", bench.mountpoint, "--key-file", bench.key, "--expect-root", root)
    assert "root" in old
    bench.fails(2, "mount", bench.store, bench.mountpoint, "--key-file", bench.key, "--expect-root", "12")
    bench.mount("--expect-root", root)
    assert (bench.mountpoint / "new").exists()
    bench.umount()
    bench.fails(9, "mount", bench.top / "old", bench.mountpoint, "-o", f"keyfile={bench.key},expect_root={root}")


HELPER = shutil.which("mount.fuse3")


@pytest.fixture
def programs() -> Iterator[Path]:
    """A directory for a program; mount(8) takes what is before the last dot of a type for the helper's name."""
    made = plain_temporary("anqfs-bin-")
    yield made
    shutil.rmtree(made)


def test_as_a_helper_of_mount_8(bench: Bench, programs: Path) -> None:
    """`mount -t fuse.anqfs` as fstab does it: mount.fuse3 runs `anqfs STORE MOUNTPOINT -o ...` through sh, without PATH.

    Here the type names the program by its path, because sh then looks for it in /usr/local/bin and the like only.
    """
    assert HELPER is not None, "install fuse3"
    bench.mkfs()
    script = programs / "anqfs"
    script.write_text(f'#!/bin/sh\nANQFS_RUNTIME_DIR="{bench.runtime}" exec "{sys.executable}" -m anqfs.cli.app "$@"\n')
    script.chmod(0o755)
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    asked = ["mount", "-t", f"fuse.{script}", "-o", f"keyfile={bench.key},nofail,x-test", str(bench.store), str(bench.mountpoint)]
    done = subprocess.run(asked, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (bench.mountpoint / "file").write_text("by mount")
    assert bench.json("status", bench.mountpoint)["store"] == str(bench.store)
    bench.umount()
    wrong = bench.top / "wrong"
    wrong.write_bytes(KEY[::-1])
    wrong.chmod(0o600)
    asked[4] = f"keyfile={wrong}"
    done = subprocess.run(asked, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "key" in done.stderr


def test_the_helper_form_without_a_secret_needs_a_terminal(bench: Bench) -> None:
    bench.mkfs()
    assert "terminal" in bench.fails(2, bench.store, bench.mountpoint, "-o", "rw")
    bench.fails(3, bench.top / "none", bench.mountpoint, "-o", "rw")
    bench.fails(2, bench.store, bench.mountpoint, "-o", "rw,nonsense")
