"""The registry: who is running, what the dead left, and the race between removing a stale entry and a new daemon's registration."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from anqfs.control import registry
from anqfs.control.registry import Entry
from anqfs.errors import AnqfsError


@pytest.fixture
def where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "run"
    monkeypatch.setenv("ANQFS_RUNTIME_DIR", str(directory))
    return directory


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.communicate()


def entry_of(pid: int, where: Path, name: str = "volume", mountpoint: str = "/mnt/x") -> Entry:
    started = registry.start_time(pid)
    assert started is not None
    return Entry(name, pid, started, "/srv/s", mountpoint, "uuid", str(where / f"{name}.{pid}.sock"), str(where / "log"), 1, False)


def mine(where: Path, name: str = "volume") -> Entry:
    return entry_of(os.getpid(), where, name)


def test_a_registered_daemon_is_listed_until_it_unregisters(where: Path) -> None:
    entry = mine(where)
    registry.register(entry)
    assert registry.entries() == [entry]
    registry.unregister(entry)
    assert registry.entries() == []


def test_without_a_directory_nothing_is_made_by_looking(where: Path) -> None:
    assert registry.entries() == []
    assert not where.exists()


def test_the_directory_is_private(where: Path) -> None:
    registry.register(mine(where))
    assert stat.S_IMODE(where.stat().st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701])
def test_a_directory_that_others_can_enter_is_refused(where: Path, mode: int) -> None:
    where.mkdir()
    where.chmod(mode)
    with pytest.raises(AnqfsError, match="private"):
        registry.register(mine(where))


def test_a_link_to_a_directory_is_refused(where: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    where.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(AnqfsError, match="private"):
        registry.register(mine(where))


def test_what_a_killed_daemon_left_is_removed(where: Path, sleeper: subprocess.Popen[bytes]) -> None:
    entry = entry_of(sleeper.pid, where)
    registry.register(entry)
    Path(entry.socket).touch()
    sleeper.kill()
    sleeper.wait()
    assert registry.entries() == []
    assert not Path(entry.socket).exists()
    assert not (where / "volume.json").exists()


def test_a_zombie_is_no_running_daemon(where: Path, sleeper: subprocess.Popen[bytes]) -> None:
    registry.register(entry_of(sleeper.pid, where))
    sleeper.kill()
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
    assert registry.entries() == []


def test_a_pid_that_was_used_again_is_not_the_daemon(where: Path) -> None:
    registry.register(mine(where)._replace(started=1))
    assert registry.entries() == []


def test_a_stale_entry_is_not_removed_when_a_new_daemon_has_registered_meanwhile(where: Path, sleeper: subprocess.Popen[bytes]) -> None:
    stale = mine(where)._replace(started=1)
    registry.register(stale)
    seen = registry._read(str(where / "volume.json"))
    assert seen == stale
    new = entry_of(sleeper.pid, where)
    registry.register(new)
    registry._drop_stale(str(where), seen)
    assert registry.entries() == [new]


def test_a_daemon_does_not_unregister_its_successor(where: Path, sleeper: subprocess.Popen[bytes]) -> None:
    old = mine(where)._replace(started=1)
    new = entry_of(sleeper.pid, where)
    registry.register(new)
    registry.unregister(old)
    assert registry.entries() == [new]


def test_a_name_that_a_running_daemon_holds_is_refused(where: Path, sleeper: subprocess.Popen[bytes]) -> None:
    registry.register(entry_of(sleeper.pid, where))
    with pytest.raises(AnqfsError, match=str(sleeper.pid)):
        registry.register(mine(where))


@pytest.mark.parametrize("junk", ["", "{", "[]", '{"name": 1}', '{"pid": "x"}', "\x00"])
def test_an_entry_that_makes_no_sense_is_removed(where: Path, junk: str) -> None:
    good = mine(where, "good")
    registry.register(good)
    (where / "bad.json").write_text(junk)
    assert registry.entries() == [good]
    assert not (where / "bad.json").exists()


def test_the_socket_of_a_daemon_that_died_before_it_registered_is_removed(where: Path, sleeper: subprocess.Popen[bytes]) -> None:
    registry.register(mine(where))
    dead = where / f"other.{sleeper.pid}.sock"
    alive = where / f"other.{os.getpid()}.sock"
    dead.touch()
    alive.touch()
    sleeper.kill()
    sleeper.wait()
    registry.entries()
    assert not dead.exists()
    assert alive.exists()


_CROWD = """
import os, sys
from anqfs.control import registry
from anqfs.control.registry import Entry
pid = os.getpid()
for turn in range(40):
    entry = Entry(f"{sys.argv[1]}", pid, registry.start_time(pid), "/s", f"/m{pid}", "u", "", "", turn, False)
    registry.register(entry)
    assert entry in registry.entries(), turn
    if turn % 3:
        registry.unregister(entry)
        assert entry not in registry.entries(), turn
"""


def test_many_at_once_never_lose_an_entry_of_their_own(where: Path) -> None:
    crowd = [subprocess.Popen([sys.executable, "-c", _CROWD, f"volume{number}"], stdin=subprocess.DEVNULL) for number in range(4)]
    assert [process.wait() for process in crowd] == [0, 0, 0, 0]
    assert registry.entries() == []
