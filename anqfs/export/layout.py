"""Where an export's files are: the configuration directory (CONFDIR) and the index that finds it by the mount point. Any thread.

CONFDIR holds `export.toml` (what a person says), `generated/` (what is made from it) and `state/` (the servers' databases, recovery
records, logs and pid files). Others can pass through it but read nothing (0711), since smbd works as the user of a connection and has to
reach its lock directory as such; all but that directory and what leads to it is private.

The index is `$ANQFS_EXPORT_DIR`, or `/etc/anqfs/export` for root, or `$XDG_CONFIG_HOME/anqfs/export`, or `~/.config/anqfs/export`: for
each mount point it has either CONFDIR itself or a link to it.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from anqfs.errors import UsageError

DIRECTORY_VARIABLE = "ANQFS_EXPORT_DIR"
_PLAIN = re.compile(rb"[A-Za-z0-9:_.]")


@dataclass(frozen=True)
class Layout:
    """The files of one CONFDIR, which is absolute."""

    root: Path

    @property
    def file(self) -> Path:
        """What is exported to whom."""
        return self.root / "export.toml"

    @property
    def generated(self) -> Path:
        """Configuration made from it."""
        return self.root / "generated"

    @property
    def ganesha_conf(self) -> Path:
        """The NFS server's configuration."""
        return self.generated / "ganesha.conf"

    @property
    def idmapd_conf(self) -> Path:
        """Which Kerberos principal is which user."""
        return self.generated / "idmapd.conf"

    @property
    def smb_conf(self) -> Path:
        """The SMB server's configuration."""
        return self.generated / "smb.conf"

    @property
    def smb_snapshots_conf(self) -> Path:
        """What smb.conf includes in each share: how `.snapshot` shows."""
        return self.generated / "snapshots.conf"

    @property
    def state(self) -> Path:
        """What the servers keep."""
        return self.root / "state"

    @property
    def lock(self) -> Path:
        """Locked by the supervisor as long as it lives."""
        return self.state / "supervisor.lock"

    @property
    def status(self) -> Path:
        """What the supervisor last knew."""
        return self.state / "status.json"

    @property
    def supervisor_log(self) -> Path:
        """The supervisor's log."""
        return self.state / "supervisor.log"

    @property
    def nfs(self) -> Path:
        """State of the NFS server."""
        return self.state / "nfs"

    @property
    def nfs_recovery(self) -> Path:
        """Which clients hold opens and locks."""
        return self.nfs / "recovery"

    @property
    def nfs_credentials(self) -> Path:
        """Kerberos credentials of the NFS server."""
        return self.nfs / "credentials"

    @property
    def smb(self) -> Path:
        """State of the SMB server."""
        return self.state / "smb"

    @property
    def smb_audit(self) -> Path:
        """The access audit of the SMB server."""
        return self.smb / "log" / "audit.log"

    def smb_directories(self) -> dict[str, Path]:
        """Return smb.conf's name of each private directory, and where it is."""
        return {
            "private dir": self.smb / "private",
            "state directory": self.smb / "state",
            "cache directory": self.smb / "cache",
            "lock directory": self.smb / "lock",
            "pid directory": self.smb / "run",
            "ncalrpc dir": self.smb / "ncalrpc",
        }

    def make(self) -> None:
        """Make every directory, whatever the umask. Raises OSError, UsageError when somebody else could change what is in one."""
        self.root.parent.mkdir(parents=True, exist_ok=True)
        for directory in (self.root, self.state, self.smb):
            _make(directory, 0o711)
        for directory in (self.generated, self.nfs, self.nfs_recovery, self.nfs_credentials, self.smb / "log"):
            _make(directory, 0o700)
        for name, directory in self.smb_directories().items():
            _make(directory, 0o700 if name == "private dir" else 0o755)  # Samba wants others to read most of them


def _make(directory: Path, mode: int) -> None:
    """Make a directory, or make sure that the one that is there is ours alone: servers that are root write into it."""
    try:
        directory.mkdir(mode)
        directory.chmod(mode)
    except FileExistsError:
        found = directory.lstat()
        if not stat.S_ISDIR(found.st_mode):
            raise UsageError(f"{directory}: is no directory, or a link to one: the servers' files have to be in a real one") from None
        if found.st_uid != os.geteuid() or found.st_mode & 0o022:
            raise UsageError(
                f"{directory}: others could change the servers' files there: make it your own (chown) and writable by you only (chmod go-w)"
            ) from None
        if mode == 0o700 and found.st_mode & 0o077:
            directory.chmod(mode)


def escape(point: bytes) -> str:
    """Return a mount point as a file name: slashes are dashes, what is unusual is =NN. No backslash: ganesha would read an escape."""
    path = point.strip(b"/")
    name = ""
    for number, byte in enumerate(path):
        letter = bytes((byte,))
        if letter == b"/":
            name += "-"
        elif _PLAIN.fullmatch(letter) and not (letter == b"." and number == 0):
            name += letter.decode()
        else:
            name += f"={byte:02x}"
    return name or "-"


def index() -> Path | None:
    """Return the directory that has one entry for each mount point with exports; None when this user has none."""
    named = os.environ.get(DIRECTORY_VARIABLE)
    if named:
        return Path(named)
    if os.geteuid() == 0:
        return Path("/etc/anqfs/export")
    home = os.environ.get("HOME")
    private = os.environ.get("XDG_CONFIG_HOME") or (f"{home}/.config" if home else None)
    return Path(private, "anqfs/export") if private else None


def find(point: bytes) -> Layout | None:
    """Return the layout for an absolute mount point, None when nothing was ever exported there."""
    where = index()
    if where is None:
        return None
    root = where / escape(point)
    return Layout(root.resolve()) if (root / "export.toml").exists() else None


def every() -> list[Layout]:
    """Return the layouts in the index, sorted by mount point."""
    where = index()
    if where is None or not where.is_dir():
        return []
    return [Layout(path.resolve()) for path in sorted(where.iterdir()) if (path / "export.toml").exists()]


def place(point: bytes, directory: Path | None) -> Layout:
    """Return the layout to make for a mount point: `directory`, noted in the index, or one in the index. Raises UsageError, OSError."""
    where = index()
    if where is None:
        raise UsageError(f"there is no home directory for the export's files: name one in {DIRECTORY_VARIABLE}")
    entry = where / escape(point)
    if entry.is_symlink() and not (entry / "export.toml").exists():
        entry.unlink()  # its CONFDIR was removed
    if directory is None:
        return Layout(entry)
    root = directory.resolve()
    if root != entry.resolve():
        where.mkdir(mode=0o711, parents=True, exist_ok=True)
        if entry.exists():
            raise UsageError(f"{entry} exists already: remove it first")
        entry.symlink_to(root)
    return Layout(root)
