"""anqfs snapshot policy, lock and security-key, and the vendor's own client for the same, on a mounted volume."""

from __future__ import annotations

import base64
import errno
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from qumulo.lib.qq import qq_main_PYTHON_ARGCOMPLETE_OK

from anqfs.cli import app
from anqfs.crypto.secrets import Secret
from anqfs.namespace import Namespace
from anqfs.namespace.schedules import EVERY_SO_OFTEN, Schedule
from anqfs.store.administration import api_user_key, policy_key, security_key_key
from anqfs.store.volume import Volume
from tests.places import secret_file
from tests.refusals import refusal
from tests.unit.damaged_volume import Damage, Facts

from .conftest import Bench, eventually, mounted_below, on_terminal


class Fast(Bench):
    """The bench, whose commands run in this process: starting an interpreter for each takes longer than what most of them do."""

    def run(self, *arguments: str | bytes | Path, **more: Any) -> subprocess.CompletedProcess[str]:
        """Run a command of `anqfs`. Daemons are started as ever."""
        if more or os.fsdecode(arguments[0]) in ("mount", "umount", "mkfs", "check"):
            return super().run(*arguments, **more)
        command = [os.fsdecode(argument) for argument in arguments]
        code, out, err = captured(lambda: app.run(command), {"ANQFS_RUNTIME_DIR": str(self.runtime)})
        return subprocess.CompletedProcess(command, code, out, err)


def captured(main: Callable[[], int], environment: dict[str, str]) -> tuple[int, str, str]:
    """Call a program's entry point; return its exit code and what it printed."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        for name, value in environment.items():
            patch.setenv(name, value)
        try:
            code = main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
    return code, out.getvalue(), err.getvalue()


@pytest.fixture
def mounted(bench: Bench) -> Iterator[Bench]:
    """A bench with a mounted store, whose commands run in this process."""
    bench.__class__ = Fast
    bench.mkfs()
    bench.mount()
    yield bench
    if mounted_below(bench.top):
        bench.umount()


def run_qq(bench: Bench, *arguments: str | Path) -> tuple[int, str, str]:
    """Run the vendor's client, as its script does, over the daemon's socket."""
    (entry,) = bench.runtime.glob("*.json")
    command = ["qq", "--host", "localhost", "--socket-path", json.loads(entry.read_text())["socket"], *(str(one) for one in arguments)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", command)
        return captured(lambda: int(qq_main_PYTHON_ARGCOMPLETE_OK() or 0), {})


def qq(bench: Bench, *arguments: str | Path) -> str:
    code, out, err = run_qq(bench, *arguments)
    assert code == 0, (arguments, err)
    return out


def qq_refused(bench: Bench, *arguments: str | Path) -> str:
    code, _, err = run_qq(bench, *arguments)
    assert code != 0, arguments
    return err


def new_key(path: Path) -> Path:
    """Make a private key in a file, as a user does."""
    subprocess.run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(path)], check=True, capture_output=True)
    return path


def signed(key: Path, text: str) -> str:
    """Return the base64 of openssl's signature."""
    done = subprocess.run(["openssl", "dgst", "-sha256", "-sign", str(key)], input=text.encode(), capture_output=True, check=True)
    return base64.b64encode(done.stdout).decode()


def public(key: Path) -> str:
    """Return the base64 of the public half, DER."""
    done = subprocess.run(["openssl", "ec", "-in", str(key), "-pubout", "-outform", "DER"], capture_output=True, check=True)
    return base64.b64encode(done.stdout).decode()


