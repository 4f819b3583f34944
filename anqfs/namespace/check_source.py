"""What `check` and `scrub` read a volume through: records that may be damaged, versions as of an epoch, and paths to name things by.

Reading never raises for damage: a record that does not open is remembered, and everything that depends on it is left unjudged, so that
one fault is one finding. Called by `check` (any thread, nothing else using the volume) and by `scrub` (the namespace's thread).
"""

from __future__ import annotations

import stat
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from enum import Enum
from typing import TypeVar

from anqfs.errors import AnqfsError
from anqfs.store.schema import (
    EPOCH_MAX,
    ROOT_INO,
    Dirent,
    Inode,
    Record,
    Snapshot,
    dirent_key,
    inode_key,
    live_key,
    past_key,
    prefix_end,
    snapshot_key,
)
from anqfs.store.volume import Volume

BATCH = 512
"""Records read at a time."""
DEPTH_MAX = 20_000
"""Directories above a name; a walk that is longer goes in a circle."""
MEMO_MAX = 50_000
SEARCHES_MAX = 64
"""Searches through all names for one of an inode whose record is gone."""

KEY_LENGTHS = {
    **dict.fromkeys(b"IUSROQTAPYJ", 9),
    **dict.fromkeys(b"iusWLvBG", 17),
    **dict.fromkeys(b"DXwN", 25),
    **dict.fromkeys(b"dx", 33),
    ord("V"): 4,
    ord("K"): 5,
    ord("F"): 9,
}
"""Bytes of a key by its first letter; the names of `C` records have any length."""
PAST_LETTERS = b"idwxu"
"""The first letters of past versions' keys."""


class Absent(Enum):
    """Why there is no record to look at."""

    MISSING = 0
    DAMAGED = 1


R = TypeVar("R", bound=Record)
Version = tuple[int, int, Record | None]
"""(birth, last, record) of one version; last is EPOCH_MAX for the live one and the record None when it does not open."""


