"""The intent log: a file in which small groups are durable at the price of one write and one flush, until the stores have them.

A commit of the two databases writes some twenty scattered pages and flushes four times. A small group that somebody waits for is put here
instead, sealed whole as one *frame*; the next commit of the stores takes in everything logged before it (compare the ZIL of ZFS). Frames
follow each other from the file's start, each on pages of its own, and name the commit of the stores that they follow: once the stores
have committed again they are void, and the file is written from its start. So nothing here is ever removed or renamed while it counts.

Opening a volume reads the frames back (`read`). A frame cut off by a crash was never acknowledged: it ends the log. One that does not
open although a later one does was damaged: what follows it is lost, which is told.

Only half of the file is used: when the disk is too full for the stores to commit, the other half is given back, which is the room that
what the log holds takes there. Reading is the owner's, the rest is the writer thread's.
"""

from __future__ import annotations

import errno
import logging
import os
from struct import Struct
from struct import error as StructError
from typing import cast

import msgspec

from anqfs.crypto.sealing import RECORD_OVERHEAD, RecordSealer
from anqfs.errors import Damaged
from anqfs.store import superblock
from anqfs.store.codec import decode, encode
from anqfs.store.group import Group

_log = logging.getLogger(__name__)
NAME = b"log"
SIZE_MAX = 16 << 20
"""Bytes of the file, half of which is used; less on a small disk."""
_SIZE_MIN = 256 << 10
_SHARE = 32
"""The file takes at most this part of what is free on the disk."""
FRAME_MAX = 256 << 10
"""Bytes of a group that is logged; a larger one gains nothing from being written twice."""
PAGE = 4096
"""Frames begin at multiples of it: a page of the disk that is being written when the power fails holds nothing acknowledged."""
_MAGIC = b"anqL"
_HEADER = Struct(">4sIQI")
"""Magic, bytes of the sealed frame, the commit that the frame follows, its number since then."""
_PLACE = Struct(">4xQI")
_ZEROS = bytes(1 << 20)


class _Frame(msgspec.Struct, array_like=True, frozen=True):
    """What a frame holds of a group: (key, encoded record or None), (extent id, sealing key number, plaintext), freed extent ids."""

    records: list[tuple[bytes, bytes | None]]
    extents: list[tuple[int, int, bytes]]
    frees: list[int]


_decoder = msgspec.msgpack.Decoder(_Frame)


