"""`tools/demo` tells its whole story, verifies everything, and leaves nothing behind: neither at the end nor when interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "tools" / "demo_run.py"
SECONDS = 250


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A directory for the demonstration; nothing may be mounted in it afterwards."""
    yield tmp_path
    with open("/proc/self/mountinfo", encoding="utf-8") as table:
        left = [line.split()[4] for line in table if line.split()[4].startswith(f"{tmp_path}/")]
    for point in left:
        subprocess.run(["umount", "-l", point], check=True)
    assert left == []


def start(place: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(SCRIPT), "--size", "10M", *arguments]
    environment = {**os.environ, "TMPDIR": str(place), "COLUMNS": "160"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True, env=environment)


@pytest.mark.timeout(SECONDS + 20)
def test_demo_verifies_everything_and_leaves_nothing(place: Path) -> None:
    with start(place, "--seed", "3") as demo:
        said, _ = demo.communicate(timeout=SECONDS)
    assert demo.returncode == 0, said
    assert "Everything was verified" in said
    assert "FAILED" not in said
    assert os.listdir(place) == []


@pytest.mark.timeout(SECONDS + 20)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_demo_cleans_up(place: Path, number: signal.Signals) -> None:
    with start(place) as demo:
        assert demo.stdout is not None
        said = []
        for line in demo.stdout:
            said.append(line)
            if "A PACS exports" in line:
                demo.send_signal(number)
                break
        said.append(demo.communicate(timeout=SECONDS)[0])
    assert demo.returncode == 130, "".join(said)
    assert os.listdir(place) == []
