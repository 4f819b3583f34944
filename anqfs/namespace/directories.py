"""Directories: finding, listing, making and removing names. Called by the facade; changes run inside an operation.

An inode's `nlink` counts its names; a directory's is 2 and one more for each subdirectory, and its `size` is the number of its entries.
A name is kept under 16 bytes of keyed hash; the first 63 bits are its cookie in listings, so an entry's place never moves. `.snapshot` is
found in every live directory and never listed: creating it answers EEXIST, unlink EISDIR, rmdir and rename EBUSY.
"""

from __future__ import annotations

import errno
from collections import OrderedDict
from collections.abc import Iterator
from itertools import islice
from stat import S_IFDIR, S_IFLNK, S_IFMT, S_IFREG, S_ISDIR, S_ISGID, S_IXGRP

from msgspec.structs import replace

from anqfs.errors import Damaged, FilesystemError
from anqfs.namespace.case import caseless
from anqfs.namespace.core import RECORD_ROOM, Caller, Core, check_name, check_new_name
from anqfs.namespace.nodes import SNAPSHOT_NAME
from anqfs.namespace.reclaim import Reclaim
from anqfs.namespace.usage import ONE_DIRECTORY, negative, of_inode
from anqfs.namespace.xattrs import Xattrs
from anqfs.store.schema import Dirent, Inode, dirent_key, inode_key

LINKS_MAX = 1024
COOKIES_RESERVED = 1 << 16
"""Cookies below this are never the place of an entry: 0 starts a listing, 1 and 2 are for "." and ".."."""
_COOKIE_MAX = (1 << 63) - 1
_ALIASES_MAX = 4096
_FIRST, _LAST = bytes(16), b"\xff" * 16
_FOLDED_BYTES = 5
"""How many bytes the hashes of names that differ only in case have in common (docs/format.md, "Names")."""
_VARIANTS_MAX = 1024


def cookie_of(name_hash: bytes) -> int:
    """Return the cookie of a name."""
    return max(int.from_bytes(name_hash[:8], "big") >> 1, COOKIES_RESERVED)


def _behind(cookie: int) -> bytes:
    """Return the hash from which on a listing goes on behind a cookie."""
    return _FIRST if cookie < COOKIES_RESERVED else ((cookie + 1) << 1).to_bytes(9, "big")[1:] + bytes(8)


