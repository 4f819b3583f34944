"""A Linux kernel as client: what it does over NFS and SMB is what this machine sees in the mount, and the other way round."""

from __future__ import annotations

import contextlib
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
