"""Random operations: chosen from the reference model's state, so that most make sense and some do not.

An operation is a plain tuple (kind, arguments...) that speaks of inodes by the model's numbers; `driver` carries it out on both sides.
"""

from __future__ import annotations

import random
import stat
from typing import Any

from .reference import ROOT, Model, Node, parts

Operation = tuple[Any, ...]
MIB = 1 << 20
NAMES = [b"a", b"b", b"c", b"d", b"\xc3\xa9t\xc3\xa9", b"long" * 60]
ODD_NAMES = [b"x" * 256, b"A", b"new\nline"]
OFFSETS = [0, 0, 0, 1, 100, 4000, 4096, 5000, 65536, MIB - 10, MIB, MIB + 5, 2 * MIB - 1, 3 * MIB]
LENGTHS = [1, 10, 100, 4096, 5000, 70000, 4000, 20]
SIZES = [0, 0, 1, 50, 4096, 4097, 100000, MIB, MIB + 1, 2 * MIB + 7]
WEIGHTS = {
    "create": 12,
    "mkdir": 9,
    "symlink": 2,
    "mknod": 1,
    "write": 18,
    "truncate": 6,
    "link": 6,
    "unlink": 8,
    "rmdir": 4,
    "rename": 13,
    "attributes": 4,
    "setxattr": 4,
    "removexattr": 2,
    "hold": 3,
    "drop": 3,
    "snapshot": 7,
    "snapshot_delete": 4,
    "restore_in_place": 2,
    "restore_beside": 2,
    "work": 6,
    "commit": 3,
    "reopen": 0.7,
    "crash": 0.7,
}
SNAPSHOTS_MAX = 8
INODES_MAX = 60


