"""Byte-range locks are one and the same for an NFS client, an SMB client and a program on the file server."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
from collections.abc import Iterator
from typing import Protocol

import pytest

from . import guest
from .site import Site, eventually

HOLDERS = ("nfs", "smb", "local")
FIRST, SECOND = (0, 1000), (1000, 1000)


class Locker(Protocol):
    """Someone who can lock a range of the file."""

    def lock(self, start: int, length: int) -> bool:
        """Take the range and keep the file open; tell whether it was granted."""

    def can_lock(self, start: int, length: int) -> bool:
        """Tell whether the range would be granted."""

    def unlock(self) -> None:
        """Close the file."""


class Local:
    """A program on the file server: this one."""

    def __init__(self, path: str) -> None:
        self._path = path

    def lock(self, start: int, length: int) -> bool:
        return guest.lock(self._path, start, length)

    def can_lock(self, start: int, length: int) -> bool:
        return guest.can_lock(self._path, start, length)

    def unlock(self) -> None:
        guest.unlock(self._path)


class Remote:
    """The virtual machine, through one of its mounts."""

    def __init__(self, site: Site, path: str) -> None:
        self._site, self._path = site, path

    def lock(self, start: int, length: int) -> bool:
        granted: bool = self._site.machine.call("lock", self._path, start, length)
        return granted

    def can_lock(self, start: int, length: int) -> bool:
        granted: bool = self._site.machine.call("can_lock", self._path, start, length)
        return granted

    def unlock(self) -> None:
        self._site.machine.call("unlock", self._path)


@contextlib.contextmanager
def lockers(site: Site, name: str) -> Iterator[dict[str, Locker]]:
    """Make a file that everyone may lock; yields who can."""
    path = site.files / "archive" / name
    path.write_bytes(bytes(4096))
    path.chmod(0o666)
    with site.nfs("4.2") as nfs, site.smb() as smb:
        yield {"nfs": Remote(site, f"{nfs}/{name}"), "smb": Remote(site, f"{smb}/{name}"), "local": Local(str(path))}


def test_a_lock_excludes_everyone_else_until_it_is_given_up(site: Site) -> None:
    with lockers(site, "matrix") as everyone:
        assert [name for name in HOLDERS if everyone[name].can_lock(*FIRST)] == list(HOLDERS)
        for holder in HOLDERS:
            assert everyone[holder].lock(*FIRST), holder
            others = [name for name in HOLDERS if name != holder]
            assert [name for name in others if everyone[name].can_lock(*FIRST)] == [], holder
            assert [name for name in others if everyone[name].can_lock(*SECOND)] == others, holder
            everyone[holder].unlock()
            for name in HOLDERS:
                eventually(f"{name} to get what {holder} gave up", lambda name=name: everyone[name].can_lock(*FIRST))  # type: ignore[misc]


@pytest.mark.parametrize(("one", "other"), list(itertools.combinations(HOLDERS, 2)))
def test_two_hold_neighbouring_ranges_at_once(site: Site, one: str, other: str) -> None:
    with lockers(site, f"{one}-{other}") as everyone:
        assert everyone[one].lock(*FIRST)
        assert everyone[other].lock(*SECOND)
        assert not everyone[one].lock(*SECOND)
        assert not everyone[other].lock(*FIRST)
        everyone[one].unlock()
        everyone[other].unlock()


def test_an_nfs_client_gets_its_lock_back_after_the_server_was_killed(site: Site) -> None:
    path = site.files / "archive" / "reclaimed"
    path.write_bytes(b"before")
    path.chmod(0o666)
    before = _nfs_server(site)
    with site.nfs("4.2") as nfs, site.smb() as smb:
        held = f"{nfs}/reclaimed"
        assert site.machine.call("lock", held)
        os.kill(int(before["pid"]), signal.SIGKILL)
        site.machine.call("write_held", held, b"after!", 0)  # waits for the new server and the end of its grace period
        after = _nfs_server(site)
        assert after["pid"] != before["pid"] and after["state"] == "running" and after["restarts"] == before["restarts"] + 1
        assert path.read_bytes() == b"after!"
        assert not guest.can_lock(str(path))
        assert not site.machine.call("can_lock", f"{smb}/reclaimed")
        assert site.machine.call("read_held", held, 6, 0) == b"after!"
        site.machine.call("unlock", held)
        eventually("the lock to be free", lambda: guest.can_lock(str(path)))


def _nfs_server(site: Site) -> dict[str, object]:
    (found,) = (one for one in site.bench.json("export", "status", site.files)["servers"] if one["server"] == "nfs")
    return dict(found)