def _pages(length: int) -> int:
    """Return the bytes of whole pages that `length` bytes take."""
    return -(-length // PAGE) * PAGE


class IntentLog:
    """The log of one opened volume."""

    def __init__(self, store: bytes, sealer: RecordSealer) -> None:
        self._store = store
        self._path = os.path.join(store, NAME)
        self._sealer = sealer
        self._descriptor = -1
        self._size = 0
        self._used = 0
        self._count = 0
        self._usable = True
        self._shed = False
        self._holds = False
        """Whether the file has frames that count."""
        self.lost = 0
        """Acknowledged groups that `read` found damaged."""

    def read(self, commit: int) -> list[Group]:
        """Return the groups that were logged after the stores' commit number `commit`, in order. Owner, at open."""
        try:
            with open(os.fsdecode(self._path), "rb", opener=_opener) as file:
                content = file.read(SIZE_MAX)
        except FileNotFoundError:
            return []
        except OSError as error:
            name = os.fsdecode(self._path)
            raise Damaged(f"the intent log {name!r} cannot be read: {error.strerror}; without it, the last changes are lost") from error
        groups: list[Group] = []
        at = 0
        while (found := self._frame(content, at, commit, len(groups))) is not None:
            group, length = found
            groups.append(group)
            at += length
        self._holds, self._used, self._size = bool(groups), at, len(content)
        later = sum(self._goes_on(content, place, commit, len(groups)) for place in range(at, len(content), PAGE))
        if later:
            self.lost = later + 1
            _log.error("the intent log is damaged: %d acknowledged groups of changes after commit %d are lost", self.lost, commit)
        elif not groups:
            self._see_that_it_is_not_ahead(content, commit)
        return groups

    def _see_that_it_is_not_ahead(self, content: bytes, commit: int) -> None:
        """Tell when the first frame follows a commit that the stores have not made: they are an older copy."""
        try:
            _, _, follows, _ = _HEADER.unpack_from(content)
        except StructError:
            return
        if follows > commit and self._frame(content, 0, follows, 0) is not None:
            self.lost = follows - commit
            _log.error("the intent log follows commit %d, and the stores are at commit %d: they are an older copy", follows, commit)

    def _goes_on(self, content: bytes, at: int, commit: int, count: int) -> bool:
        """Tell whether a later frame is at `at` although frame `count` cannot be had."""
        try:
            _, _, follows, number = _HEADER.unpack_from(content, at)
        except StructError:
            return False
        return follows == commit and number > count and self._frame(content, at, commit, number) is not None

    def _frame(self, content: bytes, at: int, commit: int, number: int) -> tuple[Group, int] | None:
        """Return the group of the frame at `at` and the frame's length in bytes; None when that frame is not there."""
        try:
            magic, length, follows, found = _HEADER.unpack_from(content, at)
        except StructError:
            return None
        if magic != _MAGIC or follows != commit or found != number:
            return None
        start = at + _HEADER.size
        try:
            plaintext = self._sealer.open(_PLACE.pack(commit, number), content[start : start + length])
            return _decoded(plaintext), _pages(_HEADER.size + length)
        except (Damaged, msgspec.DecodeError):
            return None

    def append(self, commit: int, group: Group) -> bool:
        """Make a group durable that follows the stores' commit `commit`. False when the stores must take it: here it is not, or not surely.

        A log that could not be written is not used again.
        """
        if not self._usable or group.size > FRAME_MAX:
            return False
        try:
            return (self._descriptor >= 0 or self._make()) and self._write(commit, _encoded(group))
        except OSError as error:
            _log.warning("the intent log cannot be used, each group goes to the stores at once: %s", error.strerror)
            self._usable = False
            return False

    def _write(self, commit: int, plaintext: bytes) -> bool:
        length = _HEADER.size + RECORD_OVERHEAD + len(plaintext)
        if self._used + length > self._size // 2:
            return False
        sealed = self._sealer.seal(_PLACE.pack(commit, self._count), plaintext)
        header = _HEADER.pack(_MAGIC, len(sealed), commit, self._count)
        if os.pwritev(self._descriptor, [header, sealed], self._used) != length:
            raise OSError(errno.EIO, "only a part was written")
        os.fdatasync(self._descriptor)
        self._used += _pages(length)
        self._count += 1
        self._holds = True
        return True

    def _make(self) -> bool:
        """Make the file with all its blocks written, so that a flush has no metadata to write. False when the disk has too little room."""
        if self._holds:
            return False
        disk = os.statvfs(self._store)
        size = min(SIZE_MAX, disk.f_bavail * disk.f_frsize // _SHARE) // (2 * PAGE) * (2 * PAGE)
        if size < _SIZE_MIN:
            return False
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            os.ftruncate(descriptor, size)
            for at in range(0, size, len(_ZEROS)):
                os.pwrite(descriptor, _ZEROS[: size - at], at)
            os.fsync(descriptor)
            superblock.sync_directory(self._store)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor, self._size = descriptor, size
        return True

    def restart(self) -> None:
        """Note that the stores have everything that was logged: what comes next goes to the file's start."""
        self._used = self._count = 0
        self._holds = False
        if self._shed:
            self._shed = False
            self._let_go()

    def shed(self) -> bool:
        """Give a full disk back what is not used of the file; returns whether that gave anything. The file is made anew once it is void."""
        if self._size <= self._used:
            return False
        os.truncate(self._path, self._used)
        self._size, self._shed = self._used, True
        return True

    def close(self) -> None:
        """Let go of the file, and remove it when the stores have all that it held."""
        self._let_go()
        if not self._holds:
            try:
                os.unlink(self._path)
            except FileNotFoundError:
                pass
            except OSError as error:
                _log.warning("the intent log stays, it holds nothing: %s", error.strerror)

    def _let_go(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _opener(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW)


def _encoded(group: Group) -> bytes:
    return encode(
        _Frame(
            [(key, None if record is None else encode(record)) for key, record in group.records.items()],
            [(extent, number, cast(bytes, data)) for extent, (data, number) in group.extents.items()],
            group.frees,
        )
    )


def _decoded(plaintext: bytes) -> Group:
    frame, group = _decoder.decode(plaintext), Group()
    for key, encoded in frame.records:
        group.put(key, None if encoded is None else decode(key, encoded))
    for extent, number, data in frame.extents:
        group.extents[extent] = (data, number)
        group.bulk += len(data)
    group.frees += frame.frees
    return group
