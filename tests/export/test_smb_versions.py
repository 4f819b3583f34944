"""Previous versions over SMB: any snapshot, of any directory, under any name."""

from __future__ import annotations

import datetime
import os
import shutil
import stat
from pathlib import Path

import pytest
from smbprotocol.exceptions import SMBException, SMBOSError, SMBResponseException

from tests.cli.conftest import eventually
from tests.export.exported import Exported, snapshot
from tests.export.smb_client import TOKEN

HIDDEN, SYSTEM, DIRECTORY = 0x02, 0x04, 0x10


def token_of(shot: Path) -> str:
    """Return the token of a snapshot."""
    seconds = int(os.getxattr(shot, "ceph.snap.btime").partition(b".")[0])
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime(TOKEN)


def test_every_snapshot_of_every_directory_is_a_previous_version(vol: Exported, tmp_path: Path) -> None:
    top = vol.directory("versions")
    deep = top / "a" / "b"
    deep.mkdir(parents=True)
    file = deep / "Report.txt"
    expected: dict[str, bytes] = {}
    places = (deep, vol.point, top / "a", deep, top, deep)
    names = ("hourly", "Früh stück! #1", "x" * 200, "@GMT-2001.01.01-00.00.00", "with.dots", "OnDemand")
    for number, (place, name) in enumerate(zip(places, names, strict=True)):
        file.write_bytes(b"version %d" % number)
        expected[token_of(snapshot(place, name))] = b"version %d" % number
    file.write_bytes(b"now")
    assert len(expected) == len(names), "each has a second of its own"
    with vol.smb() as client:
        assert sorted(client.versions("versions/a/b/report.TXT")) == sorted(expected)
        assert len(client.versions("versions/a/b")) == 6
        assert len(client.versions("versions/a")) == 3
        assert len(client.versions("versions")) == 2
        for token, content in expected.items():
            assert client.read_at("versions/a/b/REPORT.txt", token) == content
        assert client.read("versions/a/b/Report.txt") == b"now"
    listed = vol.smbclient(r"allinfo versions\a\b\Report.txt", tmp_path)
    for token, content in expected.items():
        assert token in listed
        vol.smbclient(rf"get {token}\versions\a\b\Report.txt {token}", tmp_path)
        assert (tmp_path / token).read_bytes() == content


def test_deleted_files_are_fetched_back_and_deleted_directories_can_be_seen(vol: Exported) -> None:
    """Samba 4.17 opens the directories above what a client names as they are now: what was in a deleted one is reached by `.snapshot`."""
    top = vol.directory("deleted")
    study = top / "Study"
    (study / "Series").mkdir(parents=True)
    (study / "Series" / "1.dcm").write_bytes(b"image 1")
    (study / "note").write_bytes(b"note")
    shot = snapshot(top, "before")
    token = token_of(shot)
    os.unlink(study / "note")
    with vol.smb() as client:
        assert client.read_at("deleted/study/note", token) == b"note"
        assert client.read_at("deleted/STUDY/Series/1.dcm", token) == b"image 1"
        shutil.rmtree(study)
        assert client.names("deleted") == []
        with client.open("deleted/Study", at=token) as directory:
            assert directory.names() == ["Series", "note"]
        assert client.read(f"deleted/.snapshot/{shot.name}/Study/Series/1.dcm") == b"image 1"
        client.do("mkdir", "deleted/Study")
        assert client.read_at("deleted/Study/note", token) == b"note"


def test_a_previous_version_cannot_be_changed(vol: Exported) -> None:
    top = vol.directory("fixed")
    (top / "f").write_bytes(b"then")
    token = token_of(snapshot(top, "s"))
    (top / "f").write_bytes(b"now!")
    with vol.smb() as client:
        with pytest.raises(SMBResponseException), client.open("fixed/f", at=token, write=True) as file:
            file.write(0, b"other")
        with pytest.raises(SMBException):
            client.open("fixed/new", at=token, write=True, create=True)
        assert client.read_at("fixed/f", token) == b"then"
        with pytest.raises(SMBResponseException):
            client.open("fixed/f", at="@GMT-2001.01.01-00.00.00")
    assert (top / "f").read_bytes() == b"now!"


def test_snapshots_of_one_second_are_different_versions(vol: Exported) -> None:
    top = vol.directory("burst")
    contents = []
    for number in range(5):
        (top / "f").write_bytes(b"%d" % number)
        snapshot(top, "s")
        contents.append(b"%d" % number)
    with vol.smb() as client:
        tokens = sorted(client.versions("burst/f"))
        assert len(set(tokens)) == 5
        assert [client.read_at("burst/f", token) for token in tokens] == contents


def test_snapshots_are_directories_too(vol: Exported) -> None:
    top = vol.directory("browse")
    (top / "sub").mkdir()
    (top / "sub" / "f").write_bytes(b"then")
    shot = snapshot(top, "s")
    (top / "sub" / "f").write_bytes(b"now")
    with vol.smb() as client:
        assert client.names("browse/.snapshot") == [shot.name]
        assert client.read(f"browse/.snapshot/{shot.name}/SUB/f") == b"then"
        assert ".snapshot" not in client.names("browse")
        with pytest.raises(SMBOSError):
            client.write(f"browse/.snapshot/{shot.name}/new", b"x")


def test_the_snapshot_directory_mode_says_who_sees_dot_snapshot(vol: Exported) -> None:
    """Visible in the root of the share, hidden and system; hidden by name only; disabled not at all. Previous versions work in each."""
    top = vol.directory("modes")
    (top / "f").write_bytes(b"then")
    shot = snapshot(top, "s")
    token = token_of(shot)
    (top / "f").write_bytes(b"now")
    found = {}
    for mode in ("hidden", "disabled", "visible"):
        vol.ok("settings", "set", vol.point, "--snapshot-directory-mode", mode)
        eventually(f"smbd to go by {mode}", lambda mode=mode: by_name(vol, "modes/.snapshot") == (mode != "disabled"))  # type: ignore[misc]
        with vol.smb() as client:
            found[mode] = (".snapshot" in client.names(), ".snapshot" in client.names("modes"), by_name(vol, ".SNAPSHOT"))
            assert client.read_at("modes/f", token) == b"then"
            assert token in client.versions("modes/f")
        assert ".snapshot" not in os.listdir(vol.point)
        with vol.nfs_client() as client:
            assert client.exists(f"modes/.snapshot/{shot.name}/f")
            assert client.listdir("modes") == ["f"]
    assert found == {"visible": (True, False, True), "hidden": (False, False, True), "disabled": (False, False, False)}
    with vol.smb() as client:
        assert client.do("stat", ".snapshot").st_file_attributes == HIDDEN | SYSTEM | DIRECTORY


def by_name(vol: Exported, path: str) -> bool:
    """Tell whether a client that connects now finds a directory."""
    with vol.smb() as client:
        try:
            return bool(stat.S_ISDIR(client.do("stat", path).st_mode))
        except SMBOSError:
            return False
