"""A site: a volume that `anqfs export` serves in one network namespace, and a virtual machine in another that is its client.

    server 10.0.0.5  ---- 10.0.0.9  client (the virtual machine's packets come from here)
           10.30.0.5 ---- 10.30.0.9 outside

The servers are configured, started and stopped with the commands that an administrator uses; only export.toml is edited where it has
settings without a command. Nothing is reached through this machine's own network, so all ports are the usual ones.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.cli.conftest import Bench, eventually, is_alive
from tests.places import open_temporary

from .kerberos import CLIENT, REALM, SERVER, Realm
from .machine import GUEST, GuestError, Machine
from .network import Network, answers, join

ADDRESS, CLIENT_ADDRESS, SUBNET = "10.0.0.5", "10.0.0.9", "10.0.0.0/24"
"""As in docs/operations.md."""
OTHER_ADDRESS, OUTSIDE_ADDRESS = "10.30.0.5", "10.30.0.9"
WIRE, OTHER_WIRE = "wire", "other"
NFS_PORT, MOUNT_PORT, SMB_PORT = 2049, 20048, 445
USER, UID, PASSWORD = "backup", 34, "a word for smb"
"""A Unix user that every Debian has; the SMB user and the Kerberos principal `archivist` are this one."""
STRANGER, STRANGER_UID = "stranger", 35
PRINCIPAL = f"archivist@{REALM}"
GRACE_SECONDS, LEASE_SECONDS = 6, 4
ENDING_SECONDS = 10.0
RPCBIND = """
tac /proc/self/mounts | while read -r _ point _; do
    case $point in
        / | /proc | /dev | /usr*) ;;
        *) umount -l "$(printf %b "$point")" ;; # a copy that is kept here would keep a daemon alive that others unmount
    esac
done
mount -t tmpfs none /run
rpcbind -f -w
exit 1
"""


class NetworkBench(Bench):
    """The command line's bench, in a network namespace."""

    def __init__(self, top: Path, network: Network) -> None:
        super().__init__(top)
        self._network = network
        self.environment["ANQFS_EXPORT_DIR"] = str(top / "exports")

    def command(self, *arguments: str | bytes | Path) -> list[str]:
        return ["nsenter", f"--net={self._network.path}", *super().command(*arguments)]


