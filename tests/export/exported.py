"""A volume that is exported with `anqfs export`, over SMB and NFS, to this machine, and everything gone again afterwards."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

from nfs_rs import Client as NfsClient

from anqfs.crypto.secrets import Secret
from anqfs.namespace import ROOT, Namespace
from anqfs.store.volume import Volume
from tests.export.conftest import Served
from tests.export.smb_client import HOST, SmbClient
from tests.places import secret_file

USER, OTHER = "games", "backup"
"""Accounts that every Debian has and nobody uses."""
PASSWORD = "Exported-2026"
MANY = 100_000


class Exported(Served):
    """A mounted volume, exported as `vol` over SMB (//HOST/vol) and NFS (HOST:/vol)."""

    @property
    def point(self) -> Path:
        """The mount point."""
        return self.mountpoint

    def fill(self) -> None:
        """Before it is mounted: make `many`, a directory of MANY files."""
        volume = Volume.open(self.store, Secret.from_key_file(str(self.key)))
        try:
            namespace = Namespace(volume)
            many, _ = namespace.mkdir(1, b"many", 0o777, ROOT)
            namespace.set_attributes(many, mode=0o777, caller=ROOT)
            for number in range(MANY):
                namespace.create(many, b"Image%06d.dcm" % number, 0o666, ROOT)
        finally:
            volume.close()

    def serve(self) -> None:
        """Export it to this machine, to USER and OTHER, with an audit."""
        self.point.chmod(0o1777)
        self.init()
        self.edit("audit = false", "audit = true")
        self.ok("export", "add", "smb", self.point, "--name", "vol", "--read-write", "--clients", HOST)
        self.ok("export", "add", "nfs", self.point, "--name", "vol", "--read-write", "--no-root-squash", "--clients", HOST)
        word = secret_file(self.top / "password", PASSWORD + "\n")
        for user in (USER, OTHER):
            self.ok("export", "user", "add", user, "--password-file", word, "--mountpoint", self.point)
        self.start()

    def smbclient(self, commands: str, directory: Path | None = None) -> str:
        """Run commands of Samba's own command-line client as USER, in a local directory, and return what it prints."""
        connection = ["-s", "/dev/null", "-m", "SMB3", "-p", str(self.smb_port), "-U", f"{USER}%{PASSWORD}", f"//{HOST}/vol"]
        done = subprocess.run(
            ["smbclient", *connection, "-c", commands], cwd=directory, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done
        return done.stdout

    def smb(self, user: str = USER, share: str = "vol") -> SmbClient:
        """Connect an SMB client."""
        return SmbClient(self.smb_port, share, user, PASSWORD)

    def nfs_client(self, version: str = "4.1") -> NfsClient:
        """Connect an NFS client, as root."""
        return NfsClient.connect(self.nfs("vol", version), connect_timeout=30, operation_timeout=60)

    def requests(self) -> dict[str, int]:
        """Return how many requests of each kind the daemon has answered."""
        document: dict[str, dict[str, Any]] = self.json("status", self.point, "--latency")["latency"]
        return {operation: int(figures["requests"]) for operation, figures in document.items()}

    def directory(self, name: str) -> Path:
        """Make a directory for one test, writable for everyone."""
        made = self.point / name
        made.mkdir()
        made.chmod(0o777)
        return made


def snapshot(directory: Path, name: str) -> Path:
    """Take a snapshot and return its path."""
    before = set(os.listdir(directory / ".snapshot"))
    (directory / ".snapshot" / name).mkdir()
    (made,) = set(os.listdir(directory / ".snapshot")) - before
    return directory / ".snapshot" / made
