"""Quotas of directories: setting, removing, listing. Called by the facade, `control/` and the virtual attributes; trio thread.

What counts, and how a limit is kept, is in `quota_accounts`. A quota belongs to its directory: it moves with it, goes with it, and is in no
snapshot. A limit below what is there is allowed: then nothing can be added until enough was removed.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator
from typing import NamedTuple

from anqfs.errors import Damaged, FilesystemError, QuotaMissing
from anqfs.namespace.core import RECORD_ROOM, Core, operation
from anqfs.namespace.quota_accounts import capacity_of
from anqfs.store.administration import Quota, quota_key
from anqfs.store.schema import INO_MAX, prefix_end

_log = logging.getLogger(__name__)
LIMIT_MAX = (1 << 63) - 1


class QuotaStatus(NamedTuple):
    """A quota and how much of it is taken, in bytes of capacity."""

    ino: int
    limit: int
    used: int


class Quotas:
    """The quotas of a volume."""

    def __init__(self, core: Core) -> None:
        self.core = core

    @operation
    def set(self, node: int, limit: int) -> None:
        """Give a live directory a quota of `limit` bytes, or another limit. Raises ENOTDIR, EINVAL, EROFS, ESTALE, NoSpace."""
        ino, _ = self.core.writable_directory(node)
        if not 0 <= limit <= LIMIT_MAX:
            raise FilesystemError(errno.EINVAL, f"a quota is 0 to {LIMIT_MAX} bytes, not {limit}")
        self.core.room(RECORD_ROOM)
        self.core.volume.put(quota_key(ino), Quota(limit))
        self.core.after.append(lambda: self.core.quotas.quota_changed(ino))

    @operation
    def remove(self, node: int) -> None:
        """Remove the quota of a live directory, be its record damaged. Raises QuotaMissing when it has none, EROFS, ENOTDIR, ESTALE."""
        ino, _ = self.core.writable_directory(node)
        if not self.core.quotas.has_quota(ino):
            raise QuotaMissing("the directory has no quota")
        self.core.volume.delete(quota_key(ino))
        self.core.after.append(lambda: self.core.quotas.quota_changed(ino))

    def limit(self, ino: int) -> int | None:
        """Return the limit of a directory's own quota, None without one."""
        found = self.core.get(quota_key(ino))
        return found.limit if isinstance(found, Quota) else None

    def status(self, ino: int) -> QuotaStatus:
        """Return a directory's own quota. Raises QuotaMissing when it has none."""
        limit = self.limit(ino)
        if limit is None:
            raise QuotaMissing("the directory has no quota")
        self._settle()
        return QuotaStatus(ino, limit, capacity_of(self.core.usage.below(ino)))

    def listing(self, after: int = 0) -> Iterator[QuotaStatus]:
        """Yield all quotas of directories with numbers above `after`, in their order, without damaged ones."""
        self._settle()
        if after >= INO_MAX:
            return
        for key in self.core.volume.scan_keys(quota_key(after + 1), prefix_end(b"Q")):
            ino = int.from_bytes(key[1:], "big")
            try:
                quota: Quota | None = self.core.get(key)
                used = capacity_of(self.core.usage.below(ino))
            except Damaged as error:
                _log.error("the quota of inode %d, or what is taken of it, is damaged: %s", ino, error)
                continue
            if quota is not None:
                yield QuotaStatus(ino, quota.limit, used)

    def _settle(self) -> None:
        if not self.core.volume.read_only and self.core.volume.failed is None:
            self.core.usage.flush()
