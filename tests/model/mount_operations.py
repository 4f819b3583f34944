"""Chooses random operations for the mount's model test, from what ext4 shows at the moment; a seed always gives the same ones."""

from __future__ import annotations

import os
import random
import stat
import struct

from .mount_sides import Operation, Side

USER = 65534
SLOTS = 6
NAMES = (b"a", b"b", b"c", b"d", b"e", b"A", b"\xff", b"n" * 255)
XATTRS = (b"user.a", b"user.b", b"user.\xff", b"trusted.t", b"security.s", b"user.", b"bare")
TIMES = (0, 1, 10**17, 5 * 10**17 + 123456789, 10**18 - 1)
FILE_MODES = (0o644, 0o600, 0o666, 0o777, 0o4755, 0o444, 0, 0o640)
DIRECTORY_MODES = (0o755, 0o777, 0o1777, 0o2775, 0o700, 0o2777, 0o500)
WEIGHTS = {
    "open": 16,
    "mkdir": 6,
    "rmdir": 3,
    "unlink": 5,
    "link": 4,
    "symlink": 3,
    "readlink": 1,
    "rename": 9,
    "mknod": 2,
    "listdir": 1,
    "stat": 2,
    "access": 3,
    "chmod": 4,
    "chown": 3,
    "utime": 3,
    "touch": 1,
    "truncate": 4,
    "setxattr": 4,
    "getxattr": 1,
    "removexattr": 2,
    "listxattr": 1,
    "setacl": 5,
    "statvfs": 0.3,
    "fd_close": 3,
    "fd_read": 3,
    "fd_pread": 3,
    "fd_seek": 1,
    "fd_write": 7,
    "fd_pwrite": 7,
    "fd_truncate": 4,
    "fd_stat": 2,
    "fd_chmod": 1,
    "fd_utime": 1,
    "fd_setxattr": 1,
    "fd_listxattr": 1,
    "fd_sync": 1,
    "fd_link": 1,
    "fd_copy": 2,
    "fd_map": 3,
    "fd_poke": 4,
    "snapshot": 0.7,
    "drop_snapshot": 0.3,
    "remount": 0.25,
    "kill": 0.25,
}


def acl_value(chance: random.Random) -> bytes:
    """Return an ACL as the kernel's xattr value: mostly a sound one."""

    def bits() -> int:
        return chance.choice((0, 4, 5, 6, 7, 7))

    none = 0xFFFFFFFF
    entries = [(1, bits(), none)]
    users = chance.sample((USER, 7, 1000), chance.randrange(3))
    groups = chance.sample((USER, 100), chance.randrange(2))
    entries += [(2, bits(), user) for user in users] + [(4, bits(), none)] + [(8, bits(), group) for group in groups]
    if users or groups or chance.random() < 0.3:
        entries.append((16, bits(), none))
    entries.append((32, bits(), none))
    kind = chance.random()
    if kind < 0.06:
        entries = []
    elif kind < 0.1:
        entries.reverse()
    elif kind < 0.14:
        entries.pop(chance.randrange(len(entries)))
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


