"""Deleting directories with all that is below them, in the background. Called by the facade and `control/`, on the trio thread.

A deletion is one record, so it goes on after a restart or a crash. It works in place, from the bottom up: what is deleted is gone at once,
as by unlink and rmdir, and what others put there meanwhile is deleted too. Each step removes a bounded number of names and is one
operation. Snapshots keep what they show; quotas get their space back step by step. A locked file stops it: the reason is recorded, and it
can be started again. Cancelling leaves what is not deleted yet. There is no record of how far it is: the directory's totals are what is
left.
"""

from __future__ import annotations

import errno
import logging
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from stat import S_IFDIR
from typing import NamedTuple

from msgspec.structs import replace

from anqfs.errors import AnqfsError, Damaged, FilesystemError, NotFound
from anqfs.namespace.core import RECORD_ROOM, Core, is_locked, operation
from anqfs.namespace.directories import Directories
from anqfs.namespace.quota_accounts import capacity_below, capacity_of
from anqfs.store.administration import TreeDelete, tree_delete_key
from anqfs.store.schema import ROOT_INO, Dirent, Inode, Usage, dirent_key, inode_key, prefix_end

_log = logging.getLogger(__name__)
_FIRST, _LAST = bytes(16), b"\xff" * 16
Change = tuple[int, bytes | None]
"""(directory, name) of an entry, (inode, None) of an inode: what the kernel is to forget."""


class Deletion(NamedTuple):
    """A deletion with what is left to delete, in bytes of capacity and numbers of inodes."""

    ino: int
    record: TreeDelete
    capacity: int
    files: int
    directories: int


class _Place:
    """A directory, and the hash from which on it was not looked at yet: deleted names are dear to pass by until they are durable."""

    __slots__ = ("ino", "start")

    def __init__(self, ino: int) -> None:
        self.ino = ino
        self.start = _FIRST


class _Stop(Exception):
    """The deletion cannot go on; why is the message."""


