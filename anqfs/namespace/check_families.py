"""Everything that belongs to one inode, judged together: `check` sweeps all kinds of records side by side, one inode after the other.

Each record is read once; what one inode needs to know of another is looked up. Memory is bounded by one inode's past versions, and by
the uses of extents that `check_extents` collects. Called by `check` only.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator

from anqfs.errors import AnqfsError
from anqfs.namespace.check_source import Absent, Source, Version, birth_of, is_directory, name_inode
from anqfs.namespace.check_streams import Stream, Tally
from anqfs.namespace.owners import Sums
from anqfs.namespace.owners import add as add_owned
from anqfs.namespace.usage import CHANGED_LAG, of_inode
from anqfs.store.schema import (
    EPOCH_MAX,
    INO_MAX,
    ROOT_INO,
    WINDOW,
    Dirent,
    Inode,
    Orphan,
    Snapshot,
    Usage,
    Window,
    Xattr,
    dirent_key,
    inode_key,
    live_key,
    orphan_key,
    usage_key,
)

EPOCHS_MAX = 1000
"""Snapshots looked at for one dirent whose inode has gaps."""
Complain = Callable[[bytes, str], None]
UseExtents = Callable[[int, int, int, Window], None]
"""Called with (ino, window, last, record) for each window version."""
History = tuple[bytes, list[Version]]


class Families:
    """The sweep over all inodes.

    `complain(path, what)` hears of each fault, `uses` of each window version, `past(key)` of each past record (for the dead lists),
    `changed(parent, ino, birth)` of each name of each version of an inode, and `seen()` is called once for each record.
    """

    def __init__(
        self,
        source: Source,
        complain: Complain,
        uses: UseExtents,
        past: Callable[[bytes, int], None],
        changed: Callable[[int, int, int], None],
        seen: Callable[[], None],
    ) -> None:
        self.source = source
        self.complain = complain
        self.uses = uses
        self.past = past
        self.changed = changed
        self.streams = {letter: Stream(source, letter.encode(), seen) for letter in "IiDdWwXxUu"}
        self.files = self.directories = 0
        self.highest_ino = self.highest_epoch = 0
        self.owned: Sums = {}
        """The live files by owner and day."""
        self.ino = 0
        self.live: Inode | Absent = Absent.MISSING
        self.versions: list[Version] = []
        self.stray: set[str] = set()
        """Kinds of live records that belong to this inode."""

    def run(self) -> None:
        """Judge every inode that any record speaks of, and see that there is a root."""
        if self.source.inode(ROOT_INO) is Absent.MISSING:
            self.complain(b"/", "the root inode is missing")
        while (ino := min(stream.ino for stream in self.streams.values())) <= INO_MAX:
            self.ino = ino
            try:
                self.judge()
            except AnqfsError as error:
                self.complain(name_inode(ino), f"cannot be examined further: {error}")
            except Exception as error:
                self.complain(name_inode(ino), f"cannot be examined further: {type(error).__name__}: {error}")
            self.skip()

    def skip(self) -> None:
        """Consume what is left of this inode's records. A stream that meets a damaged page ends there, and says so."""
        for letter, stream in self.streams.items():
            while stream.ino == self.ino:
                try:
                    stream.pop()
                except AnqfsError as error:
                    self.complain(b"volume", f"the {letter} records behind those of inode {self.ino} cannot be read: {error}")

    def judge(self) -> None:
        """Judge one inode with all that belongs to it."""
        self.stray = set()
        self.versions = self.take_versions("I", "i")
        self.live = self.source.inode(self.ino)
        if self.versions:
            self.highest_ino = max(self.highest_ino, self.ino)
        self.judge_inode()
        for birth, _, version in self.versions:
            for parent, _ in version.links if isinstance(version, Inode) else ():
                self.changed(parent, self.ino, birth)
        inode = self.live if isinstance(self.live, Inode) else None
        entries, subdirectories, usage = self.judge_names()
        allocated = self.judge_windows()
        has_xattrs = self.judge_xattrs()
        totals = self.judge_usage_versions()
        if self.live is Absent.MISSING:
            for letter in sorted(self.stray):
                self.complain(name_inode(self.ino), f"a live {letter} record belongs to it, but it does not exist")
        if inode is None:
            return
        if is_directory(inode.mode):
            self.directories += 1
            self.judge_directory(inode, entries, subdirectories, usage, totals)
        else:
            self.files += 1
            if inode.nlink:
                add_owned(self.owned, inode)
            self.judge_file(inode, entries, allocated)
        if has_xattrs is not None and has_xattrs != bool(inode.flags):
            self.fault("its flags and its extended attributes differ")

    # ---------------------------------------------------------------- reading

    def take_versions(self, live: str, past: str) -> list[Version]:
        """Consume the versions of this inode's record of one kind that has a single record."""
        prefix = self.ino.to_bytes(8, "big")
        histories = list(self.histories(live, past, prefix))
        return histories[0][1] if histories else []

    def histories(self, live: str, past: str, prefix: bytes) -> Iterator[History]:
        """Consume the records of one kind that belong to this inode; yield (live key, versions oldest first) of each."""
        now, then = self.streams[live], self.streams[past]
        live_prefix, past_prefix = live.encode() + prefix, past.encode() + prefix
        while True:
            key_now = now.head[0] if now.head is not None and now.head[0].startswith(live_prefix) else None
            key_then = live_key(then.head[0])[0] if then.head is not None and then.head[0].startswith(past_prefix) else None
            keys = [key for key in (key_now, key_then) if key is not None]
            if not keys:
                return
            key = min(keys)
            versions: list[Version] = []
            if key == key_then:
                for past_of_key, record in then.take(past.encode() + key[1:]):
                    last = live_key(past_of_key)[1]
                    versions.append((last if record is None else birth_of(record), last, record))
                    self.past(past_of_key, self.ino)
            if key == key_now:
                self.stray.add(live)
                record = now.pop()[1]
                versions.append((0 if record is None else birth_of(record), EPOCH_MAX, record))
            self.judge_history(key, versions)
            yield key, versions

    def judge_history(self, key: bytes, versions: list[Version]) -> None:
        """Judge the epochs of one record's versions: sorted, apart, each past one needed by the snapshot that it ends with."""
        before = -1
        for birth, last, record in versions:
            if record is None:
                before = max(before, -1 if last == EPOCH_MAX else last)
                continue
            self.highest_epoch = max(self.highest_epoch, birth)
            letter = chr(key[0])
            if birth > last:
                self.fault(f"a past {letter} record begins after it ends (epochs {birth} to {last})", last)
            elif birth <= before:
                self.fault(f"two versions of one {letter} record are valid in epoch {birth}", last)
            if last != EPOCH_MAX:
                self.judge_needed(letter, last)
            before = last

    def judge_needed(self, letter: str, last: int) -> None:
        if not self.source.snapshots_known:
            return
        snapshots = self.source.at_epoch(last)
        if not snapshots:
            self.fault(f"a past {letter} record is kept for epoch {last}, of which there is no snapshot", last)
        elif not any(snapshot.state or self.source.shows(snapshot, self.ino) for snapshot in snapshots):
            self.fault(f"a past {letter} record is kept for snapshot {snapshots[0].id}, which does not show it", last)

    def fault(self, what: str, last: int | None = None) -> None:
        """Report a fault of this inode (of its past version that ends with epoch `last`)."""
        self.complain(self.source.describe(self.ino, None if last == EPOCH_MAX else last), what)

    # ----------------------------------------------------------------- inodes

    def judge_inode(self) -> None:
        inode = self.live
        if not isinstance(inode, Inode):
            return
        if stat.S_IFMT(inode.mode) not in (
            stat.S_IFREG,
            stat.S_IFDIR,
            stat.S_IFLNK,
            stat.S_IFIFO,
            stat.S_IFSOCK,
            stat.S_IFCHR,
            stat.S_IFBLK,
        ):
            self.fault(f"its mode {inode.mode:o} has no known type")
        if stat.S_ISLNK(inode.mode) and inode.size != len(inode.target):
            self.fault("its size is not the length of its target")
        if (inode.retained or inode.legal_hold) and not stat.S_ISREG(inode.mode):
            self.fault("it has a file lock but is no regular file")
        if len(set(inode.links)) != len(inode.links):
            self.fault("it lists one of its names twice")
        if not is_directory(inode.mode) and inode.nlink != len(inode.links):
            self.fault(f"its link count is {inode.nlink}, but it has {len(inode.links)} names")
        if is_directory(inode.mode) and self.ino != ROOT_INO and len(inode.links) > 1:
            self.fault("a directory has more than one name")
        self.judge_links(inode)

    def judge_links(self, inode: Inode) -> None:
        if self.ino == ROOT_INO:
            if inode.links:
                self.complain(b"/", "the root directory has a name")
            return
        if not inode.links and self.source.get(orphan_key(self.ino), Orphan) is Absent.MISSING:
            self.fault("it has no name and is not listed as an orphan")
        for parent, name_hash in inode.links:
            dirent = self.source.get(dirent_key(parent, name_hash), Dirent)
            if dirent is Absent.MISSING or (isinstance(dirent, Dirent) and dirent.ino != self.ino):
                self.fault(f"it lists a name in {_text(self.source.describe(parent))} that is not there or is another's")
        if is_directory(inode.mode) and inode.links and self.source.live_path(self.ino) is None and not self.source.damaged:
            self.complain(name_inode(self.ino), "the directory cannot be reached from the root")

    # ------------------------------------------------------------------ names

    def judge_names(self) -> tuple[int | None, int | None, Usage | None]:
        """Judge the names in this directory; return (entries, subdirectories, totals), None for what damage hides."""
        tally = Tally(self.versions)
        entries: int | None = 0
        subdirectories: int | None = 0
        usage: Usage | None = Usage(0)
        for key, versions in self.histories("D", "d", self.ino.to_bytes(8, "big")):
            for birth, last, record in versions:
                if not isinstance(record, Dirent):
                    tally.hide()
                    if last == EPOCH_MAX:
                        entries = subdirectories = usage = None
                    continue
                tally.add(birth, last, 1)
                if last != EPOCH_MAX:
                    self.judge_past_name(key, birth, last, record)
                    continue
                entries = None if entries is None else entries + 1
                child = self.judge_name(key, birth, record)
                if subdirectories is not None:
                    subdirectories += is_directory(record.kind)
                usage = self.add_usage(usage, record, child)
        self.judge_sizes(tally)
        return entries, subdirectories, usage

    def judge_name(self, key: bytes, birth: int, dirent: Dirent) -> Inode | Absent:
        """Judge one live name and return its inode."""
        child = self.source.inode(dirent.ino)
        path = self.source.describe(self.ino).rstrip(b"/") + b"/" + dirent.name
        self.judge_hash(path, key, dirent)
        if child is Absent.MISSING:
            self.complain(path, f"names inode {dirent.ino}, which does not exist")
        if isinstance(child, Inode):
            if stat.S_IFMT(child.mode) != dirent.kind:
                self.complain(path, "is listed with another type than its inode has")
            if (self.ino, key[9:25]) not in child.links:
                self.complain(path, f"names inode {dirent.ino}, which does not list this name")
            if child.birth > birth:
                self.judge_gaps(path, dirent.ino, birth, EPOCH_MAX)
        return child

    def judge_past_name(self, key: bytes, birth: int, last: int, dirent: Dirent) -> None:
        shown = [s for s in self.source.at_epoch(last) if not s.state and self.source.shows(s, self.ino)]
        if not shown:
            return
        path = self.source.describe(self.ino, last).rstrip(b"/") + b"/" + dirent.name
        self.judge_hash(path, key, dirent)
        child = self.source.at(inode_key(dirent.ino), last, Inode)
        if isinstance(child, Inode):
            if stat.S_IFMT(child.mode) != dirent.kind:
                self.complain(path, "is listed with another type than its inode has")
            if (self.ino, key[9:25]) not in child.links:
                self.complain(path, f"names inode {dirent.ino}, which does not list this name")
        self.judge_gaps(path, dirent.ino, birth, last)

    def judge_hash(self, path: bytes, key: bytes, dirent: Dirent) -> None:
        if self.source.volume.name_hash(dirent.name) != key[9:25]:
            self.complain(path, "is kept under another name's hash")

    def judge_gaps(self, path: bytes, child: int, low: int, high: int) -> None:
        """Report snapshots that show a name (valid low..high) whose inode has no version for them."""
        if not self.source.epochs_between(low, high):
            return
        versions = self.source.versions(inode_key(child))
        if any(record is None for _, _, record in versions):
            return
        start = low
        for birth, last, _ in [*versions, (EPOCH_MAX, EPOCH_MAX, None)]:
            missing = self.source.epochs_between(start, min(birth - 1, high)) if start < birth else []
            for snapshot in missing[:EPOCHS_MAX]:
                if not snapshot.state and self.source.shows(snapshot, self.ino):
                    self.complain(path, f"its inode {child} is missing from snapshot {snapshot.id}")
                    return
            start = max(start, last + 1)

    # -------------------------------------------------------------- file data

    def judge_windows(self) -> int | None:
        """Judge this file's map; return the bytes that its live windows hold, None for what damage hides."""
        tally = Tally(self.versions)
        allocated: int | None = 0
        for key, versions in self.histories("W", "w", self.ino.to_bytes(8, "big")):
            number = int.from_bytes(key[9:17], "big")
            for birth, last, record in versions:
                if not isinstance(record, Window):
                    tally.hide()
                    allocated = None if last == EPOCH_MAX else allocated
                    continue
                held = self.judge_window(number, last, record)
                self.uses(self.ino, number, last, record)
                tally.add(birth, last, held)
                if last == EPOCH_MAX and allocated is not None:
                    allocated += held
        self.judge_allocated(tally)
        return allocated

    def judge_window(self, number: int, last: int, window: Window) -> int:
        """Judge one window's pieces and return the bytes that it holds."""
        where = f"window {number}"
        if window.inline and window.pieces:
            self.fault(f"{where} has both pieces and data of its own", last)
        if not window.inline and not window.pieces:
            self.fault(f"{where} is empty", last)
        end = 0
        for offset, length, _extent, start, _key in window.pieces:
            if length <= 0 or offset < end or offset + length > WINDOW or start < 0 or start + length > WINDOW:
                self.fault(f"{where} has pieces that overlap, are out of order or out of bounds", last)
                break
            end = offset + length
        end = max(end, len(window.inline))
        inode = self.live if last == EPOCH_MAX else None
        is_cut = isinstance(inode, Inode) and window.birth < inode.cut_epoch and number >= inode.cut
        if isinstance(inode, Inode) and inode.links and not is_cut and number * WINDOW + end > inode.size:
            self.fault(f"{where} holds data beyond the end of the file", last)
        return len(window.inline) + sum(piece[1] for piece in window.pieces)

    def judge_file(self, inode: Inode, entries: int | None, allocated: int | None) -> None:
        if entries:
            self.fault(f"it is no directory but has {entries} names in it")
        if allocated and not stat.S_ISREG(inode.mode):
            self.fault("it is no regular file but has data")
        elif allocated is not None and inode.links and allocated != inode.allocated:
            self.fault(f"it says that it holds {inode.allocated} bytes, but its map holds {allocated}")

    # ------------------------------------------------------- attributes, usage

    def judge_xattrs(self) -> bool | None:
        """Judge the extended attributes; tell whether there are live ones, None when damage hides it."""
        found: bool | None = False
        for key, versions in self.histories("X", "x", self.ino.to_bytes(8, "big")):
            for _, last, record in versions:
                if isinstance(record, Xattr) and self.source.volume.name_hash(record.name) != key[9:25]:
                    self.fault("an extended attribute is kept under another name's hash", last)
                if last == EPOCH_MAX:
                    found = None if record is None else (found if found is None else True)
        return found

    def judge_usage_versions(self) -> Usage | None:
        live: Usage | None = None
        for _, versions in self.histories("U", "u", self.ino.to_bytes(8, "big")):
            live = next((record for _, last, record in versions if last == EPOCH_MAX and isinstance(record, Usage)), None)
        return live

    def add_usage(self, usage: Usage | None, dirent: Dirent, child: Inode | Absent) -> Usage | None:
        """Return `usage` with one child added; None when damage hides what it holds."""
        if usage is None or not isinstance(child, Inode):
            return None
        parts, newest = [totals(usage), of_inode(child)], max(usage.changed, child.ctime)
        if is_directory(child.mode):
            below = self.source.get(usage_key(dirent.ino), Usage)
            if below is Absent.DAMAGED:
                return None
            if isinstance(below, Usage):
                parts.append(totals(below))
                newest = max(newest, below.changed)
        size, allocated, files, directories, symlinks, others = map(sum, zip(*parts, strict=True))
        return Usage(0, size, allocated, files, directories, symlinks, others, newest)

    def judge_directory(
        self, inode: Inode, entries: int | None, subdirectories: int | None, found: Usage | None, stored: Usage | None
    ) -> None:
        if entries is not None and entries != inode.size:
            self.fault(f"it says that it has {inode.size} entries, but has {entries}")
        if subdirectories is not None and inode.links + ((0, b""),) * (self.ino == ROOT_INO) and inode.nlink != 2 + subdirectories:
            self.fault(f"its link count is {inode.nlink}, but it has {subdirectories} subdirectories")
        if found is None or usage_key(self.ino) in self.source.damaged:
            return
        if totals(found) != totals(stored or Usage(0)):
            self.fault(f"its totals are {totals(stored or Usage(0))}, but what is below adds up to {totals(found)}")
        if stored is not None and stored.changed and stored.changed + CHANGED_LAG < found.changed:
            self.fault(f"the newest change below is at {found.changed} ns, but it says {stored.changed}")

    # ---------------------------------------------------- as of past epochs

    def judge_sizes(self, tally: Tally) -> None:
        for _, last, inode in self.past_inodes():
            found = tally.at(last)
            if is_directory(inode.mode) and found is not None and found != inode.size:
                self.fault(f"it says that it has {inode.size} entries, but {found} are kept", last)

    def judge_allocated(self, tally: Tally) -> None:
        for _, last, inode in self.past_inodes():
            found = tally.at(last)
            if inode.cut_epoch:
                continue  # what waited to be removed then still counted, and was not kept
            if stat.S_ISREG(inode.mode) and found is not None and found != inode.allocated:
                self.fault(f"it says that it holds {inode.allocated} bytes, but {found} are kept", last)

    def past_inodes(self) -> Iterator[tuple[Snapshot, int, Inode]]:
        """Yield (snapshot, epoch, inode) of each past version that a live snapshot shows."""
        for _, last, record in self.versions:
            if last == EPOCH_MAX or not isinstance(record, Inode):
                continue
            for snapshot in self.source.at_epoch(last):
                if not snapshot.state and self.source.shows(snapshot, self.ino):
                    yield snapshot, last, record


def totals(usage: Usage) -> tuple[int, ...]:
    """Return the numbers of a total: size, allocated, files, directories, symlinks, others."""
    return usage.size, usage.allocated, usage.files, usage.directories, usage.symlinks, usage.others


def _text(path: bytes) -> str:
    return path.decode("utf-8", "backslashreplace")
