"""File data: reads, writes, truncation. Called by the facade on the trio thread; writes inside an operation.

A file is cut in windows of 1 MiB, each with a Window record. Data that ends within INLINE_MAX of a window's start is in the record, or
with that of other small windows in an extent (`packing`); all other data is in extents of its own. A write makes a new extent, unless it
lands in, or just behind, one that this epoch's version of the window alone uses and that is not sealed yet: then that one is changed in
place. Windows with many pieces are merged into one extent, later (`merges`, by `reclaim`) or, if they get very many, at once.

No window holds data beyond the file's size. When a truncation would have to remove very many windows, they stay for the background: the
inode says from which window on (`cut`) and up to which epoch (`cut_epoch`, which the truncation began) they are gone, and they read as
holes from then on. `allocated` goes down as they are removed.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Iterator
from stat import S_ISDIR, S_ISREG

from msgspec.structs import replace

from anqfs.errors import Damaged, FilesystemError
from anqfs.namespace.core import RECORD_ROOM, Core
from anqfs.namespace.references import extents_of
from anqfs.namespace.windows import Piece, allocated, cut, end_of, overlay, piece_at, trimmed
from anqfs.store.schema import EPOCH_MAX, INLINE_MAX, WINDOW, WINDOWS_UNRECORDED, Inode, Orphan, Window, orphan_key, window_key

SIZE_MAX = (1 << 63) - 1
MERGE_ABOVE = 32
MERGE_NOW = 128
REMOVE_NOW = 256
"""Windows that a truncation removes at once."""
_MERGES_MAX = 65536
_FEW = 8
_WINDOW_MAX = (1 << 63) // WINDOW
Patch = tuple[bytearray, int, memoryview]
Range = tuple[int, int, int, int]


def check_regular(inode: Inode) -> None:
    """Raise EISDIR or EINVAL for what has no data."""
    if not S_ISREG(inode.mode):
        raise FilesystemError(errno.EISDIR if S_ISDIR(inode.mode) else errno.EINVAL)


class Files:
    """The data of all files."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.merges: dict[tuple[int, int], None] = {}
        """Windows with many pieces, oldest first: (ino, window)."""
        self.trimming: set[int] = set()
        """Inodes with names whose truncated windows are still to be removed."""
        self.to_trim: deque[int] = deque()

    # --- reading

    def read(self, ino: int, inode: Inode, epoch: int | None, offset: int, size: int) -> bytes:
        """Return the bytes of a range, short at the end of the file. Raises Damaged, EISDIR, EINVAL."""
        check_regular(inode)
        if offset < 0 or size < 0:
            raise FilesystemError(errno.EINVAL)
        size = min(size, inode.size - offset)
        if size <= 0:
            return b""
        parts = []
        for index, inside, _, length in cut(offset, size):
            window = self.window(ino, inode, index, epoch)
            if window is None and _has_no_hole(inode):
                raise Damaged(f"the map of MiB {index} is missing from the store")
            parts.append(self._read_window(window, inside, length))
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def cold(self, ino: int, inode: Inode, epoch: int | None, offset: int, size: int) -> list[Range]:
        """Return (extent, offset, length, sealing key number) of what reading a range would have to wait for."""
        warm = self._core.volume.extent_is_warm
        return [each for each in self._ranges(ino, inode, epoch, offset, size) if not warm(*each[:3])]

    def expect(self, ino: int, inode: Inode, epoch: int | None, offset: int, size: int) -> None:
        """Ask the disk for what reading a range will need, without waiting for it."""
        for extent, start, length, _ in self._ranges(ino, inode, epoch, offset, size):
            self._core.volume.expect_extent(extent, start, length)

    def _ranges(self, ino: int, inode: Inode, epoch: int | None, offset: int, size: int) -> Iterator[Range]:
        check_regular(inode)
        for index, inside, _, length in cut(max(offset, 0), min(size, inode.size - offset)):
            window = self.window(ino, inode, index, epoch)
            for at, many, extent, start, key in window.pieces if window is not None else ():
                first, last = max(at, inside), min(at + many, inside + length)
                if first < last:
                    yield extent, start + first - at, last - first, key

    def window(self, ino: int, inode: Inode, index: int, epoch: int | None = None) -> Window | None:
        """Return what a window holds, live or at an epoch; None for a hole. `inode` is of the same time."""
        key = window_key(ino, index)
        found: Window | None = self._core.get(key) if epoch is None else self._core.versions.at(key, epoch)
        return None if found is None or _is_cut(inode, index, found) else found

    def content(self, window: Window) -> bytearray:
        """Return a window's bytes, from its start to where its data ends."""
        return bytearray(self._read_window(window, 0, end_of(window)))

    def _read_window(self, window: Window | None, offset: int, length: int) -> bytes:
        if window is None:
            return bytes(length)
        if not window.pieces:
            data = window.inline[offset : offset + length]
            return data if len(data) == length else data + bytes(length - len(data))
        read = self._core.volume.read_extent
        end = offset + length
        buffer: bytearray | None = None
        for at, many, extent, start, key in window.pieces:
            first, last = max(at, offset), min(at + many, end)
            if first >= last:
                continue
            data = read(extent, start + first - at, last - first, key)
            if len(data) == length:
                return data
            if buffer is None:
                buffer = bytearray(length)
            buffer[first - offset : last - offset] = data
        return bytes(length) if buffer is None else bytes(buffer)

    # --- writing

    def write(self, ino: int, inode: Inode, offset: int, data: bytes | bytearray | memoryview, *, keep_times: bool = False) -> Inode:
        """Write data; the caller puts the returned inode (size, allocated, times, birth are new). `inode` is the present record.

        `keep_times`: mtime and ctime stay.

        Raises EFBIG, EINVAL, NoSpace, Damaged; nothing is changed then.
        """
        length = len(data)
        if offset < 0:
            raise FilesystemError(errno.EINVAL)
        if offset + length > SIZE_MAX:
            raise FilesystemError(errno.EFBIG)
        core = self._core
        core.room(length + RECORD_ROOM)
        whole = memoryview(data)
        plan = []
        for index, inside, done, part in cut(offset, length):
            found: Window | None = core.get(window_key(ino, index))
            present = None if found is None or _is_cut(inode, index, found) else self._unpacked(found, inside, part)
            merged = self.content(present) if present is not None and len(present.pieces) >= MERGE_NOW else None
            chunk = whole if part == length else whole[done : done + part]
            plan.append((index, inside, chunk, found, present, merged))
        patches: list[Patch] = []
        grown = 0
        for index, inside, chunk, found, present, merged in plan:
            new = self._written(inside, chunk, present, merged, patches, isinstance(data, bytes))
            if new is not found:
                self.put_window(ino, inode, index, found, new)
                grown += allocated(new) - (allocated(found) if found is not None else 0)
                if len(new.pieces) > MERGE_ABOVE and len(self.merges) < _MERGES_MAX:
                    self.merges[ino, index] = None
        size = max(inode.size, offset + length)
        core.usage.resized(inode, size - inode.size, grown)
        new_inode = replace(inode, birth=core.versions.epoch, size=size, allocated=inode.allocated + grown)
        if not keep_times:
            now = core.clock()
            new_inode = replace(new_inode, mtime=now, ctime=now)
        if patches:
            core.after.append(lambda: _apply(patches))
        return new_inode

    def _unpacked(self, window: Window, offset: int, length: int) -> Window:
        """Return a window as it is before a write: a small one that stays small has its data at hand, wherever it is kept."""
        end = offset + length
        if not window.pieces or end > INLINE_MAX or end_of(window) > INLINE_MAX or (offset == 0 and end >= end_of(window)):
            return window
        return Window(window.birth, bytes(self.content(window)))

    def _written(
        self, offset: int, chunk: memoryview, old: Window | None, merged: bytearray | None, patches: list[Patch], constant: bool
    ) -> Window:
        """Return the window after a write; in-place changes of unsealed extents go to `patches`."""
        epoch, length = self._core.versions.epoch, len(chunk)
        end = offset + length
        if merged is not None:
            if len(merged) < end:
                merged.extend(bytes(end - len(merged)))
            merged[offset:end] = chunk
            return Window(epoch, b"", (self._extent(0, merged),))
        if old is None or (offset == 0 and end >= end_of(old)):
            if end <= INLINE_MAX:
                return Window(epoch, bytes(offset) + chunk)
            return Window(epoch, b"", (self._extent(offset, _own(chunk, constant)),))
        if old.pieces:
            return self._in_place(offset, chunk, old, patches) or Window(
                epoch, b"", overlay(old.pieces, self._extent(offset, _own(chunk, constant)))
            )
        inline = old.inline
        if end <= INLINE_MAX:
            return Window(epoch, inline[:offset].ljust(offset, b"\0") + bytes(chunk) + inline[end:])
        if offset - len(inline) > INLINE_MAX:
            return Window(epoch, b"", (self._extent(0, bytearray(inline)), self._extent(offset, _own(chunk, constant))))
        joined = bytearray(inline.ljust(offset, b"\0"))
        joined[offset:end] = chunk
        return Window(epoch, b"", (self._extent(0, joined),))

    def _in_place(self, offset: int, chunk: memoryview, old: Window, patches: list[Patch]) -> Window | None:
        """Plan a write into, or right behind, an extent that is not sealed yet and that only this version of the window uses."""
        core = self._core
        if old.birth != core.versions.epoch:
            return None
        pieces, end = old.pieces, offset + len(chunk)
        which = piece_at(pieces, offset)
        if which < 0:
            return None
        at, length, extent, start, key = pieces[which]
        if offset > at + length or (end > at + length and which + 1 < len(pieces) and end > pieces[which + 1][0]):
            return None
        buffer = core.volume.dirty_extent(extent)
        if buffer is None or core.references.count(extent) != 1:
            return None
        if end <= at + length:
            patches.append((buffer, start + offset - at, chunk))
            return old
        if start + length != len(buffer) or start + end - at > WINDOW:
            return None
        patches.append((buffer, start + offset - at, chunk))
        return Window(old.birth, b"", (*pieces[:which], (at, end - at, extent, start, key), *pieces[which + 1 :]))

    def _extent(self, offset: int, data: bytes | bytearray | memoryview) -> Piece:
        extent, key = self._core.volume.write_extent(data)
        return (offset, len(data), extent, 0, key)

    def put_window(self, ino: int, inode: Inode, index: int, old: Window | None, new: Window, *, shared: bool = False) -> None:
        """Replace a window's record and count the uses of its extents.

        Extents of `new` that are not in `old` are freshly written, or, with `shared`, in use elsewhere already.
        """
        core = self._core
        key = window_key(ino, index)
        if new.inline:
            core.packer.note(key, new)
        if index >= WINDOWS_UNRECORDED and core.versions.live:
            core.changes.note_window(ino, inode, index)
        if old is None:
            core.volume.put(key, new)
            if shared:
                core.references.share(extents_of(new))
            return
        kept = core.versions.put(key, old, new, ino, inode, _upto(inode, index, old))
        if not old.pieces and not shared:
            return
        before, now = extents_of(old), extents_of(new)
        if kept:
            core.references.share(now if shared else now & before)
            return
        if shared:
            core.references.share(now - before)
        core.references.release(before - now)

    def merge(self, ino: int, index: int) -> None:
        """Rewrite a window of many pieces as one extent. Content, times and sizes stay; holes between the pieces are filled."""
        core = self._core
        inode = core.inode(ino)
        old = self.window(ino, inode, index)
        if old is None or len(old.pieces) <= MERGE_ABOVE or (core.versions.live and self._is_shared(old)):
            return
        data = self.content(old)
        core.room(len(data) + RECORD_ROOM)
        new = Window(core.versions.epoch, b"", (self._extent(0, data),))
        self.put_window(ino, inode, index, old, new)
        grown = allocated(new) - allocated(old)
        if grown:
            core.usage.resized(inode, 0, grown)
            core.put_rearranged(ino, inode, replace(inode, birth=core.versions.epoch, allocated=inode.allocated + grown))

    def _is_shared(self, window: Window) -> bool:
        """Tell whether a snapshot may need the extents of a window anyway, so that merging would only take more space."""
        core = self._core
        return window.birth != core.versions.epoch or any(core.references.count(each) > 1 for each in extents_of(window))

    # --- truncation

    def resize(self, ino: int, inode: Inode, size: int) -> Inode:
        """Truncate or extend; the caller puts the returned inode. Raises EINVAL, EFBIG, EISDIR, Damaged."""
        check_regular(inode)
        if size < 0:
            raise FilesystemError(errno.EINVAL)
        if size > SIZE_MAX:
            raise FilesystemError(errno.EFBIG)
        core = self._core
        new = replace(inode, birth=core.versions.epoch, size=size)
        shrunk = 0
        if size < inode.size:
            first, inside = divmod(size, WINDOW)
            shrunk = self._trim_window(ino, inode, first, inside) if inside else 0
            first += bool(inside)
            if self._is_long(ino, inode, first):
                core.versions.next_epoch()
                new = replace(new, birth=core.versions.epoch, cut=first, cut_epoch=core.versions.epoch)
                if inode.nlink:  # else it is an orphan, of which everything goes
                    core.volume.put(orphan_key(ino), Orphan(first))
                    core.after.append(lambda: self._trim_later(ino))
            else:
                shrunk += self.remove_windows(ino, inode, first, None)[0]
        core.usage.resized(inode, size - inode.size, -shrunk)
        return replace(new, allocated=inode.allocated - shrunk)

    def _is_long(self, ino: int, inode: Inode, first: int) -> bool:
        """Tell whether the removal of all windows from `first` on is left to the background. One such removal at a time, or wider ones."""
        pending = ino in self.trimming or (not inode.nlink and inode.cut_epoch)
        if pending and first > inode.cut:
            return False
        if not inode.cut_epoch and _windows_of(inode) - first < REMOVE_NOW:
            return False
        keys = self._core.volume.scan_keys(window_key(ino, first), window_key(ino, _WINDOW_MAX))
        return any(count >= REMOVE_NOW for count, _ in enumerate(keys))

    def _trim_later(self, ino: int) -> None:
        if ino not in self.trimming:
            self.trimming.add(ino)
            self.to_trim.append(ino)

    def _trim_window(self, ino: int, inode: Inode, index: int, length: int) -> int:
        found: Window | None = self._core.get(window_key(ino, index))
        if found is None or _is_cut(inode, index, found) or end_of(found) <= length:
            return 0
        new = trimmed(found, length, self._core.versions.epoch)
        if not new.inline and not new.pieces:
            self._remove(ino, inode, index, found)
        else:
            self.put_window(ino, inode, index, found, new)
        return allocated(found) - allocated(new)

    def remove_windows(self, ino: int, inode: Inode, first: int, limit: int | None, *, only_cut: bool = False) -> tuple[int, int | None]:
        """Remove up to `limit` windows from number `first` on; `only_cut`: only those that were truncated away.

        Returns (bytes of data removed, number of the window to go on from or None at the end).
        """
        if not inode.cut_epoch and _windows_of(inode) - first <= _FEW and (limit is None or limit >= _FEW):
            return self._remove_few(ino, inode, first), None
        removed = 0
        for count, (key, record) in enumerate(self._core.volume.scan(window_key(ino, first), window_key(ino, _WINDOW_MAX))):
            index = int.from_bytes(key[9:], "big")
            if limit is not None and count >= limit:
                return removed, index
            if isinstance(record, Window) and (not only_cut or _is_cut(inode, index, record)):
                self._remove(ino, inode, index, record)
                removed += allocated(record)
        return removed, None

    def _remove_few(self, ino: int, inode: Inode, first: int) -> int:
        """Remove the windows from `first` on of a file that has few: without a scan."""
        removed = 0
        for index in range(first, _windows_of(inode)):
            found: Window | None = self._core.get(window_key(ino, index))
            if found is not None:
                self._remove(ino, inode, index, found)
                removed += allocated(found)
        return removed

    def _remove(self, ino: int, inode: Inode, index: int, window: Window) -> None:
        core = self._core
        kept = core.versions.remove(window_key(ino, index), window, ino, inode, _upto(inode, index, window))
        if index >= WINDOWS_UNRECORDED and core.versions.live:
            core.changes.note_window(ino, inode, index)
        if not kept and window.pieces:
            core.references.release(extents_of(window))

    def trim_step(self, ino: int, limit: int) -> bool:
        """Remove some windows that were truncated away from an inode with a name. Returns whether there are more."""
        core = self._core
        inode = core.inode(ino)
        position: Orphan | None = core.get(orphan_key(ino))
        if position is None or inode.nlink == 0:
            return False
        removed, following = self.remove_windows(ino, inode, max(inode.cut, position.next_window), limit, only_cut=True)
        if removed:
            core.usage.resized(inode, 0, -removed)
            core.put_rearranged(ino, inode, replace(inode, birth=core.versions.epoch, allocated=inode.allocated - removed))
        if following is None:
            core.volume.delete(orphan_key(ino))
            return False
        core.volume.put(orphan_key(ino), Orphan(following))
        return True

    def locate(self, error: Damaged, path: bytes | None, ino: int, offset: int) -> Damaged:
        """Return the error of a read, naming the file."""
        where = path.decode("utf-8", "backslashreplace") if path is not None else f"inode {ino}"
        return Damaged(f"{where}: reading at byte {offset}: {error}")


