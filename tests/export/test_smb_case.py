"""Names in any case over SMB, in a directory of 100,000 files, at a cost that does not depend on them."""

from __future__ import annotations

import os

import pytest
from smbprotocol.exceptions import SMBOSError

from tests.export.exported import MANY, Exported


def test_names_in_any_case_never_read_the_directory(vol: Exported) -> None:
    """What the daemon is asked, not how long it takes: no listing, and so many requests as in a small directory."""
    made = 20
    few = vol.directory("few")
    asked: dict[str, dict[str, int]] = {}
    for name in ("few", "many"):
        with vol.smb() as client:
            client.write(f"{name}/First.dcm", b"x")  # smbd has looked around now
            before = vol.requests()
            for number in range(made):
                client.write(f"{name}/New{number:03}.DCM", b"data")
                assert client.read(f"{name}/nEW{number:03}.dcm") == b"data"
            after = vol.requests()
        asked[name] = {
            operation: count - before.get(operation, 0) for operation, count in after.items() if count != before.get(operation, 0)
        }
    for number in range(made):
        os.unlink(vol.point / "many" / f"New{number:03}.DCM")
    os.unlink(vol.point / "many" / "First.dcm")
    print("requests of the daemon for", made, "files created and read in another case:", asked)
    assert len(os.listdir(few)) == made + 1
    assert len(os.listdir(vol.point / "many")) == MANY
    for name in asked:
        assert asked[name].get("readdir", 0) == 0, asked
        assert asked[name]["create"] == made
    assert sum(asked["many"].values()) <= sum(asked["few"].values()) * 1.1


def test_a_file_is_found_in_any_case_and_keeps_its_own(vol: Exported) -> None:
    directory = vol.directory("case")
    (directory / "Überweisung.PDF").write_bytes(b"letter")
    (directory / "Überweisung.PDF").chmod(0o666)
    with vol.smb() as client:
        assert client.read("CASE/üBERWEISUNG.pdf") == b"letter"
        client.write("case/ÜBERWEISUNG.PDF", b"replaced")
        client.rename("case/überweisung.pdf", "case/Zurück.pdf")
    assert os.listdir(directory) == ["Zurück.pdf"]
    assert (directory / "Zurück.pdf").read_bytes() == b"replaced"


def test_of_names_that_differ_in_case_the_exact_one_and_then_the_first(vol: Exported) -> None:
    directory = vol.directory("variants")
    for name in ("twice", "TWICE", "Twice"):
        (directory / name).write_text(name)
    with vol.smb() as client:
        assert client.names("variants") == ["TWICE", "Twice", "twice"]
        for name in ("twice", "TWICE", "Twice"):
            assert client.read(f"variants/{name}") == name.encode()
        assert client.read("variants/tWICE") == b"TWICE"


@pytest.mark.parametrize(("there", "asked"), [("straße", "STRASSE"), ("e\u0301tude", "\u00e9tude"), ("ﬁle", "file")])
def test_names_that_differ_in_more_than_case_are_two_files(vol: Exported, there: str, asked: str) -> None:
    directory = vol.directory(f"more-{len(there)}{len(asked)}{ord(there[0])}")
    (directory / there).write_bytes(b"precious")
    with vol.smb() as client:
        client.write(f"{directory.name}/{asked}", b"another")
    assert (directory / there).read_bytes() == b"precious"
    assert len(os.listdir(directory)) == 2


def test_a_new_name_has_up_to_227_bytes(vol: Exported) -> None:
    """vfs_glusterfs_fuse asks with the name of an attribute, which the kernel bounds at 255 bytes; longer names that exist are found."""
    directory = vol.directory("long")
    (directory / ("e" * 255)).write_bytes(b"made here")
    with vol.smb() as client:
        client.write("long/" + "n" * 227, b"x")
        assert client.read("long/" + "N" * 227) == b"x"
        assert client.read("long/" + "e" * 255) == b"made here"
        with pytest.raises(SMBOSError):
            client.write("long/" + "n" * 228, b"x")
    assert len(os.listdir(directory)) == 2
