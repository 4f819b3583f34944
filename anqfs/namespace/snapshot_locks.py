"""Locks and holds of snapshots. Called by `control/` on the trio thread; `snapshots` enforces what is recorded here.

A locked snapshot is deleted by nobody and can only be made to expire later, until somebody signs a challenge with the private half of the
key that locks it. The challenge names the volume, the snapshot, when it expires, the key and its version, and which locking of the
snapshot it is: a signature unlocks once, and what it was given for. At its expiration a locked snapshot goes as any other.

A hold is somebody's need of a snapshot (ANQ's owners): while there is one, the snapshot is neither deleted nor changed, and it stays beyond
its expiration.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from anqfs.errors import AlreadyThere, Damaged, NotFound, SnapshotHeld, SnapshotLocked, UsageError
from anqfs.namespace.core import RECORD_ROOM, Core, operation
from anqfs.namespace.security_keys import SecurityKeys
from anqfs.namespace.snapshots import Snapshots
from anqfs.store.administration import COUNTER_HOLD, Hold, hold_key
from anqfs.store.schema import Counter, Snapshot, prefix_end

_log = logging.getLogger(__name__)
HOLDS_MAX = 16
"""Holds of one snapshot."""
OWNER_MAX = 200


class SnapshotLocks:
    """Which snapshots are locked and held."""

    def __init__(self, core: Core, snapshots: Snapshots, keys: SecurityKeys) -> None:
        self.core = core
        self._snapshots = snapshots
        self._keys = keys
        self._holds: dict[int, dict[int, Hold]] = defaultdict(dict)
        """The holds of each held snapshot, by their numbers."""
        snapshots.check_may_go = self.check_may_go
        snapshots.check_may_expire = self._check_may_expire
        snapshots.is_held = self._holds.__contains__

    def load(self) -> None:
        """Read all holds. A damaged one holds, whosever it is."""
        for key in list(self.core.volume.scan_keys(b"B", prefix_end(b"B"))):
            number, hold = int.from_bytes(key[1:9], "big"), int.from_bytes(key[9:], "big")
            try:
                record = self.core.get(key)
            except Damaged as error:
                _log.error("hold %d of snapshot %d is damaged, the snapshot stays held: %s", hold, number, error)
                record = Hold("an owner whose record is damaged", 0)
            assert isinstance(record, Hold)
            self._holds[number][hold] = record

    # --- what is refused

    def check_may_go(self, snapshot: Snapshot) -> None:
        """Raise SnapshotLocked or SnapshotHeld for a snapshot that must not be deleted."""
        self._check_unheld(snapshot, "deleted")
        if snapshot.lock_key:
            raise SnapshotLocked(f"snapshot {snapshot.id} is locked by security key {snapshot.lock_key}: unlock it first")

    def _check_may_expire(self, snapshot: Snapshot, expires: int) -> None:
        self._check_unheld(snapshot, "changed")
        is_earlier = snapshot.expires == 0 or 0 < expires < snapshot.expires
        if snapshot.lock_key and is_earlier and expires != snapshot.expires:
            raise SnapshotLocked(f"snapshot {snapshot.id} is locked by security key {snapshot.lock_key}: it can only expire later")

    def _check_unheld(self, snapshot: Snapshot, what: str) -> None:
        owners = self.owners(snapshot.id)
        if owners:
            raise SnapshotHeld(f"snapshot {snapshot.id} is needed by {owners[0]}: it cannot be {what} meanwhile")

    # --- locks

    @operation
    def lock(self, number: int, key: str) -> Snapshot:
        """Lock a snapshot with a security key, named by number or name. Raises NotFound, UsageError, AlreadyThere when it is locked."""
        snapshot = self._snapshots.get(number)
        if snapshot.lock_key:
            raise AlreadyThere(f"snapshot {number} is locked already, by security key {snapshot.lock_key}")
        return self._snapshots.put(replace(snapshot, lock_key=self._keys.for_locking(key), locks=snapshot.locks + 1))

    def challenge(self, number: int) -> str:
        """Return what unlocks a snapshot once it is signed. Raises NotFound, UsageError when it is not locked."""
        snapshot = self._snapshots.get(number)
        if not snapshot.lock_key:
            raise UsageError(f"snapshot {number} is not locked")
        key = self._keys.get(snapshot.lock_key)
        return (
            f"anqfs:unlock-snapshot:{self.core.volume.uuid}:snapshot={number}:locking={snapshot.locks}"
            f":expires={snapshot.expires}:key={snapshot.lock_key}:version={key.version}"
        )

    @operation
    def unlock(self, number: int, signature: str) -> Snapshot:
        """Unlock a snapshot. `signature`: by its key over its challenge, base64. Raises NotFound, UsageError, BadSignature."""
        challenge = self.challenge(number)
        snapshot = self._snapshots.get(number)
        self._keys.check_signed(snapshot.lock_key, challenge, signature)
        return self._snapshots.put(replace(snapshot, lock_key=0))

    # --- holds

    def owners(self, number: int) -> Sequence[str]:
        """Return who needs a snapshot."""
        return [hold.owner for hold in self.holds(number).values()]

    def holds(self, number: int) -> Mapping[int, Hold]:
        """Return the holds of a snapshot by their numbers."""
        return self._holds.get(number, {})

    @operation
    def hold(self, number: int, owner: str) -> int:
        """Hold a snapshot for `owner` until `release`, over restarts; returns the hold's number. Raises NotFound, UsageError."""
        self._snapshots.get(number)
        if not owner or len(owner) > OWNER_MAX or not owner.isprintable():  # it stands in messages of one line
            raise UsageError(f"an owner's name has 1 to {OWNER_MAX} characters, all printable")
        if len(self.owners(number)) >= HOLDS_MAX:
            raise UsageError(f"snapshot {number} has {HOLDS_MAX} holds already")
        counter: Counter | None = self.core.get(COUNTER_HOLD)
        hold = counter.value if counter is not None else 1
        self.core.room(RECORD_ROOM)
        self.core.volume.put(COUNTER_HOLD, Counter(hold + 1))
        record = Hold(owner, self.core.clock())
        self.core.volume.put(hold_key(number, hold), record)
        self.core.after.append(lambda: self._holds[number].update({hold: record}))
        return hold

    @operation
    def release(self, number: int, hold: int) -> None:
        """End a hold. Raises NotFound."""
        if hold not in self._holds.get(number, ()):
            raise NotFound(f"snapshot {number} has no hold {hold}")
        self.core.volume.delete(hold_key(number, hold))
        self.core.after.append(lambda: self._released(number, hold))

    def _released(self, number: int, hold: int) -> None:
        del self._holds[number][hold]
        if not self._holds[number]:
            del self._holds[number]
            self._snapshots.expirations_changed(self._snapshots.get(number))
