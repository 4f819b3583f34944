"""What the differential tests run on two roots: a Trace that notes what operations answer, and the register of cases."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from typing import Any

from mounted import NOBODY

AT_FDCWD = -100
CASES: dict[str, tuple[Callable[[Trace], None], tuple[int, ...]]] = {}


class Trace:
    """Runs operations below one root and notes what they answered."""

    def __init__(self, root: bytes, uid: int) -> None:
        self.root = root
        self.uid = uid
        self.lines: list[tuple[Any, ...]] = []

    def path(self, name: str | bytes) -> bytes:
        return self.root + b"/" + os.fsencode(name)

    def note(self, label: str, value: Any) -> None:
        self.lines.append((len(self.lines), label, value))

    def __call__(self, label: str, call: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """Note the result or errno of a call, and return the result, or None."""
        try:
            result = call(*arguments, **named)
        except OSError as error:
            self.note(label, errno.errorcode.get(error.errno or 0, error.errno))
            return None
        self.note(label, self._plain(result))
        return result

    def _plain(self, result: Any) -> Any:
        if isinstance(result, os.stat_result):
            return self._stat(result)
        if isinstance(result, bytes):
            return result.replace(self.root, b"ROOT")
        if isinstance(result, list):
            return sorted(result)
        return result

    def _stat(self, facts: os.stat_result) -> tuple[Any, ...]:
        size = None if stat.S_ISDIR(facts.st_mode) else facts.st_size
        return (stat.filemode(facts.st_mode), facts.st_nlink, size, facts.st_uid, facts.st_gid, facts.st_rdev, facts.st_blksize)

    def open(self, name: str | bytes, flags: int = os.O_RDONLY, mode: int = 0o666) -> int | None:
        """Open and note only whether it worked."""
        try:
            descriptor = os.open(self.path(name), flags, mode)
        except OSError as error:
            self.note(f"open {name!r} {flags:o}", errno.errorcode.get(error.errno or 0))
            return None
        self.note(f"open {name!r} {flags:o}", "opened")
        return descriptor

    def make(self, name: str | bytes, data: bytes = b"", mode: int = 0o644) -> bytes:
        """Make a file with this mode and content; returns its path."""
        path = self.path(name)
        with open(path, "wb") as stream:
            stream.write(data)
        os.chmod(path, mode)
        return path

    def stat(self, name: str | bytes) -> os.stat_result | None:
        return self(f"stat {name!r}", os.lstat, self.path(name))

    def tree(self) -> None:
        """Note all that is there."""
        for top, directories, files in sorted(os.walk(self.root)):
            for name in sorted(directories + files):
                full = os.path.join(top, name)
                self.note(os.fsdecode(full.replace(self.root, b"")), self._stat(os.lstat(full)))


def case(*uids: int) -> Callable[[Callable[[Trace], None]], Callable[[Trace], None]]:
    def register(function: Callable[[Trace], None]) -> Callable[[Trace], None]:
        CASES[function.__name__] = (function, uids or (0, NOBODY))
        return function

    return register
