"""The single steps of a restore: one inode made or made equal to what it was, each an atomic operation of bounded size.

Called by `restore` on the trio thread. Data is not copied: a restored window uses the snapshot's extents, and their counts rise.
"""

from __future__ import annotations

from heapq import merge
from itertools import islice
from stat import S_IFMT, S_IFREG, S_ISDIR, S_ISLNK, S_ISREG
from typing import TYPE_CHECKING

from msgspec.structs import replace

from anqfs.errors import FilesystemError
from anqfs.namespace.core import RECORD_ROOM, ROOT_CALLER, operation
from anqfs.namespace.windows import allocated, end_of
from anqfs.store.schema import (
    INLINE_MAX,
    WINDOW,
    Dirent,
    Inode,
    Snapshot,
    Usage,
    Window,
    Xattr,
    dirent_key,
    inode_key,
    usage_key,
    window_key,
    xattr_key,
)

if TYPE_CHECKING:
    from anqfs.namespace.namespace import Namespace

WINDOWS_AT_ONCE = 64
"""Windows put in one operation."""
ENTRIES_AT_ONCE = 64
"""Names of a directory read at a time."""
COMPARED_MAX = 4096
"""Windows compared to tell whether a file with other names is unchanged; a longer one that changed at all counts as changed."""
_WINDOW_END = 1 << 43
_FIRST, _LAST = bytes(16), b"\xff" * 16
Entry = tuple[bytes, Dirent]
"""(name hash, record)."""


def following(name_hash: bytes) -> bytes:
    """Return the next possible hash. A past version's key begins with its live key, so the key alone is no bound for a scan."""
    return min(int.from_bytes(name_hash, "big") + 1, (1 << 128) - 1).to_bytes(16, "big")


class Then:
    """A snapshot's records, as of its epoch."""

    def __init__(self, namespace: Namespace, snapshot: Snapshot) -> None:
        self._versions = namespace.core.versions
        self._files = namespace.files
        self.epoch = snapshot.epoch

    def inode(self, ino: int) -> Inode | None:
        """Return an inode as it was."""
        found: Inode | None = self._versions.at(inode_key(ino), self.epoch)
        return found

    def usage(self, ino: int) -> Usage | None:
        """Return the totals below a directory as they were, None if they are not known."""
        found: Usage | None = self._versions.at(usage_key(ino), self.epoch)
        return found

    def dirent(self, parent: int, name_hash: bytes) -> Dirent | None:
        """Return a name as it was."""
        found: Dirent | None = self._versions.at(dirent_key(parent, name_hash), self.epoch)
        return found

    def entries(self, parent: int, after: bytes, limit: int) -> list[Entry]:
        """Return up to `limit` names of a directory whose hashes are above `after` (b"": from the first), in the order of hashes."""
        start = dirent_key(parent, following(after) if after else _FIRST)
        found = self._versions.range_at(start, dirent_key(parent, _LAST) + b"\0", self.epoch)
        return [(key[9:25], record) for key, record in islice(found, limit)]

    def xattrs(self, ino: int) -> dict[bytes, Xattr]:
        """Return an inode's extended attributes as they were, by live key."""
        return dict(self._versions.range_at(xattr_key(ino, _FIRST), xattr_key(ino, _LAST) + b"\0", self.epoch))

    def window(self, ino: int, inode: Inode, number: int) -> Window | None:
        """Return a window as it was; `inode` is of the same time."""
        return self._files.window(ino, inode, number, self.epoch)

    def window_numbers(self, ino: int, first: int) -> list[int]:
        """Return the numbers of the next windows from `first` on."""
        found = self._versions.range_at(window_key(ino, first), window_key(ino, _WINDOW_END), self.epoch)
        return [int.from_bytes(key[9:17], "big") for key, _ in islice(found, WINDOWS_AT_ONCE)]


class Frame:
    """One directory of a walk: the snapshot's, its live counterpart, and the names still to come."""

    __slots__ = ("_after", "_ahead", "_at_end", "live", "source")

    def __init__(self, source: int, live: int) -> None:
        self.source = source
        self.live = live
        self._ahead: list[Entry] = []
        self._after = b""
        self._at_end = False

    def next(self, then: Then) -> Entry | None:
        """Return the next name of the snapshot's directory, None at the end."""
        if not self._ahead and not self._at_end:
            entries = then.entries(self.source, self._after, ENTRIES_AT_ONCE)
            self._at_end = len(entries) < ENTRIES_AT_ONCE
            self._after = entries[-1][0] if entries else b""
            self._ahead = entries[::-1]
        return self._ahead.pop() if self._ahead else None

    def files_ahead(self) -> list[int]:
        """Return the inodes of the regular files among the next names."""
        return [dirent.ino for _, dirent in self._ahead if dirent.kind == S_IFREG]