def in_time(**ahead: float) -> str:
    return (datetime.now(UTC) + timedelta(**ahead)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def qq_json(bench: Bench, *arguments: str | Path) -> Any:
    return json.loads(qq(bench, *arguments))


# --- the command line


def test_a_policy_is_made_shown_changed_and_deleted(mounted: Bench) -> None:
    top = mounted.mountpoint / "studies"
    top.mkdir()
    made = mounted.json(
        *("snapshot", "policy", "create", "nightly", top, "--daily", "2:30", "--timezone", "Europe/Berlin", "--keep", "7days"),
        *("--days", "mon,FRI"),
    )
    assert made["schedule"] == {
        "id": 1,
        "creation_schedule": {
            "frequency": "SCHEDULE_DAILY_OR_WEEKLY",
            "timezone": "Europe/Berlin",
            "hour": 2,
            "minute": 30,
            "on_days": ["MON", "FRI"],
        },
        "expiration_time_to_live": "7days",
    }
    assert (made["source_file_path"], made["snapshot_name_template"], made["enabled"]) == ("/studies/", "{ID}_{Policy}_{Directory}", True)
    following = datetime.fromisoformat(made["next_snapshot_time"])
    assert following > datetime.now(UTC) and following.minute == 30 and following.hour in (0, 1)
    mounted.ok("snapshot", "policy", "create", "often", mounted.mountpoint, "--every", "6hours", "--from", "8:00", "--until", "20:00")
    mounted.ok("snapshot", "policy", "create", "yearbook", top, "--monthly", "last", "--at", "23:00", "--disabled")
    shown = mounted.ok("snapshot", "policy", "list").splitlines()
    assert "nightly" in shown[1] and "daily at 2:30 on MON,FRI Europe/Berlin" in shown[1] and "7days" in shown[1]
    assert "every 6 hours from 8:00 to 20:00 UTC" in shown[2] and "never" in shown[2]
    assert "monthly on the last day at 23:00 UTC" in shown[3] and "disabled" in shown[3]
    mounted.remount()
    assert "next:" in mounted.ok("snapshot", "policy", "show", "often")
    changed = mounted.json("snapshot", "policy", "modify", "often", "--name", "seldom", "--monthly", "27", "--keep", "never")
    assert (changed["policy_name"], changed["schedule"]["creation_schedule"]["day_of_month"]) == ("seldom", 27)
    assert mounted.json("snapshot", "policy", "disable", "2")["enabled"] is False
    assert mounted.json("snapshot", "policy", "enable", "seldom")["enabled"] is True
    assert "policy 1 nightly would be deleted; its 0 snapshots would stay" in mounted.ok("snapshot", "policy", "delete", "1", "--dry-run")
    mounted.ok("snapshot", "policy", "delete", "nightly")
    assert [one["policy_name"] for one in mounted.json("snapshot", "policy", "list")] == ["seldom", "yearbook"]


def test_what_makes_no_sense_is_told_in_a_line(mounted: Bench) -> None:
    create = ("snapshot", "policy", "create", "a", mounted.mountpoint)
    assert "--every, --daily or --monthly" in mounted.fails(2, *create)
    assert "not both" in mounted.fails(2, *create, "--daily", "2:00", "--every", "5minutes")
    assert "no interval" in mounted.fails(2, *create, "--every", "100minutes")
    assert "1 to 27" in mounted.fails(2, *create, "--monthly", "31")
    assert "no time of day" in mounted.fails(2, *create, "--daily", "25:00")
    assert "Europe/Nowhere" in mounted.fails(2, *create, "--daily", "2:00", "--timezone", "Europe/Nowhere")
    assert "no time to live" in mounted.fails(2, *create, "--daily", "2:00", "--keep", "100days")
    assert "on_days" in mounted.fails(2, *create, "--daily", "2:00", "--days", "MON,FUNDAY")
    assert "{Policy}" in mounted.fails(2, *create, "--daily", "2:00", "--template", "{ID}_{Name}")
    assert "no security key" in mounted.fails(8, *create, "--daily", "2:00", "--lock-key", "vault")
    assert "no snapshot policy" in mounted.fails(8, "snapshot", "policy", "show", "a")
    assert mounted.json("snapshot", "policy", "list") == []


def test_a_snapshot_missed_while_the_volume_was_not_mounted_is_taken_at_once_and_expires(bench: Bench) -> None:
    """An hour ago, somebody made a policy that takes one every five minutes; nobody had the volume mounted since."""
    bench.__class__ = Fast
    bench.mkfs()
    volume = Volume.open(bench.store, Secret.from_key_file(str(bench.key)))
    Namespace(volume, clock=lambda: time.time_ns() - 3600 * 10**9).policies.create(b"often", 1, Schedule(EVERY_SO_OFTEN, every=5))
    volume.close()
    bench.mount()
    bench.ok("snapshot", "policy", "disable", "often")
    eventually("the missed snapshot", lambda: bench.json("snapshot", "list") != [])
    (taken,) = bench.json("snapshot", "list")
    assert (taken["name"], taken["policy"], taken["expires"]) == ("often", "often", None)
    assert os.listdir(bench.mountpoint / ".snapshot" / "1_often") == []
    bench.ok("snapshot", "modify", "1", "--expires", in_time(seconds=0.5))
    eventually("the snapshot to expire", lambda: bench.json("snapshot", "list") == [])
    assert refusal(os.stat, bench.mountpoint / ".snapshot" / "1_often") == "ENOENT"
    bench.umount()
    assert bench.json("check", bench.store, "--key-file", bench.key)["findings"] == []


def test_a_locked_snapshot_resists_root_until_its_owner_signs(mounted: Bench) -> None:
    key = new_key(mounted.top / "vault.pem")
    assert mounted.json("security-key", "add", "vault", "--private-key-file", key, "--comment", "in the safe")["public_key"] == public(key)
    (mounted.mountpoint / "evidence").write_text("kept")
    place = Path(mounted.json("snapshot", "create", mounted.mountpoint, "--name", "kept", "--expires", in_time(days=1))["path"])
    assert "would be locked by security key 1 (vault)" in mounted.ok("snapshot", "lock", "1", "--key", "vault", "--dry-run")
    assert mounted.json("snapshot", "list")[0]["lock_key"] is None
    assert mounted.json("snapshot", "lock", "1", "--key", "vault")["lock_key"] == 1
    assert "locked by key 1" in mounted.ok("snapshot", "list")
    mounted.remount()
    assert refusal(os.rmdir, place) == "EPERM"
    assert "is locked by security key 1" in mounted.fails(13, "snapshot", "delete", "1")
    assert "is locked by security key 1" in mounted.fails(13, "snapshot", "delete", "1", "--dry-run")
    assert "can only expire later" in mounted.fails(13, "snapshot", "modify", "1", "--expires", in_time(hours=1))
    assert "is used 1 times" in mounted.fails(13, "security-key", "delete", "vault", "--dry-run")
    mounted.fails(13, "security-key", "delete", "vault")
    mounted.ok("snapshot", "modify", "1", "--expires", in_time(days=2))
    assert (place / "evidence").read_text() == "kept"
    other = new_key(mounted.top / "other.pem")
    assert "not one over" in mounted.fails(4, "snapshot", "unlock", "1", "--private-key-file", other)
    challenge = mounted.ok("snapshot", "unlock-challenge", "1")
    assert mounted.json("snapshot", "unlock", "1", "--signature", signed(key, challenge))["lock_key"] is None
    mounted.ok("snapshot", "delete", "1")
    assert mounted.json("snapshot", "list") == []
    mounted.ok("security-key", "delete", "vault")
    assert mounted.json("security-key", "list") == []


def test_a_locked_snapshot_goes_at_its_expiration(mounted: Bench) -> None:
    key = new_key(mounted.top / "vault.pem")
    mounted.ok("security-key", "add", "vault", "--private-key-file", key)
    mounted.ok("snapshot", "create", mounted.mountpoint, "--expires", in_time(seconds=3))
    mounted.ok("snapshot", "lock", "1", "--key", "1")
    eventually("the locked snapshot to expire", lambda: mounted.json("snapshot", "list") == [])


def test_a_snapshot_is_held_until_every_hold_is_released(mounted: Bench) -> None:
    mounted.ok("snapshot", "create", mounted.mountpoint, "--expires", in_time(seconds=3))
    shown = mounted.ok("snapshot", "hold", "1", "--owner", "the backup")
    assert "snapshot release 1 1" in shown
    assert mounted.json("snapshot", "hold", "1", "--owner", "a copy")["hold"] == 2
    assert [(one["hold"], one["owner"]) for one in mounted.json("snapshot", "holds", "1")] == [(1, "the backup"), (2, "a copy")]
    assert "'the backup'" in mounted.ok("snapshot", "holds", "1") and "needed by 'the backup'" in mounted.ok("snapshot", "list")
    mounted.remount()
    for command in (("delete", "1"), ("delete", "1", "--dry-run"), ("modify", "1", "--expires", "never")):
        assert "is needed by" in mounted.fails(13, "snapshot", *command)
    assert "1 others would stay" in mounted.ok("snapshot", "release", "1", "1", "--dry-run")
    mounted.ok("snapshot", "release", "1", "1")
    mounted.fails(8, "snapshot", "release", "1", "1")
    mounted.fails(8, "snapshot", "release", "1", "1", "--dry-run")
    mounted.fails(13, "snapshot", "delete", "1")
    mounted.ok("snapshot", "release", "1", "2")
    eventually("the snapshot to expire when nobody needs it", lambda: mounted.json("snapshot", "list") == [])
    mounted.fails(8, "snapshot", "hold", "1", "--owner", "x")
    mounted.fails(8, "snapshot", "holds", "1")
    mounted.ok("snapshot", "create", mounted.mountpoint)
    for owner in ("", "x" * 201, "two\nlines"):
        mounted.fails(2, "snapshot", "hold", "2", "--owner", owner)


def test_keys_are_renamed_disabled_replaced_and_their_passwords_asked_for(mounted: Bench) -> None:
    old, new = new_key(mounted.top / "old.pem"), new_key(mounted.top / "new.pem")
    secret = mounted.top / "secret.pem"
    subprocess.run(
        ["openssl", "ec", "-aes256", "-passout", "pass:word", "-in", str(new), "-out", str(secret)], check=True, capture_output=True
    )
    (mounted.top / "old.pub").write_text(public(old))
    mounted.ok("security-key", "add", "vault", "--public-key-file", mounted.top / "old.pub", "--signature", signed(old, "vault"))
    mounted.fails(4, "security-key", "add", "other", "--public-key-file", mounted.top / "old.pub", "--signature", signed(old, "vault"))
    mounted.fails(2, "security-key", "add", "vault", "--private-key-file", new)
    assert "password" in mounted.fails(2, "security-key", "add", "other", "--private-key-file", secret)
    code, shown = on_terminal(mounted, [b"word"], "security-key", "add", "other", "--private-key-file", secret)
    assert code == 0 and b"other" in shown, shown
    assert mounted.json("security-key", "modify", "vault", "--name", "first", "--disable")["disabled"] is True
    mounted.ok("snapshot", "create", mounted.mountpoint)
    assert "is disabled" in mounted.fails(2, "snapshot", "lock", "1", "--key", "first")
    mounted.ok("security-key", "modify", "first", "--enable")
    mounted.ok("snapshot", "lock", "1", "--key", "first")
    replaced = mounted.json("security-key", "replace", "first", "--old-private-key-file", old, "--new-private-key-file", new)
    assert (replaced["id"], replaced["name"], replaced["public_key"]) == ("1", "first", public(new))
    assert mounted.json("security-key", "show", "first")["usages"] == [{"type": "SNAPSHOT", "id": "1"}]
    mounted.fails(4, "snapshot", "unlock", "1", "--private-key-file", old)
    assert "is not locked" in mounted.ok("snapshot", "unlock", "1", "--private-key-file", new)


# --- the vendor's client


def test_the_vendors_client_makes_changes_and_deletes_policies(mounted: Bench) -> None:
    (mounted.mountpoint / "new").mkdir()
    hourly = qq_json(
        mounted,
        *("snapshot_create_policy", "hourly_or_less", "-n", "office", "--path", "/new", "-p", "15minutes", "-s", "8:00", "-e", "18:00"),
        *("-d", "MON,TUE,WED", "-t", "2days", "-z", "America/New_York"),
    )
    assert hourly["policy_name"] == "office" and hourly["schedule"]["expiration_time_to_live"] == "2days"
    daily = qq_json(mounted, "snapshot_create_policy", "daily", "-n", "nightly", "-a", "20:00", "-t", "never", "--disabled")
    assert (daily["enabled"], daily["source_file_id"], daily["snapshot_name_template"]) == (False, "1", "{ID}_{Policy}")
    monthly = qq_json(
        mounted,
        *("snapshot_create_policy", "monthly", "-n", "last", "-a", "23:59", "-l", "--snapshot-name-template", "{ID}_{Year}-{Month}"),
    )
    assert monthly["schedule"]["creation_schedule"]["day_of_month"] == 128
    listed = qq_json(mounted, "snapshot_list_policies")["entries"]
    assert [(one["id"], one["policy_name"]) for one in listed] == [(1, "office"), (2, "nightly"), (3, "last")]
    assert listed[0] == qq_json(mounted, "snapshot_get_policy", "-i", "1") == hourly
    statuses = qq_json(mounted, "snapshot_list_policy_statuses")["entries"]
    assert [one["source_file_path"] for one in statuses] == ["/new/", "/", "/"]
    assert statuses[2] == qq_json(mounted, "snapshot_get_policy_status", "-i", "3")
    changed = qq_json(
        mounted, "snapshot_modify_policy", "modify_non_schedule_fields", "-i", "2", "-n", "evening", "-t", "1months", "--enabled"
    )
    assert (changed["policy_name"], changed["enabled"], changed["schedule"]["expiration_time_to_live"]) == ("evening", True, "1months")
    assert changed["schedule"]["creation_schedule"] == daily["schedule"]["creation_schedule"]
    for change, frequency in (
        (("change_to_hourly_or_less", "-p", "6hours"), "SCHEDULE_HOURLY_OR_LESS"),
        (("change_to_monthly", "-a", "4:00", "-d", "27"), "SCHEDULE_MONTHLY"),
        (("change_to_daily", "-a", "4:00", "-d", "SUN"), "SCHEDULE_DAILY_OR_WEEKLY"),
    ):
        changed = qq_json(mounted, "snapshot_modify_policy", change[0], "-i", "2", *change[1:])
        assert changed["schedule"]["creation_schedule"]["frequency"] == frequency
    qq(mounted, "snapshot_delete_policy", "-i", "3")
    assert "404" in qq_refused(mounted, "snapshot_get_policy", "-i", "3")
    assert "400" in qq_refused(mounted, "snapshot_create_policy", "daily", "-n", "x", "-a", "1:00", "-t", "100days")
    assert "409" in qq_refused(mounted, "snapshot_create_policy", "daily", "-n", "office", "-a", "1:00")


def test_the_vendors_client_keeps_keys_and_locks_and_unlocks(mounted: Bench) -> None:
    old, new = new_key(mounted.top / "old.pem"), new_key(mounted.top / "new.pem")
    added = qq_json(mounted, "fs_security_add_key", "--name", "vault", "--private-key-file", old, "--comment", "in the safe", "--json")
    assert added == {"id": "1", "name": "vault", "public_key": public(old), "comment": "in the safe", "disabled": False}
    second = ("fs_security_add_key", "--name", "second", "--public-key", public(new), "--verification-signature")
    assert "403" in qq_refused(mounted, *second, signed(old, "second"))
    qq(mounted, *second, signed(new, "second"))
    assert [one["name"] for one in qq_json(mounted, "fs_security_list_keys", "--json")["entries"]] == ["vault", "second"]
    assert qq_json(mounted, "fs_security_get_key", "-k", "vault", "--json") == added
    assert "vault" in qq(mounted, "fs_security_list_keys")

    qq(mounted, "snapshot_create_snapshot", "-n", "kept", "-e", in_time(days=1))
    assert "is locked" in qq(mounted, "snapshot_lock_snapshot", "-i", "1", "-k", "vault", "-f")
    policy = ("snapshot_create_policy", "daily", "-n", "nightly", "-a", "20:00", "-k", "vault", "-f")
    assert qq_json(mounted, *policy)["lock_key_ref"] == "1"
    usages = qq_json(mounted, "fs_security_get_key_usage", "-k", "vault", "--json")
    assert usages == [{"type": "SNAPSHOT", "id": "1"}, {"type": "SNAPSHOT_POLICY", "id": "1"}]
    assert qq_json(mounted, "snapshot_get_status", "-i", "1")["lock_key"] == "1"
    assert [one["id"] for one in qq_json(mounted, "snapshot_list_statuses", "--only-locked")["entries"]] == [1]
    assert qq_json(mounted, "snapshot_list_statuses", "--exclude-locked")["entries"] == []
    for refused in (
        ("snapshot_delete_snapshot", "-i", "1"),
        ("snapshot_modify_snapshot", "-i", "1", "-e", in_time(hours=1), "-f"),
        ("snapshot_lock_snapshot", "-i", "1", "-k", "second", "-f"),
        ("fs_security_delete_key", "-k", "vault"),
        ("fs_security_modify_key", "-k", "vault", "--disable"),
    ):
        assert "409" in qq_refused(mounted, *refused), refused
    assert refusal(os.rmdir, mounted.mountpoint / ".snapshot" / "1_kept") == errno.errorcode[errno.EPERM]
    qq(mounted, "snapshot_modify_snapshot", "-i", "1", "-e", in_time(days=2), "-f")
    cleared = qq_json(mounted, "snapshot_modify_policy", "modify_non_schedule_fields", "-i", "1", "--clear-lock-key")
    assert cleared["lock_key_ref"] is None

    challenge = qq_json(mounted, "snapshot_get_unlock_challenge", "-i", "1")["challenge"]
    assert "403" in qq_refused(mounted, "snapshot_unlock_snapshot", "-i", "1", "-s", signed(new, challenge))
    replace = ("fs_security_replace_key", "-k", "vault", "--old-private-key-file", old, "--replacement-private-key-file", new, "--json")
    assert qq_json(mounted, *replace)["public_key"] == public(new)
    assert "key" in qq_json(mounted, "fs_security_get_key_replace_challenge", "-k", "1")["challenge"]
    challenge = qq_json(mounted, "snapshot_get_unlock_challenge", "-i", "1")["challenge"]
    qq(mounted, "snapshot_unlock_snapshot", "-i", "1", "-s", signed(new, challenge))
    qq(mounted, "snapshot_lock_snapshot", "-i", "1", "-k", "second", "-f")
    qq(mounted, "snapshot_unlock_snapshot", "-i", "1", "-k", new)
    changed = qq_json(mounted, "fs_security_modify_key", "-k", "vault", "--new-name", "old", "--comment", "", "--disable", "--json")
    assert (changed["name"], changed["comment"], changed["disabled"]) == ("old", "", True)
    qq(mounted, "fs_security_delete_key", "-k", "old")
    qq(mounted, "snapshot_delete_snapshot", "-i", "1")


def test_a_change_of_an_older_version_is_refused(mounted: Bench) -> None:
    from anqfs.control import client, registry

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANQFS_RUNTIME_DIR", str(mounted.runtime))
        (entry,) = registry.entries()
    made = mounted.json("snapshot", "policy", "create", "a", mounted.mountpoint, "--daily", "2:00")
    connection = client._Connection(entry.socket, 30)
    connection.request("GET", f"/v3/snapshots/policies/{made['id']}")
    answer = connection.getresponse()
    answer.read()
    etag = answer.headers["etag"]
    for expected in (200, 412):
        connection.request("PATCH", "/v3/snapshots/policies/1", json.dumps({"policy_name": f"b{expected}"}), {"If-Match": etag})
        answer = connection.getresponse()
        answer.read()
        assert answer.status == expected
    connection.close()
    assert mounted.json("snapshot", "policy", "show", "1")["policy_name"] == "b200"


def test_what_is_damaged_is_named_and_removed(mounted: Bench) -> None:
    key, password = new_key(mounted.top / "key.pem"), secret_file(mounted.top / "password", "a password of some length\n")
    for name in ("first", "second"):
        mounted.ok("snapshot", "policy", "create", name, mounted.mountpoint, "--daily", "2:30")
        mounted.ok("security-key", "add", name, "--private-key-file", key)
    for name in ("admin", "other", "third"):
        mounted.ok("api", "user", "add", name, "--password-file", password)
    mounted.umount()
    damage = Damage(mounted.store, Facts())
    for record in (policy_key(1), security_key_key(1), api_user_key(1000), api_user_key(500)):
        damage.flip_record(record)
    mounted.mount()
    for noun in (("snapshot", "policy"), ("security-key",)):
        assert "damaged" in mounted.fails(9, *noun, "show", "1")
    assert [one["id"] for one in mounted.json("snapshot", "policy", "list")] == [2]
    listed = [(one["id"], one["name"], one["comment"]) for one in mounted.json("security-key", "list")]
    assert listed == [("1", "", "the key's record is damaged"), ("2", "second", "")]
    assert [one["name"] for one in mounted.json("api", "user", "list")] == ["third"]
    assert mounted.json("security-key", "show", "second")["usages"] == [{"type": "SNAPSHOT_POLICY", "id": "1"}]
    mounted.fails(13, "security-key", "delete", "1")
    assert "would be deleted" in mounted.ok("snapshot", "policy", "delete", "1", "--dry-run")
    assert "would be removed" in mounted.ok("api", "user", "remove", "1000", "--dry-run")
    mounted.ok("snapshot", "policy", "delete", "1")
    assert "would be deleted" in mounted.ok("security-key", "delete", "1", "--dry-run")
    mounted.ok("security-key", "delete", "1")
    mounted.ok("api", "user", "remove", "1000")
    mounted.ok("api", "user", "remove", "500")
    assert "last administrator" in mounted.fails(2, "api", "user", "remove", "third")
    mounted.fails(8, "api", "user", "remove", "1001")
    for again in (("snapshot", "policy", "delete", "1"), ("security-key", "delete", "1"), ("api", "user", "remove", "1000")):
        assert "there is no" in mounted.fails(8, *again)
    mounted.umount()
    findings = json.loads(mounted.run("check", mounted.store, "--key-file", mounted.key, "--json").stdout)["findings"]
    assert [one["what"] for one in findings if "root digest" not in one["what"]] == []
