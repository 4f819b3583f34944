"""A handle that an NFS client holds opens the same file for as long as the volume lives, however often it is mounted anew.

The traps: device numbers that another mount took meanwhile, a dead mount that is still in use, and another volume in the same place.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.conftest import eventually
from tests.export import nfs4
from tests.export.conftest import Served

LOOP = 7
"""The major number of loop devices."""
CONTENT = {"top": b"at the top", "a/b/c/deep": b"deep down", "study/image": b"in a snapshot"}


def fill(served: Served) -> dict[str, bytes]:
    """Make files, a snapshot, an export and its server; return the handles of files and directories by their paths."""
    for name, content in CONTENT.items():
        path = served.mountpoint / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    number = served.json("snapshot", "create", served.mountpoint / "study", "--name", "kept")["id"]
    served.init()
    served.ok("export", "add", "nfs", served.mountpoint, "--name", "archive", "--clients", "127.0.0.1")
    served.start()
    paths = [*CONTENT, "a/b/c", "study", f"study/.snapshot/{number}_kept", f"study/.snapshot/{number}_kept/image"]
    with nfs4.Nfs4(served.nfs_port) as client:
        handles = {path: client.handle("archive", *path.split("/")) for path in paths}
    durable(served.mountpoint)
    return handles


def durable(directory: Path) -> None:
    """Return when everything so far survives a kill."""
    descriptor = os.open(directory, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def open_all(served: Served, handles: dict[str, bytes]) -> None:
    """See that each handle opens what it opened before, without any name being looked up first."""
    for path, handle in handles.items():
        with nfs4.Nfs4(served.nfs_port) as client:
            content = CONTENT.get(path, CONTENT["study/image"] if path.endswith("/image") else None)
            if content is not None:
                assert client.read(handle) == content, path
    with nfs4.Nfs4(served.nfs_port) as client:
        assert client.read(client.handle_below(handles["a/b/c"], "deep")) == CONTENT["a/b/c/deep"]
        (snapshot,) = [handle for path, handle in handles.items() if path.endswith("_kept")]
        assert client.handle_below(snapshot, "image") == next(handle for path, handle in handles.items() if path.endswith("kept/image"))


def forget() -> None:
    """Make the kernel forget names, inodes and pages."""
    subprocess.run(["sync"], check=True)
    Path("/proc/sys/vm/drop_caches").write_text("3")


@contextmanager
def occupied(served: Served, device: int) -> Iterator[None]:
    """Hold the device number that a mount had, so that the next mount gets another."""
    with loop_device(served, device) if os.major(device) == LOOP else anonymous_device(served, device):
        yield


@contextmanager
def loop_device(served: Served, device: int) -> Iterator[None]:
    image, path = served.top / "image", f"/dev/loop{os.minor(device)}"
    image.write_bytes(bytes(1 << 20))
    take = ["losetup", path, image]
    eventually("the loop device to be free", lambda: subprocess.run(take, capture_output=True, check=False).returncode == 0)
    try:
        yield
    finally:
        subprocess.run(["losetup", "-d", path], check=True)


@contextmanager
def anonymous_device(served: Served, device: int) -> Iterator[None]:
    places: list[Path] = []
    try:
        while not places or os.stat(places[-1]).st_dev != device:
            assert len(places) < 100, "the number is not to be had"
            place = served.top / f"other{len(places)}"
            place.mkdir()
            subprocess.run(["mount", "-t", "tmpfs", "tmpfs", place], check=True)
            places.append(place)
        yield
    finally:
        for place in places:
            subprocess.run(["umount", place], check=True)


def test_handles_outlast_forgotten_caches_restarts_and_remounts_elsewhere(served: Served) -> None:
    handles = fill(served)
    forget()
    open_all(served, handles)
    served.ok("export", "restart", served.mountpoint)
    open_all(served, handles)
    before = os.stat(served.mountpoint).st_dev
    served.umount()
    with occupied(served, before):
        served.mount()
        assert os.stat(served.mountpoint).st_dev != before
        served.start()
        open_all(served, handles)
        served.umount()


def test_a_dead_mount_that_is_still_in_use_does_not_spoil_the_next(served: Served) -> None:
    handles = fill(served)
    dead = os.stat(served.mountpoint).st_dev
    with (served.mountpoint / "top").open("rb"):
        os.kill(served.json("status", served.mountpoint)["pid"], signal.SIGKILL)
        eventually("the servers to be stopped", lambda: served.now()["waiting_for_mount"])
        served.mount()
        assert os.stat(served.mountpoint).st_dev != dead
        eventually("the servers to be back", lambda: served.states() == ["running"])
        open_all(served, handles)


def test_without_the_device_handles_are_lost_when_the_numbers_were_taken(served: Served) -> None:
    served.umount()
    served.ok("mount", served.store, served.mountpoint, "--key-file", served.key)
    handles = fill(served)
    assert served.status()["lasting_handles"] is False
    open_all(served, handles)
    before = os.stat(served.mountpoint).st_dev
    served.umount()
    with occupied(served, before):
        served.ok("mount", served.store, served.mountpoint, "--key-file", served.key)
        served.start()
        with nfs4.Nfs4(served.nfs_port) as client, pytest.raises(nfs4.Refused) as refused:
            client.read(handles["top"])
        assert refused.value.status == nfs4.STALE
        served.umount()


def test_a_handle_of_one_volume_opens_nothing_of_another(served: Served) -> None:
    handles = fill(served)
    uuid = served.json("status", served.mountpoint)["uuid"]
    served.umount()
    other = served.top / "other"
    served.ok("mkfs", other, "--key-file", served.key)
    served.ok("mount", other, served.mountpoint, "--key-file", served.key, "--fsid-device")
    assert "not mounted there" in served.fails(7, "export", "start", served.mountpoint)
    for name, content in CONTENT.items():
        (served.mountpoint / name).parent.mkdir(parents=True, exist_ok=True)
        (served.mountpoint / name).write_bytes(content[::-1])
    served.edit(uuid, served.json("status", served.mountpoint)["uuid"])
    served.start()
    with nfs4.Nfs4(served.nfs_port) as client:
        assert client.read(client.handle("archive", "top")) == CONTENT["top"][::-1]
        for path in CONTENT:
            with pytest.raises(nfs4.Refused) as refused:
                client.read(handles[path])
            assert refused.value.status == nfs4.STALE
    served.umount()
