"""Names that break programs, and users who are not root."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from .conftest import DEADLINE, Bench

HOSTILE = [
    b"new\nline",
    b"quo'te\"s `$(x)`",
    b"b\xff\xfe",
    b"x" * 255,
    b"-x",
    b"a b\tc\\d,e",
    b"[red]bold",
    "K\u00fcche\u202e".encode(),
]


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_hostile_names_of_store_and_mount_point(bench: Bench, name: bytes) -> None:
    top = os.fsencode(bench.top) + b"/names"
    os.mkdir(top)
    os.mkdir(top + b"/" + name)
    store = b"store" + name[:250]
    inside = {"cwd": top, "env": bench.environment}
    bench.ok("mkfs", "--key-file", bench.key, "--", store, **inside)
    bench.ok("mount", "--key-file", bench.key, "--", store, name, **inside)
    try:
        found = bench.json("status", top + b"/" + name)
        assert os.fsencode(found["store"]) == top + b"/" + store
        assert os.fsencode(found["mountpoint"]) == top + b"/" + name
        assert len(bench.ok("status").splitlines()) == len(bench.ok("status", top + b"/" + store).splitlines())
        made = bench.json("snapshot", "create", top + b"/" + name)
        assert os.path.isdir(os.fsencode(made["path"]))
    finally:
        bench.ok("umount", "--", name, **inside)
    assert bench.json("check", "--key-file", bench.key, top + b"/" + store)["ok"] is True


_FUSE_FOR_ALL = """
set -e
mkdir "$TOP/dev"
mount -t tmpfs -o mode=755,dev tmpfs "$TOP/dev"
mknod -m 666 "$TOP/dev/fuse" c 10 229
mount --bind "$TOP/dev/fuse" /dev/fuse
chown -R nobody "$TOP"
chmod 666 "$TOP/dev/fuse"
"""
_AS_NOBODY = """
exec setpriv --reuid=nobody --regid=nogroup --clear-groups --inh-caps=+dac_read_search --ambient-caps=+dac_read_search sh -c '
    set -e
    anqfs() { "$PYTHON" -m anqfs.cli.app "$@"; }
    anqfs mkfs "$TOP/store" --key-file "$TOP/key"
    anqfs mount "$TOP/store" "$TOP/mnt" --key-file "$TOP/key" -o allow_other || test $? = 2
    anqfs mount "$TOP/store" "$TOP/mnt" --key-file "$TOP/key"
    echo hello > "$TOP/mnt/file"
    anqfs snapshot create "$TOP/mnt" --name user
    cat "$TOP"/mnt/.snapshot/*_user/file
    anqfs status "$TOP/mnt" > /dev/null
    test "$(stat -c %u /proc/$(cat "$TOP/store/lock")/environ)" = 0
    anqfs umount "$TOP/mnt"
    anqfs check "$TOP/store" --key-file "$TOP/key"
    kill -0 $(cat "$TOP/store/lock") 2> /dev/null && exit 1
    exit 0
'
"""


def _run_with_fuse_for_all(bench: Bench, script: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a mount namespace whose /dev/fuse everyone may open."""
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", _FUSE_FOR_ALL + script],
        env={**bench.environment, "TOP": str(bench.top), "PYTHON": sys.executable},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == 0, done
    return done


def test_an_ordinary_user_mounts_a_store_of_their_own(bench: Bench) -> None:
    """As `nobody`, through fusermount3, in a mount namespace whose /dev/fuse everyone may open; allow_other is refused.

    The daemon's memory and environment are not readable by other processes of the user either (it is not dumpable: /proc/PID is root's).
    """
    done = _run_with_fuse_for_all(bench, _AS_NOBODY)
    assert "user_allow_other" in done.stderr
    assert "hello" in done.stdout


_ROOT_ASKS = """
anqfs() { "$PYTHON" -m anqfs.cli.app "$@"; }
nobody() {
    setpriv --reuid=nobody --regid=nogroup --clear-groups --inh-caps=+dac_read_search --ambient-caps=+dac_read_search \\
        "$PYTHON" -m anqfs.cli.app "$@"
}
nobody mkfs "$TOP/store" --key-file "$TOP/key"
nobody mount "$TOP/store" "$TOP/mnt" --key-file "$TOP/key"
code=0
anqfs status "$TOP/mnt" || code=$?
test $code = 7
nobody status "$TOP/mnt" --json
nobody umount "$TOP/mnt"
"""


def test_root_is_told_whose_mount_it_is(bench: Bench) -> None:
    done = _run_with_fuse_for_all(bench, _ROOT_ASKS)
    (line,) = done.stderr.splitlines()
    assert line.endswith("mnt: it was mounted by nobody: run this as that user (runuser -u nobody -- anqfs ...)")
