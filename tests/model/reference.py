"""The reference model: what a filesystem with snapshots of any directory answers, in plain Python written to be read.

Every node is an immutable value and the whole filesystem is one dict of them, so a deep copy is `dict(nodes)`: that is a snapshot here.
Nothing is clever and nothing is fast. The methods, their arguments and their errnos are those of `anqfs.namespace.Namespace`, except
that nodes are named by the model's own inode numbers and that a restore is one step.
"""

from __future__ import annotations

import errno
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

ROOT = 1
NAME_MAX = 255
LINK_MAX = 1024
NOREPLACE = 1
EXCHANGE = 2
PERMISSIONS = 0o7777


class ModelError(Exception):
    """An operation answers an errno."""

    def __init__(self, number: int) -> None:
        super().__init__(errno.errorcode[number])
        self.errno = number


@dataclass(frozen=True)
class Node:
    """One inode. `entries` is for directories, `data` for regular files, `target` for symlinks."""

    mode: int
    uid: int = 0
    gid: int = 0
    rdev: int = 0
    atime: int = 0
    mtime: int = 0
    ctime: int = 0
    data: bytes = b""
    target: bytes = b""
    entries: dict[bytes, int] = field(default_factory=dict)
    xattrs: dict[bytes, bytes] = field(default_factory=dict)

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def size(self) -> int:
        return len(self.entries) if self.is_directory else len(self.target) if stat.S_ISLNK(self.mode) else len(self.data)


@dataclass(frozen=True)
class Frozen:
    """A snapshot: the directory it is of and every node as it was."""

    name: bytes
    root: int
    nodes: dict[int, Node]
    created: int


@dataclass(frozen=True)
class Seen:
    """What a user sees of one path. `same` is the first path of the same inode, so that hard links can be compared."""

    mode: int
    uid: int
    gid: int
    rdev: int
    nlink: int
    size: int
    atime: int
    mtime: int
    ctime: int
    data: bytes
    target: bytes
    xattrs: tuple[tuple[bytes, bytes], ...]
    same: bytes


Tree = dict[bytes, Seen]


