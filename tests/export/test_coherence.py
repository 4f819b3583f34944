"""One namespace: what is done locally, over SMB or over NFS is seen by the others, and locks hold between all of them."""

from __future__ import annotations

import fcntl
import itertools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest
from nfs_rs import Client as NfsClient
from nfs_rs import NfsError, NfsFileCloseError
from smbprotocol.exceptions import SMBOSError

from tests.export.exported import Exported
from tests.export.nfs4 import DENIED, Nfs4, Refused
from tests.export.smb_client import UNLOCK, SmbClient

PATIENCE = 2.0
"""Seconds. What is measured is printed; it is some hundredths."""


class Way(Protocol):
    """One way in. Paths are relative to the mount point; what is not there raises FileNotFoundError."""

    def write(self, path: str, data: bytes) -> None: ...
    def read(self, path: str) -> bytes: ...
    def names(self, path: str) -> list[str]: ...
    def remove(self, path: str) -> None: ...
    def rename(self, path: str, to: str) -> None: ...
    def mkdir(self, path: str) -> None: ...


class Local:
    """The mount."""

    def __init__(self, point: Path) -> None:
        self._point = point

    def write(self, path: str, data: bytes) -> None:
        (self._point / path).write_bytes(data)
        (self._point / path).chmod(0o666)

    def read(self, path: str) -> bytes:
        return (self._point / path).read_bytes()

    def names(self, path: str) -> list[str]:
        return sorted(os.listdir(self._point / path))

    def remove(self, path: str) -> None:
        (self._point / path).unlink()

    def rename(self, path: str, to: str) -> None:
        (self._point / path).rename(self._point / to)

    def mkdir(self, path: str) -> None:
        (self._point / path).mkdir()
        (self._point / path).chmod(0o777)


