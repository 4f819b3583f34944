"""The same operations on ext4 and on a mount: results, errnos and attributes must be the same, as root and as an ordinary user.

Each case is a function of a Trace; what it records on the two roots is compared line by line. What is known to differ is not here but
in test_differences.py, sentence by sentence.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cases_data  # noqa: F401
import cases_modes  # noqa: F401
import cases_names  # noqa: F401
import cases_xattrs  # noqa: F401
import pytest
from differential import CASES, Trace
from mounted import Mount, in_child


def _run(function: Callable[[Trace], None], root: bytes, uid: int) -> list[tuple[Any, ...]]:
    trace = Trace(root, uid)
    function(trace)
    return trace.lines


def _compare(function: Callable[[Trace], None], uid: int, ext4: Path, mount: Mount) -> None:
    results = []
    for base in (ext4, mount.point):
        root = base / f"{function.__name__}-{uid}"
        root.mkdir()
        os.chown(root, uid, uid)
        try:
            results.append(in_child(uid, _run, function, os.fsencode(root), uid))
        finally:
            shutil.rmtree(root, ignore_errors=False)
    wanted, got = results
    different = [f"ext4 {on_ext4}\nhere {here}" for on_ext4, here in zip(wanted, got, strict=False) if on_ext4 != here]
    assert not different, "\n" + "\n".join(different)
    assert len(got) == len(wanted)


@pytest.mark.parametrize(("name", "uid"), [(name, uid) for name, (_, uids) in CASES.items() for uid in uids])
def test_like_ext4(name: str, uid: int, ext4: Path, shared_mount: Mount) -> None:
    _compare(CASES[name][0], uid, ext4, shared_mount)
