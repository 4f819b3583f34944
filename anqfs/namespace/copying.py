"""Copying between files without copying data: whole windows share their extents. Called by the facade on the trio thread.

A window that is shared is never changed in place: whoever writes to it next, in either file, writes anew (`files`).
"""

from __future__ import annotations

import errno

from msgspec.structs import replace

from anqfs.errors import FilesystemError
from anqfs.namespace.core import RECORD_ROOM, Core
from anqfs.namespace.files import SIZE_MAX, Files, check_regular
from anqfs.namespace.windows import allocated, end_of, trimmed
from anqfs.store.schema import INLINE_MAX, WINDOW, Inode, Window, window_key


class Copying:
    """Copies windows, and clears them."""

    def __init__(self, core: Core, files: Files) -> None:
        self._core = core
        self._files = files

    def window(self, source: tuple[int, Inode, int | None], index: int, target: int, place: int) -> int:
        """Make window `place` of the live file `target` equal to window `index` of `source` (ino, inode, epoch), inside an operation.

        The target grows to hold it, and what it has behind the source's end stays only if it is in another window. Returns the bytes of
        the file that were copied. Raises EISDIR, EINVAL, EFBIG, NoSpace.
        """
        ino, inode, epoch = source
        live = self._core.inode(target)
        check_regular(inode)
        check_regular(live)
        length = min(WINDOW, inode.size - index * WINDOW)
        if length <= 0:
            return 0
        size = max(live.size, place * WINDOW + length)
        if size > SIZE_MAX:
            raise FilesystemError(errno.EFBIG)
        window = self._files.window(ino, inode, index, epoch)
        if window is not None and end_of(window) > length:
            window = trimmed(window, length, window.birth)
        self._core.room(RECORD_ROOM + INLINE_MAX)
        self._changed(target, live, size, self._put(target, live, place, window))
        return length

    def clear(self, target: int, place: int) -> None:
        """Make a hole of window `place` of the live file `target`, inside an operation. Its size stays. Raises EISDIR, EINVAL."""
        live = self._core.inode(target)
        check_regular(live)
        grown = self._put(target, live, place, None)
        if grown:
            self._changed(target, live, live.size, grown)

    def _put(self, target: int, live: Inode, place: int, window: Window | None) -> int:
        """Put a window that others use already, or none; returns by how many bytes what the file holds grew."""
        found: Window | None = self._core.get(window_key(target, place))
        held = 0 if found is None else allocated(found)
        if window is not None:
            new = replace(window, birth=self._core.versions.epoch)
            self._files.put_window(target, live, place, found, new, shared=True)
            return allocated(window) - held
        if found is not None:
            self._files.remove_windows(target, live, place, 1)
        return -held

    def _changed(self, target: int, live: Inode, size: int, grown: int) -> None:
        core = self._core
        now = core.clock()
        core.usage.resized(live, size - live.size, grown)
        new = replace(live, birth=core.versions.epoch, size=size, allocated=live.allocated + grown, mtime=now, ctime=now)
        core.put_inode(target, live, new)