class Smb:
    """An SMB client."""

    def __init__(self, client: SmbClient) -> None:
        self._client = client

    def _do(self, call: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return call(*arguments)
        except SMBOSError as error:
            if error.errno == 2:
                raise FileNotFoundError(*error.args) from error
            raise

    def write(self, path: str, data: bytes) -> None:
        self._do(self._client.write, path, data)

    def read(self, path: str) -> bytes:
        return bytes(self._do(self._client.read, path))

    def names(self, path: str) -> list[str]:
        return [name for name in self._do(self._client.names, path) if name != ".snapshot"]

    def remove(self, path: str) -> None:
        self._do(self._client.do, "remove", path)

    def rename(self, path: str, to: str) -> None:
        self._do(self._client.rename, path, to)

    def mkdir(self, path: str) -> None:
        self._do(self._client.do, "mkdir", path)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


class Nfs:
    """An NFS 4.1 client."""

    def __init__(self, client: NfsClient) -> None:
        self._client = client

    @staticmethod
    def _do(call: Callable[[], Any]) -> Any:
        """Repeat what nfs-rs 0.8 may repeat when it loses count of its session's slots."""
        while True:
            try:
                return call()
            except NfsError as error:
                if error.code_name == "NFS4ERR_NOENT" or isinstance(error, FileNotFoundError):
                    raise FileNotFoundError(str(error)) from error
                uncached = any(getattr(each, "code_name", "") == "NFS4ERR_RETRY_UNCACHED_REP" for each in _causes(error))
                if not uncached and not isinstance(error, NfsFileCloseError):
                    raise

    def write(self, path: str, data: bytes) -> None:
        def put() -> None:
            with self._client.open(path, "wb") as stream:
                stream.write(data)

        self._do(put)
        self._do(lambda: self._client.chmod(path, 0o666))

    def read(self, path: str) -> bytes:
        def get() -> bytes:
            with self._client.open(path, "rb") as stream:
                return bytes(stream.read())

        return bytes(self._do(get))

    def names(self, path: str) -> list[str]:
        return sorted(self._do(lambda: self._client.listdir(path)))

    def remove(self, path: str) -> None:
        self._do(lambda: self._client.unlink(path))

    def rename(self, path: str, to: str) -> None:
        self._do(lambda: self._client.rename(path, to))

    def mkdir(self, path: str) -> None:
        self._do(lambda: self._client.mkdir(path))
        self._do(lambda: self._client.chmod(path, 0o777))


@pytest.fixture(scope="module")
def ways(vol: Exported) -> Iterator[dict[str, Way]]:
    """The three ways in, two clients of each remote kind."""
    with vol.smb() as smb, vol.nfs_client() as nfs:
        yield {"local": Local(vol.point), "smb": Smb(smb), "nfs": Nfs(nfs)}


def seen_after(what: str, looks: Callable[[], bool]) -> float:
    """Return after how many seconds something is seen; fail after PATIENCE."""
    begin = time.monotonic()
    while True:
        try:
            if looks():
                return time.monotonic() - begin
        except FileNotFoundError:
            pass
        assert time.monotonic() - begin < PATIENCE, f"{what} is not seen"
        time.sleep(0.002)


def is_gone(way: Way, path: str) -> bool:
    try:
        way.read(path)
    except FileNotFoundError:
        return True
    return False


@pytest.mark.parametrize(("one", "other"), list(itertools.permutations(("local", "smb", "nfs"), 2)))
def test_what_one_does_another_sees(vol: Exported, ways: dict[str, Way], one: str, other: str) -> None:
    top = vol.directory(f"see-{one}-{other}").name
    a, b = ways[one], ways[other]
    took: dict[str, float] = {}

    def see(what: str, looks: Callable[[], bool]) -> None:
        took[what] = max(took.get(what, 0.0), seen_after(f"{what} by {one}, for {other},", looks))

    assert b.names(top) == []
    assert is_gone(b, f"{top}/new")
    a.write(f"{top}/new", b"first")
    see("a new file", lambda: b.read(f"{top}/new") == b"first")
    see("its name", lambda: b.names(top) == ["new"])
    for content in (b"second, which is longer", b"3rd", os.urandom(300_000), b""):
        a.write(f"{top}/new", content)
        see("new content", lambda content=content: b.read(f"{top}/new") == content)  # type: ignore[misc]
    a.mkdir(f"{top}/dir")
    see("a directory", lambda: b.names(f"{top}/dir") == [])
    a.rename(f"{top}/new", f"{top}/dir/moved")
    see("a rename", lambda: is_gone(b, f"{top}/new") and b.read(f"{top}/dir/moved") == b"")
    see("a rename in listings", lambda: (b.names(top), b.names(f"{top}/dir")) == (["dir"], ["moved"]))
    a.write(f"{top}/replacing", b"replaced")
    a.remove(f"{top}/dir/moved")
    see("a removal", lambda: is_gone(b, f"{top}/dir/moved") and b.names(f"{top}/dir") == [])
    b.write(f"{top}/dir/moved", b"the other's")
    see("the other's file under a removed name", lambda: a.read(f"{top}/dir/moved") == b"the other's")
    worst = max(took, key=lambda what: took[what])
    print(f"{one} -> {other}: {worst} took longest to be seen, {took[worst] * 1000:.0f} ms")


@contextmanager
def locked_here(path: Path, offset: int, length: int) -> Iterator[None]:
    """Let a local program hold a lock: another process, since a process loses its locks on a file when it closes any of its descriptors."""
    lock = f"fcntl.lockf(stream, fcntl.LOCK_EX, {length}, {offset})"
    program = f"import fcntl, sys; stream = open(sys.argv[1], 'r+b'); {lock}; print(flush=True); input()"
    command = [sys.executable, "-c", program, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdin is not None and holder.stdout is not None
        holder.stdout.readline()
        yield
        holder.stdin.write(b"\n")


def local_lock(path: Path, offset: int, length: int) -> bool:
    """Tell whether a local program is granted a lock."""
    with path.open("r+b") as stream:
        try:
            fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB, length, offset)
        except BlockingIOError:
            return False
        return True


def test_byte_range_locks_exclude_one_another(vol: Exported) -> None:
    """Each holds a range, and the others are refused it but not its neighbour."""
    path = vol.directory("locks") / "f"
    path.write_bytes(bytes(1000))
    path.chmod(0o666)
    with vol.smb() as smb, Nfs4(vol.nfs_port) as nfs, smb.open("locks/f", write=True) as over_smb:
        nfs.introduce()
        file, state = nfs.handle("vol", "locks", "f"), nfs.open(nfs.handle("vol", "locks"), "f")

        def nfs_lock(offset: int, length: int) -> bool:
            try:
                nfs.lock(file, state, offset, length)
            except Refused as refused:
                assert refused.status == DENIED
                return False
            return True

        assert over_smb.lock(0, 100)
        assert nfs_lock(200, 100)
        with locked_here(path, 400, 100):
            assert not nfs_lock(50, 10)
            assert not local_lock(path, 50, 10)
            assert not over_smb.lock(250, 10)
            assert not local_lock(path, 250, 10)
            assert not over_smb.lock(450, 10)
            assert not nfs_lock(450, 10)
            assert over_smb.lock(100, 50)
            assert nfs_lock(300, 50)
            assert local_lock(path, 150, 50)
        assert over_smb.lock(0, 100, UNLOCK)
        assert nfs_lock(0, 50)
        assert local_lock(path, 50, 50)
        assert over_smb.lock(400, 50)
        assert nfs_lock(450, 50)
        assert not local_lock(path, 400, 1)
        assert not local_lock(path, 450, 1)


def test_a_file_that_one_has_open_lives_on_when_another_removes_it(vol: Exported, ways: dict[str, Way]) -> None:
    top = vol.directory("unlinked")
    for name in ("by-local", "by-nfs"):
        (top / name).write_bytes(b"content")
        (top / name).chmod(0o666)
    with vol.smb() as smb:
        for name, remover in (("by-local", ways["local"]), ("by-nfs", ways["nfs"])):
            with smb.open(f"unlinked/{name}", write=True) as file:
                remover.remove(f"unlinked/{name}")
                assert all(is_gone(way, f"unlinked/{name}") for way in ways.values())
                assert file.read(0, 100) == b"content"
                file.write(0, b"CONTENT")
                assert file.read(0, 100) == b"CONTENT"
    (top / "by-smb").write_bytes(b"content")
    (top / "by-smb").chmod(0o666)
    with (top / "by-smb").open("r+b") as here:
        ways["smb"].remove("unlinked/by-smb")
        assert is_gone(ways["nfs"], "unlinked/by-smb")
        assert here.read() == b"content"
    assert os.listdir(top) == []


def test_a_file_that_one_has_open_is_renamed_by_another(vol: Exported, ways: dict[str, Way]) -> None:
    top = vol.directory("renamed")
    (top / "old").write_bytes(b"content")
    (top / "old").chmod(0o666)
    with vol.smb() as smb, smb.open("renamed/old", write=True) as file:
        for number, (renamer, name) in enumerate(((ways["nfs"], "once"), (ways["local"], "twice"))):
            renamer.rename(f"renamed/{'once' if number else 'old'}", f"renamed/{name}")
            file.write(0, b"CONTENT%d" % number)
            assert file.read(0, 100) == b"CONTENT%d" % number
            assert all(way.read(f"renamed/{name}") == b"CONTENT%d" % number for way in ways.values())
    assert os.listdir(top) == ["twice"]


def test_no_byte_is_lost_when_smb_nfs_and_a_program_write_one_file_at_once(vol: Exported) -> None:
    """Each writes every third piece, of odd sizes, so that they share pages and windows."""
    piece, count = 3001, 300
    path = vol.directory("together") / "f"
    path.write_bytes(b"")
    path.chmod(0o666)
    letters = {"smb": b"S", "nfs": b"N", "local": b"L"}
    faults: list[BaseException] = []

    def run(place: int, write: Callable[[int, bytes], Any], letter: bytes) -> None:
        try:
            for number in range(place, count, 3):
                write(number * piece, letter * piece)
        except BaseException as error:
            faults.append(error)

    with vol.smb() as smb, vol.nfs_client() as nfs, smb.open("together/f", write=True) as over_smb, path.open("r+b", buffering=0) as here:
        with nfs.open("together/f", "r+b") as over_nfs:

            def nfs_write(offset: int, data: bytes) -> None:
                over_nfs.seek(offset)
                assert over_nfs.write(data) == len(data)

            writers = {
                "smb": over_smb.write,
                "nfs": nfs_write,
                "local": lambda offset, data: os.pwrite(here.fileno(), data, offset),
            }
            threads = [threading.Thread(target=run, args=(place, writers[way], letters[way])) for place, way in enumerate(writers)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert faults == []
        content = path.read_bytes()
        expected = b"".join(letters[way] * piece for _, way in zip(range(count), itertools.cycle(writers), strict=False))
        assert content == expected
        assert b"".join(over_smb.read(offset, 1 << 16) for offset in range(0, len(expected), 1 << 16)) == expected
