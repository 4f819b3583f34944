"""Making the directory of a new volume. Called by `Volume.create`, any thread; nothing is left behind when it fails."""

from __future__ import annotations

import errno
import os
import shutil
import uuid

from anqfs.crypto.secrets import Secret
from anqfs.errors import NoSpace, StoreExists, StoreMissing
from anqfs.store import keys, superblock
from anqfs.store.lmdb_store import LmdbExtents, LmdbRecords
from anqfs.store.lock import StoreLock

RECORDS, EXTENTS = b"records", b"extents"
_FIRST_MAP = 1 << 20


def create(store: bytes, secret: Secret, iterations: int | None) -> None:
    """Make an empty volume in the directory `store`, which must not exist or be empty. The superblock comes last: it makes the store one.

    Raises StoreExists, StoreMissing (the directory cannot be made), NoSpace.
    """
    made = _make_directory(store)
    try:
        for name, kind in ((RECORDS, LmdbRecords), (EXTENTS, LmdbExtents)):
            inner = os.path.join(store, name)
            os.mkdir(inner, 0o700)
            kind(inner, map_size=_FIRST_MAP, create=True).close()
            _sync_files(inner)
            superblock.sync_directory(inner)
        StoreLock.acquire(store, shared=False).release()
        keys.format_store(store, uuid.uuid4().bytes, secret, iterations=iterations)
        superblock.sync_directory(os.path.dirname(os.path.abspath(store)))
    except BaseException as error:
        _remove(store, made)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(f"the disk is too full to make a volume at {os.fsdecode(store)!r}") from error
        raise


def _make_directory(store: bytes) -> bool:
    """Make the store directory, or accept an empty one; returns whether it was made."""
    try:
        os.mkdir(store, 0o700)
    except FileExistsError:
        if not os.path.isdir(store) or os.listdir(store):
            raise StoreExists(f"{os.fsdecode(store)!r} exists and is not an empty directory") from None
        os.chmod(store, 0o700)
        return False
    except OSError as error:
        raise StoreMissing(f"{os.fsdecode(store)!r} cannot be made: {error.strerror}") from error
    return True


def _sync_files(directory: bytes) -> None:
    """Make a new database durable: LMDB writes its first pages without a sync, and a power cut could leave half of them."""
    for name in os.listdir(directory):
        descriptor = os.open(os.path.join(directory, name), os.O_RDWR | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _remove(store: bytes, made: bool) -> None:
    """Take away what a failed `create` left."""
    for name in os.listdir(store):
        inner = os.path.join(store, name)
        if os.path.isdir(inner):
            shutil.rmtree(inner)
        else:
            os.unlink(inner)
    if made:
        os.rmdir(store)
