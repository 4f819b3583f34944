"""The preload library from Python: compile it, run a process under it, command its faults, read its log."""

from __future__ import annotations

import atexit
import enum
import functools
import json
import mmap
import os
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

SOURCE = Path(__file__).with_name("preload.c")
_HEADER = struct.Struct("<IIQQQQ")
_MAGIC = 0x4C514E41
_FAULT = struct.Struct("<8i")
MARK = 100


class Kind(enum.IntEnum):
    CREATE = 1
    WRITE = 2
    WRITTEN = 3
    TRUNCATE = 4
    SYNC_BEGIN = 5
    SYNC_END = 6
    RENAME = 7
    UNLINK = 8
    MKDIR = 9
    SHARED_MAP = 10
    ALLOCATE = 11
    RMDIR = 12
    MARK = MARK


class Entry(NamedTuple):
    """One line of the log. `offset` is a new size for TRUNCATE and ALLOCATE; `token` pairs a beginning with its end."""

    kind: int
    object: int
    offset: int
    token: int
    data: bytes


@functools.cache
def library() -> Path:
    """Return the compiled library, which goes away with this process."""
    directory = tempfile.TemporaryDirectory(prefix="anqfs-preload-")
    atexit.register(directory.cleanup)
    target = Path(directory.name) / "preload.so"
    command = ["gcc", "-O2", "-shared", "-fPIC", "-o", str(target), str(SOURCE), "-ldl", "-lpthread"]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    return target


def environment(root: Path, *, log: Path | None = None, fault: Path | None = None, nosync: bool = False) -> dict[str, str]:
    """Return what to add to a process's environment so that its changes below `root` are logged to `log` and failed by `fault`."""
    added = {"LD_PRELOAD": str(library()), "CRASH_ROOT": os.path.realpath(root)}
    if log is not None:
        added["CRASH_LOG"] = str(log)
    if fault is not None:
        added["CRASH_FAULT"] = str(fault)
    if nosync:
        added["CRASH_NOSYNC"] = "1"
    return added


class Faults:
    """The page through which a running process is told to fail. Made before the process starts."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(4096))
        self.path = path
        with path.open("r+b") as file:
            self._page = mmap.mmap(file.fileno(), 4096)

    def arm(self, kinds: set[Kind], number: int, *, after: int = 0, sticky: bool = True, partial: bool = False) -> None:
        """Fail calls of these kinds with errno `number` once `after` more of them have succeeded."""
        mask = sum(1 << kind for kind in kinds)
        hits, calls = _FAULT.unpack_from(self._page)[6:]
        _FAULT.pack_into(self._page, 0, 0, mask, number, after, int(sticky), int(partial), hits, calls)
        struct.pack_into("<i", self._page, 0, 1)

    def disarm(self) -> None:
        struct.pack_into("<i", self._page, 0, 0)

    @property
    def hits(self) -> int:
        """Return how many calls have been failed."""
        return int(_FAULT.unpack_from(self._page)[6])

    def close(self) -> None:
        self._page.close()


class Marks:
    """Appends a test's own lines to the log, in order with what the daemon does."""

    def __init__(self, log: Path) -> None:
        self._file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def append(self, value: object) -> None:
        data = json.dumps(value, separators=(",", ":")).encode()
        line = _HEADER.pack(_MAGIC, MARK, 0, 0, len(data), 0) + data
        if os.write(self._file, line) != len(line):
            raise OSError("short write to the log")

    def close(self) -> None:
        os.close(self._file)


def entries(log: Path) -> Iterator[Entry]:
    """Yield the log's lines in order. A torn last line (the process was killed inside its write) ends it."""
    with log.open("rb") as file:
        while len(head := file.read(_HEADER.size)) == _HEADER.size:
            magic, kind, object_, offset, length, token = _HEADER.unpack(head)
            if magic != _MAGIC:
                raise ValueError(f"the log is out of step at {file.tell()}")
            data = file.read(length)
            if len(data) < length:
                return
            yield Entry(kind, object_, offset, token, data)
