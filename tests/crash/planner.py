"""Draws the steps that a writer takes, so that each of them is one that must succeed."""

from __future__ import annotations

import os
import random
from collections.abc import Callable

from .model import DIRECTORY, FILE, SYMLINK, State, Step


class Planner:
    """Draws the next steps for a state. `snapshots`, `big` and `restores` say whether those happen.

    With restores, snapshots are of the writer's whole directory only: a restore in place may make other directories anew, and a
    snapshot of the old one is then out of sight.
    """

    def __init__(
        self,
        state: State,
        rng: random.Random,
        *,
        snapshots: bool = True,
        big: bool = True,
        sync_share: float = 0.25,
        restores: bool = False,
    ) -> None:
        self.state, self.rng, self.restores = state, rng, restores
        self.big, self.snapshots, self.sync_share = big, snapshots, sync_share
        self.names = 0

    def next(self) -> list[Step]:
        """Return one to a few steps that belong together."""
        draw = self.rng.random()
        for limit, make in self._table():
            draw -= limit
            if draw < 0 < limit and (steps := make()):
                return steps
        return self._new_file()

    def _table(self) -> list[tuple[float, Callable[[], list[Step]]]]:
        snap = 0.06 if self.snapshots else 0.0
        return [
            (0.16, self._new_file),
            (0.14, self._grow),
            (0.12, self._overwrite),
            (0.10, self._replace),
            (0.06, self._make_directory),
            (0.05, self._move),
            (0.05, self._hard_link),
            (0.07, self._remove),
            (0.05, self._cut),
            (0.05, self._attribute),
            (0.02, self._point),
            (0.02, self._remove_directory),
            (snap, self._take),
            (snap / 2, self._drop),
            (0.03 if self.restores else 0.0, self._put_back),
        ]

    def _fresh(self, stem: str) -> str:
        self.names += 1
        parent = self.rng.choice(["", *self.state.of_kind(DIRECTORY)])
        return (parent + "/" if parent else "") + f"{stem}{self.names}"

    def pick(self, kind: int = FILE) -> str | None:
        """Return a path of this kind, or None."""
        paths = self.state.of_kind(kind)
        return self.rng.choice(paths) if paths else None

    def _length(self) -> int:
        if self.big and self.rng.random() < 0.04:
            return self.rng.randrange(600_000, 3_000_000)
        return self.rng.choice([0, 5, 100, 4000, 4096, 5000, 20_000, 70_000])

    def _synced(self, path: str, steps: list[Step]) -> list[Step]:
        if self.rng.random() < self.sync_share:
            parent = os.path.dirname(path)
            steps.append(self.rng.choice([["fsync", path], ["fsync", path], ["fsyncdir", parent]]))
        return steps

    def _new_file(self) -> list[Step]:
        path = self._fresh("f")
        length = self._length()
        steps: list[Step] = [["create", path, self.state.files + 1]]
        if length:
            steps.append(["write", path, self.state.versions + 1, 0, length])
        return self._synced(path, steps)

    def _grow(self) -> list[Step]:
        if (path := self.pick()) is None:
            return []
        size = len(self.state.paths[path].content(1 << 60))
        if size > 6_000_000:
            return []
        length = max(1, self._length())
        if self.rng.random() < 0.1:
            return self._synced(path, [["write", path, self.state.versions + 1, size + self.rng.randrange(1, 2_000_000), length]])
        return self._synced(path, [["append", path, self.state.versions + 1, size, length]])

    def _overwrite(self) -> list[Step]:
        if (path := self.pick()) is None:
            return []
        size = len(self.state.paths[path].content(1 << 60))
        offset = self.rng.randrange(size + 1)
        return self._synced(path, [["write", path, self.state.versions + 1, offset, max(1, self._length())]])

    def _replace(self) -> list[Step]:
        """The safe way to replace a file: write beside, sync, rename."""
        if (target := self.pick()) is None:
            return []
        path = self._fresh("t")
        steps: list[Step] = [["create", path, self.state.files + 1], ["write", path, self.state.versions + 1, 0, max(1, self._length())]]
        steps += [["fsync", path], ["rename", path, target]]
        if self.rng.random() < 0.5:
            steps.append(["fsyncdir", os.path.dirname(target)])
        return steps

    def _make_directory(self) -> list[Step]:
        path = self._fresh("d")
        return [["mkdir", path], ["mkdir", path + "/a"], ["create", path + "/a/in", self.state.files + 1]]

    def _move(self) -> list[Step]:
        path = self.pick(self.rng.choice([FILE, DIRECTORY]))
        new = self._fresh("m")
        if path is None or new.startswith(path + "/"):
            return []
        if any(t.directory == path or t.directory.startswith(path + "/") for t in self.state.snapshots.values()):
            return []
        return self._synced_directory([["rename", path, new]], new)

    def _synced_directory(self, steps: list[Step], path: str) -> list[Step]:
        if self.rng.random() < self.sync_share:
            steps.append(["fsyncdir", os.path.dirname(path)])
        return steps

    def _hard_link(self) -> list[Step]:
        path = self.pick()
        return [["link", path, self._fresh("l")]] if path else []

    def _remove(self) -> list[Step]:
        path = self.pick(self.rng.choice([FILE, FILE, SYMLINK]))
        return self._synced_directory([["unlink", path]], path) if path else []

    def _remove_directory(self) -> list[Step]:
        guarded = {t.directory for t in self.state.snapshots.values()}
        empty = [path for path in self.state.of_kind(DIRECTORY) if not self.state.below(path) and path not in guarded]
        return [["rmdir", self.rng.choice(empty)]] if empty else []

    def _cut(self) -> list[Step]:
        if (path := self.pick()) is None:
            return []
        size = len(self.state.paths[path].content(1 << 60))
        return self._synced(path, [["resize", path, self.rng.randrange(size + 10_000)]])

    def _attribute(self) -> list[Step]:
        if (path := self.pick(self.rng.choice([FILE, DIRECTORY]))) is None:
            return []
        item = self.state.paths[path]
        if item.xattrs and self.rng.random() < 0.3:
            return [["removexattr", path, next(iter(item.xattrs))]]
        if self.rng.random() < 0.3:
            return [["chmod", path, self.rng.choice([0o600, 0o640, 0o700, 0o755])]]
        value = f"{self.rng.random()}" * self.rng.choice([1, 1, 200])
        return [["setxattr", path, f"user.{self.rng.choice('abc')}", value]]

    def _point(self) -> list[Step]:
        path = self._fresh("s")
        return [["symlink", path, "to/" + path]]

    def _take(self) -> list[Step]:
        path = "" if self.restores else self.rng.choice(["", *self.state.of_kind(DIRECTORY)])
        self.names += 1
        return [["snap", path, f"w{self.state.writer}n{self.names}"]]

    def _drop(self) -> list[Step]:
        if not self.state.snapshots:
            return []
        name = self.rng.choice(list(self.state.snapshots))
        return [["unsnap", self.state.snapshots[name].directory, name]]

    def _put_back(self) -> list[Step]:
        if not self.state.snapshots:
            return []
        self.names += 1
        return [["restore", self.rng.choice(list(self.state.snapshots)), self.rng.choice(["", f"r{self.names}"])]]
