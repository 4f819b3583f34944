"""A Linux kernel as client: what it does over NFS and SMB is what this machine sees in the mount, and the other way round."""

from __future__ import annotations

import contextlib
import datetime
import errno
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from . import guest
from .site import Site, eventually

KEPT = ("by client", "by server")
PROTOCOLS = ("nfs3", "nfs4.1", "nfs4.2", "krb5p", "smb")


@contextlib.contextmanager
def mounted(site: Site, protocol: str) -> Iterator[tuple[str, Path]]:
    """Mount over a protocol; yields a new directory as the client and as this machine see it."""
    if protocol == "smb":
        with site.smb(more=",seal,nobrl") as target:
            yield _directory(site, target, "archive", protocol)
    elif protocol == "krb5p":
        with site.nfs("4.2", "sealed", security="krb5p") as target:
            yield _directory(site, target, "sealed", protocol)
    else:
        with site.nfs(protocol[3:]) as target:
            yield _directory(site, target, "archive", protocol)


def _directory(site: Site, target: str, export: str, name: str) -> tuple[str, Path]:
    here = site.files / export / name
    if not here.exists():
        site.machine.call("make_directory", f"{target}/{name}")
    return f"{target}/{name}", here


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_files_are_the_same_on_both_sides(site: Site, protocol: str) -> None:
    links = protocol != "smb"
    with mounted(site, protocol) as (there, here):
        expected = site.machine.call("make_tree", f"{there}/by client", links=links)
        guest.make_tree(f"{here}/by server", links=links)
        seen_here = guest.describe(str(here))
        assert {name: guest.digest(f"{here}/by client/{name}") for name in expected} == expected
        site.machine.call("drop_caches")
        seen_there = site.machine.call("describe", there)
        if protocol == "smb":
            seen_here, seen_there = _without_link_counts(seen_here), _without_link_counts(seen_there)
        assert seen_there == seen_here
        assert len(seen_here) > 60


def _without_link_counts(tree: dict[str, tuple[object, ...]]) -> dict[str, tuple[object, ...]]:
    return {name: (*entry[:2], *entry[3:]) for name, entry in tree.items()}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_mappings_and_unlinked_files(site: Site, protocol: str) -> None:
    with mounted(site, protocol) as (there, here):
        assert site.machine.call("change_through_mapping", f"{there}/mapped") == guest.digest(f"{here}/mapped")
        expected = guest.change_through_mapping(f"{here}/mapped here")
        assert site.machine.call("read_through_mapping", f"{there}/mapped here") == expected
        assert site.machine.call("keep_unlinked_file", f"{there}/unlinked")
        eventually("the unlinked file to be gone", lambda: set(guest.listing(str(here))) <= {*KEPT, "mapped", "mapped here"})


@pytest.mark.parametrize("protocol", ["nfs4.2", "smb"])
def test_git_works_on_it(site: Site, protocol: str, tmp_path: Path) -> None:
    with mounted(site, protocol) as (there, here):
        tree = site.machine.call("use_git", there)
    assert tree == guest.use_git(str(tmp_path))
    command = ["git", "-c", f"safe.directory={here}/clone", "-C", f"{here}/clone", "fsck", "--strict"]
    assert subprocess.run(command, capture_output=True, check=False, env=guest.ENVIRONMENT).returncode == 0


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_sqlite_works_on_it(site: Site, protocol: str, tmp_path: Path) -> None:
    with mounted(site, protocol) as (there, here):
        rows = site.machine.call("use_sqlite", f"{there}/database")
        assert rows == guest.use_sqlite(str(tmp_path / "database"))
        assert guest.check_sqlite(f"{here}/database") == rows


def test_a_snapshot_is_read_by_name_over_nfs_and_mounted_by_time_over_smb(site: Site) -> None:
    place = site.files / "archive" / "studies"
    place.mkdir()
    place.chmod(0o777)
    (place / "report").write_bytes(b"first finding")
    made = site.bench.json("snapshot", "create", site.files / "archive", "--name", "before the second reading")
    (place / "report").write_bytes(b"second finding")
    (place / "report").chmod(0o666)
    with site.nfs("4.2") as target:
        old = f"{target}/studies/.snapshot/{made['id']}_before the second reading/report"
        assert site.machine.call("read", old) == b"first finding"
        with pytest.raises(OSError) as refused:
            site.machine.call("write", old, b"forged")
        assert refused.value.errno == errno.EROFS
        assert site.machine.call("read", f"{target}/studies/report") == b"second finding"
        assert ".snapshot" not in site.machine.call("listing", f"{target}/studies")
    with site.smb(more=f",seal,snapshot={_file_time(made['created'])}") as target:
        assert site.machine.call("read", f"{target}/studies/report") == b"first finding"
        with pytest.raises(OSError) as refused:
            site.machine.call("write", f"{target}/studies/report", b"forged")
        assert refused.value.errno in (errno.EROFS, errno.EACCES)
    assert (place / "report").read_bytes() == b"second finding"


def _file_time(moment: str) -> int:
    """Return a time (RFC 3339) as SMB counts: units of 100 ns since 1601, here of the whole second that names a previous version."""
    seconds = datetime.datetime.fromisoformat(moment.split(".")[0]).replace(tzinfo=datetime.UTC) - datetime.datetime(
        1601, 1, 1, tzinfo=datetime.UTC
    )
    return int(seconds.total_seconds()) * 10_000_000