class Chooser:
    """Chooses operations with one random generator."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def choose(self, model: Model) -> Operation:
        """Return the next operation for a model in this state."""
        self.model = model
        if len(model.snapshots) >= SNAPSHOTS_MAX:
            return self.snapshot_delete()
        weights = dict(WEIGHTS)
        if len(model.nodes) > INODES_MAX:
            weights |= {"create": 3, "mkdir": 2, "unlink": 25, "rmdir": 20, "restore_beside": 0.5}
        kind = self.random.choices(list(weights), list(weights.values()))[0]
        operation: Operation = getattr(self, kind)()
        return operation

    # ----------------------------------------------------------------- places

    def directory(self) -> int:
        """A directory that has a name; now and then something that is no directory."""
        if self.random.random() < 0.02:
            return self.any_inode()
        return self.random.choice([ino for ino in dict.fromkeys(self.model.below(ROOT)) if self.model.nodes[ino].is_directory])

    def any_inode(self) -> int:
        return self.random.choice(list(self.model.nodes))

    def file(self) -> int | None:
        files = [ino for ino, node in self.model.nodes.items() if stat.S_ISREG(node.mode)]
        return self.random.choice(files) if files else None

    def name(self) -> bytes:
        return self.random.choice(ODD_NAMES) if self.random.random() < 0.05 else self.random.choice(NAMES)

    def entry(self) -> tuple[int, bytes]:
        """A name that is there, mostly."""
        entries = [(ino, name) for ino in dict.fromkeys(self.model.below(ROOT)) for name in self.model.nodes[ino].entries]
        if not entries or self.random.random() < 0.05:
            return self.directory(), self.name()
        return self.random.choice(entries)

    def mode(self) -> int:
        return self.random.choice([0o644, 0o600, 0o755, 0o2775, 0o1777, 0o000])

    def data(self, length: int) -> bytes:
        return self.random.randbytes(length)

    # ------------------------------------------------------------- operations

    def create(self) -> Operation:
        return "create", self.directory(), self.name(), self.mode()

    def mkdir(self) -> Operation:
        return "mkdir", self.directory(), self.name(), self.random.choice([0o755, 0o2775, 0o700])

    def symlink(self) -> Operation:
        return "symlink", self.directory(), self.name(), self.random.choice([b"a", b"../b/c", b"/" + b"t" * 300])

    def mknod(self) -> Operation:
        mode, rdev = self.random.choice([(stat.S_IFIFO | 0o644, 0), (stat.S_IFCHR | 0o600, 0x0103), (stat.S_IFSOCK | 0o777, 0)])
        return "mknod", self.directory(), self.name(), mode, rdev

    def write(self) -> Operation:
        ino = self.file()
        if ino is None:
            return self.create()
        if self.random.random() < 0.04:
            return "write", ino, self.random.choice([0, MIB, 1000]), self.data(MIB + 5000)
        size = self.model.nodes[ino].size
        offset = self.random.choice([*OFFSETS, size, size, size, max(0, size - 50)])
        return "write", ino, offset, self.data(self.random.choice(LENGTHS))

    def truncate(self) -> Operation:
        ino = self.file() if self.random.random() < 0.97 else self.any_inode()
        if ino is None:
            return self.create()
        return "truncate", ino, self.random.choice([*SIZES, self.model.nodes[ino].size // 2, self.model.nodes[ino].size])

    def link(self) -> Operation:
        ino = self.file() if self.random.random() < 0.9 else self.any_inode()
        return self.create() if ino is None else ("link", ino, self.directory(), self.name())

    def unlink(self) -> Operation:
        return "unlink", *self.entry()

    def rmdir(self) -> Operation:
        empty = [
            (parent, name)
            for parent in dict.fromkeys(self.model.below(ROOT))
            for name, child in self.model.nodes[parent].entries.items()
            if self.is_empty_directory(self.model.nodes[child])
        ]
        return "rmdir", *(self.random.choice(empty) if empty and self.random.random() < 0.8 else self.entry())

    @staticmethod
    def is_empty_directory(node: Node) -> bool:
        return node.is_directory and not node.entries

    def rename(self) -> Operation:
        flags = self.random.choice([0, 0, 0, 0, 1, 2, 4])
        there = self.entry() if flags == 2 or self.random.random() < 0.3 else (self.directory(), self.name())
        return "rename", *self.entry(), *there, flags

    def attributes(self) -> Operation:
        fields = {
            "mode": self.mode(),
            "uid": self.random.choice([0, 1000]),
            "gid": self.random.choice([0, 100]),
            "atime": self.random.randrange(1 << 60),
            "mtime": self.random.randrange(1 << 60),
        }
        kept = self.random.sample(sorted(fields), self.random.randint(1, 3))
        return "attributes", self.any_inode(), {name: fields[name] for name in kept}

    def setxattr(self) -> Operation:
        value = self.data(self.random.choice([0, 5, 300]))
        return (
            "setxattr",
            self.any_inode(),
            self.random.choice([b"user.a", b"user.b", b"trusted.c"]),
            value,
            self.random.choice([0, 0, 1, 2]),
        )

    def removexattr(self) -> Operation:
        return "removexattr", self.any_inode(), self.random.choice([b"user.a", b"user.b", b"trusted.c"])

    def hold(self) -> Operation:
        return "hold", self.any_inode()

    def drop(self) -> Operation:
        held = [ino for ino, count in self.model.held.items() if count > 0]
        return ("drop", self.random.choice(held)) if held else self.hold()

    def snapshot(self) -> Operation:
        return "snapshot", self.directory(), self.random.choice([b"daily", b"hourly", b"x_y"])

    def snapshot_delete(self) -> Operation:
        if not self.model.snapshots:
            return self.snapshot()
        return "snapshot_delete", self.random.choice(list(self.model.snapshots))

    def place_in_snapshot(self) -> tuple[int, bytes]:
        number = self.random.choice(list(self.model.snapshots))
        paths = sorted(self.model.snapshot_tree(number))
        path = b"" if self.random.random() < 0.4 else self.random.choice(paths)
        return number, b"/".join(parts(path))

    def restore_in_place(self) -> Operation:
        return ("restore_in_place", *self.place_in_snapshot()) if self.model.snapshots else self.snapshot()

    def restore_beside(self) -> Operation:
        return ("restore_beside", *self.place_in_snapshot(), self.directory(), self.name()) if self.model.snapshots else self.snapshot()

    def work(self) -> Operation:
        return "work", self.random.choice([1, 3, 10, 1000])

    def commit(self) -> Operation:
        return ("commit",)

    def reopen(self) -> Operation:
        return ("reopen",)

    def crash(self) -> Operation:
        return "crash", self.random.choice(["lost group", "lost records"])
