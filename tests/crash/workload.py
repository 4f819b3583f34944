"""A writer process whose every step is logged outside the filesystem (`judge` reads the log).

It works alone in its own directory. It logs a step before it makes it ("start"), when the call returned ("done") and, for the calls that
promise durability, that everything so far must survive ("ack").
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .content import pattern
from .model import State, Step
from .planner import Planner
from .preload import Marks

GONE = (errno.ENOTCONN, errno.ECONNABORTED, errno.EIO, errno.ENODEV, errno.ESTALE)
"""What a writer sees when the daemon is killed under it."""
_BUSY = 5
"""Exit code of a command that has to wait for another one: one restore runs at a time."""


class Hands:
    """Makes steps on the host, below `top`."""

    acknowledging = ("fsync", "fsyncdir", "restore")

    def __init__(self, top: str, state: State) -> None:
        self.top, self.state = top, state

    def make(self, step: Step) -> None:
        """Make one step; raises OSError."""
        getattr(self, "_" + step[0])(*step[1:])

    def _at(self, path: str) -> str:
        return os.path.join(self.top, path) if path else self.top

    def _create(self, path: str, number: int) -> None:
        os.close(os.open(self._at(path), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))

    def _put(self, path: str, version: int, offset: int, length: int, flags: int) -> None:
        data = pattern(self.state.writer, self.state.paths[path].number, version, offset, length)
        file = os.open(self._at(path), os.O_WRONLY | flags)
        try:
            while data:
                done = os.write(file, data) if flags else os.pwrite(file, data, offset)
                offset, data = offset + done, data[done:]
        finally:
            os.close(file)

    def _write(self, path: str, version: int, offset: int, length: int) -> None:
        self._put(path, version, offset, length, 0)

    def _append(self, path: str, version: int, offset: int, length: int) -> None:
        self._put(path, version, offset, length, os.O_APPEND)

    def _resize(self, path: str, size: int) -> None:
        os.truncate(self._at(path), size)

    def _fsync(self, path: str) -> None:
        self._sync(path, os.O_RDWR)

    def _fsyncdir(self, path: str) -> None:
        self._sync(path, os.O_RDONLY | os.O_DIRECTORY)

    def _sync(self, path: str, flags: int) -> None:
        file = os.open(self._at(path), flags)
        try:
            os.fsync(file)
        finally:
            os.close(file)

    def _mkdir(self, path: str) -> None:
        os.mkdir(self._at(path), 0o755)

    def _rmdir(self, path: str) -> None:
        os.rmdir(self._at(path))

    def _symlink(self, path: str, target: str) -> None:
        os.symlink(target, self._at(path))

    def _unlink(self, path: str) -> None:
        os.unlink(self._at(path))

    def _link(self, path: str, new: str) -> None:
        os.link(self._at(path), self._at(new))

    def _rename(self, old: str, new: str) -> None:
        os.rename(self._at(old), self._at(new))

    def _chmod(self, path: str, permissions: int) -> None:
        os.chmod(self._at(path), permissions)

    def _setxattr(self, path: str, name: str, value: str) -> None:
        os.setxattr(self._at(path), name, value.encode())

    def _removexattr(self, path: str, name: str) -> None:
        os.removexattr(self._at(path), name)

    def _snap(self, path: str, name: str) -> None:
        os.mkdir(os.path.join(self._at(path), ".snapshot", name))

    def _unsnap(self, path: str, name: str) -> None:
        directory = os.path.join(self._at(path), ".snapshot")
        [full] = [entry for entry in os.listdir(directory) if entry.split("_", 1)[1] == name]
        os.rmdir(os.path.join(directory, full))

    def _restore(self, name: str, destination: str) -> None:
        [full] = [entry for entry in os.listdir(os.path.join(self.top, ".snapshot")) if entry.split("_", 1)[1] == name]
        where = ["--to", self._at(destination)] if destination else ["--in-place"]
        command = [sys.executable, "-m", "anqfs.cli.app", "snapshot", "restore", full.split("_", 1)[0], *where]
        point = ["--mountpoint", os.path.dirname(self.top)]
        while (done := subprocess.run(command + point, stdin=subprocess.DEVNULL, capture_output=True, text=True)).returncode == _BUSY:
            time.sleep(0.1)
        if done.returncode != 0:
            os.statvfs(self.top)
            raise OSError(errno.EPROTO, f"the restore ended with {done.returncode}: {done.stderr}")


class LineLog:
    """A writer's log as a file of JSON lines, each appended with one write."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def append(self, value: object) -> None:
        os.write(self._file, json.dumps(value).encode() + b"\n")

    def close(self) -> None:
        os.close(self._file)


def run_writer(
    writer: int, top: str, log: Any, rng: random.Random, *, steps: int, until: float, stop: Callable[[], bool], **kinds: Any
) -> str:
    """Take steps until told to stop, and return "stopped", or "gone" when the filesystem went away."""
    state = State(writer)
    planner = Planner(state, rng, **kinds)
    hands = Hands(top, state)
    n = 0
    while n < steps and time.monotonic() < until and not stop():
        for step in planner.next():
            n += 1
            log.append({"w": writer, "start": n, "step": step})
            try:
                hands.make(step)
            except OSError as error:
                log.append({"w": writer, "failed": n, "errno": error.errno, "message": str(error)})
                return "gone" if error.errno in GONE else f"step {n} {step}: {error}"
            state.apply(n, step)
            log.append({"w": writer, "ack" if step[0] in Hands.acknowledging else "done": n})
    return "stopped"


def main() -> int:
    parser = argparse.ArgumentParser(description="one writer")
    parser.add_argument("--writer", type=int, required=True)
    parser.add_argument("--top", required=True)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--marks", action="store_true", help="the log is the preload library's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=1 << 30)
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--sync-share", type=float, default=0.25)
    parser.add_argument("--no-snapshots", action="store_true")
    parser.add_argument("--no-big", action="store_true")
    parser.add_argument("--restores", action="store_true")
    options = parser.parse_args()
    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda *_: told.append(1))
    os.umask(0)
    log: Any = Marks(options.log) if options.marks else LineLog(options.log)
    with contextlib.closing(log):
        end = run_writer(
            options.writer,
            options.top,
            log,
            random.Random(f"{options.seed} {options.writer}"),
            steps=options.steps,
            until=time.monotonic() + options.seconds,
            stop=lambda: bool(told),
            snapshots=not options.no_snapshots,
            big=not options.no_big,
            sync_share=options.sync_share,
            restores=options.restores,
        )
    print(end)
    return {"stopped": 0, "gone": 3}.get(end, 1)


if __name__ == "__main__":
    raise SystemExit(main())
