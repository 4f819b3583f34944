"""The process that waits for the mount on the daemon's behalf. `flush` starts it: `python flush_helper.py`, orders on standard input.

Whoever syncs a FUSE mount or closes a file on it sleeps, deaf to SIGKILL, until the daemon has answered. Were that a thread of the
daemon, a killed daemon could not end: its thread waits for an answer, and the kernel gives up on the answer only when the last thread
has let go of /dev/fuse. This process does not have /dev/fuse, so the daemon's end wakes it; and the end of its orders is its own.

An order is a line of JSON: {"sync": PATH} or {"touch": [PATH, ...]}. The answer to the first is [errno]; to the second a list of
[inode, errno of opening, errno of closing].
"""

from __future__ import annotations

import ctypes
import json
import os
import sys


def sync(path: bytes) -> int:
    """syncfs the filesystem at `path`; return errno or 0."""
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        return error.errno or 0
    try:
        return ctypes.get_errno() if libc.syncfs(ctypes.c_int(descriptor)) != 0 else 0
    finally:
        os.close(descriptor)


def touch(path: bytes) -> tuple[int, int, int]:
    """Open and close a file; return (inode, errno of opening, errno of closing)."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        return 0, error.errno or 0, 0
    inode = inode_of(descriptor)
    try:
        os.close(descriptor)
    except OSError as error:
        return inode, 0, error.errno or 0
    return inode, 0, 0


def inode_of(descriptor: int) -> int:
    """Return the inode number of an open file, 0 if it cannot be had, without a question to the daemon.

    fstat asks for attributes. When its answer meets the removal of one of the file's names, the kernel takes the new number of links and
    then takes one off: link(2) of a file with one name left says ENOENT until somebody looks at it again.
    """
    try:
        with open(f"/proc/self/fdinfo/{descriptor}", encoding="ascii") as info:
            return next((int(line[4:]) for line in info if line.startswith("ino:")), 0)  # Linux 5.14
    except (OSError, ValueError):
        return 0


def main() -> None:
    """Obey until standard input ends."""
    for line in sys.stdin:
        order = json.loads(line)
        answer = [sync(os.fsencode(order["sync"]))] if "sync" in order else [touch(os.fsencode(path)) for path in order["touch"]]
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    os.chdir("/")
    try:
        main()
    except BrokenPipeError:
        os._exit(0)