class Model:
    """A filesystem in memory. `now` is the time that the next operation stamps."""

    def __init__(self, now: int = 0) -> None:
        self.now = now
        self.nodes: dict[int, Node] = {ROOT: Node(stat.S_IFDIR | 0o755, atime=now, mtime=now, ctime=now)}
        self.snapshots: dict[int, Frozen] = {}
        self.held: Counter[int] = Counter()
        self.next_ino = 2
        self.next_snapshot = 1

    def copy(self) -> Model:
        """Return an independent copy (nodes are immutable, so the dicts are enough)."""
        other = Model(self.now)
        other.nodes, other.snapshots, other.held = dict(self.nodes), dict(self.snapshots), Counter(self.held)
        other.next_ino, other.next_snapshot = self.next_ino, self.next_snapshot
        return other

    # ---------------------------------------------------------------- looking

    def lookup(self, parent: int, name: bytes) -> int:
        directory = self.directory(parent)
        check_name(name)
        if name not in directory.entries:
            raise ModelError(errno.ENOENT)
        return directory.entries[name]

    def node(self, ino: int) -> Node:
        if ino not in self.nodes:
            raise ModelError(errno.ESTALE)
        return self.nodes[ino]

    def directory(self, ino: int) -> Node:
        node = self.node(ino)
        if not node.is_directory:
            raise ModelError(errno.ENOTDIR)
        return node

    def names(self, ino: int) -> list[tuple[int, bytes]]:
        """Return (directory, name) of each link to an inode."""
        return [(p, n) for p, node in self.nodes.items() for n, child in node.entries.items() if child == ino]

    def below(self, ino: int) -> Iterator[int]:
        """Yield the inode and everything reachable below it, each once for each name."""
        yield ino
        for child in self.nodes[ino].entries.values():
            yield from self.below(child)

    # --------------------------------------------------------------- changing

    def change(self, ino: int, **fields: object) -> None:
        self.nodes[ino] = replace(self.nodes[ino], **fields)  # type: ignore[arg-type]

    def set_entry(self, parent: int, name: bytes, child: int | None) -> None:
        """Add or remove a name and stamp the directory."""
        entries = dict(self.nodes[parent].entries)
        if child is None:
            del entries[name]
        else:
            entries[name] = child
        self.change(parent, entries=entries, mtime=self.now, ctime=self.now)

    def forget_unnamed(self, ino: int) -> None:
        """Drop an inode that has neither a name nor a holder."""
        if ino != ROOT and ino in self.nodes and not self.names(ino) and not self.held[ino]:
            del self.nodes[ino]

    def make(self, parent: int, name: bytes, mode: int, uid: int, gid: int, **fields: object) -> int:
        directory = self.directory(parent)
        check_name(name)
        if name in directory.entries:
            raise ModelError(errno.EEXIST)
        if parent != ROOT and not self.names(parent):
            raise ModelError(errno.ENOENT)
        if directory.mode & stat.S_ISGID:
            gid = directory.gid
            mode |= stat.S_ISGID if stat.S_ISDIR(mode) else 0
        ino, self.next_ino = self.next_ino, self.next_ino + 1
        self.nodes[ino] = Node(mode, uid, gid, atime=self.now, mtime=self.now, ctime=self.now, **fields)  # type: ignore[arg-type]
        self.set_entry(parent, name, ino)
        return ino

    def create(self, parent: int, name: bytes, mode: int, uid: int = 0, gid: int = 0) -> int:
        return self.make(parent, name, stat.S_IFREG | mode, uid, gid)

    def mkdir(self, parent: int, name: bytes, mode: int, uid: int = 0, gid: int = 0) -> int:
        return self.make(parent, name, stat.S_IFDIR | (mode & 0o1777), uid, gid)

    def mknod(self, parent: int, name: bytes, mode: int, rdev: int) -> int:
        return self.make(parent, name, mode, 0, 0, rdev=rdev)

    def symlink(self, parent: int, name: bytes, target: bytes) -> int:
        return self.make(parent, name, stat.S_IFLNK | 0o777, 0, 0, target=target)

    def link(self, ino: int, parent: int, name: bytes) -> None:
        node, directory = self.node(ino), self.directory(parent)
        check_name(name)
        if node.is_directory:
            raise ModelError(errno.EPERM)
        if name in directory.entries:
            raise ModelError(errno.EEXIST)
        if not self.names(ino) or (parent != ROOT and not self.names(parent)):
            raise ModelError(errno.ENOENT)
        if len(self.names(ino)) >= LINK_MAX:
            raise ModelError(errno.EMLINK)
        self.set_entry(parent, name, ino)
        self.change(ino, ctime=self.now)

    def unlink(self, parent: int, name: bytes) -> None:
        ino = self.lookup(parent, name)
        if self.nodes[ino].is_directory:
            raise ModelError(errno.EISDIR)
        self.take_away(parent, name)

    def rmdir(self, parent: int, name: bytes) -> None:
        ino = self.lookup(parent, name)
        if not self.nodes[ino].is_directory:
            raise ModelError(errno.ENOTDIR)
        if self.nodes[ino].entries:
            raise ModelError(errno.ENOTEMPTY)
        self.take_away(parent, name)

    def take_away(self, parent: int, name: bytes) -> None:
        ino = self.nodes[parent].entries[name]
        self.set_entry(parent, name, None)
        self.change(ino, ctime=self.now)
        self.forget_unnamed(ino)

    def rename(self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int = 0) -> None:
        if flags not in (0, NOREPLACE, EXCHANGE):
            raise ModelError(errno.EINVAL)
        for directory in (parent, new_parent):
            self.directory(directory)
            if directory != ROOT and not self.names(directory):
                raise ModelError(errno.ENOENT)
        check_name(new_name)
        ino = self.lookup(parent, name)
        there = self.nodes[new_parent].entries.get(new_name)
        if there is not None and flags == NOREPLACE:
            raise ModelError(errno.EEXIST)
        if flags == EXCHANGE:
            self.exchange(parent, name, ino, new_parent, new_name, there)
            return
        if there == ino:
            return
        self.refuse_loop(ino, new_parent)
        if there is not None:
            self.refuse_replacing(ino, there, parent)
            self.take_away(new_parent, new_name)
        self.set_entry(parent, name, None)
        self.set_entry(new_parent, new_name, ino)
        self.change(ino, ctime=self.now)

    def exchange(self, parent: int, name: bytes, ino: int, new_parent: int, new_name: bytes, there: int | None) -> None:
        if there is None:
            raise ModelError(errno.ENOENT)
        if there == ino:
            return
        self.refuse_loop(ino, new_parent)
        self.refuse_loop(there, parent)
        self.set_entry(parent, name, there)
        self.set_entry(new_parent, new_name, ino)
        self.change(ino, ctime=self.now)
        self.change(there, ctime=self.now)

    def refuse_loop(self, ino: int, new_parent: int) -> None:
        if self.nodes[ino].is_directory and new_parent in self.below(ino):
            raise ModelError(errno.EINVAL)

    def refuse_replacing(self, ino: int, there: int, parent: int) -> None:
        if self.nodes[there].is_directory:
            if parent in self.below(there):
                raise ModelError(errno.ENOTEMPTY)
            if not self.nodes[ino].is_directory:
                raise ModelError(errno.EISDIR)
            if self.nodes[there].entries:
                raise ModelError(errno.ENOTEMPTY)
        elif self.nodes[ino].is_directory:
            raise ModelError(errno.ENOTDIR)

    # ------------------------------------------------------------------- data

    def write(self, ino: int, offset: int, data: bytes) -> int:
        node = self.node(ino)
        if not data:
            return 0
        old = node.data.ljust(offset, b"\0")
        self.change(ino, data=old[:offset] + data + old[offset + len(data) :], mtime=self.now, ctime=self.now)
        return len(data)

    def read(self, ino: int, offset: int, size: int) -> bytes:
        return self.node(ino).data[offset : offset + size]

    def truncate(self, ino: int, size: int) -> None:
        node = self.node(ino)
        if node.is_directory:
            raise ModelError(errno.EISDIR)
        if not stat.S_ISREG(node.mode):
            raise ModelError(errno.EINVAL)
        self.change(ino, data=node.data[:size].ljust(size, b"\0"), mtime=self.now, ctime=self.now)

    def set_attributes(self, ino: int, **fields: int) -> None:
        """Set mode (permission bits), uid, gid, atime, mtime as root. A new owner takes setuid, and setgid of what a group may run."""
        node = self.node(ino)
        if "mode" not in fields and fields.keys() & {"uid", "gid"} and not node.is_directory:
            lost = stat.S_ISUID | (stat.S_ISGID if node.mode & stat.S_IXGRP else 0)
            fields["mode"] = node.mode & ~lost
        if "mode" in fields:
            fields["mode"] = stat.S_IFMT(node.mode) | (fields["mode"] & PERMISSIONS)
        self.change(ino, ctime=self.now, **fields)

    # ----------------------------------------------------------------- xattrs

    def setxattr(self, ino: int, name: bytes, value: bytes, flags: int = 0) -> None:
        node = self.node(ino)
        refuse_name(node, name)
        if flags == 1 and name in node.xattrs:
            raise ModelError(errno.EEXIST)
        if flags == 2 and name not in node.xattrs:
            raise ModelError(errno.ENODATA)
        self.change(ino, xattrs={**node.xattrs, name: value}, ctime=self.now)

    def getxattr(self, ino: int, name: bytes) -> bytes:
        node = self.node(ino)
        if name not in node.xattrs:
            raise ModelError(errno.ENODATA)
        return node.xattrs[name]

    def removexattr(self, ino: int, name: bytes) -> None:
        node = self.node(ino)
        refuse_name(node, name)
        if name not in node.xattrs:
            raise ModelError(errno.ENODATA)
        self.change(ino, xattrs={n: v for n, v in node.xattrs.items() if n != name}, ctime=self.now)

    # ------------------------------------------------------------------ holds

    def hold(self, ino: int) -> None:
        self.held[ino] += 1

    def drop(self, ino: int) -> None:
        self.held[ino] -= 1
        self.forget_unnamed(ino)

    def crash(self) -> None:
        """Nobody holds anything after a crash or a restart."""
        held, self.held = list(self.held), Counter()
        for ino in held:
            self.forget_unnamed(ino)

    # -------------------------------------------------------------- snapshots

    def snapshot_create(self, directory: int, name: bytes) -> int:
        self.directory(directory)
        if directory != ROOT and not self.names(directory):
            raise ModelError(errno.ENOENT)
        number, self.next_snapshot = self.next_snapshot, self.next_snapshot + 1
        self.snapshots[number] = Frozen(name, directory, dict(self.nodes), self.now)
        return number

    def snapshot_delete(self, number: int) -> None:
        if number not in self.snapshots:
            raise ModelError(errno.ENOENT)
        del self.snapshots[number]

    # ---------------------------------------------------------------- restore

    def restore_beside(self, number: int, path: bytes, parent: int, name: bytes) -> None:
        """Make what a snapshot shows at `path` again as a new name beside the live tree."""
        old, source = self.in_snapshot(number, path)
        check_name(name)
        if name in self.directory(parent).entries:
            raise ModelError(errno.EEXIST)
        self.set_entry(parent, name, self.rebuild(old, source, {}))

    def restore_in_place(self, number: int, path: bytes) -> None:
        """Make the live tree at `path` equal to what the snapshot shows there, after a snapshot of what it replaces."""
        old, source = self.in_snapshot(number, path)
        parent, name, live = self.live_place(number, path)
        both_directories = live is not None and self.nodes[live].is_directory and old[source].is_directory
        self.snapshot_create(live if both_directories and live is not None else parent, b"before_restore")
        kept = self.keepable(old, source, parent, name, live)
        if both_directories and live is not None:
            kept[source] = live
        touched = set(self.below(live)) if live is not None else set()
        if live is None or kept.get(source) != live:
            if live is not None:
                self.set_entry(parent, name, None)
            self.set_entry(parent, name, self.rebuild(old, source, kept))
        else:
            self.rebuild(old, source, kept)
        for ino in touched:
            self.forget_unnamed(ino)
        self.forget_unreachable()

    def forget_unreachable(self) -> None:
        """Empty and drop what a restore cut off. A held directory that was removed stays, empty; a held file keeps its data."""
        reachable = set(self.below(ROOT))
        lost = [ino for ino in self.nodes if ino not in reachable]
        for ino in lost:
            if self.nodes[ino].entries:
                self.change(ino, entries={})
        for ino in lost:
            self.forget_unnamed(ino)

    def in_snapshot(self, number: int, path: bytes) -> tuple[dict[int, Node], int]:
        if number not in self.snapshots:
            raise ModelError(errno.ENOENT)
        frozen = self.snapshots[number]
        ino = frozen.root
        for part in parts(path):
            if part not in frozen.nodes[ino].entries:
                raise ModelError(errno.ENOENT)
            ino = frozen.nodes[ino].entries[part]
        return frozen.nodes, ino

    def live_place(self, number: int, path: bytes) -> tuple[int, bytes, int | None]:
        """Return (parent, name, inode or None) of the live place that a path in a snapshot stands for; the root is its own parent."""
        root = self.snapshots[number].root
        if root not in set(self.below(ROOT)):
            raise ModelError(errno.ENOENT)
        *above, last = [None, *parts(path)]
        parent = root
        if last is None:
            if root == ROOT:
                return ROOT, b"", ROOT
            parent, name = self.names(root)[0]
            return parent, name, root
        for part in above[1:]:
            node = self.nodes[parent]
            if part not in node.entries or not self.nodes[node.entries[part]].is_directory:
                raise ModelError(errno.ENOENT)
            parent = node.entries[part]
        return parent, last, self.nodes[parent].entries.get(last)

    def keepable(self, old: dict[int, Node], source: int, parent: int, name: bytes, live: int | None) -> dict[int, int]:
        """Return the inodes of the snapshot that the restored tree keeps: those that still live, of the same type, inside the place.

        One that also has a name outside is kept only if one of its old names in the place is still its name and nothing about it changed.
        """
        if live is None or self.nodes[live].is_directory != old[source].is_directory:
            return {}
        if not old[source].is_directory:
            old_names, inside = {source: {(parent, name)}}, {parent}
        else:
            old_names = links_below(old, source, live)
            inside = {ino for ino in self.below(live) if self.nodes[ino].is_directory}
        kept = {}
        for ino, then in old_names.items():
            if ino not in self.nodes or stat.S_IFMT(self.nodes[ino].mode) != stat.S_IFMT(old[ino].mode):
                continue
            now = set(self.names(ino))
            within = {link for link in now if link[0] in inside} if old[source].is_directory else now & {(parent, name)}
            unchanged = same_but_ctime(self.nodes[ino], old[ino]) and bool(within & then)
            if now and (now == within or unchanged):
                kept[ino] = ino
        return kept

    def rebuild(self, old: dict[int, Node], source: int, kept: dict[int, int]) -> int:
        """Put the nodes of a snapshot's subtree into the live tree and return the inode of its top. `kept` maps what is not made anew."""
        made = dict(kept)
        for ino in dict.fromkeys(below(old, source)):
            if ino not in made:
                made[ino], self.next_ino = self.next_ino, self.next_ino + 1
        for ino in dict.fromkeys(below(old, source)):
            entries = {n: made[child] for n, child in old[ino].entries.items()}
            self.nodes[made[ino]] = replace(old[ino], entries=entries, ctime=self.now)
        return made[source]

    # ------------------------------------------------------------------ views

    def tree(self) -> Tree:
        """Return what the live tree shows, by path."""
        return see(self.nodes, ROOT)

    def snapshot_tree(self, number: int) -> Tree:
        """Return what a snapshot shows, by path below its directory, which carries the time of the snapshot."""
        frozen = self.snapshots[number]
        tree = see(frozen.nodes, frozen.root)
        tree[b""] = replace(tree[b""], mtime=frozen.created)
        return tree


