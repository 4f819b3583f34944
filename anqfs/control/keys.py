"""The key slots of a store, through its daemon when it is mounted and by opening it when it is not. Called by the command line."""

from __future__ import annotations

import base64
import os
from typing import TYPE_CHECKING, Any, Protocol

from anqfs.control import locate, offline, wire
from anqfs.control.client import Client
from anqfs.errors import WrongKey

if TYPE_CHECKING:
    from anqfs.crypto.secrets import Secret
    from anqfs.store.volume import Volume


class Keys(Protocol):
    """What can be done with the key slots of one store."""

    is_mounted: bool
    store: str

    def document(self) -> dict[str, Any]:
        """Return the slots as JSON."""

    def unlock(self, present: Secret | None) -> None:
        """Show a present secret, before a change. Raises WrongKey."""

    def add(self, new: Secret) -> int:
        """Add a slot and return its number. Raises KeySlotError."""

    def remove(self, slot: int) -> None:
        """Remove a slot. Raises KeySlotError."""

    def rotate(self) -> int:
        """Make a key generation and return how many there are."""


def document(slots: list[dict[str, Any]], generations: int) -> dict[str, Any]:
    """Return the JSON of `anqfs key list`."""
    from anqfs.crypto.slots import MAX_SLOTS

    return {"slots": slots, "free": MAX_SLOTS - len(slots), "generations": generations}


def of(store: str) -> Keys:
    """Return the keys of a store, named by its path or by where it is mounted. Raises StoreMissing and others as `offline.superblock`."""
    entry = locate.by_store(store) or locate.by_mount_point(store)
    if entry is not None:
        return MountedKeys(entry.store, Client(entry))
    offline.must_be_store(store)
    return OfflineKeys(store)


def verify(store: str, present: Secret) -> None:
    """Raise WrongKey when `present` opens no slot of the store."""
    from anqfs.crypto.slots import open_slots

    try:
        open_slots(offline.superblock(store).slots, present)
    except WrongKey as error:
        raise WrongKey(f"{wire.shown(store)}: {error}") from error


def check_removal(keys: Keys, slot: int) -> None:
    """Raise KeySlotError when a slot cannot be removed: there is none of this number, or no other."""
    from anqfs.crypto.slots import without

    without(offline.superblock(keys.store).slots, slot)


class MountedKeys:
    """Through the daemon. It has the master key, so a present secret is checked only when it is given."""

    is_mounted = True

    def __init__(self, store: str, daemon: Client) -> None:
        self.store = store
        self._daemon = daemon

    def document(self) -> dict[str, Any]:
        """Return the slots as JSON."""
        found: dict[str, Any] = self._daemon.get("/anqfs/v1/keys")
        return found

    def unlock(self, present: Secret | None) -> None:
        """Check a present secret, if there is one. Raises WrongKey."""
        if present is not None:
            verify(self.store, present)

    def add(self, new: Secret) -> int:
        """Add a slot and return its number."""
        body = {"kind": new.kind, "material": base64.b64encode(new.material).decode("ascii")}
        return int(self._daemon.post("/anqfs/v1/keys", body, patience=None)["slot"])

    def remove(self, slot: int) -> None:
        """Remove a slot."""
        self._daemon.delete(f"/anqfs/v1/keys/{slot}")

    def rotate(self) -> int:
        """Make a key generation and return how many there are."""
        self._daemon.post("/v2/encryption/rotate-keys", {}, patience=None)
        return int(self.document()["generations"])


class OfflineKeys:
    """By opening the store with a present secret."""

    is_mounted = False

    def __init__(self, store: str) -> None:
        self.store = store
        self._present: Secret | None = None

    def document(self) -> dict[str, Any]:
        """Return the slots as JSON."""
        block = offline.superblock(self.store)
        return document(offline.slots_of(block), len(block.generations))

    def unlock(self, present: Secret | None) -> None:
        """Take the secret that the changes are made with. Raises WrongKey."""
        assert present is not None
        verify(self.store, present)
        self._present = present

    def add(self, new: Secret) -> int:
        """Add a slot and return its number."""
        volume = self._open()
        try:
            return volume.add_slot(new)
        finally:
            volume.close()

    def remove(self, slot: int) -> None:
        """Remove a slot."""
        volume = self._open()
        try:
            volume.remove_slot(slot)
        finally:
            volume.close()

    def rotate(self) -> int:
        """Make a key generation and return how many there are."""
        volume = self._open()
        try:
            volume.rotate()
        finally:
            volume.close()
        return len(offline.superblock(self.store).generations)

    def _open(self) -> Volume:
        from pathlib import Path

        from anqfs.store.volume import Volume

        assert self._present is not None
        return Volume.open(Path(os.path.abspath(self.store)), self._present)
