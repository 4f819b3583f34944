"""How each server is started, when it is ready, and what it said when it failed. Called by the supervisor; no threads.

Neither server daemonizes: both stay children of the supervisor, in a session of their own. smbd kills its whole process group when
it ends, so the group must hold nothing but smbd.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from anqfs.errors import ExportFailed
from anqfs.export.description import Description, Kind
from anqfs.export.layout import Layout

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PR_SET_PDEATHSIG = 1
_LOG_BYTES = 16 << 20
_TAIL = 16_384
_LOCK_PATH_MAX = 90
"""Bytes. A socket's path has at most 107; below the directory it is `/msg.sock/` and a process id."""
_libc = ctypes.CDLL(None, use_errno=True)
_PACKAGES = {"ganesha.nfsd": "nfs-ganesha and nfs-ganesha-vfs", "smbd": "samba and samba-vfs-modules"}


@dataclass(frozen=True)
class Server:
    """One server as it is to be run. `ready_line`: what its log says once it answers; "": it answers once its port does.

    `makes_session`: it makes a session and process group of its own, and fails when it has one already.
    """

    kind: Kind
    arguments: tuple[str, ...]
    log: Path
    pid_file: Path
    address: str
    port: int
    ready_line: bytes = b""
    makes_session: bool = False
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def output(self) -> Path:
        """What it writes to its standard output and error."""
        return self.log.with_suffix(".out")


def program(name: str) -> str:
    """Return the path of a server's program. Raises ExportFailed naming the packages to install."""
    found = shutil.which(name, path=_PATH)
    if found is None:
        raise ExportFailed(f"{name} is not installed: install the packages {_PACKAGES[name]}")
    return found


def server(kind: Kind, description: Description, layout: Layout) -> Server:
    """Return how to run one server. Raises ExportFailed when its program is missing."""
    address = "127.0.0.1" if description.bind == "0.0.0.0" else "::1" if description.bind == "::" else description.bind
    return _nfs(description, layout, address) if kind == "nfs" else _smb(description, layout, address)


def _nfs(description: Description, layout: Layout, address: str) -> Server:
    log, pid_file = layout.nfs / "ganesha.log", layout.nfs / "ganesha.pid"
    kerberos = description.nfs.kerberos
    # libblkid's cache may hold what another volume's mount said of the same loop device.
    environment = {"BLKID_FILE": str(layout.nfs / "blkid.tab")}
    if kerberos is not None and kerberos.config:
        environment["KRB5_CONFIG"] = kerberos.config
    command = (program("ganesha.nfsd"), "-F", "-f", str(layout.ganesha_conf), "-p", str(pid_file), "-L", str(log), "-N", "NIV_EVENT")
    return Server("nfs", command, log, pid_file, address, description.nfs.port, b"NFS SERVER INITIALIZED", environment=environment)


def _smb(description: Description, layout: Layout, address: str) -> Server:
    command = (program("smbd"), "-F", "-s", str(layout.smb_conf))
    log, pid_file = layout.smb / "log" / "smbd.log", layout.smb_directories()["pid directory"] / "smbd.pid"
    return Server("smb", command, log, pid_file, address, description.smb.port, makes_session=True)


def check_before(kind: Kind, description: Description, layout: Layout) -> None:
    """Raise ExportFailed for what would make a server fail at once, or later, in a way its log does not explain."""
    if kind == "smb":
        _check_lock_directory(layout.smb_directories()["lock directory"])
    if kind == "nfs" and "3" in description.nfs.versions and not rpcbind_answers():
        raise ExportFailed('NFS version 3 needs rpcbind, which does not run here: start it, or take "3" out of nfs.versions')
    port = description.nfs.port if kind == "nfs" else description.smb.port
    family = socket.AF_INET6 if ":" in description.bind else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((description.bind, port))
        except OSError as error:
            raise ExportFailed(
                f"{kind}: nothing can listen on {description.bind} port {port}: {error.strerror}: is another server running there?"
            ) from error


def _check_lock_directory(directory: Path) -> None:
    """smbd has a socket there for each connection, and looks for it as the connection's user.

    Where the user does not get to, every other open of a file counts as left over from a dead process: share modes are not kept.
    """
    if len(os.fsencode(directory)) > _LOCK_PATH_MAX:
        raise ExportFailed(
            f"{directory}: the path is longer than {_LOCK_PATH_MAX} bytes, and Samba has sockets there: "
            "begin again with `anqfs export init --dir` and a short path"
        )
    for each in (directory, *directory.resolve().parents):
        if not each.stat().st_mode & 0o001:
            raise ExportFailed(
                f"{each}: SMB users have to pass through it to {directory}, or share modes are not kept: chmod o+x, or use another --dir"
            )


def rpcbind_answers() -> bool:
    """Tell whether this machine (or network namespace) has a port mapper."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.settimeout(2)
        return probe.connect_ex(("127.0.0.1", 111)) == 0


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def start(server: Server) -> subprocess.Popen[bytes]:
    """Start a server's process. Raises ExportFailed."""
    for path in (server.log, server.output):
        _turn(path)
    (server.log.parent / "blkid.tab").unlink(missing_ok=True)
    with server.output.open("ab") as output:
        try:
            return subprocess.Popen(
                server.arguments,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
                env={"PATH": _PATH, "LANG": "C.UTF-8", **server.environment},
                start_new_session=not server.makes_session,
                preexec_fn=_die_with_parent,
                umask=0o022,  # clients say what modes their files get; the supervisor's own umask is not theirs
            )
        except OSError as error:
            raise ExportFailed(f"{server.arguments[0]} cannot be started: {error.strerror}") from error


def _turn(path: Path) -> None:
    """Keep a log in one file of bounded size and the one before it."""
    if path.exists() and path.stat().st_size > _LOG_BYTES:
        os.replace(path, path.with_name(f"{path.name}.1"))


def log_size(server: Server) -> int:
    """Return where the next line of a server's log will be."""
    try:
        return server.log.stat().st_size
    except FileNotFoundError:
        return 0


def is_ready(server: Server, since: int) -> bool:
    """Tell whether a server that was started when its log was `since` bytes long answers."""
    if server.ready_line:
        try:
            with server.log.open("rb") as stream:
                stream.seek(since)
                if server.ready_line not in stream.read():
                    return False
        except FileNotFoundError:
            return False
    family = socket.AF_INET6 if ":" in server.address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.settimeout(2)
        return probe.connect_ex((server.address, server.port)) == 0


def last_words(server: Server, since: int) -> str:
    """Return the last line of a server's log that says what went wrong, or its last line; "" when it said nothing."""
    lines: list[str] = []
    for path, start_at in ((server.output, 0), (server.log, since)):
        try:
            with path.open("rb") as stream:
                stream.seek(max(start_at, path.stat().st_size - _TAIL))
                lines += stream.read().decode("utf-8", "replace").splitlines()
        except FileNotFoundError:
            continue
    lines = [" ".join(line.split()) for line in lines if line.strip()]
    telling = [
        line
        for line in lines
        if any(word in line for word in (":FATAL", ":CRIT", ":MAJ", "ERROR", "failed", "Failed")) and "DBUS" not in line
    ]
    return (telling or lines or [""])[-1]
