"""The vendor's own client, unmodified, on a mounted volume: over TLS with the session in docs/, and over the Unix socket."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from .conftest import DEADLINE, Bench
from .serving import PASSWORD, add_user, home, serving

SESSION = Path(__file__).resolve().parents[2] / "docs" / "qq-session.sh"
BESIDE = os.path.dirname(sys.executable)
"""Where the client's command is installed: beside the interpreter."""


def environment(bench: Bench) -> dict[str, str]:
    found = home(bench)
    return {**found, "PATH": f"{BESIDE}:{found['PATH']}"}


def test_the_session_in_the_documents_over_tls(mounted: Bench) -> None:
    add_user(mounted)
    with serving(mounted) as relay:
        done = subprocess.run(
            ["bash", SESSION, mounted.top / "password", "--host", relay.host, "--port", str(relay.port)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=environment(mounted),
            cwd=mounted.top,
            timeout=4 * DEADLINE,
            check=False,
        )
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-2000:]
    assert done.stdout.endswith("all of it went as it should\n")
    assert PASSWORD not in mounted.logs().decode()
    assert os.listdir(mounted.mountpoint) == []


def qq(bench: Bench, *arguments: str) -> str:
    """Run the vendor's client over the daemon's Unix socket, without a login."""
    (path,) = bench.runtime.glob("*.json")
    socket = json.loads(path.read_text())["socket"]
    done = subprocess.run(
        ["qq", "--host", "localhost", "--socket-path", socket, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=environment(bench),
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_root_needs_no_login_on_the_unix_socket(mounted: Bench) -> None:
    (mounted.mountpoint / "study").mkdir()
    (mounted.mountpoint / "study" / "image").write_bytes(b"pixels" * 1000)
    assert '"name": "root"' in qq(mounted, "who_am_i")
    made = json.loads(qq(mounted, "snapshot_create_snapshot", "--path", "/study", "-n", "nightly"))
    assert made["name"] == f"{made['id']}_nightly"
    (mounted.mountpoint / "study" / "image").write_bytes(b"")
    assert qq(mounted, "fs_read", "--path", "/study/image", "--snapshot", str(made["id"]), "--stdout") == "pixels" * 1000
    assert json.loads(qq(mounted, "fs_file_get_attr", "--path", "/study/image"))["size"] == "0"