class Source:
    """A volume's records, read without trusting them. `on_damage(key, what)` hears of each one that does not open, once."""

    def __init__(self, volume: Volume, on_damage: Callable[[bytes, str], None]) -> None:
        self.volume = volume
        self.damaged: set[bytes] = set()
        self._on_damage = on_damage
        self.snapshots: dict[int, Snapshot] = {}
        self._by_epoch: list[tuple[int, int]] = []
        self._shown: dict[tuple[int, int, int], bool] = {}
        self._searched: dict[tuple[int, int | None], tuple[int, bytes] | None] = {}

    # ------------------------------------------------------------ one record

    def open(self, key: bytes, sealed: bytes) -> Record | None:
        """Open a sealed record; None (and a report) when it is damaged."""
        if key in self.damaged:
            return None
        try:
            return self.volume.open_record(key, sealed)
        except AnqfsError as error:
            self._report(key, str(error))
        except Exception as error:
            # Damage that passes the tag is a fault of the program that wrote it; it must not end the examination.
            self._report(key, f"cannot be decoded ({type(error).__name__})")
        return None

    def _report(self, key: bytes, what: str) -> None:
        if key not in self.damaged:
            self.damaged.add(key)
            self._on_damage(key, what)

    def get(self, key: bytes, kind: type[R]) -> R | Absent:
        """Return a record by its key, or why there is none."""
        if key in self.damaged:
            return Absent.DAMAGED
        try:
            record = self.volume.get(key)
        except AnqfsError as error:
            self._report(key, str(error))
            return Absent.DAMAGED
        except Exception as error:
            self._report(key, f"cannot be decoded ({type(error).__name__})")
            return Absent.DAMAGED
        if record is None:
            return Absent.MISSING
        return record if isinstance(record, kind) else Absent.DAMAGED

    def inode(self, ino: int) -> Inode | Absent:
        """Return a live inode, or why there is none."""
        return self.get(inode_key(ino), Inode)

    # --------------------------------------------------------------- sweeping

    def sweep(self, first: bytes, stop: bytes) -> Iterator[tuple[bytes, Record | None]]:
        """Yield each committed record with first <= key < stop in order; None for one that does not open."""
        after = first[:-1] + bytes((first[-1] - 1,)) + b"\xff" * 40 if first[-1] else first[:-1]
        while True:
            batch = self.volume.raw_records(after, BATCH)
            for key, sealed in batch:
                if key >= stop:
                    return
                if key >= first:
                    yield key, self.open(key, sealed) if self._is_found(key) else None
            if len(batch) < BATCH:
                return
            after = batch[-1][0]

    def _is_found(self, key: bytes) -> bool:
        """Tell whether a record is found by its key, and report it if not: one page above it leads those who look for it elsewhere."""
        try:
            found = self.volume.is_found(key)
        except AnqfsError as error:
            self._report(key, str(error))
            return False
        if not found:
            self._report(key, "is not found where it is looked for: the tree of the database was altered")
        return found

    def letter(self, letter: bytes) -> Iterator[tuple[bytes, Record | None]]:
        """Yield each record whose key begins with a letter and has that letter's length; others are reported."""
        for key, record in self.sweep(letter, prefix_end(letter)):
            if letter != b"C" and len(key) != KEY_LENGTHS[letter[0]]:
                self._report(key, "has a key of the wrong length")
            else:
                yield key, record

    # ----------------------------------------------------------------- epochs

    def load_snapshots(self) -> None:
        """Read all snapshots. Must be called before anything below."""
        for key, record in self.letter(b"S"):
            if isinstance(record, Snapshot):
                self.snapshots[int.from_bytes(key[1:], "big")] = record
        self.index_snapshots()

    def index_snapshots(self) -> None:
        """Sort what is in `snapshots` by epoch."""
        self._by_epoch = sorted((snapshot.epoch, number) for number, snapshot in self.snapshots.items())
        self._shown.clear()

    @property
    def snapshots_known(self) -> bool:
        """False when a snapshot record is damaged, so that nothing can be said of what belongs to it."""
        return not any(key[:1] == b"S" for key in self.damaged)

    def at_epoch(self, epoch: int) -> list[Snapshot]:
        """Return the snapshots of exactly this epoch (there is at most one on a sound volume)."""
        low, high = bisect_left(self._by_epoch, (epoch, 0)), bisect_left(self._by_epoch, (epoch + 1, 0))
        return [self.snapshots[number] for _, number in self._by_epoch[low:high]]

    def epochs_between(self, low: int, high: int) -> list[Snapshot]:
        """Return the snapshots with low <= epoch <= high, oldest first."""
        start, stop = bisect_left(self._by_epoch, (low, 0)), bisect_right(self._by_epoch, (high, 1 << 64))
        return [self.snapshots[number] for _, number in self._by_epoch[start:stop]]

    def at(self, live: bytes, epoch: int, kind: type[R]) -> R | Absent:
        """Return the version of the record with this live key that was valid in an epoch, or why there is none."""
        first, stop = past_key(live, epoch), past_key(live, EPOCH_MAX)
        for key in self.volume.scan_keys(first, stop):
            past = self.get(key, kind)
            if isinstance(past, Absent):
                return past
            if birth_of(past) <= epoch:
                return past
            break
        record = self.get(live, kind)
        if isinstance(record, Absent):
            return record
        return record if birth_of(record) <= epoch else Absent.MISSING

    def versions(self, live: bytes) -> list[Version]:
        """Return every version of a record, oldest first."""
        found: list[Version] = []
        for key in list(self.volume.scan_keys(past_key(live, 0), past_key(live, EPOCH_MAX))):
            record = self.get(key, Record)
            last = live_key(key)[1]
            found.append((last, last, None) if isinstance(record, Absent) else (birth_of(record), last, record))
        record = self.get(live, Record)
        if record is Absent.DAMAGED:
            found.append((0, EPOCH_MAX, None))
        elif isinstance(record, Record):
            found.append((birth_of(record), EPOCH_MAX, record))
        return found

    # ------------------------------------------------------------- visibility

    def shows(self, snapshot: Snapshot, ino: int, depth: int = 0) -> bool:
        """Tell whether an inode is part of a snapshot's tree. True as well where damage hides the answer."""
        if ino == snapshot.root:
            return True
        if depth > DEPTH_MAX:
            return False
        memo = (snapshot.epoch, snapshot.root, ino)
        known = self._shown.get(memo)
        if known is None:
            known = self._shows(snapshot, ino, depth)
            if len(self._shown) > MEMO_MAX:
                self._shown.clear()
            self._shown[memo] = known
        return known

    def _shows(self, snapshot: Snapshot, ino: int, depth: int) -> bool:
        inode = self.at(inode_key(ino), snapshot.epoch, Inode)
        if isinstance(inode, Absent):
            return inode is Absent.DAMAGED
        for parent, name_hash in inode.links:
            dirent = self.at(dirent_key(parent, name_hash), snapshot.epoch, Dirent)
            if dirent is Absent.DAMAGED:
                return True
            if isinstance(dirent, Dirent) and dirent.ino == ino and self.shows(snapshot, parent, depth + 1):
                return True
        return False

    # ------------------------------------------------------------------ names

    def live_path(self, ino: int) -> bytes | None:
        """Return a live path of an inode; None when it has none or damage hides it."""
        return self._climb(ino, ROOT_INO, None)

    def path_in(self, snapshot: Snapshot, ino: int) -> bytes | None:
        """Return a path of an inode through the `.snapshot` directory of a snapshot."""
        inside = self._climb(ino, snapshot.root, snapshot.epoch)
        if inside is None:
            return None
        door = self.live_path(snapshot.root)
        top = name_inode(snapshot.root) if door is None else door.rstrip(b"/")
        return top + b"/.snapshot/%d_%s" % (snapshot.id, snapshot.name) + inside.rstrip(b"/")

    def _climb(self, ino: int, root: int, epoch: int | None) -> bytes | None:
        parts: list[bytes] = []
        while ino != root:
            step = self._up(ino, epoch)
            if step is None or len(parts) > DEPTH_MAX:
                return None
            ino, name = step
            parts.append(name)
        return b"/" + b"/".join(reversed(parts))

    def _up(self, ino: int, epoch: int | None) -> tuple[int, bytes] | None:
        """Return (parent, name) through the first link that holds."""
        inode = self.inode(ino) if epoch is None else self.at(inode_key(ino), epoch, Inode)
        if isinstance(inode, Absent):
            return self._up_by_search(ino, epoch)
        for parent, name_hash in inode.links:
            key = dirent_key(parent, name_hash)
            dirent = self.get(key, Dirent) if epoch is None else self.at(key, epoch, Dirent)
            if isinstance(dirent, Dirent) and dirent.ino == ino:
                return parent, dirent.name
        return None

    def _up_by_search(self, ino: int, epoch: int | None) -> tuple[int, bytes] | None:
        """Find a name of an inode whose record is gone: the dirents are the only trace. Slow, and only ever for damage."""
        if (ino, epoch) not in self._searched:
            if len(self._searched) >= SEARCHES_MAX:
                return None
            self._searched[ino, epoch] = self._search(ino, epoch)
        return self._searched[ino, epoch]

    def _search(self, ino: int, epoch: int | None) -> tuple[int, bytes] | None:
        for letter in (b"D",) if epoch is None else (b"D", b"d"):
            for key in self.volume.scan_keys(letter, prefix_end(letter)):
                dirent = self.get(key, Dirent)
                if isinstance(dirent, Dirent) and dirent.ino == ino and (epoch is None or valid(key, dirent, epoch)):
                    return int.from_bytes(key[1:9], "big"), dirent.name
        return None

    def describe(self, ino: int, last: int | None = None) -> bytes:
        """Name an inode: a live path, or with `last` (of a past version) a path in the snapshot of that epoch, or its number."""
        if last is None:
            path = self.live_path(ino)
        else:
            shown = (self.path_in(snapshot, ino) for snapshot in self.at_epoch(last))
            path = next((path for path in shown if path is not None), None)
        return name_inode(ino) if path is None else path

    def describe_key(self, key: bytes) -> bytes:
        """Name what a record belongs to, by its key alone."""
        letter = key[:1]
        if letter in b"IDWXUOQT" and len(key) >= 9:
            return self.describe(int.from_bytes(key[1:9], "big"))
        if letter in b"idwxu" and len(key) >= 17:
            return self.describe(int.from_bytes(key[1:9], "big"), live_key(key)[1])
        if letter in b"SLv" and len(key) >= 9:
            return b"snapshot %d" % int.from_bytes(key[1:9], "big")
        if letter == b"s" and len(key) == KEY_LENGTHS[ord("s")]:
            return b"snapshot %d" % int.from_bytes(key[9:], "big")
        if letter == b"R" and len(key) >= 9:
            return b"extent %d" % int.from_bytes(key[1:9], "big")
        return b"volume"


