"""Restore: make the live tree equal to what a snapshot shows, whole or in part, in place or beside, in bounded steps.

The caller (the daemon's job, the offline command) makes a `Restore`, calls `step` until it answers False, and may serve other requests
between two steps; everything runs on the trio thread. Each step is a few atomic operations, so a crash leaves a valid filesystem, partly
restored. What is restored in place is snapshotted first (`before_restore`), so every restore can be undone by restoring that. Before
anything changes, `restore_obstacles` looks for what would keep it from being made whole.

Two walks over the snapshot's tree, each depth first with one frame for each level:

1. *make*, from the top down: each name gets its inode. One that still lives, is of the same type and has no name outside the restored
   place is kept, moved here if need be, and made equal; anything else is made anew. What is in a name's way is put aside in a directory
   of the restored place, because it may be needed elsewhere in it.
2. *clear*: live names that the snapshot does not have are removed, the directory of things put aside with them, and each directory gets
   its attributes and, as its last change, its times.

A changed file that is in use (`in_use`: the kernel keeps its own idea of the size, pages and times of what it knows) is not touched: a
new inode takes over its names, as when a program writes a new version and renames it. First whoever keeps it is asked to let go of it
(`take_wishes`), so that only what a program really has open is replaced.

An inode that also has a name outside the place is kept only if nothing about it changed; otherwise the restored names get an inode of
their own, so that nothing outside the place changes (and undoing does not join them again). Change times are those of the restore:
nobody can set them. Others may change the tree meanwhile: the restore goes on, and what they make in restored places later may stay.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from stat import S_IFDIR, S_IFMT, S_ISDIR, S_ISREG
from typing import TYPE_CHECKING

from anqfs.errors import AnqfsError, FilesystemError, NotFound
from anqfs.namespace import restore_steps
from anqfs.namespace.core import ROOT_CALLER
from anqfs.namespace.restore_obstacles import Obstacles, Rules
from anqfs.namespace.restore_place import Finder, Place
from anqfs.namespace.restore_steps import Frame, Steps, Then
from anqfs.store.schema import Dirent, Inode, Snapshot

if TYPE_CHECKING:
    from anqfs.namespace.namespace import Namespace

BEFORE_RESTORE = b"before_restore"
ASIDE = b".anqfs_restore_%d_%d"
"""Name of the directory that holds what is in the way, and of a file that is about to replace another."""
_NOREPLACE = 1
Tasks = Iterator[None]


@dataclass
class Progress:
    """What was restored so far: `files` are all inodes but directories, `bytes` of their data, `removed` names of what came later."""

    files: int = 0
    directories: int = 0
    bytes: int = 0
    removed: int = 0
    total: int | None = None
    """Files and directories that the snapshot has below the path, if it is known."""


class Restore:
    """One restore in progress.

    Arguments: `snapshot` is a number, `path` the place in it (b"" is all of it), `destination` (live directory node, new name), or None
    for in place; `in_use` tells whether somebody keeps what it knows of an inode's content; with `check_only` it is only looked whether
    the restore can be made, and nothing is changed. Raises NotFound, and FilesystemError for a
    destination that cannot be; nothing is changed then. In place, the `before_restore` snapshot is taken here; raises what that raises.
    """

    def __init__(
        self,
        namespace: Namespace,
        snapshot: int,
        path: bytes = b"",
        destination: tuple[int, bytes] | None = None,
        in_use: Callable[[int], bool] = lambda ino: False,
        check_only: bool = False,
    ) -> None:
        self.namespace = namespace
        self._check_only = check_only
        self._begun = False
        self._in_use = in_use
        self._wishes: list[int] = []
        self._frame: Frame | None = None
        self.progress = Progress()
        self.before: Snapshot | None = None
        self._changes: list[tuple[int, bytes | None]] = []
        found = namespace.core.versions.by_id.get(snapshot)
        if found is None:
            raise NotFound(f"there is no snapshot {snapshot}")
        self._number = snapshot
        self._then = Then(namespace, found)
        self._steps = Steps(namespace, self._then)
        self._made: dict[int, int] = {}
        """Inodes of the snapshot with several names that were made anew -> their new inodes."""
        self.first_made: int | None = None
        """The first inode that this restore made; higher ones are later."""
        self._aside: int | None = None
        self._aside_count = 0
        parts = [part for part in path.split(b"/") if part]
        finder = Finder(namespace, found, self._then, self._steps)
        self._source, self._old = finder.source(parts)
        self._place = finder.in_live_tree(parts, self._old) if destination is None else finder.beside(destination)
        self._source_root = self._source
        self.progress.total = finder.total(self._source, self._old)
        if destination is None and not check_only:
            self._take_before_restore()
        self._tasks = self._run()

    def step(self, budget: int = 256) -> bool:
        """Do up to `budget` small parts of the work; return whether there is more.

        Raises NotFound when the snapshot was deleted meanwhile, NoSpace, and FilesystemError (EMLINK). The tree is partly restored then,
        but for what is found before anything changes: a locked file in the way (EPERM), a quota without room (EDQUOT).
        """
        for _ in range(max(1, budget)):
            try:
                self._must_exist()
                next(self._tasks)
            except StopIteration:
                return False
            except AnqfsError as error:
                if not self._begun:
                    self._drop_before_restore()
                    raise
                raise self._part_way(error) from error
            if self._wishes:
                break
        return True

    def take_wishes(self) -> list[int]:
        """Return inodes in use that their keeper should let go of, if it can, before the next step."""
        wishes, self._wishes = self._wishes, []
        return wishes

    def take_changes(self) -> list[tuple[int, bytes | None]]:
        """Return what changed since the last call, for the kernel's caches: (directory, name) of entries, (inode, None) of inodes."""
        changes, self._changes = self._changes, []
        return changes

    # ------------------------------------------------------------------- plan

    def _must_exist(self) -> None:
        if self._number not in self.namespace.core.versions.by_id:
            raise NotFound(f"snapshot {self._number} was deleted while it was being restored")

    def _part_way(self, error: AnqfsError) -> AnqfsError:
        """Return the error that says how what was done so far is undone."""
        undo = "" if self.before is None else f"; restore snapshot {self.before.id}_{BEFORE_RESTORE.decode()} to undo what was done"
        text = f"the restore stopped part-way: {error}{undo}"
        return FilesystemError(error.errno, text) if isinstance(error, FilesystemError) else type(error)(text)

    def _take_before_restore(self) -> None:
        place = self._place
        self.before = self.namespace.snapshot_create(place.parent if place.top is None else place.top, BEFORE_RESTORE)

    def _drop_before_restore(self) -> None:
        if self.before is not None:
            self.namespace.snapshot_delete(self.before.id)
            self.before = None

    def _hash(self, name: bytes) -> bytes:
        return self.namespace.core.volume.name_hash(name)

    # ------------------------------------------------------------------- run

    def _run(self) -> Tasks:
        rules = Rules(self._kept, self._is_final, self._was_inside)
        yield from Obstacles(self.namespace, self._then, self._steps, self._place, rules).look(self._source, self._old)
        self._begun = True
        if not self._check_only:
            yield from self._restore()

    def _restore(self) -> Tasks:
        place = self._place
        if place.top is not None:
            yield from self._make_below(self._source, place.top)
            yield from self._clear_below(self._source, place.top, self._old)
        elif S_ISDIR(self._old.mode):
            if place.live is not None:
                yield from self._remove(place.parent, place.name)
            top = self._make(place.parent, place.name, self._old)
            self._set_attributes(top, self._source, self._old, False)
            yield
            yield from self._make_below(self._source, top)
            yield from self._clear_below(self._source, top, self._old)
        else:
            yield from self._restore_file(place)

    def _restore_file(self, place: Place) -> Tasks:
        """Restore a single thing that is no directory; an unlike one at its place is replaced by it in one operation."""
        live = None if place.live is None else self._steps.inode(place.live)
        same = live is not None and place.live == self._source and S_IFMT(live.mode) == S_IFMT(self._old.mode)
        if live is not None and same and (live.nlink == 1 or self._steps.unchanged(self._source, self._old)):
            yield from self._fill(self._source, self._source, self._old)
            return
        if live is not None and S_ISDIR(live.mode):
            yield from self._remove(place.parent, place.name)
            live = None
        name = place.name if live is None else self._free_name(place.parent)
        made = self._make(place.parent, name, self._old)
        yield from self._fill(made, self._source, self._old)
        if name != place.name:
            self._rename(place.parent, name, place.parent, place.name, 0)
        yield

    # ------------------------------------------------------------- first walk

    def _make_below(self, source: int, top: int) -> Tasks:
        """Make everything below a directory of the snapshot, below its live counterpart."""
        frames = [Frame(source, top)]
        while frames:
            frame = frames[-1]
            entry = frame.next(self._then)
            if entry is None or self._steps.inode(frame.live) is None:  # at its end, or somebody removed it meanwhile
                frames.pop()
                continue
            self._frame = frame
            name_hash, dirent = entry
            old = self._then.inode(dirent.ino)
            if old is None:
                raise FilesystemError(errno.EIO, f"the snapshot lacks inode {dirent.ino}")
            ino = yield from self._make_name(frame.live, name_hash, dirent, old)
            if S_ISDIR(old.mode):
                frames.append(Frame(dirent.ino, ino))
            yield

    def _make_name(self, parent: int, name_hash: bytes, dirent: Dirent, old: Inode) -> Generator[None, None, int]:
        """Make one name lead to its inode, and that equal to what it was; returns the inode."""
        there = self._steps.dirent(parent, name_hash)
        made = self._made.get(dirent.ino)
        ino = made if made is not None and self._steps.inode(made) is not None else self._kept(dirent.ino, old, there)
        if there is not None and there.ino != ino:
            self._put_aside(parent, there)
        if ino is None:
            ino = self._make(parent, dirent.name, old)
            if old.nlink > 1 and not S_ISDIR(old.mode):
                self._made[dirent.ino] = ino
        elif there is None or there.ino != ino:
            self._give_name(ino, dirent.ino, parent, dirent.name)
        if S_ISDIR(old.mode):
            self.progress.directories += 1
            self._set_attributes(ino, dirent.ino, old, False)
        else:
            yield from self._fill(ino, dirent.ino, old)
        return ino

    def _kept(self, ino: int, old: Inode, there: Dirent | None) -> int | None:
        """Return the live inode that a snapshot's inode is restored into, None when it is made anew."""
        top = self._place.top
        live = self._steps.inode(ino) if top is not None else None
        if live is None or top is None or S_IFMT(live.mode) != S_IFMT(old.mode):
            return None
        if there is not None and there.ino == ino and live.nlink == 1:
            return ino
        outside = [link for link in live.links if not self._steps.is_inside(link[0], top)]
        if not live.links or (outside and S_ISDIR(old.mode)):
            return None
        if not outside:
            return ino
        still_named = any(self._is_final(ino, link) for link in live.links)
        return ino if still_named and self._steps.unchanged(ino, old) else None

    def _is_final(self, ino: int, link: tuple[int, bytes]) -> bool:
        """Tell whether a live link of an inode is one that the restored tree has too."""
        top = self._place.top
        parent, name_hash = link
        if top is None or not self._steps.is_inside(parent, top):
            return False
        if self.first_made is not None and parent >= self.first_made:
            return parent != self._aside  # what is in a directory that was made anew was put there by this restore
        source = self._source_of(parent)
        if source is None:
            return False
        dirent = self._then.dirent(source, name_hash)
        return dirent is not None and dirent.ino == ino

    def _source_of(self, live: int) -> int | None:
        """Return the snapshot's directory that a live directory is (to be) made equal to, None if there is none."""
        if live == self._place.top:
            return self._source_root
        return live if live != self._source_root and self._was_inside(live) else None

    def _was_inside(self, ino: int) -> bool:
        """Tell whether a directory was below the restored one in the snapshot."""
        while ino != self._source_root:
            inode = self._then.inode(ino)
            if inode is None or not S_ISDIR(inode.mode) or not inode.links:
                return False
            ino = inode.links[0][0]
        return True

    def _give_name(self, ino: int, source: int, parent: int, name: bytes) -> None:
        """Give a live inode a name: one that the restored tree does not have is moved here, or a link is added."""
        live = self.namespace.core.inode(ino)
        for link in live.links:
            if S_ISDIR(live.mode) or (ino == source and self._is_spare(ino, link)):
                self._rename(link[0], self._steps.name_of(*link), parent, name, _NOREPLACE)
                return
        self.namespace.link(ino, parent, name)
        self._changes += [(parent, name), (ino, None)]

    def _is_spare(self, ino: int, link: tuple[int, bytes]) -> bool:
        top = self._place.top
        return top is not None and self._steps.is_inside(link[0], top) and not self._is_final(ino, link)

    def _put_aside(self, parent: int, there: Dirent) -> None:
        """Move what is in the way into a directory of the restored place, which the second walk removes."""
        top = self._place.top
        if top is None:
            raise FilesystemError(errno.EEXIST, "somebody else made a name where the restored one belongs")
        if self._aside is None or self._steps.inode(self._aside) is None:
            self._aside = self.namespace.mkdir(top, self._free_name(top), 0o700, ROOT_CALLER)[0]
            self.first_made = self._aside if self.first_made is None else self.first_made
        self._aside_count += 1
        self._rename(parent, there.name, self._aside, b"%d" % self._aside_count, _NOREPLACE)

    # ------------------------------------------------------------- second walk

    def _clear_below(self, source: int, top: int, old: Inode) -> Tasks:
        """Remove what the snapshot does not have, and finish the directories."""
        yield from self._clear(source, top)
        self._set_attributes(top, source, old, True)
        frames = [Frame(source, top)]
        while frames:
            frame = frames[-1]
            entry = frame.next(self._then)
            if entry is None:
                frames.pop()
                continue
            name_hash, dirent = entry
            if dirent.kind != S_IFDIR:
                continue
            there, below = self._steps.dirent(frame.live, name_hash), self._then.inode(dirent.ino)
            if there is not None and there.kind == S_IFDIR and below is not None:
                yield from self._clear(dirent.ino, there.ino)
                self._set_attributes(there.ino, dirent.ino, below, True)
                frames.append(Frame(dirent.ino, there.ino))
            yield

    def _clear(self, source: int, live: int) -> Tasks:
        """Remove the live names of a directory that the snapshot does not have."""
        after = b""
        while entries := self._steps.entries(live, after, restore_steps.ENTRIES_AT_ONCE):
            for name_hash, dirent in entries:
                if self._then.dirent(source, name_hash) is None:
                    yield from self._remove(live, dirent.name)
            after = entries[-1][0]
            yield

    def _remove(self, parent: int, name: bytes) -> Tasks:
        """Remove a name with all that is below it. What others add meanwhile is removed as well."""
        frames = [(parent, name)]
        while frames:
            parent, name = frames[-1]
            there = self._steps.dirent(parent, self._hash(name))
            if there is None:
                frames.pop()
                continue
            below = self._steps.entries(there.ino, b"", 1) if there.kind == S_IFDIR else []
            if below:
                frames.append((there.ino, below[0][1].name))
                continue
            if there.kind == S_IFDIR:
                self.namespace.rmdir(parent, name)
            else:
                self.namespace.unlink(parent, name)
            self._changes += [(parent, name), (there.ino, None)]
            self.progress.removed += 1
            frames.pop()
            yield

    # ----------------------------------------------------------------- single

    def _fill(self, ino: int, source: int, old: Inode) -> Tasks:
        """Make data and attributes of something that is no directory equal to what they were.

        Between the question whether a file is in use and its change there is no yield, nor within the change of one that is not huge.
        """
        if S_ISREG(old.mode):
            used = ino == source and (yield from self._stays_in_use(ino, old))
            before = self._steps.inode(ino)
            in_one_go = used or (yield from self._set_data(ino, source, old))
            if not in_one_go and self._steps.inode(ino) != before:  # somebody may have found it half done
                used = yield from self._stays_in_use(ino, None)
            if used:
                yield from self._replace(ino, source, old)
        self._set_attributes(ino, source, old, True)
        self.progress.files += 1
        yield

    def _set_data(self, ino: int, source: int, old: Inode) -> Generator[None, None, bool]:
        """Make a file's data equal; returns whether nobody could look in between."""
        following: int | None = 0 if self._steps.data_differs(ino, source, old) else None
        in_one_go = True
        while following is not None:
            following, done = self._steps.set_data(ino, source, old, following)
            self.progress.bytes += done
            self._changes.append((ino, None))
            if following is not None:
                in_one_go = False
                yield
                if self._steps.inode(ino) is None:
                    break  # somebody removed it meanwhile
        return in_one_go

    def _stays_in_use(self, ino: int, old: Inode | None) -> Generator[None, None, bool]:
        """Tell whether a file that will change (to `old`; None: that did) is in use, even after its keeper was asked to let go of it."""
        if self._steps.inode(ino) is None or not self._in_use(ino) or (old is not None and self._steps.unchanged(ino, old)):
            return False
        ahead = [] if self._frame is None else self._frame.files_ahead()
        self._wishes = [ino, *filter(self._in_use, ahead)]  # what comes next is asked for too, so that few steps wait
        yield
        return self._steps.inode(ino) is not None and self._in_use(ino)

    def _replace(self, ino: int, source: int, old: Inode) -> Tasks:
        """Let a new inode take over the names of one that is in use, which whoever has it open keeps as it is."""
        parent = self.namespace.core.inode(ino).links[0][0]
        name = self._free_name(parent)
        made = self._make(parent, name, old)
        yield from self._set_data(made, source, old)
        self._set_attributes(made, source, old, True)
        live = self._steps.inode(ino)
        for link in () if live is None else live.links:
            if self._place.top is not None and not self._steps.is_inside(link[0], self._place.top):
                continue
            if self._steps.dirent(parent, self._hash(name)) is None:
                parent, name = link[0], self._free_name(link[0])
                self.namespace.link(made, parent, name)
            self._rename(parent, name, link[0], self._steps.name_of(*link), 0)
        self._changes.append((ino, None))
        if old.nlink > 1:
            self._made[source] = made
        yield from self._remove(parent, name)

    def _make(self, parent: int, name: bytes, old: Inode) -> int:
        self._changes.append((parent, name))
        ino = self._steps.make(parent, name, old)
        self.first_made = ino if self.first_made is None else self.first_made
        return ino

    def _set_attributes(self, ino: int, source: int, old: Inode, times: bool) -> None:
        if self._steps.inode(ino) is not None and self._steps.set_attributes(ino, source, old, times):
            self._changes.append((ino, None))

    def _rename(self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int) -> None:
        self._changes += [(parent, name), (new_parent, new_name)]
        self.namespace.rename(parent, name, new_parent, new_name, flags)

    def _free_name(self, parent: int) -> bytes:
        """Return a name that neither the live directory nor the snapshot has."""
        for number in range(1 << 20):
            name = ASIDE % (self._number, number)
            source = self._source_root if parent == self._place.top else parent
            if self._steps.dirent(parent, self._hash(name)) is None and self._then.dirent(source, self._hash(name)) is None:
                return name
        raise FilesystemError(errno.EEXIST, "no name is free for what is in the way")
