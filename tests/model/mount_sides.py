"""The two sides of the mount's model test: a mount of ours and ext4. One operation at a time, as a plain call of the system.

What an operation answers is made of values that must be the same on both sides. `SKIPPED` stands for an operation that makes no sense
any more (its descriptor is not open), or whose outcome is known to differ (docs/semantics.md).
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from typing import Any, NamedTuple

from tests.mount.mounted import libc

AT_FDCWD = -100
SKIPPED = "skipped"
Operation = tuple[Any, ...]
"""(kind, uid, umask, arguments...). Paths are bytes relative to the side's root."""
LONGEST = 1 << 20
OLD = 10**18
"""Times that are set are below this many nanoseconds after 1970; what the clock says is above."""
LATENESS = 1_000_000_000
"""Nanoseconds that may pass between a change in the kernel, which may keep its time for itself, and the same in the daemon."""
CLOCK_REALTIME_COARSE = 5
"""The clock from which the kernel takes file times, which goes in ticks."""


class Facts(NamedTuple):
    """What is compared of a thing in the tree."""

    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    size: int
    atime: int
    mtime: int
    content: bytes
    xattrs: tuple[tuple[str, bytes], ...]
    same: bytes


@contextmanager
def acting_as(uid: int, umask: int) -> Iterator[None]:
    """Be another user (that group, and group 100) with this umask for a while. The process is root."""
    before = os.umask(umask)
    groups = os.getgroups()
    try:
        if uid:
            os.setgroups([100])
            os.setegid(uid)
            os.seteuid(uid)
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)
        os.umask(before)


def set_or_now(value: int) -> int:
    """Return a time that was set as it is, and 0 for one that the clock gave."""
    return value if value < OLD else 0


