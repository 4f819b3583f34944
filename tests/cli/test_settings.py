"""anqfs settings: kept with the volume, bounded to what there is."""

from __future__ import annotations

from .conftest import Bench


def test_the_snapshot_directory_mode_is_kept_with_the_volume(mounted: Bench) -> None:
    assert mounted.json("settings", "show", mounted.mountpoint) == {"snapshot_directory_mode": "visible"}
    changed = mounted.json("settings", "set", mounted.mountpoint, "--snapshot-directory-mode", "hidden")
    assert changed == {"snapshot_directory_mode": "hidden"}
    assert mounted.json("settings", "set", mounted.mountpoint) == changed
    mounted.remount()
    assert "hidden" in mounted.ok("settings", "show", mounted.mountpoint)
    said = mounted.fails(2, "settings", "set", mounted.mountpoint, "--snapshot-directory-mode", "secret")
    assert "visible, hidden, disabled" in said
    assert mounted.json("settings", "show", mounted.mountpoint) == changed