class Chooser:
    """A seeded source of operations."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self._kinds = list(WEIGHTS)
        self._weights = list(WEIGHTS.values())
        self._paths: list[bytes] = []
        self._modes: dict[bytes, int] = {}

    def choose(self, side: Side) -> Operation:
        """Return the next operation, given ext4's side."""
        self._look(side)
        kind = self.chance.choices(self._kinds, self._weights)[0]
        uid = USER if self.chance.random() < 0.3 else 0
        umask = self.chance.choice((0o22, 0o22, 0, 0o77))
        name, arguments = getattr(self, f"_{kind}")() if hasattr(self, f"_{kind}") else (kind, ())
        return name, uid, umask, *arguments

    def _look(self, side: Side) -> None:
        self._modes = {}
        waiting = [b""]
        while waiting:
            relative = waiting.pop()
            with os.scandir(side.path(relative)) as entries:
                for entry in sorted(entries, key=lambda one: one.name):
                    path = os.path.join(relative, entry.name)
                    self._modes[path] = entry.stat(follow_symlinks=False).st_mode
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(path)
        self._paths = list(self._modes)

    # ---------------------------------------------------------------- choices

    def _existing(self, *kinds: int) -> bytes:
        fitting = [path for path in self._paths if not kinds or stat.S_IFMT(self._modes[path]) in kinds]
        if fitting and self.chance.random() < 0.93:
            return self.chance.choice(fitting)
        return self._new()

    def _directory(self) -> bytes:
        directories = [path for path in self._paths if stat.S_ISDIR(self._modes[path]) and path.count(b"/") < 3 and len(path) < 900]
        return self.chance.choice([b"", b"", *directories])

    def _new(self) -> bytes:
        name = self.chance.choice(NAMES) if self.chance.random() < 0.98 else self.chance.choice((b"n" * 256, b"..", b"."))
        return os.path.join(self._directory(), name)

    def _slot(self) -> int:
        return self.chance.randrange(SLOTS)

    def _size(self) -> int:
        return self.chance.choice(
            (0, 1, 100, 4095, 4096, 5000, 70_000, 200_000, (1 << 20) - 1, (1 << 20) + 10, self.chance.randrange(2_500_000))
        )

    def _data(self) -> bytes:
        size = self.chance.choice((1, 10, 300, 4096, 5000, 66_000, 150_000, self.chance.randrange(1, 20_000)))
        return self.chance.randbytes(7) * (size // 7 + 1) if size % 2 else self.chance.randbytes(size)

    def _mode(self, path: bytes) -> int:
        return self.chance.choice(DIRECTORY_MODES if stat.S_ISDIR(self._modes.get(path, 0)) else FILE_MODES)

    # -------------------------------------------------------- one for each kind

    def _open(self) -> Operation:
        flags = self.chance.choice((os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDWR))
        extra = ((os.O_CREAT, 0.6), (os.O_EXCL, 0.15), (os.O_TRUNC, 0.15), (os.O_APPEND, 0.2), (os.O_NOFOLLOW, 0.15))
        for flag, chance in (*extra, (os.O_DIRECTORY, 0.03), (os.O_SYNC, 0.03)):
            if self.chance.random() < chance:
                flags |= flag
        path = self._new() if flags & os.O_CREAT and self.chance.random() < 0.7 else self._existing()
        return "open", (self._slot(), path, flags, self.chance.choice((0o666, 0o600, 0o777, 0o4711, 0)))

    def _mkdir(self) -> Operation:
        return "mkdir", (self._new(), self.chance.choice((0o777, 0o777, 0o755, 0o1777, 0o700)))

    def _rmdir(self) -> Operation:
        return "rmdir", (self._existing(stat.S_IFDIR) if self.chance.random() < 0.9 else self._existing(),)

    def _unlink(self) -> Operation:
        return "unlink", (self._existing(),)

    def _link(self) -> Operation:
        return "link", (self._existing(), self._new())

    def _symlink(self) -> Operation:
        target = self.chance.choice((*NAMES[:4], b"../a", b"d/a", b".", b"missing", b"/nonexistent/x" * 20))
        return "symlink", (target, self._new())

    def _readlink(self) -> Operation:
        return "readlink", (self._existing(stat.S_IFLNK),)

    def _rename(self) -> Operation:
        new = self._existing() if self.chance.random() < 0.4 else self._new()
        return "rename", (self._existing(), new, self.chance.choice((0, 0, 0, 0, 1, 2, 2, 3)))

    def _mknod(self) -> Operation:
        kind = self.chance.choice((stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFREG))
        device = self.chance.choice((os.makedev(1, 3), os.makedev(240, 300))) if kind in (stat.S_IFCHR, stat.S_IFBLK) else 0
        return "mknod", (self._new(), kind | self.chance.choice((0o666, 0o600)), device)

    def _listdir(self) -> Operation:
        return "listdir", (self._directory(),)

    def _stat(self) -> Operation:
        return "stat", (self._existing(), self.chance.random() < 0.5)

    def _access(self) -> Operation:
        return "access", (self._existing(), self.chance.choice((os.R_OK, os.W_OK, os.X_OK, os.R_OK | os.W_OK)))

    def _chmod(self) -> Operation:
        path = self._existing()
        return "chmod", (path, self._mode(path))

    def _chown(self) -> Operation:
        uid = self.chance.choice((0, USER, 1000))
        return "chown", (self._existing(), uid, self.chance.choice((0, USER, 100, -1)))

    def _utime(self) -> Operation:
        return "utime", (self._existing(), self.chance.choice(TIMES), self.chance.choice(TIMES), self.chance.random() < 0.7)

    def _touch(self) -> Operation:
        return "touch", (self._existing(),)

    def _truncate(self) -> Operation:
        return "truncate", (self._existing(stat.S_IFREG), self._size())

    def _setxattr(self) -> Operation:
        value = self.chance.randbytes(self.chance.choice((0, 1, 20, 200)))
        return "setxattr", (
            self._existing(),
            self.chance.choice(XATTRS),
            value,
            self.chance.choice((0, 0, 0, 1, 2)),
            self.chance.random() < 0.7,
        )

    def _getxattr(self) -> Operation:
        return "getxattr", (self._existing(), self.chance.choice(XATTRS), self.chance.random() < 0.7)

    def _removexattr(self) -> Operation:
        names = (*XATTRS, b"system.posix_acl_access", b"system.posix_acl_default")
        return "removexattr", (self._existing(), self.chance.choice(names), self.chance.random() < 0.8)

    def _listxattr(self) -> Operation:
        return "listxattr", (self._existing(), self.chance.random() < 0.7)

    def _setacl(self) -> Operation:
        name = self.chance.choice((b"system.posix_acl_access", b"system.posix_acl_default"))
        return "setxattr", (self._existing(stat.S_IFREG, stat.S_IFDIR), name, acl_value(self.chance), 0, self.chance.random() < 0.9)

    def _fd_close(self) -> Operation:
        return "fd_close", (self._slot(),)

    def _fd_read(self) -> Operation:
        return "fd_read", (self._slot(), self._size())

    def _fd_pread(self) -> Operation:
        return "fd_pread", (self._slot(), self._size(), self._size())

    def _fd_seek(self) -> Operation:
        return "fd_seek", (self._slot(), self._size(), self.chance.choice((os.SEEK_SET, os.SEEK_CUR, os.SEEK_END)))

    def _fd_write(self) -> Operation:
        return "fd_write", (self._slot(), self._data())

    def _fd_pwrite(self) -> Operation:
        return "fd_pwrite", (self._slot(), self._data(), self._size())

    def _fd_truncate(self) -> Operation:
        return "fd_truncate", (self._slot(), self._size())

    def _fd_stat(self) -> Operation:
        return "fd_stat", (self._slot(),)

    def _fd_chmod(self) -> Operation:
        return "fd_chmod", (self._slot(), self.chance.choice((0o644, 0o755, 0o700, 0o777)))

    def _fd_utime(self) -> Operation:
        return "fd_utime", (self._slot(), self.chance.choice(TIMES), self.chance.choice(TIMES))

    def _fd_setxattr(self) -> Operation:
        return "fd_setxattr", (self._slot(), self.chance.choice(XATTRS), b"by descriptor")

    def _fd_listxattr(self) -> Operation:
        return "fd_listxattr", (self._slot(),)

    def _fd_sync(self) -> Operation:
        return "fd_sync", (self._slot(), self.chance.random() < 0.5)

    def _fd_link(self) -> Operation:
        return "fd_link", (self._slot(), self._new())

    def _fd_copy(self) -> Operation:
        return "fd_copy", (self._slot(), self._slot(), self.chance.choice((10, 5000, 100_000)), self._size(), self._size())

    def _fd_map(self) -> Operation:
        return "fd_map", (self._slot(), self.chance.choice((1, 100, 4096, 70_000)))

    def _fd_poke(self) -> Operation:
        return "fd_poke", (
            self._slot(),
            self.chance.choice((0, 50, 4000, 65_000)),
            self.chance.randbytes(self.chance.choice((1, 50, 3000))),
        )
