"""What keeps a restore from being made, looked for before it changes anything: locked files in its way, and quotas without room for it.

Called by `restore` on the trio thread, in its first steps. It looks at the live tree and at the snapshot as they are then. What others
lock, write or limit while the restore runs can still stop it; the error of that names the snapshot that undoes what was done.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator
from stat import S_IFDIR, S_IFMT, S_IFREG, S_ISDIR, S_ISREG
from typing import TYPE_CHECKING, NamedTuple

from anqfs.errors import FilesystemError
from anqfs.namespace.core import is_locked
from anqfs.namespace.quota_accounts import ENTRY_CAPACITY, capacity_below, capacity_of
from anqfs.namespace.restore_place import Place
from anqfs.namespace.restore_steps import COMPARED_MAX, ENTRIES_AT_ONCE, WINDOWS_AT_ONCE, Steps, Then
from anqfs.namespace.windows import allocated
from anqfs.store.schema import Dirent, Inode, window_key

if TYPE_CHECKING:
    from anqfs.namespace.namespace import Namespace


class Rules(NamedTuple):
    """What the restore does with single inodes and names: its own decisions, which change nothing."""

    kept: Callable[[int, Inode, Dirent | None], int | None]
    """(inode of the snapshot, as it was, what has its name now) -> the live inode that it is restored into, None: it is made anew."""
    is_final: Callable[[int, tuple[int, bytes]], bool]
    """Whether a live link of an inode is one that the restored tree has too."""
    was_inside: Callable[[int], bool]
    """Whether a directory was below the restored one in the snapshot."""


class _Frame(NamedTuple):
    """A directory of the snapshot, its live counterpart if it has one, the names behind `after`, and the quotas that count them."""

    source: int
    live: int | None
    after: bytes
    quotas: tuple[int, ...]


class Obstacles:
    """The search for what keeps one restore from being made."""

    def __init__(self, namespace: Namespace, then: Then, steps: Steps, place: Place, rules: Rules) -> None:
        self._namespace = namespace
        self._core = namespace.core
        self._then = then
        self._steps = steps
        self._place = place
        self._rules = rules
        self._growth: dict[int, int] = {}
        """Bytes of capacity that the restore adds to each quota's directory before it removes what came later."""
        self._above: tuple[int, ...] = ()
        """The quotas that count all that is restored."""
        self._all: tuple[int, ...] = ()
        """Those and the ones in the place."""
        self._puts_aside = False
        self._risen: set[int] = set()
        """The files with several names whose growth was added."""

    def look(self, source: int, old: Inode) -> Iterator[None]:
        """Look for what keeps `source`, which was `old`, from being restored. Raises EPERM or EDQUOT when there is something."""
        yield from self._look_for_locks(source, old)
        if self._core.quotas.any:
            yield from self._look_for_quotas(source, old)

    def _path(self, ino: int) -> str:
        return (self._namespace.path_of(ino) or b"a file without a name").decode("utf-8", "backslashreplace")

    # ------------------------------------------------------------ locked files

    def _look_for_locks(self, source: int, old: Inode) -> Iterator[None]:
        """Raise EPERM when a locked file would be changed, moved or removed."""
        first, count, now = 0, 0, self._core.clock()
        for ino in self._live_files():
            live = None if ino is None else self._steps.inode(ino)
            if ino is not None and live is not None and is_locked(live, now) and not self._stays(ino, live, source):
                first, count = first or ino, count + 1
            yield
        if count:
            more = f", and {count - 1} more such files" if count > 1 else ""
            raise FilesystemError(
                errno.EPERM,
                f"nothing was changed: {self._path(first)} is locked and is not what it was then{more}: restore beside, or only a part",
            )

    def _live_files(self) -> Iterator[int | None]:
        """Yield the inodes of the regular files in the place, and None now and then."""
        place = self._place
        if place.live is None:
            return
        inode = self._steps.inode(place.live)
        if inode is None or not S_ISDIR(inode.mode):
            yield place.live
            return
        todo = [(place.live, b"")]
        while todo:
            parent, after = todo.pop()
            entries = self._steps.entries(parent, after, ENTRIES_AT_ONCE)
            if len(entries) == ENTRIES_AT_ONCE:
                todo.append((parent, entries[-1][0]))
            todo += [(dirent.ino, b"") for _, dirent in entries if dirent.kind == S_IFDIR]
            yield from (dirent.ino for _, dirent in entries if dirent.kind == S_IFREG)
            yield None

    def _stays(self, ino: int, live: Inode, source: int) -> bool:
        """Tell whether the restore leaves a locked file alone: it is what it was, and has the names in the place that it had."""
        old = self._then.inode(ino)
        if old is None or S_IFMT(old.mode) != S_IFMT(live.mode) or not self._steps.unchanged(ino, old):
            return False
        if (live.btime, live.flags) != (old.btime, old.flags):
            return False
        top = self._place.top
        if top is None:
            return ino == source
        inside = [link for link in live.links if self._steps.is_inside(link[0], top)]
        had = sum(self._rules.was_inside(parent) for parent, _ in old.links)
        return had == len(inside) and all(self._rules.is_final(ino, link) for link in inside)

    # ------------------------------------------------------------------ quotas

    def _look_for_quotas(self, source: int, old: Inode) -> Iterator[None]:
        """Raise EDQUOT when a quota has no room for what the restore adds before it removes what came later."""
        place = self._place
        self._above = self._core.quotas.above(place.parent if place.top is None else place.top)
        self._all = (*self._above, *self._quotas_inside())
        if not self._all:
            return
        if place.top is None:
            self._add_alone(source, old)
        else:
            yield from self._add_below(source, place.top)
        for ino, growth in self._growth.items():
            if not self._has_room(ino, growth):
                account = self._core.quotas.account(ino)
                raise FilesystemError(
                    errno.EDQUOT,
                    f"nothing was changed: it needs {growth} bytes before anything that came later is removed, and the quota of "
                    f"{self._path(ino)} has {max(0, account.limit - account.used)} left: raise it, or restore a part",
                )

    def _has_room(self, ino: int, growth: int) -> bool:
        account = self._core.quotas.account(ino)
        return growth <= 0 or account.used + growth <= account.limit

    def _quotas_inside(self) -> list[int]:
        top = self._place.top
        if top is None:
            return []
        return [one.ino for one in self._namespace.quotas.listing() if one.ino != top and self._steps.is_inside(one.ino, top)]

    def _add_alone(self, source: int, old: Inode) -> None:
        """Add what one thing takes that is made anew, or, of a file that lives on where it was, what its data grows by."""
        live = self._steps.inode(source) if self._place.live == source else None
        if S_ISDIR(old.mode):
            usage = self._then.usage(source)
            self._add(self._above, ENTRY_CAPACITY + (0 if usage is None else capacity_below(usage)))
        elif live is not None and S_IFMT(live.mode) == S_IFMT(old.mode) and self._steps.unchanged(source, old):
            return
        elif live is not None and S_IFMT(live.mode) == S_IFMT(old.mode) and live.nlink == 1:
            self._add(self._above, self._rise(source, live, old))
        else:
            self._add(self._above, ENTRY_CAPACITY + old.allocated)

    def _add_below(self, source: int, top: int) -> Iterator[None]:
        """Add what the first walk of the restore adds below a directory."""
        todo = [_Frame(source, top, b"", self._above)]
        while todo:
            frame = todo.pop()
            entries = self._then.entries(frame.source, frame.after, ENTRIES_AT_ONCE)
            if len(entries) == ENTRIES_AT_ONCE:
                todo.append(frame._replace(after=entries[-1][0]))
            for name_hash, dirent in entries:
                old = self._then.inode(dirent.ino)
                if old is not None:
                    live = self._add_name(frame, name_hash, dirent.ino, old)
                    if S_ISDIR(old.mode):
                        own = (live,) if live is not None and self._core.quotas.has_quota(live) else ()
                        todo.append(_Frame(dirent.ino, live, b"", own + frame.quotas))
                yield

    def _add_name(self, frame: _Frame, name_hash: bytes, ino: int, old: Inode) -> int | None:
        """Add what making one name adds; returns the live inode that it leads to, None if that is made anew."""
        there = None if frame.live is None else self._steps.dirent(frame.live, name_hash)
        kept = self._rules.kept(ino, old, there)
        live = None if kept is None else self._steps.inode(kept)
        if there is not None and there.ino != kept and not self._puts_aside:
            self._puts_aside = True
            self._add(self._above, ENTRY_CAPACITY)
        if kept is None or live is None:
            self._add(frame.quotas, ENTRY_CAPACITY + old.allocated)
            return None
        if there is None or there.ino != kept:
            held = capacity_of(self._core.usage.below(kept)) if S_ISDIR(live.mode) else max(live.allocated, old.allocated)
            self._add(self._new_to(frame.quotas, kept, live, old), ENTRY_CAPACITY + held)
        if S_ISREG(live.mode) and self._steps.data_differs(kept, ino, old):
            self._add_data(frame.quotas, ino, live, old)
        return kept

    def _add_data(self, quotas: tuple[int, ...], ino: int, live: Inode, old: Inode) -> None:
        """Add what the data of a file that lives on grows by: at its name, or, if it has more, for each one at all quotas."""
        if live.nlink == 1 and old.nlink == 1:
            self._add(quotas, self._rise(ino, live, old))
        elif ino not in self._risen:
            self._risen.add(ino)
            self._add(self._all, self._rise(ino, live, old) * live.nlink)

    def _rise(self, ino: int, live: Inode, old: Inode) -> int:
        """Return how much more a file holds at the most while its windows are replaced, some in one operation; all of it if it has many."""
        rise = most = first = 0
        for _ in range(COMPARED_MAX // WINDOWS_AT_ONCE):
            numbers = self._steps.window_numbers(ino, ino, first)
            for number in numbers:
                then, now = self._then.window(ino, old, number), self._core.get(window_key(ino, number))
                rise += (allocated(then) if then is not None else 0) - (allocated(now) if now is not None else 0)
            most = max(most, rise)
            if len(numbers) < WINDOWS_AT_ONCE:
                return most
            first = numbers[-1] + 1
        return old.allocated

    def _new_to(self, quotas: tuple[int, ...], ino: int, live: Inode, old: Inode) -> Iterable[int]:
        """Return which quotas count an inode anew when it gets a name below them: not those below which it is moved."""
        is_moved = S_ISDIR(live.mode) or (live.nlink == old.nlink == 1 and not self._rules.is_final(ino, live.links[0]))
        if not is_moved:
            return quotas  # a name is added, or one of several is moved here, which might come from anywhere
        left = self._core.quotas.above(live.links[0][0])
        return [each for each in quotas if each not in left]

    def _add(self, quotas: Iterable[int], growth: int) -> None:
        for ino in quotas:
            self._growth[ino] = self._growth.get(ino, 0) + growth
