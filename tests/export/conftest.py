"""Volumes that real file servers export: a private configuration, ports of their own on the loopback, and everything reaped.

What a test leaves running without stopping it fails the test.
"""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

import leftovers
from anqfs.export import state
from anqfs.export.layout import Layout
from tests.cli.conftest import Bench
from tests.places import open_temporary

if TYPE_CHECKING:
    from tests.export.exported import Exported

GRACE, LEASE = 4, 30
"""Seconds. A short grace period, because clients wait for the whole of it after a restart."""


def free_port() -> int:
    """Return a TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Served(Bench):
    """A bench whose volume can be exported."""

    def __init__(self, top: Path) -> None:
        super().__init__(top)
        self.index = top / "index"
        self.environment["ANQFS_EXPORT_DIR"] = str(self.index)
        self.nfs_port, self.smb_port = free_port(), free_port()

    def fill(self) -> None:
        """Put into the new volume what has to be there before it is mounted: nothing."""

    def mount(self, *options: str) -> int:
        """Mount so that NFS handles outlast a remount."""
        return super().mount("--fsid-device", *options)

    def init(self, *options: str) -> None:
        """Begin to export, with short times, and with a short path: Samba has sockets below it."""
        where = () if "--dir" in options else ("--dir", str(self.top / "conf"))
        ports = ("--nfs-port", str(self.nfs_port), "--smb-port", str(self.smb_port))
        self.ok("export", "init", self.mountpoint, *where, *ports, *options)
        self.edit("grace_seconds = 90", f"grace_seconds = {GRACE}")
        self.edit("lease_seconds = 60", f"lease_seconds = {LEASE}")

    @property
    def conf(self) -> Path:
        """CONFDIR."""
        (entry,) = self.index.iterdir()
        return entry.resolve()

    def edit(self, old: str, new: str) -> None:
        """Change export.toml as a person would."""
        file = self.conf / "export.toml"
        text = file.read_text()
        assert text.count(old) == 1, (old, text)
        file.write_text(text.replace(old, new))

    def start(self) -> None:
        """Start the servers."""
        self.ok("export", "start", self.mountpoint)

    def status(self) -> Any:
        """Return what `anqfs export status` says."""
        return self.json("export", "status", self.mountpoint)

    def now(self) -> dict[str, Any]:
        """Return what the supervisor last wrote, without a command: for polling. {} when none lives."""
        return state.read(Layout(self.conf)) or {}

    def server(self, kind: str) -> Any:
        """Return the state of one server, {} when it is not there."""
        return next((one for one in self.now().get("servers", []) if one["server"] == kind), {})

    def states(self) -> list[str]:
        """Return the states of the servers."""
        return [one["state"] for one in self.now().get("servers", [])]

    def nfs(self, name: str, version: str = "4.1") -> str:
        """Return the address of an export for nfs-rs."""
        return f"nfs://127.0.0.1/{name}?version={version}&nfsport={self.nfs_port}&noresvport=true"


S = TypeVar("S", bound=Served)


def serving(made: S) -> Iterator[S]:
    """Give a mounted volume to export; take everything away afterwards, and fail when servers were left running."""
    top = made.top
    top.chmod(0o755)  # SMB users have to get to the mount point, and to Samba's lock directory
    try:
        made.mkfs()
        made.fill()
        made.mount()
        yield made
        stopped = made.run("umount", made.mountpoint) if made.mountpoint.is_mount() else None
    finally:
        left = leftovers.remove(top, 0)
        log = "".join(path.read_text(errors="replace") for path in top.glob("**/supervisor.log"))
        shutil.rmtree(top)
    assert stopped is None or stopped.returncode == 0, stopped
    assert left == []
    assert "Traceback" not in log, log


@pytest.fixture
def served() -> Iterator[Served]:
    """A mounted volume for one test."""
    yield from serving(Served(open_temporary("anqfs-export-")))


@pytest.fixture(scope="package")
def vol() -> Iterator[Exported]:
    """One volume, exported over SMB and NFS, for all tests that leave it running as they found it."""
    from tests.export.exported import Exported

    for made in serving(Exported(open_temporary("anqfs-export-"))):
        made.serve()
        yield made
