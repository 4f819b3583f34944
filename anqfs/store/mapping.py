"""Where LMDB's map has a value, without touching it.

py-lmdb touches every page of a value before it hands it out. For a 1 MiB extent of which 4 KiB are wanted, that reads 1 MiB from the
disk, on the thread that asks. So extents are found by hand, and read from the file: a cursor set to the key shows where in its leaf page
the key is; LMDB 0.9 keeps the node's header in front of it and, for a large value, the number of its first overflow page behind it (mdb.c,
MDB_node). The first value found this way is compared with what LMDB itself answers; when they differ, the map is not used this way at all.
"""

from __future__ import annotations

import logging
import os
from struct import Struct
from typing import Any

from anqfs.errors import Damaged
from anqfs.store import memory

_log = logging.getLogger(__name__)
_NODE = Struct("=HHHH")
_EXTENT_NODE = Struct("=HHHH8sQ")
_POINTERS = Struct("=H")
_PAGE_KIND = Struct("=8xHHH")
_LEAF = 2
_PAGE_NUMBER = Struct("=Q")
_BIG_DATA = 1
_PAGE_HEADER = 16


class Mapping:
    """The map of one environment's data file. Made anew when the map moves."""

    def __init__(self, data: bytes, map_size: int, page_size: int) -> None:
        self.start = memory.mapping_of(data, map_size)
        """Address of the map; 0 when it is not known."""
        self._data = data
        self._map_size = map_size
        self._readable = 0
        """Bytes of the file as far as was looked."""
        self._page_size = page_size
        self._trusted: bool | None = None if self.start else False

    def value(self, cursor: Any) -> tuple[memoryview, int | None]:
        """Return the value at a positioned cursor, valid as long as the transaction, and where it is in the file.

        Of a value whose place is known nothing is touched. None stands for a place that is not known.
        Raises Damaged when it would lie past the end of the file, where touching it would kill the process.
        """
        if self._trusted is not False:
            found = self._find(cursor.key())
            if found is not None and (self._trusted or self._check(cursor, found[0])):
                return found
        return cursor.value(), None

    def _find(self, key: memoryview) -> tuple[memoryview, int] | None:
        """Return the large value of the node whose key this is; None when it is in the leaf page, or when anything looks unexpected."""
        at = memory.address(key)
        if not self.start <= at - _NODE.size < self.start + self._map_size:
            return None
        low, high, flags, key_size = _NODE.unpack(memory.read(at - _NODE.size, _NODE.size))
        if flags != _BIG_DATA or key_size != len(key):
            return None
        (page,) = _PAGE_NUMBER.unpack(memory.read(at + key_size, _PAGE_NUMBER.size))
        offset, size = page * self._page_size + _PAGE_HEADER, low | high << 16
        self.bounded(offset, size)
        return self.view(offset, size), offset

    def place_all(self, key: memoryview, places: dict[bytes, tuple[int, int]]) -> None:
        """Note where the large values are, and their sizes, that are in the leaf page of a key for which `value` gave a place.

        LMDB itself touches a value's first page on look-up, which is a wait for the disk for each. Of what a page says nothing is believed
        here: `bounded` is asked before a place is used.
        """
        at, size = memory.address(key), self._page_size
        page = memory.read(at - (at - self.start) % size, size)
        _, kind, end = _PAGE_KIND.unpack_from(page)
        if kind & _LEAF and _PAGE_HEADER <= end <= size and not end % _POINTERS.size:
            for (node,) in _POINTERS.iter_unpack(page[_PAGE_HEADER:end]):
                if node <= size - _EXTENT_NODE.size:
                    low, high, flags, key_size, found, first = _EXTENT_NODE.unpack_from(page, node)
                    if flags == _BIG_DATA and key_size == len(found):
                        places[found] = first * size + _PAGE_HEADER, low | high << 16

    def bounded(self, offset: int, size: int) -> None:
        """Raise Damaged when a value would lie past the end of the file, where touching it would kill the process."""
        if offset + size > self._readable:
            self._readable = min(os.stat(self._data).st_size, self._map_size)
            if offset + size > self._readable:
                raise Damaged("an altered page of the extent database points past its end")

    def view(self, offset: int, size: int) -> memoryview:
        """Return the bytes of a value whose place is known, valid as long as the transaction."""
        return memory.view(self.start + offset, size)

    def _check(self, cursor: Any, found: memoryview) -> bool:
        memory.will_need(found)
        with cursor.value() as value:
            self._trusted = len(value) == len(found) and memory.address(value) == memory.address(found)
        if not self._trusted:
            _log.warning("LMDB keeps values elsewhere than expected: reads of extents may wait for more of the disk than they need")
        return self._trusted

    def drop(self, used: int) -> None:
        """Drop the page table entries of the first `used` bytes."""
        memory.drop(self.start, min(used, self._map_size))
