"""The data of many small files in few extents. Called by `files` and when a group closes, on the trio thread.

A window of up to INLINE_MAX bytes is kept in its record first, so that making one small file durable costs one commit. When many were
written in one group, their data moves into shared extents before the group closes: the records stay small, so a walk of the tree reads
little, and reading small files in the order in which they were written reads the disk once for many of them. Only what a record looks like
changes: content, birth, times and sizes stay. An extent is freed with the last window that uses it (`references`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from anqfs.store.schema import References, Window, references_key

if TYPE_CHECKING:
    from anqfs.namespace.core import Core

ABOVE = 512
"""Bytes of data above which a window leaves its record."""
FEWEST = 64
"""Windows of one group below which they all stay in their records."""
MOST = 256
"""Waiting windows above which the oldest half is packed, so that closing a group has little left to do."""
PACK = 64 << 10
"""Bytes that windows share at most: as many as are read and opened at once (`store.extents.WHOLE`)."""


class Packer:
    """Windows of the open group whose data is in their records."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._waiting: dict[bytes, None] = {}
        self.is_full = False
        """Whether `pack_oldest` is to be called once the running operation has finished."""

    def note(self, key: bytes, window: Window) -> None:
        """Remember a window that was just put, inside an operation."""
        if len(window.inline) <= ABOVE:
            return
        self._waiting.pop(key, None)
        self._waiting[key] = None
        self.is_full = len(self._waiting) > MOST

    def group_closes(self) -> None:
        """Pack what waits, if it is much, and begin anew with the next group."""
        keys = list(self._waiting)
        self._waiting.clear()
        self.is_full = False
        if len(keys) >= FEWEST:
            self._pack(keys)

    def pack_oldest(self) -> None:
        """Pack the older half of what waits. Outside an operation."""
        self.is_full = False
        keys = list(self._waiting)[: MOST // 2]
        for key in keys:
            del self._waiting[key]
        if self._core.volume.failed is None:
            self._pack(keys)

    def _pack(self, keys: list[bytes]) -> None:
        volume = self._core.volume
        volume.begin()
        try:
            size, share = 0, list[tuple[bytes, Window]]()
            for key in keys:
                window = volume.get(key)
                if not isinstance(window, Window) or len(window.inline) <= ABOVE:
                    continue  # removed, or changed since
                if size + len(window.inline) > PACK:
                    self._share(share)
                    size, share = 0, []
                share.append((key, window))
                size += len(window.inline)
            self._share(share)
        except BaseException:
            volume.undo()
            raise
        volume.finish()

    def _share(self, share: list[tuple[bytes, Window]]) -> None:
        """Put the data of these windows into one extent."""
        if not share:
            return
        volume = self._core.volume
        extent, sealing_key = volume.write_extent(b"".join([window.inline for _, window in share]))
        start = 0
        for key, window in share:
            length = len(window.inline)
            volume.put(key, Window(window.birth, b"", ((0, length, extent, start, sealing_key),)))
            start += length
        if len(share) > 1:
            volume.put(references_key(extent), References(len(share)))
