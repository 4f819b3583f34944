"""Mounts and processes that work in a directory may leave in it: finding them and getting rid of them.

Only what lies in the given directory, or names it on its command line, is ever touched.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path


def mounts_below(directory: Path) -> list[Path]:
    """Return the mount points in a directory, the innermost first; dead mounts too, on which stat would fail."""
    above = os.path.realpath(directory) + "/"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
        points = [_unescape(line.split(" ")[4]) for line in table]
    return [Path(point) for point in reversed(points) if point.startswith(above)]


def _unescape(field: str) -> str:
    """Return a path of the mount table, where space, tab, newline and backslash are octal."""
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), field)


def processes_naming(directory: Path) -> list[int]:
    """Return the ids of other processes with a path in this directory on their command line."""
    wanted = os.fsencode(directory) + b"/"
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_bytes()
            except OSError:
                continue  # it ended meanwhile
            if wanted in line:
                found.append(int(entry.name))
    return found


def unmount(point: Path) -> bool:
    """Unmount whatever is there, the polite way first; return whether it is gone."""
    for command in (["fusermount3", "-u"], ["umount"], ["fusermount3", "-u", "-z"], ["umount", "-l"]):
        try:
            subprocess.run([*command, str(point)], stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False)
        except (OSError, subprocess.TimeoutExpired):
            continue  # the next way is rougher
        if point not in mounts_below(point.parent):
            return True
    return False


def remove(directory: Path, patience: float) -> list[str]:
    """Unmount what is mounted in a directory and end the processes that name it; return a sentence for each that was there.

    Processes have `patience` seconds to go by themselves (a daemon does when its mount goes) before they are killed.
    """
    said = [f"left mounted: {point}" + ("" if unmount(point) else ", and it cannot be unmounted") for point in mounts_below(directory)]
    deadline = time.monotonic() + patience
    while pids := processes_naming(directory):
        said += [f"was mounted late: {point}" for point in mounts_below(directory) if unmount(point)]
        if time.monotonic() > deadline:
            for pid in pids:
                said.append(f"left running: process {pid}")
                _kill(pid)
            deadline = time.monotonic() + 5
        time.sleep(0.05)
    return said


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # it went by itself
