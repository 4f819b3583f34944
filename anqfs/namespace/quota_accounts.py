"""What quotas cost and allow, at the end of each operation. Called by `core` and `quotas`, on the trio thread.

A quota limits the *capacity* of all that is below its directory: the bytes of file data held (holes do not count, nor does what only a
snapshot still has) and ENTRY_CAPACITY for each name, as each takes a block of metadata on ANQ. A file with several names counts at each.
All quotas above a change must allow it. An operation that adds to none of them is never refused, however far over its limit one is.

How much a quota's directory holds is its recorded total and what waits to be added to it; both are known for sure after a crash. It is
worked out when a quota is first asked, and kept up to date from then on, so that an operation costs one look at the quotas above each
directory it adds to. On a volume without quotas it costs nothing.
"""

from __future__ import annotations

import errno
import logging
from typing import TYPE_CHECKING

from anqfs.errors import Damaged, FilesystemError
from anqfs.store.administration import Quota, quota_key
from anqfs.store.schema import Inode, Usage, inode_key, prefix_end

if TYPE_CHECKING:
    from anqfs.namespace.core import Core
    from anqfs.namespace.usage import Delta

_log = logging.getLogger(__name__)
ENTRY_CAPACITY = 4096
"""Bytes that one name takes beside the data of its file."""
_CHAINS_MAX = 65536
_ACCOUNTS_MAX = 65536


def capacity_of(delta: Delta) -> int:
    """Return the capacity, in bytes, of totals as `usage` counts them."""
    return delta[1] + ENTRY_CAPACITY * (delta[2] + delta[3] + delta[4] + delta[5])


def capacity_below(usage: Usage) -> int:
    """Return the capacity, in bytes, of what is below a directory with these totals."""
    return usage.allocated + ENTRY_CAPACITY * (usage.files + usage.directories + usage.symlinks + usage.others)


class Account:
    """How much a quota allows and how much is taken, in bytes of capacity."""

    __slots__ = ("limit", "used")

    def __init__(self, limit: int, used: int) -> None:
        self.limit = limit
        self.used = used


class QuotaAccounts:
    """The quotas that were asked so far. What is remembered can be dropped at any time: the records have it."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._chains: dict[int, tuple[int, ...]] = {}
        self._accounts: dict[int, Account] = {}
        self.any = next(iter(core.volume.scan_keys(b"Q", prefix_end(b"Q"))), None) is not None
        """Whether there may be a quota at all."""

    def forget(self) -> None:
        """Drop which quotas are above which directory: directories moved, or quotas came or went."""
        self._chains.clear()

    def quota_changed(self, ino: int) -> None:
        """Take note that the quota of a directory was set or removed."""
        self.any = True
        self._accounts.pop(ino, None)
        self._chains.clear()

    def directory_goes(self, ino: int) -> None:
        """Remove the quota of a directory that is being removed, inside the operation."""
        if self.any and self.has_quota(ino):
            self._core.volume.delete(quota_key(ino))
            self._core.after.append(lambda: self.quota_changed(ino))

    def above(self, directory: int) -> tuple[int, ...]:
        """Return the directories with a quota among a directory and its ancestors, the nearest first."""
        known = self._chains.get(directory)
        if known is not None:
            return known
        way: list[int] = []
        ino = directory
        found: tuple[int, ...] = ()
        while True:
            way.append(ino)
            inode: Inode | None = self._core.get(inode_key(ino))
            if inode is None or not inode.links:
                break
            ino = inode.links[0][0]
            known = self._chains.get(ino)
            if known is not None:
                found = known
                break
        if len(self._chains) + len(way) > _CHAINS_MAX:
            self._chains.clear()
        for ino in reversed(way):
            if self.has_quota(ino):
                found = (ino, *found)
            self._chains[ino] = found
        return found

    def has_quota(self, ino: int) -> bool:
        """Tell whether a directory has a quota. A damaged one refuses what would add to it, and nothing else, until it is set again."""
        try:
            return self._core.get(quota_key(ino)) is not None
        except Damaged as error:
            _log.error("the quota of inode %d: %s", ino, error)
            return True

    def account(self, ino: int) -> Account:
        """Return the account of a directory that has a quota, without what the running operation adds."""
        known = self._accounts.get(ino)
        if known is not None:
            return known
        quota = self._core.get(quota_key(ino))
        assert isinstance(quota, Quota)
        usage = self._core.usage
        used = capacity_of(usage.below(ino))
        used += sum(capacity_of(delta) for directory, delta in usage.waiting() if ino in self.above(directory))
        if len(self._accounts) >= _ACCOUNTS_MAX:
            self._accounts.clear()
        account = self._accounts[ino] = Account(quota.limit, used)
        return account

    def admit(self) -> None:
        """Let the running operation add what it noted, when it has done all else. Raises EDQUOT when a quota would be exceeded by it."""
        changes: dict[int, int] = {}
        for directory, delta in self._core.usage.added():
            capacity = capacity_of(delta)
            if capacity:
                for ino in self.above(directory):
                    changes[ino] = changes.get(ino, 0) + capacity
        for ino, change in changes.items():
            if change > 0:
                account = self.account(ino)
                if account.used + change > account.limit:
                    raise FilesystemError(errno.EDQUOT, f"the quota of {account.limit} bytes is reached: {account.used} are taken")
        for ino, change in changes.items():
            known = self._accounts.get(ino)
            if known is not None:
                known.used += change

    def nearly_reached(self, inode: Inode, margin: int) -> bool:
        """Tell whether a quota above any name of an inode has less than `margin` bytes left, or less than an eighth of its limit."""
        if not self.any:
            return False
        accounts = (self.account(ino) for parent, _ in inode.links for ino in self.above(parent))
        return any(account.limit - account.used < max(margin, account.limit // 8) for account in accounts)