class Steps:
    """What a restore does to single inodes of the live tree."""

    def __init__(self, namespace: Namespace, then: Then) -> None:
        self.core = namespace.core
        self.namespace = namespace
        self.then = then

    # ------------------------------------------------------------- live records

    def inode(self, ino: int) -> Inode | None:
        """Return a live inode that has a name (or is the root)."""
        found: Inode | None = self.core.get(inode_key(ino))
        return found if found is not None and found.nlink else None

    def dirent(self, parent: int, name_hash: bytes) -> Dirent | None:
        """Return a live name."""
        found: Dirent | None = self.core.get(dirent_key(parent, name_hash))
        return found

    def entries(self, parent: int, after: bytes, limit: int) -> list[Entry]:
        """Return up to `limit` live names of a directory whose hashes are above `after` (b"": from the first)."""
        start = dirent_key(parent, after) + b"\0" if after else dirent_key(parent, _FIRST)
        found = self.core.volume.scan(start, dirent_key(parent, _LAST) + b"\0")
        return [(key[9:25], record) for key, record in islice(found, limit) if isinstance(record, Dirent)]

    # --------------------------------------------------------------------- make

    def make(self, parent: int, name: bytes, old: Inode) -> int:
        """Make an inode of the kind of `old`, closed to everybody until its attributes are set, and return its number."""
        namespace, kind = self.namespace, S_IFMT(old.mode)
        if S_ISDIR(kind):
            return namespace.mkdir(parent, name, 0, ROOT_CALLER)[0]
        if S_ISLNK(kind):
            return namespace.symlink(parent, name, old.target, ROOT_CALLER)[0]
        if S_ISREG(kind):
            return namespace.create(parent, name, kind, ROOT_CALLER)[0]
        return namespace.mknod(parent, name, kind, old.rdev, ROOT_CALLER)[0]

    # --------------------------------------------------------------- attributes

    @operation
    def set_attributes(self, ino: int, source: int, old: Inode, times: bool) -> bool:
        """Make mode, owner, extended attributes and, with `times`, the times equal to those of `source` then.

        Returns whether they differed.
        """
        live = self.core.inode(ino)
        self.core.volume.room(RECORD_ROOM)
        attributes = self._set_xattrs(ino, live, source)
        fields = {"mode": old.mode, "uid": old.uid, "gid": old.gid, "rdev": old.rdev, "btime": old.btime, "flags": old.flags}
        if times:
            fields |= {"atime": old.atime, "mtime": old.mtime}
        if not attributes and all(getattr(live, name) == value for name, value in fields.items()):
            return False
        new = replace(live, birth=self.core.versions.epoch, ctime=self.core.clock(), **fields)
        self.core.put_inode(ino, live, new)
        return True

    def _set_xattrs(self, ino: int, live: Inode, source: int) -> bool:
        """Make the extended attributes equal; returns whether they differed."""
        versions, changed = self.core.versions, False
        now = dict(versions.range_at(xattr_key(ino, _FIRST), xattr_key(ino, _LAST) + b"\0", None))
        then = {xattr_key(ino, key[9:25]): record for key, record in self.then.xattrs(source).items()}
        for key, record in now.items():
            if key not in then:
                versions.remove(key, record, ino, live)
                changed = True
        for key, record in then.items():
            before = now.get(key)
            if before is None or before.value != record.value:
                self.core.volume.room(len(record.value) + RECORD_ROOM)
                versions.put(key, before, replace(record, birth=versions.epoch), ino, live)
                changed = True
        return changed

    # --------------------------------------------------------------------- data

    def data_differs(self, ino: int, source: int, old: Inode) -> bool:
        """Tell quickly whether a file may have other data than then. False is certain."""
        live = self.core.inode(ino)
        return ino != source or live.birth > self.then.epoch or live.size != old.size

    @operation
    def set_data(self, ino: int, source: int, old: Inode, first: int) -> tuple[int | None, int]:
        """Make the next windows from number `first` on equal to those of `source` then, sharing their extents.

        Returns (the window to go on from, or None when all data and the size are restored; bytes restored).
        """
        live = self.core.inode(ino)
        numbers = self.window_numbers(ino, source, first)
        self.core.volume.room(len(numbers) * (RECORD_ROOM + INLINE_MAX))
        grown = done = 0
        size, changed = live.size, False
        for number in numbers:
            window = self.then.window(source, old, number)
            growth = self._set_window(ino, live, number, window)
            changed = changed or growth is not None
            grown += growth or 0
            if window is not None:
                size = max(size, number * WINDOW + end_of(window))
                done += allocated(window)
        if len(numbers) < WINDOWS_AT_ONCE:
            size = old.size
        if changed or size != live.size:  # who changes data changes the inode: `data_differs` and others rely on it
            self.core.usage.resized(live, size - live.size, grown)
            now = self.core.clock()
            held = live.allocated + grown
            self.core.put_inode(ino, live, replace(live, birth=self.core.versions.epoch, size=size, allocated=held, mtime=now, ctime=now))
        return (None if len(numbers) < WINDOWS_AT_ONCE else numbers[-1] + 1), done

    def window_numbers(self, ino: int, source: int, first: int) -> list[int]:
        """Return the next windows that the file has, or had."""
        keys = islice(self.core.volume.scan_keys(window_key(ino, first), window_key(ino, _WINDOW_END)), WINDOWS_AT_ONCE)
        now = [int.from_bytes(key[9:], "big") for key in keys]
        return sorted(set(now) | set(self.then.window_numbers(source, first)))[:WINDOWS_AT_ONCE]

    def _set_window(self, ino: int, live: Inode, number: int, window: Window | None) -> int | None:
        """Make one window equal; returns the bytes by which what it holds grew, None if it was equal."""
        core, files = self.core, self.namespace.files
        found: Window | None = core.get(window_key(ino, number))
        held = 0 if found is None else allocated(found)
        if window is None:
            if found is None:
                return None
            removed, _ = files.remove_windows(ino, live, number, 1)
            return -removed
        shown = files.window(ino, live, number)
        if shown is not None and (shown.inline, shown.pieces) == (window.inline, window.pieces):
            return None
        files.put_window(ino, live, number, found, replace(window, birth=core.versions.epoch), shared=True)
        return allocated(window) - held

    def unchanged(self, ino: int, old: Inode) -> bool:
        """Tell whether an inode is what it was: attributes, times but ctime, extended attributes, data."""
        live = self.core.inode(ino)
        fields = ("mode", "uid", "gid", "rdev", "size", "atime", "mtime", "target")
        if any(getattr(live, name) != getattr(old, name) for name in fields):
            return False
        now = dict(self.core.versions.range_at(xattr_key(ino, _FIRST), xattr_key(ino, _LAST) + b"\0", None))
        then = self.then.xattrs(ino)
        if now.keys() != then.keys() or any(now[key].value != then[key].value for key in now):
            return False
        return not self.data_differs(ino, ino, old) or self._same_data(ino, live, old)

    def _same_data(self, ino: int, live: Inode, old: Inode) -> bool:
        """Compare the maps, and the bytes where a map was rewritten (a merge) without the file being changed."""
        files, volume = self.namespace.files, self.core.volume
        now = (int.from_bytes(key[9:], "big") for key in volume.scan_keys(window_key(ino, 0), window_key(ino, _WINDOW_END)))
        past = self.core.versions.range_at(window_key(ino, 0), window_key(ino, _WINDOW_END), self.then.epoch)
        then = (int.from_bytes(key[9:17], "big") for key, _ in past)
        for count, number in enumerate(merge(now, then)):
            a, b = files.window(ino, live, number), self.then.window(ino, old, number)
            if count >= COMPARED_MAX:
                return False
            if a is None or b is None:
                if a is not b:
                    return False
            elif (a.inline, a.pieces) != (b.inline, b.pieces) and (live.ctime != old.ctime or files.content(a) != files.content(b)):
                return False
        return True

    # ------------------------------------------------------------------- places

    def is_inside(self, ino: int, top: int) -> bool:
        """Tell whether a live directory is `top` or below it."""
        while ino != top:
            inode = self.inode(ino)
            if inode is None or not inode.links:
                return False
            ino = inode.links[0][0]
        return True

    def name_of(self, parent: int, name_hash: bytes) -> bytes:
        """Return the name of a live link. Raises ENOENT when it is gone."""
        found = self.dirent(parent, name_hash)
        if found is None:
            raise FilesystemError(2, "a name went away while it was being restored")
        return found.name
