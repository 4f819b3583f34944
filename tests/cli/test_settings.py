"""anqfs settings: kept with the volume, bounded to what there is."""

from __future__ import annotations

import json

from .conftest import Bench
from .test_capacity import qq, qq_refused


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


def test_the_vendors_client_changes_the_snapshot_directory_mode(mounted: Bench) -> None:
    changed = json.loads(qq(mounted, "smb_modify_settings", "--snapshot-directory-mode", "disabled"))
    assert changed == json.loads(qq(mounted, "smb_get_settings")) == {"snapshot_directory_mode": "DISABLED"}
    assert mounted.json("settings", "show", mounted.mountpoint)["snapshot_directory_mode"] == "disabled"
    assert "http_bad_request_error" in qq_refused(mounted, "smb_modify_settings", "--signing-required", "true")