def check_name(name: bytes) -> None:
    if len(name) > NAME_MAX:
        raise ModelError(errno.ENAMETOOLONG)


def refuse_name(node: Node, name: bytes) -> None:
    """Only files and directories have attributes of users."""
    if name.startswith(b"user.") and not (stat.S_ISREG(node.mode) or node.is_directory):
        raise ModelError(errno.EPERM)


def parts(path: bytes) -> list[bytes]:
    return [part for part in path.split(b"/") if part]


def below(nodes: dict[int, Node], ino: int) -> Iterator[int]:
    yield ino
    for child in nodes[ino].entries.values():
        yield from below(nodes, child)


def links_below(nodes: dict[int, Node], source: int, live: int) -> dict[int, set[tuple[int, bytes]]]:
    """Return the names of each inode below a directory, that directory not included; it is called `live`, as the place it goes to is."""
    links: dict[int, set[tuple[int, bytes]]] = {}
    for ino in set(below(nodes, source)):
        for name, child in nodes[ino].entries.items():
            links.setdefault(child, set()).add((live if ino == source else ino, name))
    return links


def same_but_ctime(a: Node, b: Node) -> bool:
    return replace(a, ctime=0) == replace(b, ctime=0)


def see(nodes: dict[int, Node], root: int) -> Tree:
    """Return every path below a directory (b"" is the directory itself) with what a user sees of it."""
    counts: Counter[int] = Counter(child for node in nodes.values() for child in node.entries.values())
    first: dict[int, bytes] = {}
    tree: Tree = {}

    def walk(ino: int, path: bytes) -> None:
        node = nodes[ino]
        first.setdefault(ino, path)
        subdirectories = sum(nodes[child].is_directory for child in node.entries.values())
        nlink = 2 + subdirectories if node.is_directory else counts[ino]
        tree[path] = Seen(
            node.mode,
            node.uid,
            node.gid,
            node.rdev,
            nlink,
            node.size,
            node.atime,
            node.mtime,
            node.ctime,
            node.data,
            node.target,
            tuple(sorted(node.xattrs.items())),
            first[ino],
        )
        for name in sorted(node.entries):
            walk(node.entries[name], path + b"/" + name)

    walk(root, b"")
    return tree
