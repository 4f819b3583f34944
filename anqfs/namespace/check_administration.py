"""What was asked of the volume, against the tree: quotas, tree deletes, snapshot policies, security keys, holds, users of the API.

Called by `check` only.
"""

from __future__ import annotations

from collections.abc import Callable

from anqfs.errors import UsageError
from anqfs.namespace.check_source import Absent, Source, is_directory, kind_of, snapshot_of
from anqfs.namespace.schedules import check as check_schedule
from anqfs.store.administration import (
    COUNTER_HOLD,
    COUNTER_POLICY,
    COUNTER_SECURITY_KEY,
    ApiUser,
    Hold,
    Policy,
    Quota,
    SecurityKey,
    TreeDelete,
    security_key_key,
)
from anqfs.store.schema import Inode, Snapshot

Complain = Callable[[bytes, str], None]


class Administration:
    """The judgement of these records. `highest` takes in the highest number in use of each of their counters."""

    def __init__(self, source: Source, complain: Complain, seen: Callable[[], None], highest: dict[bytes, int]) -> None:
        self.source = source
        self.complain = complain
        self.seen = seen
        self.highest = highest

    def judge_of_directories(self) -> None:
        """Judge what is recorded of live directories: quotas and deletions."""
        for letter, kind in ((b"Q", Quota), (b"T", TreeDelete)):
            for key, record in self.source.letter(letter):
                self.seen()
                ino = int.from_bytes(key[1:], "big")
                inode = self.source.inode(ino)
                if isinstance(record, kind) and (inode is Absent.MISSING or (isinstance(inode, Inode) and not inode.nlink)):
                    self.complain(b"inode %d" % ino, f"it has a {kind_of(key)} but does not exist")
                elif isinstance(inode, Inode) and not is_directory(inode.mode):
                    self.complain(self.source.describe(ino), f"it has a {kind_of(key)} but is no directory")

    def judge_api_users(self) -> None:
        """Judge the users of the API: no two have one name."""
        names: set[str] = set()
        for _, record in self.source.letter(b"A"):
            self.seen()
            if isinstance(record, ApiUser):
                if record.name in names:
                    self.complain(b"volume", "two users of the API have the same name")
                names.add(record.name)

    def judge_security_keys(self) -> None:
        """Judge the key store: no two keys have one name, and every locked snapshot's key is there."""
        names: set[str] = set()
        for key, record in self.source.letter(b"Y"):
            self.seen()
            self.highest[COUNTER_SECURITY_KEY] = max(self.highest[COUNTER_SECURITY_KEY], int.from_bytes(key[1:], "big"))
            if isinstance(record, SecurityKey):
                if record.name in names:
                    self.complain(b"volume", "two security keys have the same name")
                names.add(record.name)
        for number, snapshot in self.source.snapshots.items():
            self.judge_lock(b"snapshot %d" % number, 0 if snapshot.state else snapshot.lock_key)

    def judge_lock(self, here: bytes, key: int) -> None:
        """Judge that a security key which locks something is there; 0 is none."""
        if key and self.source.get(security_key_key(key), SecurityKey) is Absent.MISSING:
            self.complain(here, f"security key {key} locks it, but does not exist")

    def judge_policies(self) -> None:
        """Judge snapshot policies: no two have one name, their schedules make sense, their security keys are there."""
        names: set[bytes] = set()
        for key, record in self.source.letter(b"P"):
            self.seen()
            number = int.from_bytes(key[1:], "big")
            here = b"snapshot policy %d" % number
            self.highest[COUNTER_POLICY] = max(self.highest[COUNTER_POLICY], number)
            if isinstance(record, Policy):
                if record.name in names:
                    self.complain(here, "another one has the same name")
                names.add(record.name)
                self.judge_lock(here, record.lock_key)
                try:
                    check_schedule(record.schedule)
                except UsageError as error:
                    self.complain(here, str(error))

    def judge_holds(self) -> None:
        """Judge the holds of snapshots."""
        for key, record in self.source.letter(b"B"):
            self.seen()
            number = int.from_bytes(key[1:9], "big")
            self.highest[COUNTER_HOLD] = max(self.highest[COUNTER_HOLD], int.from_bytes(key[9:], "big"))
            snapshot = snapshot_of(self.source, number)
            if isinstance(record, Hold) and (snapshot is Absent.MISSING or (isinstance(snapshot, Snapshot) and snapshot.state)):
                self.complain(b"snapshot %d" % number, "somebody holds it, but it does not exist")
