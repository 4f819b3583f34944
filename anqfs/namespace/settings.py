"""What an administrator chose for a volume: one record, kept with it. Called by `control/` and `export/`, on the trio thread."""

from __future__ import annotations

import logging

from msgspec.structs import replace

from anqfs.errors import Damaged, UsageError
from anqfs.namespace.core import RECORD_ROOM, Core, operation
from anqfs.store.administration import SETTINGS, Settings

_log = logging.getLogger(__name__)
SNAPSHOT_DIRECTORY_MODES = ("visible", "hidden", "disabled")
"""How `.snapshot` shows over SMB: in the listing of a share's root; by name only; not at all (previous versions work in each mode)."""


class VolumeSettings:
    """The settings of a volume."""

    def __init__(self, core: Core) -> None:
        self.core = core

    def read(self) -> Settings:
        """Return the settings; the defaults where nothing was chosen, or where the record is damaged, until they are set again."""
        try:
            found = self.core.get(SETTINGS)
        except Damaged as error:
            _log.error("the volume's settings are the defaults: %s", error)
            return Settings()
        return found if isinstance(found, Settings) else Settings()

    @operation
    def change(self, *, snapshot_directory_mode: str | None = None, cluster_name: str | None = None) -> Settings:
        """Set what is not None and return the settings. Raises UsageError for a mode that there is not, NoSpace, ReadOnlyVolume."""
        new = self.read()
        if snapshot_directory_mode is not None:
            if snapshot_directory_mode not in SNAPSHOT_DIRECTORY_MODES:
                modes = ", ".join(SNAPSHOT_DIRECTORY_MODES)
                raise UsageError(f"the snapshot directory mode is one of {modes}, not {snapshot_directory_mode[:40]!a}")
            new = replace(new, snapshot_directory_mode=snapshot_directory_mode)
        if cluster_name is not None:
            new = replace(new, cluster_name=cluster_name)
        self.core.room(RECORD_ROOM)
        self.core.volume.put(SETTINGS, new)
        return new
