"""What differs between two snapshots of a directory, or between one and the live tree. In bounded steps, on the trio thread.

Names are compared, not contents walked: the comparison goes down only where the change index has an entry (`change_index`), so it takes
time in proportion to what changed, whatever the size of the tree. What a directory that came or went holds is listed in full.

Two forms. The plain one tells of paths: CREATE, MODIFY, DELETE; a rename is a DELETE and a CREATE, with all that is below a directory,
and so is a name that leads to another inode than before. With `renames`, an inode that is in both trees under another name is one RENAME;
of a renamed directory only what changed in it is told, by its new path, and MODIFY is never needed for a rename itself.

Order: depth first; what came or changed before what is below it, what went after it, and the DELETE of a name before its CREATE. So a
list can be applied as it is read. `cursor` is the place of the last entry, a short text from which another `Diff` goes on (`after`), also
after a restart; between two snapshots it stays good as long as both exist. MODIFY is told when attributes, times, extended attributes,
links or data differ (of a directory: when names in it came or went, too, as its times moved).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from itertools import chain
from stat import S_IFMT, S_ISDIR, S_ISREG
from struct import Struct
from struct import error as struct_error
from typing import TYPE_CHECKING, NamedTuple

from anqfs.errors import Damaged, FilesystemError, NotFound, UsageError
from anqfs.namespace.regions import FileRegions
from anqfs.namespace.trees import Tree
from anqfs.store.schema import Inode, Snapshot

if TYPE_CHECKING:
    from anqfs.namespace.namespace import Namespace

CREATE, MODIFY, DELETE, RENAME = "CREATE", "MODIFY", "DELETE", "RENAME"
_OPS = (CREATE, MODIFY, DELETE, RENAME)
_BOTH, _OLD, _NEW = "both", "old", "new"
_ENTRIES_AT_ONCE = 64
_ATTRIBUTES = ("mode", "uid", "gid", "size", "atime", "mtime", "btime", "flags", "rdev", "target", "retained", "legal_hold")
_PLACE = Struct(">BBQ16sQ")
_ESTALE = 116


class Difference(NamedTuple):
    """One entry. Paths are absolute, those of directories end in a slash. `kind` is the S_IFMT bits."""

    op: str
    path: bytes
    ino: int
    kind: int
    old_path: bytes | None = None
    """Of a RENAME."""
    modified: bool = False
    """Of a RENAME: whether attributes or data changed as well."""


class _Step(NamedTuple):
    """One name to tell of (op) and, of a directory, how to go on below it (frame)."""

    op: str | None
    parent: int
    name_hash: bytes
    ino: int
    kind: int
    frame: str | None
    old_link: tuple[int, bytes] | None = None
    modified: bool = False


class _Frame:
    """One directory being compared: `steps` still to come, and what to tell at its end."""

    __slots__ = ("closing", "ino", "kind", "steps")

    def __init__(self, kind: str, ino: int, steps: Iterator[_Step], closing: _Step | None) -> None:
        self.kind = kind
        self.ino = ino
        self.steps = steps
        self.closing = closing


class Diff:
    """A comparison in progress.

    Arguments: ids of two snapshots of one directory, `newer` None for the live tree; `after` is the `cursor` of an earlier one. Raises
    NotFound, UsageError for snapshots of different directories or in the wrong order and for a cursor that is none of theirs.
    """

    def __init__(self, namespace: Namespace, older: int, newer: int | None, *, renames: bool = False, after: str | None = None) -> None:
        self._namespace = namespace
        self._renames = renames
        self._ids = [older] if newer is None else [older, newer]
        first, second = compared(namespace, older, newer)
        self.root = first.root
        self.old = Tree(namespace, first.root, first)
        self.new = Tree(namespace, first.root, second)
        self._older_epoch = first.epoch
        self._indexed = namespace.core.changes.is_whole_since(first.epoch)
        if self.new.inode(first.root) is None:
            raise NotFound(f"the directory of snapshot {older} was removed: compare with another snapshot")
        self._base = (namespace.path_of(first.root) or b"").rstrip(b"/")
        self._last: _Step | None = None
        self.finished = False
        self._stack: list[_Frame] = []
        if after is None:
            self._stack.append(_Frame(_NEW, 0, iter((self._root_step(),)), None))
        else:
            self._resume(after)

    def take(self, limit: int, budget: int = 1024) -> list[Difference]:
        """Return up to `limit` more differences, after `budget` steps at most: perhaps none. `finished` tells whether that was all.

        Raises NotFound when one of the snapshots was deleted, Damaged, and ESTALE when the live tree changed where the comparison was.
        """
        for number in self._ids:
            self._namespace.snapshot(number)
        self.new.forget()
        found: list[Difference] = []
        for _ in range(budget):
            if len(found) >= limit:
                break
            if not self._stack:
                self.finished = True
                break
            self._advance(found)
        return found

    @property
    def cursor(self) -> str | None:
        """The place of the last difference that was returned, None before the first."""
        last = self._last
        if last is None:
            return None
        packed = _PLACE.pack(self._renames, _OPS.index(last.op or CREATE), last.parent, last.name_hash, last.ino)
        return base64.urlsafe_b64encode(packed).rstrip(b"=").decode()

    def _advance(self, found: list[Difference]) -> None:
        frame = self._stack[-1]
        step = next(frame.steps, None)
        if step is None:
            self._stack.pop()
            if frame.closing is not None:
                self._tell(frame.closing, found)
            return
        if step.op is not None and not (step.op == DELETE and step.frame is not None):
            self._tell(step, found)
        self._enter(step)

    def _enter(self, step: _Step) -> None:
        if step.frame is not None:
            steps = self._steps(step.frame, step.ino)
            self._stack.append(_Frame(step.frame, step.ino, steps, step if step.op == DELETE else None))

    def _tell(self, step: _Step, found: list[Difference]) -> None:
        assert step.op is not None
        self._last = step
        tree = self.old if step.op == DELETE else self.new
        old_path = None if step.old_link is None else self._path(self.old, *step.old_link, step.kind)
        found.append(
            Difference(step.op, self._path(tree, step.parent, step.name_hash, step.kind), step.ino, step.kind, old_path, step.modified)
        )

    def _path(self, tree: Tree, parent: int, name_hash: bytes, kind: int) -> bytes:
        end = b"/" if S_ISDIR(kind) else b""
        if not parent:
            return self._base + end
        dirent = tree.dirent(parent, name_hash)
        if dirent is None:
            raise FilesystemError(_ESTALE, "a name left the tree while it was compared: begin anew")
        return self._base + tree.path(parent) + b"/" + dirent.name + end

    # --- what is in a directory

    def _root_step(self) -> _Step:
        old, new = self.old.inode(self.root), self.new.inode(self.root)
        if old is None or new is None:
            raise Damaged(f"inode {self.root} is missing from a snapshot of it")
        op = MODIFY if self._differs(self.root, old, new) else None
        return _Step(op, 0, bytes(16), self.root, S_IFMT(new.mode), _BOTH)

    def _steps(self, frame: str, ino: int, after_child: int = -1, after_name: bytes = b"") -> Iterator[_Step]:
        """Yield the steps of a directory: if it is in both trees, of the children above an ino, else of the names behind a hash."""
        if frame == _BOTH:
            for child in self._candidates(ino, after_child):
                yield from self._steps_of(ino, child)
            return
        tree = self.old if frame == _OLD else self.new
        while entries := tree.entries(ino, after_name, _ENTRIES_AT_ONCE):
            for name_hash, dirent in entries:
                yield from self._step_of_entry(frame, ino, name_hash, dirent.ino)
            after_name = entries[-1][0]

    def _candidates(self, ino: int, after: int) -> Iterator[int]:
        """Yield the inodes, above `after` and ascending, that may have changed in a directory that is in both trees."""
        if self._indexed:
            return self._namespace.core.changes.between(ino, self._older_epoch, self.new.epoch, after)
        every = {dirent.ino for tree in (self.old, self.new) for _, dirent in tree.entries(ino, b"", 1 << 62)}
        return iter(sorted(child for child in every if child > after))

    def _step_of_entry(self, frame: str, parent: int, name_hash: bytes, ino: int) -> Iterator[_Step]:
        if frame == _OLD:
            yield from self._gone(parent, name_hash, ino)
        else:
            yield self._came(parent, name_hash, ino, self._known(self.new, ino))

    def _steps_of(self, parent: int, ino: int) -> Iterator[_Step]:
        """Yield what there is to tell of an inode and its names in a directory that is in both trees."""
        old, new = self.old.inode(ino), self.new.inode(ino)
        before = {name_hash for above, name_hash in old.links if above == parent} if old is not None else set()
        now = {name_hash for above, name_hash in new.links if above == parent} if new is not None else set()
        if old is not None and new is not None and before & now:
            op = MODIFY if self._differs(ino, old, new) else None
            frame = _BOTH if S_ISDIR(new.mode) else None
            if op is not None or frame is not None:
                for name_hash in sorted(before & now):
                    yield _Step(op, parent, name_hash, ino, S_IFMT(new.mode), frame)
        for name_hash in sorted(before - now):
            if self.new.dirent(parent, name_hash) is None:  # else it is told with what has the name now
                yield from self._gone(parent, name_hash, ino)
        for name_hash in sorted(now - before):
            replaced = self.old.dirent(parent, name_hash)
            if replaced is not None:
                yield from self._gone(parent, name_hash, replaced.ino)
            assert new is not None
            yield self._came(parent, name_hash, ino, new)

    def _gone(self, parent: int, name_hash: bytes, ino: int) -> Iterator[_Step]:
        """Yield that a name of the old tree is gone, unless it is told as renamed elsewhere."""
        old = self._known(self.old, ino)
        is_directory = S_ISDIR(old.mode)
        if self._renames:
            if is_directory and self.new.shows_directory(ino) and self.new.inode(ino) is not None:
                return
            if not is_directory and (parent, name_hash) in self._renamed(ino, old, self.new.inode(ino)).values():
                return
        yield _Step(DELETE, parent, name_hash, ino, S_IFMT(old.mode), _OLD if is_directory else None)

    def _came(self, parent: int, name_hash: bytes, ino: int, new: Inode) -> _Step:
        """Return that a name of the new tree came: a rename, or a creation."""
        is_directory = S_ISDIR(new.mode)
        old = self.old.inode(ino) if self._renames else None
        if old is not None:
            link: tuple[int, bytes] | None
            if is_directory:
                link = old.links[0] if old.links and self.old.shows_directory(ino) else None
            else:
                link = self._renamed(ino, old, new).get((parent, name_hash))
            if link is not None:
                modified = self._is_changed(ino, old, new)
                return _Step(RENAME, parent, name_hash, ino, S_IFMT(new.mode), _BOTH if is_directory else None, link, modified)
        return _Step(CREATE, parent, name_hash, ino, S_IFMT(new.mode), _NEW if is_directory else None)

    def _renamed(self, ino: int, old: Inode, new: Inode | None) -> dict[tuple[int, bytes], tuple[int, bytes]]:
        """Return which new name of a file stands for which old one: pairs of those that only one of the trees has."""
        if new is None:
            return {}
        now = {link for link in new.links if self.new.shows_directory(link[0])}
        before = {link for link in old.links if self.old.shows_directory(link[0])}
        return dict(zip(sorted(now - before), sorted(before - now), strict=False))

    def _known(self, tree: Tree, ino: int) -> Inode:
        inode = tree.inode(ino)
        if inode is None:
            raise Damaged(f"inode {ino} is missing from a tree that names it")
        return inode

    # --- whether an inode changed

    def _differs(self, ino: int, old: Inode, new: Inode) -> bool:
        if old.birth == new.birth:
            return False
        return old.ctime != new.ctime or old.nlink != new.nlink or self._is_changed(ino, old, new)

    def _is_changed(self, ino: int, old: Inode, new: Inode) -> bool:
        """Tell whether attributes or data differ, whatever the names."""
        if old.birth == new.birth:
            return False
        if any(getattr(old, name) != getattr(new, name) for name in _ATTRIBUTES):
            return True
        before, now = self.old.xattrs(ino), self.new.xattrs(ino)
        if before.keys() != now.keys() or any(before[key].value != now[key].value for key in now):
            return True
        if not S_ISREG(new.mode):
            return False
        regions = FileRegions(self._namespace, self.old, self.new, ino, exact=True)
        while not regions.finished:
            if regions.take(1):
                return True
        return False

    # --- going on

    def _resume(self, after: str) -> None:
        """Put the stack in the state that it had when the difference at this place was returned."""
        try:
            renames, op_number, parent, name_hash, ino = _PLACE.unpack(base64.urlsafe_b64decode(after + "=="))
            op = _OPS[op_number]
        except (binascii.Error, struct_error, ValueError, IndexError):
            raise UsageError(f"{after!a} is not where a comparison can go on") from None
        if bool(renames) != self._renames:
            raise UsageError(f"{after!a} is of a comparison of the other form")
        if not parent:
            self._enter(self._root_step())
            self._last = self._root_step()
            return
        self._stack.append(_Frame(_BOTH, self.root, iter(()), None))
        way = self._way(op, parent, name_hash, ino, after)
        for number, (above, link, child) in enumerate(way):
            step = self._reposition(above, link, child, after)
            is_last = number == len(way) - 1
            if not is_last or op != DELETE:
                self._enter(step)
            self._last = step

    def _way(self, op: str, parent: int, name_hash: bytes, ino: int, after: str) -> list[tuple[int, bytes, int]]:
        """Return the names, from the root down, through which the walk came to a place."""
        way = [(parent, name_hash, ino)]
        tree, at = self.old if op == DELETE else self.new, parent
        while at != self.root:
            if self._renames and tree is self.old and self.new.inode(at) is not None and self.new.shows_directory(at):
                tree = self.new
            inode = tree.inode(at)
            if inode is None or not inode.links:
                raise self._lost(after)
            way.append((*inode.links[0], at))
            at = inode.links[0][0]
        return way[::-1]

    def _reposition(self, parent: int, name_hash: bytes, ino: int, after: str) -> _Step:
        """Make the frame on top go on behind a name, and return that name's step."""
        frame = self._stack[-1]
        if frame.ino != parent:
            raise self._lost(after)
        if frame.kind == _BOTH:
            there = self.new.dirent(parent, name_hash)
            child = ino if there is None else there.ino
            steps, rest = self._steps_of(parent, child), self._steps(_BOTH, parent, child)
        else:
            steps, rest = self._step_of_entry(frame.kind, parent, name_hash, ino), self._steps(frame.kind, parent, after_name=name_hash)
        for step in steps:
            if (step.name_hash, step.ino) == (name_hash, ino):
                frame.steps = chain(steps, rest)
                return step
        raise self._lost(after)

    @staticmethod
    def _lost(after: str) -> FilesystemError:
        return FilesystemError(_ESTALE, f"the comparison cannot go on at {after!a}: the tree changed there, or it is another's: begin anew")


def compared(namespace: Namespace, older: int, newer: int | None) -> tuple[Snapshot, Snapshot | None]:
    """Return two snapshots to compare (the second None: live). Raises NotFound, UsageError."""
    first = namespace.snapshot(older)
    if newer is None:
        return first, None
    second = namespace.snapshot(newer)
    if first.root != second.root:
        raise UsageError(f"snapshots {older} and {newer} are of different directories: compare two of the same")
    if first.epoch > second.epoch:
        raise UsageError(f"snapshot {newer} is older than {older}: give the older one first")
    return first, second