class Site:
    """Everything of it; `open` makes it, `close` takes it away."""

    def __init__(self) -> None:
        self.top = open_temporary("anqfs-site-")
        self._networks: list[Network] = []
        self._programs: list[subprocess.Popen[bytes]] = []
        self.machine: Machine

    def open(self) -> None:
        """Make the networks, the volume, a Kerberos realm and the exports; start the servers and the virtual machine."""
        for _ in range(3):
            self._networks.append(Network())
        self.server, self.client, self.outside = self._networks
        join(self.server, self.client, WIRE, (f"{ADDRESS}/24", f"{CLIENT_ADDRESS}/24"))
        join(self.server, self.outside, OTHER_WIRE, (f"{OTHER_ADDRESS}/24", f"{OUTSIDE_ADDRESS}/24"))
        self.bench = NetworkBench(self.top, self.server)
        self.files = self.bench.mountpoint
        self.realm = Realm(self.top / "realm", self.server, ADDRESS)
        self.realm.start(("archivist", STRANGER))
        self._mount()
        self._start_port_mapper()
        self._export()
        self.machine = Machine(
            self.top, self.client.within(), self.realm.client_files({CLIENT: GUEST, SERVER: ADDRESS}, {USER: UID, STRANGER: STRANGER_UID})
        )
        self.machine.start()
        self.machine.call("run", "hostname", CLIENT)
        self.machine.call("mount", "rpc_pipefs", "/var/lib/nfs/rpc_pipefs", "rpc_pipefs", "")
        self.machine.call("start", "gssd", "rpc.gssd", "-f", "-vv")

    def close(self) -> list[str]:
        """Take everything away; return what was left over that should have ended by itself."""
        left: list[str] = []
        with contextlib.suppress(AttributeError):
            self.machine.stop()
        if hasattr(self, "bench"):
            left += self._end_volume()
        for program in self._programs:
            program.kill()
            program.wait()
        if hasattr(self, "realm"):
            self.realm.stop()
        for network in self._networks:
            left += _end_members(network)
        if hasattr(self, "bench"):
            left += self.bench.reap()
        for network in self._networks:
            network.close()
        shutil.rmtree(self.top)
        return left

    def toml(self) -> Path:
        """Return the file that says what is exported."""
        return self.top / "conf" / "export.toml"

    def logs(self) -> str:
        """Return the end of each log of the servers."""
        found = sorted(path for pattern in ("*.log", "*.out") for path in (self.top / "conf").rglob(pattern))
        found += sorted((self.top / "realm").glob("*.log"))
        return "\n".join(f"--- {path.name}\n{path.read_text(errors='replace')[-1500:]}" for path in found)

    @contextlib.contextmanager
    def nfs(self, version: str, export: str = "archive", *, security: str = "sys", address: str = ADDRESS, more: str = "") -> Iterator[str]:
        """Mount an NFS export in the virtual machine for the time of a `with` block; yields where. Raises OSError."""
        target = f"/mnt/nfs{version}-{export}"
        if version == "3":
            kind = "nfs"
            options = f"addr={address},vers=3,proto=tcp,port={NFS_PORT},nolock"
            options += f",mountaddr={address},mountproto=tcp,mountport={MOUNT_PORT},mountvers=3"
        else:
            kind = "nfs4"
            options = f"addr={address},clientaddr={GUEST},port={NFS_PORT},minorversion={version[2:]},proto=tcp"
        host = SERVER if security.startswith("krb5") else address
        self.machine.call("mount", f"{host}:/{export}", target, kind, f"{options},sec={security}{more}")
        with self._mounted(target):
            yield target

    @contextlib.contextmanager
    def smb(self, share: str = "archive", *, more: str = ",seal", password: str = PASSWORD) -> Iterator[str]:
        """Connect to an SMB share in the virtual machine for the time of a `with` block; yields where. Raises OSError."""
        target = f"/mnt/smb-{share}"
        options = f"ip={ADDRESS},unc=\\\\{ADDRESS}\\{share},user={USER},pass={password},vers=3.1.1{more}"
        self.machine.call("mount", f"//{ADDRESS}/{share}", target, "cifs", options)
        with self._mounted(target):
            yield target

    @contextlib.contextmanager
    def _mounted(self, target: str) -> Iterator[None]:
        try:
            yield
        except BaseException:
            with contextlib.suppress(GuestError, OSError):  # the first fault is the one to show
                self.machine.call("unmount", target, lazily=True, seconds=10)
            raise
        self.machine.call("unmount", target)

    def mount_on_loopback(self, top: Path) -> NetworkBench:
        """Mount another volume on the server and export it over NFS as `archive` to the server itself only; the caller stops it."""
        top.mkdir(mode=0o755)
        bench = NetworkBench(top, self.server)
        bench.mkfs()
        bench.mount("--fsid-device")
        bench.ok("export", "init", bench.mountpoint, "--dir", top / "conf", "--bind", "127.0.0.1")
        local = ("--read-write", "--no-root-squash", "--clients", "127.0.0.1")
        bench.ok("export", "add", "nfs", bench.mountpoint, "--name", "archive", *local)
        bench.ok("export", "start", bench.mountpoint)
        return bench

    def _mount(self) -> None:
        self.bench.mkfs()
        self.bench.mount("--fsid-device")
        for name in ("archive", "sealed", "clear", "extra"):
            (self.files / name).mkdir()
            (self.files / name).chmod(0o1777)

    def _start_port_mapper(self) -> None:
        """NFS version 3 needs rpcbind; its socket and lock are in /run, so it gets one of its own.

        It changes its user, after which it would outlive the tests: the first process of its process namespace dies with them instead.
        """
        separate = ["unshare", "--mount", "--pid", "--fork", "--kill-child=KILL"]
        command = [*separate, "sh", "-c", RPCBIND]
        with open(self.top / "rpcbind.log", "wb") as log:
            self._programs.append(subprocess.Popen(self.server.within(*command), stdin=subprocess.DEVNULL, stdout=log, stderr=log))
        eventually("rpcbind to answer", lambda: answers(self.server, "127.0.0.1", 111))

    def _export(self) -> None:
        bench, files = self.bench, self.files
        bench.ok("export", "init", files, "--dir", self.top / "conf", "--bind", ADDRESS)
        self._edit()
        for_clients = ("--read-write", "--clients", SUBNET)
        bench.ok("export", "add", "nfs", files / "archive", "--name", "archive", "--no-root-squash", *for_clients)
        bench.ok("export", "add", "nfs", files / "sealed", "--name", "sealed", "--no-root-squash", "--sec", "krb5p", *for_clients)
        bench.ok("export", "add", "smb", files / "archive", "--name", "archive", *for_clients)
        password = self.top / "password"
        password.write_text(f"{PASSWORD}\n")
        password.chmod(0o600)
        bench.ok("export", "user", "add", USER, "--password-file", password, "--mountpoint", files)
        bench.ok("export", "start", files)

    def _edit(self) -> None:
        """Set what export.toml has no command for: short grace times, NFS version 3, and Kerberos."""
        text = self.toml().read_text(encoding="utf-8")
        for old, new in (
            ('versions = ["4.0", ', 'versions = ["3", "4.0", '),
            ("grace_seconds = 90", f"grace_seconds = {GRACE_SECONDS}"),
            ("lease_seconds = 60", f"lease_seconds = {LEASE_SECONDS}"),
        ):
            assert old in text, text
            text = text.replace(old, new)
        text += f"""
[nfs.kerberos]
principal = "nfs@{SERVER}"
keytab = "{self.realm.keytab}"
config = "{self.realm.config}"
domain = "anq.test"
realm = "{REALM}"
users = {{ "{PRINCIPAL}" = "{USER}", "nfs/{CLIENT}@{REALM}" = "root" }}
"""
        self.toml().write_text(text, encoding="utf-8")

    @contextlib.contextmanager
    def smb_without_encryption(self) -> Iterator[None]:
        """Export `clear` over SMB, unencrypted, instead of `archive`, for the time of a `with` block: a server with both encrypts both."""
        self._replace_share("archive", "clear", "off")
        try:
            yield
        finally:
            self._replace_share("clear", "archive", "required")

    def state(self, kind: str) -> str | None:
        """Return what `anqfs export status` says of a server, None when it says nothing."""
        servers = self.bench.json("export", "status", self.files)["servers"]
        return next((str(one["state"]) for one in servers if one["server"] == kind), None)

    def _replace_share(self, old: str, new: str, encrypt: str) -> None:
        self.bench.ok("export", "remove", "smb", old, "--mountpoint", self.files)
        eventually("the SMB server to end", lambda: self.state("smb") is None)
        add = ("export", "add", "smb", self.files / new, "--name", new, "--encrypt", encrypt, "--read-write", "--clients", SUBNET)
        self.bench.ok(*add)
        eventually("the SMB server to answer", lambda: self.state("smb") == "running")

    def _end_volume(self) -> list[str]:
        """Stop the servers and unmount as an administrator would; return what went wrong with it."""
        wrong = []
        for command in (("export", "stop", self.files), ("umount", self.files)):
            try:
                done = self.bench.run(*command)
            except subprocess.TimeoutExpired as error:
                wrong.append(str(error))
            else:
                wrong += [f"{command}: {done.stderr}"] if done.returncode else []
        return wrong


def _end_members(network: Network) -> list[str]:
    """Kill what runs in a namespace and does not end by itself soon (what was killed may still be on its way); return what it was."""
    limit = time.monotonic() + ENDING_SECONDS
    while network.members() and time.monotonic() < limit:
        time.sleep(0.02)
    left = []
    for pid in network.members():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended after all
            left.append(f"process {pid}: {Path(f'/proc/{pid}/cmdline').read_bytes()!r}")
            os.kill(pid, signal.SIGKILL)
        eventually("a left-over process to die", lambda pid=pid: not is_alive(pid))  # type: ignore[misc]
    return left
