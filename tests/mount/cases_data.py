"""Differential cases: data, mappings, locks, times."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from differential import Trace, case
from mounted import in_child

CLOCK_REALTIME_COARSE = 5
"""The clock of timestamps (linux/time.h): it ticks every few ms."""


@case()
def reading_and_writing(t: Trace) -> None:
    descriptor = os.open(t.path("f"), os.O_RDWR | os.O_CREAT)
    t("write", os.write, descriptor, b"hello")
    t("beyond", os.pread, descriptor, 10, 100)
    t("at the edge", os.pread, descriptor, 10, 3)
    t("gap", os.pwrite, descriptor, b"x", 10_000)
    t("hole", lambda: os.pread(descriptor, 20_000, 0) == b"hello" + bytes(9995) + b"x")
    t("lseek", os.lseek, descriptor, -1, os.SEEK_END)
    t("lseek before", os.lseek, descriptor, -1, os.SEEK_SET)
    t("negative", os.pread, descriptor, 1, -1)
    t("nothing", os.write, descriptor, b"")
    t("truncate down", os.ftruncate, descriptor, 3)
    t("truncate up", os.ftruncate, descriptor, 3_000_000)
    t("zeros", lambda: os.pread(descriptor, 4_000_000, 0) == b"hel" + bytes(2_999_997))
    t("negative length", os.ftruncate, descriptor, -1)
    t("fstat", os.fstat, descriptor)
    os.close(descriptor)
    reading = os.open(t.path("f"), os.O_RDONLY)
    t("write to a reader", os.write, reading, b"x")
    t("truncate a reader", os.ftruncate, reading, 0)
    t("fsync of a reader", os.fsync, reading)
    os.close(reading)
    writing = os.open(t.path("f"), os.O_WRONLY)
    t("read from a writer", os.read, writing, 1)
    t("write in the middle of a page", os.pwrite, writing, b"middle", 1_000_003)
    os.close(writing)
    t("around it", lambda: Path(os.fsdecode(t.path("f"))).read_bytes()[1_000_000:1_000_012])
    os.mkdir(t.path("d"))
    t("truncate a directory", os.truncate, t.path("d"), 0)
    t("open a directory to write", os.open, t.path("d"), os.O_WRONLY)
    directory = os.open(t.path("d"), os.O_RDONLY)
    t("read a directory", os.read, directory, 10)
    t("fsync of a directory", os.fsync, directory)
    os.close(directory)


@case()
def overlapping_writes(t: Trace) -> None:
    """Writes of many sizes over each other, across windows of 1 MiB, with truncations between them."""
    expected = bytearray()
    descriptor = os.open(t.path("f"), os.O_RDWR | os.O_CREAT)
    places = [
        (0, 10),
        (1 << 20, 5000),
        ((1 << 20) - 3, 7),
        (4095, 2),
        (3 << 20, 1),
        (2_500_000, 600_000),
        (100, 1 << 20),
        ((5 << 20) + 1, 4096),
    ]
    for turn, (offset, length) in enumerate(places * 2):
        data = bytes((turn + 65,)) * length
        os.pwrite(descriptor, data, offset)
        expected.extend(bytes(max(0, offset + length - len(expected))))
        expected[offset : offset + length] = data
        if turn % 5 == 4:
            cut = len(expected) * 2 // 3
            os.ftruncate(descriptor, cut)
            del expected[cut:]
        if turn % 3 == 2:
            os.fsync(descriptor)
    os.close(descriptor)
    with open(t.path("f"), "rb") as stream:
        t.note("as expected", stream.read() == bytes(expected))
    t.stat("f")


@case()
def appending(t: Trace) -> None:
    t.make("log", b"begin\n")
    one = os.open(t.path("log"), os.O_WRONLY | os.O_APPEND)
    two = os.open(t.path("log"), os.O_WRONLY | os.O_APPEND)
    for turn in range(50):
        os.write((one, two)[turn % 2], b"line %d\n" % turn)
    t("pwrite appends all the same", os.pwrite, one, b"end\n", 0)
    os.close(one)
    os.close(two)
    t("content", Path(os.fsdecode(t.path("log"))).read_bytes)


@case()
def mapping(t: Trace) -> None:
    path = t.make("map", b"a" * 10_000)
    descriptor = os.open(path, os.O_RDWR)
    with mmap.mmap(descriptor, 10_000, mmap.MAP_SHARED) as shared, mmap.mmap(descriptor, 10_000, mmap.MAP_PRIVATE) as private:
        shared[5000:5005] = b"SHARE"
        private[100:104] = b"MINE"
        t("write is seen in the map", os.pwrite, descriptor, b"direct", 200)
        t.note("map", bytes(shared[200:206]))
        shared.flush()
        t("map is seen by read", os.pread, descriptor, 5, 5000)
        t("private is not", os.pread, descriptor, 4, 100)
    os.close(descriptor)
    data = Path(os.fsdecode(path)).read_bytes()
    t.note("after", (data[5000:5005], data[100:104], data[200:206], len(data)))
    reader = os.open(path, os.O_RDONLY)
    t("map a reader to write", mmap.mmap, reader, 100, mmap.MAP_SHARED, mmap.PROT_WRITE)
    os.close(reader)


@case()
def direct_io(t: Trace) -> None:
    descriptor = t.open("direct", os.O_RDWR | os.O_CREAT | os.O_DIRECT)
    assert descriptor is not None
    buffer = mmap.mmap(-1, 1 << 20)
    buffer[:] = os.urandom(16) * (1 << 16)
    t("write", os.pwritev, descriptor, [buffer], 0)
    back = mmap.mmap(-1, 1 << 20)
    t("read", os.preadv, descriptor, [back], 0)
    t.note("same", back[:] == buffer[:])
    buffered = os.open(t.path("direct"), os.O_RDWR)
    os.pwrite(buffered, b"through the cache", 8192)
    t("direct reads see it", os.preadv, descriptor, [back], 0)
    t.note("same", back[8192:8209])
    os.close(buffered)
    os.close(descriptor)
    t.stat("direct")


@case()
def copying_in_the_kernel(t: Trace) -> None:
    source = os.open(t.make("source", b"0123456789" * 100_000), os.O_RDONLY)
    target = os.open(t.path("target"), os.O_RDWR | os.O_CREAT)
    t("sendfile", os.sendfile, target, source, 0, 500_000)
    done = 0
    while count := os.copy_file_range(source, target, 2_000_000, done, 500_000 + done):
        done += count
    t.note("copied", done)
    os.close(source)
    os.close(target)
    data = Path(os.fsdecode(t.path("target"))).read_bytes()
    t.note("same", data == b"0123456789" * 50_000 + b"0123456789" * 100_000)


@case()
def locks(t: Trace) -> None:
    path = t.make("lock")
    one, two = (os.open(path, os.O_RDWR) for _ in range(2))
    t("flock", fcntl.flock, one, fcntl.LOCK_EX | fcntl.LOCK_NB)
    t("flock is held", fcntl.flock, two, fcntl.LOCK_SH | fcntl.LOCK_NB)
    t("unlock", fcntl.flock, one, fcntl.LOCK_UN)
    t("flock", fcntl.flock, two, fcntl.LOCK_SH | fcntl.LOCK_NB)
    t("lockf", fcntl.lockf, one, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 0)

    def other() -> str:
        descriptor = os.open(path, os.O_RDWR)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 5)
        except OSError as error:
            return errno.errorcode[error.errno or 0]
        return "locked"

    t.note("another process, locked range", in_child(0, other) if t.uid == 0 else "as root only")
    os.close(one)
    os.close(two)


@case()
def times(t: Trace) -> None:
    path = t.make("f", b"x")
    for atime, mtime in (
        (0, 0),
        (1, 999_999_999),
        (1_700_000_000_123_456_789, 1_700_000_000_987_654_321),
        (-1, -1_000_000_001),
        (2**32 * 10**9, 5 * 10**18),
    ):
        t("utime", os.utime, path, ns=(atime, mtime))
        t("times", lambda: (os.stat(path).st_atime_ns, os.stat(path).st_mtime_ns))
    os.symlink(b"f", t.path("link"))
    t("of a symlink", os.utime, t.path("link"), ns=(5, 6), follow_symlinks=False)
    t("of a symlink", lambda: (os.lstat(t.path("link")).st_mtime_ns, os.stat(path).st_mtime_ns))
    t("now", os.utime, path)
    t("about now", lambda: os.stat(path).st_mtime_ns == os.stat(path).st_atime_ns)


def _moves(t: Trace, label: str, names: tuple[str, ...], action: Callable[[], Any]) -> None:
    """Note which of the three times of each of `names` the action changes, having set them back first.

    The kernel puts the time of its last tick on files, but never one before the newest that it gave to a file anywhere; and its ticks
    lag behind the clock. So the action waits until the ticks have passed the present: from then on its time must be another.
    """
    before = {}
    for name in names:
        os.utime(t.path(name), ns=(10**18, 10**18), follow_symlinks=False)
        before[name] = os.lstat(t.path(name))
    present = time.time_ns()
    while time.clock_gettime_ns(CLOCK_REALTIME_COARSE) <= present:
        os.sched_yield()
    action()
    for name in names:
        if os.path.lexists(t.path(name)):
            after = os.lstat(t.path(name))
            moved = (after.st_mtime_ns != before[name].st_mtime_ns, after.st_ctime_ns != before[name].st_ctime_ns)
            t.note(f"{label}: {name}", moved)


@case()
def times_that_move(t: Trace) -> None:
    os.mkdir(t.path("d"))
    os.mkdir(t.path("e"))
    t.make("d/f", b"content")

    def write(data: bytes, offset: int = 0) -> None:
        descriptor = os.open(t.path("d/f"), os.O_WRONLY)
        os.pwrite(descriptor, data, offset)
        os.close(descriptor)

    _moves(t, "write", ("d", "d/f"), lambda: write(b"x"))
    _moves(t, "append", ("d", "d/f"), lambda: write(b"x", 100))
    _moves(t, "truncate", ("d", "d/f"), lambda: os.truncate(t.path("d/f"), 3))
    _moves(t, "O_TRUNC", ("d", "d/f"), lambda: os.close(os.open(t.path("d/f"), os.O_WRONLY | os.O_TRUNC)))
    _moves(t, "O_TRUNC of an empty file", ("d", "d/f"), lambda: os.close(os.open(t.path("d/f"), os.O_WRONLY | os.O_TRUNC)))
    _moves(t, "chmod", ("d", "d/f"), lambda: os.chmod(t.path("d/f"), 0o600))
    _moves(t, "chown to the same", ("d", "d/f"), lambda: os.chown(t.path("d/f"), t.uid, t.uid))
    _moves(t, "setxattr", ("d", "d/f"), lambda: os.setxattr(t.path("d/f"), b"user.x", b"1"))
    _moves(t, "removexattr", ("d", "d/f"), lambda: os.removexattr(t.path("d/f"), b"user.x"))
    _moves(t, "link", ("d", "d/f"), lambda: os.link(t.path("d/f"), t.path("d/g")))
    _moves(t, "unlink", ("d", "d/f"), lambda: os.unlink(t.path("d/g")))
    _moves(t, "create", ("d", "d/f"), lambda: t.make("d/new"))
    _moves(t, "mkdir", ("d",), lambda: os.mkdir(t.path("d/sub")))
    _moves(t, "symlink", ("d",), lambda: os.symlink(b"x", t.path("d/sym")))
    _moves(t, "rename", ("d", "e", "d/f"), lambda: os.rename(t.path("d/f"), t.path("d/f2")))
    _moves(t, "rename away", ("d", "e", "d/f2"), lambda: os.rename(t.path("d/f2"), t.path("e/f2")))
    _moves(t, "the moved file", ("e/f2",), lambda: os.rename(t.path("e/f2"), t.path("e/f3")) or os.rename(t.path("e/f3"), t.path("e/f2")))
    _moves(t, "rename a directory", ("d", "e", "d/sub"), lambda: os.rename(t.path("d/sub"), t.path("e/sub")))
    _moves(t, "rmdir", ("e",), lambda: os.rmdir(t.path("e/sub")))
    _moves(t, "read", ("d", "e/f2"), lambda: Path(os.fsdecode(t.path("e/f2"))).read_bytes())
    _moves(t, "listing", ("d",), lambda: os.listdir(t.path("d")))


@case()
def writing_after_utime(t: Trace) -> None:
    """A time that was set stays set, although the kernel writes pages back later."""
    descriptor = os.open(t.path("f"), os.O_RDWR | os.O_CREAT)
    os.write(descriptor, b"x" * 100_000)
    os.utime(descriptor, ns=(1, 1_234_567_890))
    os.close(descriptor)
    t("mtime", lambda: os.stat(t.path("f")).st_mtime_ns)