class Side:
    """One root and what is open below it."""

    def __init__(self, root: bytes) -> None:
        self.root = root
        self.open: dict[int, int] = {}
        self.owner: dict[int, int] = {}
        self.maps: dict[int, mmap.mmap] = {}
        os.makedirs(root)
        os.chmod(root, 0o777)

    def path(self, relative: bytes) -> bytes:
        return self.root + b"/" + relative if relative else self.root

    def close_all(self) -> None:
        """Close all descriptors and mappings."""
        for view in self.maps.values():
            view.close()
        for descriptor in self.open.values():
            os.close(descriptor)
        self.open, self.maps = {}, {}

    def do(self, operation: Operation) -> Any:
        """Carry out an operation and return what it answers: a value, or the name of the errno."""
        kind, uid, umask, *arguments = operation
        if kind.startswith("fd_"):
            slot = arguments[0]
            if slot not in self.open:
                return SKIPPED
            uid = self.owner[slot]
        try:
            with acting_as(uid, umask):
                return getattr(self, f"do_{kind}")(*arguments)
        except OSError as error:
            return errno.errorcode.get(error.errno or 0, error.errno)

    # ------------------------------------------------------------------ names

    def do_open(self, slot: int, path: bytes, flags: int, mode: int) -> Any:
        descriptor = os.open(self.path(path), flags | os.O_NONBLOCK, mode)
        self.do_fd_close(slot)
        self.open[slot], self.owner[slot] = descriptor, os.geteuid()
        return "opened"

    def do_mkdir(self, path: bytes, mode: int) -> Any:
        os.mkdir(self.path(path), mode)

    def do_rmdir(self, path: bytes) -> Any:
        os.rmdir(self.path(path))

    def do_unlink(self, path: bytes) -> Any:
        os.unlink(self.path(path))

    def do_link(self, path: bytes, new: bytes) -> Any:
        os.link(self.path(path), self.path(new), follow_symlinks=False)

    def do_symlink(self, target: bytes, path: bytes) -> Any:
        os.symlink(target, self.path(path))

    def do_readlink(self, path: bytes) -> Any:
        return os.readlink(self.path(path))

    def do_rename(self, path: bytes, new: bytes, flags: int) -> Any:
        libc("renameat2", AT_FDCWD, self.path(path), AT_FDCWD, self.path(new), flags)

    def do_mknod(self, path: bytes, mode: int, device: int) -> Any:
        os.mknod(self.path(path), mode, device)

    def do_listdir(self, path: bytes) -> Any:
        return sorted(os.listdir(self.path(path)))

    # ------------------------------------------------------------- attributes

    def do_stat(self, path: bytes, follow: bool) -> Any:
        return self.shown(os.stat(self.path(path), follow_symlinks=follow))

    def do_access(self, path: bytes, mode: int) -> Any:
        return os.access(self.path(path), mode, effective_ids=True)

    def do_chmod(self, path: bytes, mode: int) -> Any:
        os.chmod(self.path(path), mode)

    def do_chown(self, path: bytes, uid: int, gid: int) -> Any:
        os.chown(self.path(path), uid, gid, follow_symlinks=False)

    def do_utime(self, path: bytes, atime: int, mtime: int, follow: bool) -> Any:
        os.utime(self.path(path), ns=(atime, mtime), follow_symlinks=follow)

    def do_touch(self, path: bytes) -> Any:
        os.utime(self.path(path))

    def do_truncate(self, path: bytes, size: int) -> Any:
        if os.path.isfile(self.path(path)) and os.stat(self.path(path)).st_size == size:
            return SKIPPED  # moves no time here
        return os.truncate(self.path(path), size)

    def do_setxattr(self, path: bytes, name: bytes, value: bytes, flags: int, follow: bool) -> Any:
        os.setxattr(self.path(path), name, value, flags, follow_symlinks=follow)

    def do_getxattr(self, path: bytes, name: bytes, follow: bool) -> Any:
        return os.getxattr(self.path(path), name, follow_symlinks=follow)

    def do_removexattr(self, path: bytes, name: bytes, follow: bool) -> Any:
        os.removexattr(self.path(path), name, follow_symlinks=follow)

    def do_listxattr(self, path: bytes, follow: bool) -> Any:
        return sorted(os.listxattr(self.path(path), follow_symlinks=follow))

    def do_statvfs(self) -> Any:
        facts = os.statvfs(self.root)
        sane = 0 < facts.f_bavail <= facts.f_bfree < facts.f_blocks and facts.f_bsize > 0 and facts.f_frsize > 0
        return sane, facts.f_namemax

    # ------------------------------------------------------------ descriptors

    def do_fd_close(self, slot: int) -> Any:
        if slot in self.maps:
            self.maps.pop(slot).close()
        if slot in self.open:
            os.close(self.open.pop(slot))

    def do_fd_read(self, slot: int, size: int) -> Any:
        return self.brief(os.read(self.open[slot], size)) if self.is_regular(slot) else SKIPPED

    def do_fd_pread(self, slot: int, size: int, offset: int) -> Any:
        return self.brief(os.pread(self.open[slot], size, offset))

    def do_fd_seek(self, slot: int, offset: int, how: int) -> Any:
        return os.lseek(self.open[slot], offset, how) if self.is_regular(slot) else SKIPPED

    def do_fd_write(self, slot: int, data: bytes) -> Any:
        return os.write(self.open[slot], data) if self.is_regular(slot) else SKIPPED

    def do_fd_pwrite(self, slot: int, data: bytes, offset: int) -> Any:
        return os.pwrite(self.open[slot], data, offset)

    def do_fd_truncate(self, slot: int, size: int) -> Any:
        if self.is_regular(slot) and os.fstat(self.open[slot]).st_size == size:
            return SKIPPED
        return os.ftruncate(self.open[slot], size)

    def do_fd_stat(self, slot: int) -> Any:
        return self.shown(os.fstat(self.open[slot]))

    def do_fd_chmod(self, slot: int, mode: int) -> Any:
        os.fchmod(self.open[slot], mode)

    def do_fd_utime(self, slot: int, atime: int, mtime: int) -> Any:
        os.utime(self.open[slot], ns=(atime, mtime))

    def do_fd_setxattr(self, slot: int, name: bytes, value: bytes) -> Any:
        os.setxattr(self.open[slot], name, value)

    def do_fd_listxattr(self, slot: int) -> Any:
        return sorted(os.listxattr(self.open[slot]))

    def do_fd_sync(self, slot: int, data_only: bool) -> Any:
        (os.fdatasync if data_only else os.fsync)(self.open[slot])

    def do_fd_link(self, slot: int, new: bytes) -> Any:
        """Give what is open another name: ENOENT when it has none left."""
        os.link(f"/proc/self/fd/{self.open[slot]}", self.path(new), follow_symlinks=True)

    def do_fd_copy(self, slot: int, source: int, size: int, from_offset: int, to_offset: int) -> Any:
        if source not in self.open or not self.is_regular(slot) or not self.is_regular(source):
            return SKIPPED
        return os.copy_file_range(self.open[source], self.open[slot], size, from_offset, to_offset)

    def do_fd_map(self, slot: int, length: int) -> Any:
        """Map the beginning of a file for writing and keep the mapping."""
        if slot in self.maps:
            return SKIPPED
        if self.is_regular(slot) and os.fstat(self.open[slot]).st_size < length:
            return SKIPPED
        self.maps[slot] = mmap.mmap(self.open[slot], length)
        return "mapped"

    def do_fd_poke(self, slot: int, offset: int, data: bytes) -> Any:
        """Write through a mapping, and bring it to the file, so that the next write faults again on both sides."""
        view = self.maps.get(slot)
        if view is None or os.fstat(self.open[slot]).st_size < len(view) or offset + len(data) > len(view):
            return SKIPPED
        view[offset : offset + len(data)] = data
        view.flush()
        return self.brief(view[:])

    # ---------------------------------------------------------------- looking

    def is_regular(self, slot: int) -> bool:
        return stat.S_ISREG(os.fstat(self.open[slot]).st_mode)

    @staticmethod
    def brief(data: bytes) -> Any:
        return data if len(data) < 64 else (len(data), sha256(data).hexdigest())

    @staticmethod
    def shown(facts: os.stat_result) -> Any:
        size = 0 if stat.S_ISDIR(facts.st_mode) else facts.st_size
        times = set_or_now(facts.st_atime_ns), set_or_now(facts.st_mtime_ns)
        return f"{facts.st_mode:o}", facts.st_nlink, facts.st_uid, facts.st_gid, facts.st_rdev, size, *times

    def contents(self) -> dict[int, Any]:
        """Return size and content of the regular files that are open, and of their mappings."""
        found: dict[int, Any] = {}
        for slot in filter(self.is_regular, self.open):
            with open(f"/proc/self/fd/{self.open[slot]}", "rb") as stream:
                data = stream.read()
            view = self.maps.get(slot)
            mapped = view[:] if view is not None and len(view) <= len(data) else b""
            found[slot] = os.fstat(self.open[slot]).st_size, self.brief(data), self.brief(mapped)
        return found

    def attributes(self, operation: Operation) -> dict[str, bytes]:
        """Return the extended attributes of what an operation is about."""
        target = self.open.get(operation[3], -1) if operation[0].startswith("fd_") else self.path(operation[3])
        try:
            return {name: os.getxattr(target, name) for name in os.listxattr(target)}
        except (OSError, TypeError):
            return {}

    def times(self, operation: Operation) -> dict[Any, tuple[int, int, int]]:
        """Return (inode, mtime, ctime) of what an operation names, of the directories above, and of what it has open."""
        found: dict[Any, tuple[int, int, int]] = {}
        for argument in operation[3:]:
            if isinstance(argument, bytes) and len(argument) < 1000:
                for relative in (argument, os.path.dirname(argument)):
                    try:
                        facts = os.lstat(self.path(relative))
                    except (OSError, ValueError):
                        continue
                    found[relative] = facts.st_ino, facts.st_mtime_ns, facts.st_ctime_ns
        if operation[0].startswith("fd_") and operation[3] in self.open:
            facts = os.fstat(self.open[operation[3]])
            found[operation[3]] = facts.st_ino, facts.st_mtime_ns, facts.st_ctime_ns
        return found

    def tree(self, below: bytes = b"", exact: bool = False) -> dict[bytes, Facts]:
        """Return everything below a directory by path; times of the clock only with `exact`."""
        top = self.path(below)
        first: dict[int, bytes] = {}
        found: dict[bytes, Facts] = {}
        waiting = [b""]
        while waiting:
            relative = waiting.pop()
            path = os.path.join(top, relative) if relative else top
            facts = os.lstat(path)
            is_directory = stat.S_ISDIR(facts.st_mode)
            content = b""
            if is_directory:
                names = os.listdir(path)
                assert len(set(names)) == len(names), (path, names)
                waiting += sorted((os.path.join(relative, name) for name in names), reverse=True)
            elif stat.S_ISREG(facts.st_mode):
                with open(path, "rb") as stream:
                    content = sha256(stream.read()).digest()
            elif stat.S_ISLNK(facts.st_mode):
                content = os.readlink(path)
            names = sorted(os.listxattr(path, follow_symlinks=False))
            found[relative] = Facts(
                facts.st_mode,
                facts.st_nlink,
                facts.st_uid,
                facts.st_gid,
                facts.st_rdev,
                0 if is_directory else facts.st_size,
                facts.st_atime_ns if exact else set_or_now(facts.st_atime_ns),
                facts.st_mtime_ns if exact else set_or_now(facts.st_mtime_ns),
                content,
                tuple((name, os.getxattr(path, name, follow_symlinks=False)) for name in names),
                first.setdefault(facts.st_ino, relative),
            )
        return found


def wait_for_a_later_time(*tables: dict[Any, tuple[int, int, int]]) -> None:
    """Return when a change made now is sure to get a later time than all of these, which the clock gave at most."""
    latest = max((time_ for table in tables for facts in table.values() for time_ in facts[1:]), default=0)
    deadline = time.monotonic() + 1
    while time.clock_gettime_ns(CLOCK_REALTIME_COARSE) <= latest and time.monotonic() < deadline:
        time.sleep(0.001)


def moved(before: dict[Any, tuple[int, int, int]], after: dict[Any, tuple[int, int, int]]) -> dict[Any, tuple[bool, bool]]:
    """Tell of what is still the same inode whether mtime and ctime moved."""
    same = (key for key in before if key in after and before[key][0] == after[key][0])
    return {key: (before[key][1] != after[key][1], before[key][2] != after[key][2]) for key in same}