class TreeDeletes:
    """The deletions of a volume. `path_of` names a live inode."""

    def __init__(self, core: Core, directories: Directories, path_of: Callable[[int], bytes | None]) -> None:
        self.core = core
        self._directories = directories
        self._path_of = path_of
        self._running: deque[int] = deque()
        self._ways: dict[int, list[_Place]] = {}
        """Where each one is: the directories from its own down."""
        self._changes: list[Change] = []
        core.directory_goes.append(self._directory_goes)

    @property
    def running(self) -> bool:
        """Whether there is anything to do."""
        return bool(self._running)

    def load(self) -> None:
        """Find the deletions that an earlier run began."""
        for key in list(self.core.volume.scan_keys(b"T", prefix_end(b"T"))):
            ino = int.from_bytes(key[1:], "big")
            try:
                record = self.get(ino)
            except AnqfsError as error:
                _log.error("the deletion of inode %d does not go on: %s", ino, error)
                continue
            if not record.error:
                self._running.append(ino)

    def take_changes(self) -> list[Change]:
        """Return what was removed since the last call of what the kernel knows."""
        changes, self._changes = self._changes, []
        return changes

    # --- coming and going

    def start(self, node: int) -> TreeDelete:
        """Begin to delete a live directory; one that had stopped goes on.

        Raises EALREADY when it is being deleted, EBUSY for the volume's root, ENOTDIR, EROFS in snapshots, ESTALE, NoSpace.
        """
        self.core.usage.flush()
        return self._start(node)

    @operation
    def _start(self, node: int) -> TreeDelete:
        core = self.core
        ino, record = self._new(node)
        core.room(RECORD_ROOM)
        core.volume.put(tree_delete_key(ino), record)
        core.after.append(lambda: self._running.append(ino))
        return record

    def _new(self, node: int) -> tuple[int, TreeDelete]:
        core = self.core
        ino, _ = core.writable_directory(node)
        if ino == ROOT_INO:
            raise FilesystemError(errno.EBUSY, "the root of a volume cannot be deleted")
        if ino in self._running:
            raise FilesystemError(errno.EALREADY, "the directory is being deleted already")
        totals = core.usage.below(ino)
        files = totals[2] + totals[4] + totals[5]
        return ino, TreeDelete(core.clock(), self._path_of(ino) or b"", capacity_of(totals), files, totals[3])

    def preview(self, node: int) -> Deletion:
        """Return what `start` would begin. Raises what that raises, but NoSpace."""
        self.core.usage.flush()
        ino, record = self._new(node)
        return Deletion(ino, record, record.capacity, record.files, record.directories)

    @operation
    def cancel(self, ino: int) -> None:
        """End a deletion, be its record damaged; what is not deleted yet stays. Raises NotFound."""
        if not self._is_recorded(ino):
            self.get(ino)
        self.core.volume.delete(tree_delete_key(ino))
        self.core.after.append(lambda: self._forget(ino))

    @operation
    def restart(self, ino: int) -> None:
        """Let a deletion that had stopped go on; harmless for one that runs. Raises NotFound."""
        record = self.get(ino)
        if record.error:
            self.core.volume.put(tree_delete_key(ino), replace(record, error=b""))
            self.core.after.append(lambda: self._running.append(ino))

    def get(self, ino: int) -> TreeDelete:
        """Return a deletion's record. Raises NotFound when it is over, or never was."""
        found = self.core.get(tree_delete_key(ino))
        if not isinstance(found, TreeDelete):
            raise NotFound(f"inode {ino} is not being deleted")
        return found

    def status(self, ino: int) -> Deletion:
        """Return a deletion with what is left. Raises NotFound."""
        record = self.get(ino)
        if not self.core.volume.read_only and self.core.volume.failed is None:
            self.core.usage.flush()
        left = Usage(0, *self.core.usage.below(ino))
        return Deletion(ino, record, capacity_below(left), left.files + left.symlinks + left.others, left.directories)

    def listing(self) -> Iterator[Deletion]:
        """Yield all deletions, by inode, without damaged ones."""
        for key in list(self.core.volume.scan_keys(b"T", prefix_end(b"T"))):
            ino = int.from_bytes(key[1:], "big")
            try:
                yield self.status(ino)
            except Damaged as error:
                _log.error("the deletion of inode %d, or what is left of it, is damaged: %s", ino, error)

    def _is_recorded(self, ino: int) -> bool:
        """Tell whether there is a record of a directory's deletion, be it damaged."""
        try:
            return self.core.get(tree_delete_key(ino)) is not None
        except Damaged:
            return True

    def _directory_goes(self, ino: int) -> None:
        """Remove the record of a directory that is being removed, by us or by somebody else, inside the operation."""
        if ino in self._running or self._is_recorded(ino):
            self.core.volume.delete(tree_delete_key(ino))
            self.core.after.append(lambda: self._forget(ino))

    def _forget(self, ino: int) -> None:
        self._ways.pop(ino, None)
        if ino in self._running:
            self._running.remove(ino)

    # --- deleting

    def step(self, budget: int) -> None:
        """Remove up to `budget` names for the first of the running deletions; the next one is first then."""
        ino = self._running[0]
        self._running.rotate(-1)
        try:
            self._remove_some(ino, budget)
        except (AnqfsError, _Stop) as error:
            self._ways.pop(ino, None)
            self._stopped(ino, str(error))

    @operation
    def _stopped(self, ino: int, why: str) -> None:
        _log.warning("the deletion of inode %d stopped: %s", ino, why)
        found = self.core.get(tree_delete_key(ino))
        if isinstance(found, TreeDelete):
            self.core.volume.put(tree_delete_key(ino), replace(found, error=why.encode("utf-8", "surrogateescape")))
        self.core.after.append(lambda: self._forget(ino))

    @operation
    def _remove_some(self, top: int, budget: int) -> None:
        """Remove up to `budget` names. Raises _Stop when the first of them cannot be removed."""
        way = self._way(top)
        removed: list[Change] = []
        self.core.after.append(lambda: self._changes.extend(removed))
        count = 0
        while count < budget and way:
            place = way[-1]
            entries = self._entries(place, budget - count)
            for name_hash, dirent in entries:
                inode = self._directories.named(dirent)
                if dirent.kind == S_IFDIR and inode.size:
                    way.append(_Place(dirent.ino))
                    break
                if is_locked(inode, self.core.clock()):
                    if count:
                        return
                    raise _Stop(f"{self._shown(dirent)}: the file is locked")
                self._remove(place.ino, dirent, removed)
                place.start = name_hash
                count += 1
            if not entries:
                count += 1
                if place.start != _FIRST:
                    place.start = _FIRST  # once more from the first: others may have added names
                else:
                    self._remove_directory(way, removed)

    def _shown(self, dirent: Dirent) -> str:
        return (self._path_of(dirent.ino) or dirent.name).decode("utf-8", "surrogateescape")

    def _way(self, top: int) -> list[_Place]:
        """Return the directories from the deletion's own down to where it is, as far as they are still below each other."""
        way = self._ways.setdefault(top, [_Place(top)])
        for at in range(1, len(way)):
            inode: Inode | None = self.core.get(inode_key(way[at].ino))
            if inode is None or not inode.links or inode.links[0][0] != way[at - 1].ino:
                del way[at:]
                break
        return way

    def _entries(self, place: _Place, limit: int) -> list[tuple[bytes, Dirent]]:
        """Return the next names of a directory with their hashes."""
        found = self.core.volume.scan(dirent_key(place.ino, place.start), dirent_key(place.ino, _LAST) + b"\0")
        return [(key[9:25], record) for key, record in islice(found, limit) if isinstance(record, Dirent)]

    def _remove(self, parent: int, dirent: Dirent, removed: list[Change]) -> None:
        if dirent.ino in self.core.held:
            removed += ((parent, dirent.name), (dirent.ino, None), (parent, None))
        if dirent.kind == S_IFDIR:
            self._directories.rmdir(parent, dirent.name)
        else:
            self._directories.unlink(parent, dirent.name)

    def _remove_directory(self, way: list[_Place], removed: list[Change]) -> None:
        """Remove the empty directory that the way ends in."""
        inode: Inode | None = self.core.get(inode_key(way.pop().ino))
        if inode is None or not inode.links:
            return
        parent, name_hash = inode.links[0]
        dirent = self.core.get(dirent_key(parent, name_hash))
        assert isinstance(dirent, Dirent)
        self._remove(parent, dirent, removed)
