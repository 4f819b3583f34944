"""Every command of the README's tour works as it is printed there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"


def test_the_tour_runs_as_printed(tmp_path: Path) -> None:
    tour = re.search(r"^```sh\n(.*?)^```", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert tour is not None
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "ANQFS_RUNTIME_DIR": str(tmp_path / "run")}
    try:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", tour[1]],
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=250,
            check=False,
        )
    finally:
        if os.path.ismount(tmp_path / "archive"):
            subprocess.run(["umount", "-l", tmp_path / "archive"], check=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    shown = done.stdout
    for expected in ("unremarkable\n", "1_signed", "3_everything", "all is well"):
        assert expected in shown, shown


def test_linked_documents_exist() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README.read_text(encoding="utf-8"))
    assert links
    assert [link for link in links if not (README.parent / link).exists()] == []