class Directories:
    """The entries of all directories."""

    def __init__(self, core: Core, xattrs: Xattrs, reclaim: Reclaim) -> None:
        self._core = core
        self._xattrs = xattrs
        self._reclaim = reclaim
        self._aliases: OrderedDict[tuple[int, int], bytes] = OrderedDict()
        """(directory, cookie) -> hash after which to go on, where several entries have one cookie."""

    # --- finding

    def find(self, ino: int, name: bytes, epoch: int | None = None) -> tuple[bytes, Dirent]:
        """Return a name's hash and dirent. Raises ENOENT, ENAMETOOLONG."""
        check_name(name)
        core = self._core
        name_hash = core.volume.name_hash(name)
        key = dirent_key(ino, name_hash)
        dirent: Dirent | None = core.get(key) if epoch is None else core.versions.at(key, epoch)
        if dirent is None or dirent.name != name:
            raise FilesystemError(errno.ENOENT)
        return name_hash, dirent

    def find_in_any_case(self, ino: int, name: bytes, epoch: int | None = None) -> bytes | None:
        """Return the name in a directory that differs from `name` at most in case, None if there is none.

        The exact name comes first, then the first of the others by its bytes: among the first _VARIANTS_MAX that hash alike, so that the
        cost is bounded. Raises ENAMETOOLONG, EINVAL.
        """
        check_name(name)
        prefix = self._core.volume.name_hash(name)[:_FOLDED_BYTES]
        rest = len(_FIRST) - _FOLDED_BYTES
        alike = self._core.versions.range_at(dirent_key(ino, prefix + bytes(rest)), dirent_key(ino, prefix + b"\xff" * rest) + b"\0", epoch)
        wanted = caseless(name)
        names = {dirent.name for _, dirent in islice(alike, _VARIANTS_MAX) if caseless(dirent.name) == wanted}
        return name if name in names else min(names, default=None)

    def entries(self, ino: int, epoch: int | None, node: int, cookie: int) -> Iterator[tuple[Dirent, int]]:
        """Yield (dirent, cookie to go on from after it) behind a cookie; `node` tells listings apart.

        Entries whose 63 bits are equal get cookies of their own, remembered for the listing; when those are forgotten (a remount), going on
        from one lists its equals again rather than leaving any out.
        """
        if cookie >= _COOKIE_MAX:
            return
        alias = self._aliases.get((node, cookie))
        start = alias or _behind(cookie)
        waiting: tuple[bytes, Dirent] | None = None
        place = 0
        scan = self._core.versions.range_at(dirent_key(ino, start), dirent_key(ino, _LAST) + b"\0", epoch)
        for key, dirent in scan:
            name_hash = key[9:]
            if name_hash == alias:
                continue
            here = cookie_of(name_hash)
            if waiting is not None:
                yield waiting[1], place if place != here else self._alias(node, ino, waiting[0])
            waiting, place = (name_hash, dirent), here
        if waiting is not None:
            yield waiting[1], place

    def _alias(self, node: int, ino: int, name_hash: bytes) -> int:
        """Return a cookie for one of several entries with the same 63 bits: the next below that is not in use."""
        aliases = self._aliases
        cookie = cookie_of(name_hash) - 1
        while aliases.get((node, cookie), name_hash) != name_hash or self._is_place(ino, cookie):
            cookie -= 1
        aliases[node, cookie] = name_hash
        while len(aliases) > _ALIASES_MAX:
            aliases.popitem(last=False)
        return cookie

    def _is_place(self, ino: int, cookie: int) -> bool:
        if cookie < COOKIES_RESERVED:
            return False
        start, stop = dirent_key(ino, _behind(cookie - 1)), dirent_key(ino, _behind(cookie))
        return any(True for _ in self._core.volume.scan_keys(start, stop))

    def entry_inode(self, dirent: Dirent, epoch: int | None) -> Inode | None:
        """Return the inode of an entry, None when it is damaged: the listing goes on without it."""
        key = inode_key(dirent.ino)
        try:
            inode: Inode | None = self._core.get(key) if epoch is None else self._core.versions.at(key, epoch)
        except Damaged:
            return None
        return inode

    # --- making

    def make(
        self, parent: int, name: bytes, mode: int, caller: Caller, *, rdev: int = 0, target: bytes = b"", times: int | None = None
    ) -> tuple[int, Inode]:
        """Make an inode of the type and permissions in `mode` and name it. Returns (ino, inode). `times`: its own (ns); None: now.

        Raises EEXIST, ENOENT, ENOTDIR, ENAMETOOLONG, NoSpace, EROFS.
        """
        core = self._core
        parent, above = core.writable_directory(parent)
        check_new_name(name)
        name_hash = core.volume.name_hash(name)
        key = dirent_key(parent, name_hash)
        if core.get(key) is not None:
            raise FilesystemError(errno.EEXIST)
        core.room(RECORD_ROOM + len(target))
        mode, flags, attributes = self._xattrs.inherit(parent, above, mode, caller.umask)
        mode, gid = _group_of(above, mode, caller)
        ino, epoch, now = core.next_ino(), core.versions.epoch, core.clock()
        is_directory = S_ISDIR(mode)
        own = now if times is None else times
        inode = Inode(
            epoch, mode, caller.uid, gid, 2 if is_directory else 1, len(target), 0, own, own, own, own, 0, flags, rdev, target,
            ((parent, name_hash),),
        )  # fmt: skip
        if attributes:
            self._xattrs.put_new(ino, attributes)
        core.volume.put(inode_key(ino), inode)
        core.volume.put(key, Dirent(epoch, name, ino, S_IFMT(mode)))
        core.owners.came(inode)
        if core.versions.live:
            core.changes.note(ino, inode.links)
        core.put_inode(
            parent, above, replace(above, birth=epoch, nlink=above.nlink + is_directory, size=above.size + 1, mtime=now, ctime=now)
        )
        core.usage.note(parent, of_inode(inode))
        core.usage.touched(inode.links, now)
        return ino, inode

    def link(self, ino: int, inode: Inode, parent: int, name: bytes) -> Inode:
        """Give an inode one more name. Returns the inode. Raises EPERM for directories, EMLINK, ENOENT, EEXIST."""
        core = self._core
        parent, above = core.writable_directory(parent)
        check_new_name(name)
        if S_ISDIR(inode.mode):
            raise FilesystemError(errno.EPERM)
        name_hash = core.volume.name_hash(name)
        key = dirent_key(parent, name_hash)
        if core.get(key) is not None:
            raise FilesystemError(errno.EEXIST)
        if inode.nlink == 0:
            raise FilesystemError(errno.ENOENT)
        if inode.nlink >= LINKS_MAX:
            raise FilesystemError(errno.EMLINK)
        core.room(RECORD_ROOM)
        epoch, now = core.versions.epoch, core.clock()
        new = replace(inode, birth=epoch, nlink=inode.nlink + 1, ctime=now, links=(*inode.links, (parent, name_hash)))
        core.put_inode(ino, inode, new)
        core.volume.put(key, Dirent(epoch, name, ino, S_IFMT(inode.mode)))
        core.put_inode(parent, above, replace(above, birth=epoch, size=above.size + 1, mtime=now, ctime=now))
        core.usage.note(parent, of_inode(new))
        return new

    # --- removing

    def unlink(self, parent: int, name: bytes) -> int:
        """Remove the name of what is not a directory; returns its ino. Raises EISDIR, ENOENT."""
        core = self._core
        parent, above = core.writable_directory(parent)
        if name == SNAPSHOT_NAME:
            raise FilesystemError(errno.EISDIR)
        name_hash, dirent = self.find(parent, name)
        if dirent.kind == S_IFDIR:
            raise FilesystemError(errno.EISDIR)
        inode = self.named(dirent)
        now = core.clock()
        self.take_away(parent, above, name_hash, dirent, inode, now)
        core.put_inode(parent, above, replace(above, birth=core.versions.epoch, size=above.size - 1, mtime=now, ctime=now))
        return dirent.ino

    def rmdir(self, parent: int, name: bytes) -> int:
        """Remove an empty directory; returns its ino. Raises ENOTDIR, ENOTEMPTY, ENOENT, EBUSY for `.snapshot`, EINVAL for "."."""
        core = self._core
        parent, above = core.writable_directory(parent)
        if name == SNAPSHOT_NAME:
            raise FilesystemError(errno.EBUSY)
        if name in (b".", b".."):
            raise FilesystemError(errno.EINVAL if name == b"." else errno.ENOTEMPTY)
        name_hash, dirent = self.find(parent, name)
        if dirent.kind != S_IFDIR:
            raise FilesystemError(errno.ENOTDIR)
        inode = self.named(dirent)
        if inode.size:
            raise FilesystemError(errno.ENOTEMPTY)
        now = core.clock()
        self.take_away(parent, above, name_hash, dirent, inode, now)
        core.put_inode(
            parent,
            above,
            replace(above, birth=core.versions.epoch, nlink=above.nlink - 1, size=above.size - 1, mtime=now, ctime=now),
        )
        return dirent.ino

    def named(self, dirent: Dirent) -> Inode:
        """Return the inode that a live dirent names. Raises Damaged when it is not there."""
        inode: Inode | None = self._core.get(inode_key(dirent.ino))
        if inode is None:
            raise Damaged(f"inode {dirent.ino} is missing")
        return inode

    def take_away(self, parent: int, above: Inode, name_hash: bytes, dirent: Dirent, inode: Inode, now: int) -> None:
        """Take a name away from its inode, which goes or becomes an orphan if it was the last. `above`: the parent's present record.

        The caller puts the parent's record.
        """
        core = self._core
        ino = dirent.ino
        is_directory = S_ISDIR(inode.mode)
        core.usage.note(parent, negative(ONE_DIRECTORY if is_directory else of_inode(inode)))
        new = replace(
            inode,
            birth=core.versions.epoch,
            nlink=0 if is_directory else inode.nlink - 1,
            ctime=now,
            floor=core.versions.floor_without(inode, parent, dirent.birth),
            links=without(inode.links, (parent, name_hash)),
        )
        core.put_inode(ino, inode, new)
        core.versions.remove(dirent_key(parent, name_hash), dirent, parent, above)
        if is_directory:
            core.usage.directory_removed(ino, new, parent)
            for tell in core.directory_goes:
                tell(ino)
            core.after.append(lambda: core.versions.forget_directory(ino))
        if new.nlink == 0:
            self._reclaim.unnamed(ino, new)


def without(links: tuple[tuple[int, bytes], ...], link: tuple[int, bytes]) -> tuple[tuple[int, bytes], ...]:
    """Return an inode's links without one of them."""
    return tuple(each for each in links if each != link)


def _group_of(above: Inode, mode: int, caller: Caller) -> tuple[int, int]:
    """Return the mode and group of a new inode: a setgid directory gives its group, and its bit to directories (inode_init_owner)."""
    if not above.mode & S_ISGID:
        return mode, caller.gid
    if S_ISDIR(mode):
        return mode | S_ISGID, above.gid
    if mode & S_ISGID and mode & S_IXGRP and caller.uid != 0 and not caller.in_group(above.gid):
        mode &= ~S_ISGID
    return mode, above.gid


REGULAR, DIRECTORY, SYMLINK = S_IFREG, S_IFDIR, S_IFLNK