def name_inode(ino: int) -> bytes:
    """Name an inode that no path leads to."""
    return b"inode %d" % ino


def birth_of(record: Record) -> int:
    """Return the epoch in which a version was written."""
    return int(getattr(record, "birth", 0))


def valid(key: bytes, record: Record, epoch: int) -> bool:
    """Tell whether the version under `key` was valid in an epoch."""
    last = EPOCH_MAX if key[:1].isupper() else live_key(key)[1]
    return birth_of(record) <= epoch <= last


def is_directory(mode: int) -> bool:
    """Tell whether a mode (or a dirent's kind) is a directory's."""
    return stat.S_ISDIR(mode)


def snapshot_of(source: Source, number: int) -> Snapshot | Absent:
    """Return a snapshot by its number, or why there is none."""
    return source.get(snapshot_key(number), Snapshot)


def kind_of(key: bytes) -> str:
    """Name the kind of a record by its key, for a person."""
    kinds = {
        "I": "inode",
        "D": "name",
        "W": "map",
        "X": "extended attribute",
        "U": "usage",
        "S": "snapshot",
        "L": "dead list",
        "N": "change",
        "R": "count",
        "Q": "quota",
        "T": "tree deletion",
        "J": "clone",
        "G": "owner's totals",
        "A": "API user",
        "P": "snapshot policy",
        "Y": "security key",
        "B": "hold",
    }
    letter = chr(key[0])
    past = "past " if key[0] in PAST_LETTERS else ""
    return past + kinds.get(letter.upper() if past else letter, f"`{letter}`")