def _has_no_hole(inode: Inode) -> bool:
    """Tell whether all bytes of a file are surely kept, so that a record that is not there was taken away."""
    return inode.allocated >= inode.size and not inode.cut_epoch


def _is_cut(inode: Inode, index: int, window: Window) -> bool:
    return window.birth < inode.cut_epoch and index >= inode.cut


def _windows_of(inode: Inode) -> int:
    """Return the number of windows that a file's size spans. Only windows that were truncated away can be beyond."""
    return -(-inode.size // WINDOW)


def _upto(inode: Inode, index: int, window: Window) -> int:
    """Return the newest epoch at which a snapshot can need this version of a window."""
    return inode.cut_epoch - 1 if _is_cut(inode, index, window) else EPOCH_MAX


def _apply(patches: list[Patch]) -> None:
    for buffer, at, chunk in patches:
        buffer[at : at + len(chunk)] = chunk


def _own(chunk: memoryview, constant: bool) -> bytes | bytearray | memoryview:
    """Return a buffer for an extent: the caller's own if it is a whole window of immutable bytes, else a copy that can grow."""
    if constant and len(chunk) == WINDOW:
        whole = chunk.obj
        return whole if isinstance(whole, bytes) and len(whole) == WINDOW else chunk
    return bytearray(chunk)
