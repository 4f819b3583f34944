"""A Kerberos realm of its own: MIT's KDC on an unprivileged port of a network namespace's loopback, its database in a test's directory."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

from .archive import Archive
from .network import Network, answers

REALM = "ANQ.TEST"
SERVER = "files.anq.test"
CLIENT = "client.anq.test"
PORT = 18088
PASSWORD = "a user's password"
DEADLINE = 20.0
KDC = """
[kdcdefaults]
  kdc_listen = {address}:{port}
  kdc_tcp_listen = {address}:{port}
[realms]
  {realm} = {{
    database_name = {top}/principal
    key_stash_file = {top}/stash
    acl_file = {top}/acl
    supported_enctypes = aes256-cts-hmac-sha1-96:normal
  }}
[logging]
  kdc = FILE:{top}/kdc.log
"""
CLIENTS = """
[libdefaults]
  default_realm = {realm}
  dns_lookup_kdc = false
  dns_lookup_realm = false
  dns_canonicalize_hostname = false
  rdns = false
  udp_preference_limit = 1
[realms]
  {realm} = {{
    kdc = {address}:{port}
  }}
[domain_realm]
  .anq.test = {realm}
"""
PROGRAMS = ("/usr/sbin/rpc.gssd", "/usr/bin/kinit")
NAME_SERVICE = "hosts: files\npasswd: files\ngroup: files\nservices: files\nprotocols: files\n"


class Realm:
    """The realm, with keys of the NFS server and of the client machine, and users."""

    def __init__(self, top: Path, network: Network, address: str) -> None:
        """`address`: where in the namespace the KDC listens."""
        self._top, self._network, self._address = top, network, address
        self._kdc: subprocess.Popen[bytes] | None = None
        self.config = top / "krb5.conf"
        self.keytab = top / "server.keytab"
        top.mkdir()
        self.config.write_text(CLIENTS.format(realm=REALM, address=address, port=PORT))
        (top / "kdc.conf").write_text(KDC.format(realm=REALM, top=top, address=address, port=PORT))
        self._environment = {**os.environ, "KRB5_CONFIG": str(self.config), "KRB5_KDC_PROFILE": str(top / "kdc.conf")}

    def start(self, users: tuple[str, ...]) -> None:
        """Make the database and start the KDC. Raises CalledProcessError."""
        self._run("kdb5_util", "create", "-s", "-r", REALM, "-P", "a master password")
        for host, keytab in ((SERVER, self.keytab), (CLIENT, self._top / "client.keytab")):
            self._administer(f"addprinc -randkey nfs/{host}")
            self._administer(f"ktadd -k {keytab} nfs/{host}")
        for user in users:
            self._administer(f'addprinc -pw "{PASSWORD}" {user}')
        command = self._network.within("krb5kdc", "-n")
        with open(self._top / "krb5kdc.log", "wb") as log:
            self._kdc = subprocess.Popen(command, env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        limit = time.monotonic() + DEADLINE
        while not answers(self._network, self._address, PORT):
            assert self._kdc.poll() is None and time.monotonic() < limit, (self._top / "krb5kdc.log").read_text()
            time.sleep(0.02)

    def stop(self) -> None:
        """Stop the KDC."""
        if self._kdc is not None:
            self._kdc.terminate()
            self._kdc.wait()

    def client_files(self, hosts: dict[str, str], users: dict[str, int]) -> Archive:
        """Return what a virtual machine needs to be a client: gssd, kinit, its keytab, how to find the realm, and these hosts and users."""
        archive = Archive()
        for program in PROGRAMS:
            archive.program(Path(program))
        archive.file(Path("/etc/netconfig"))
        archive.data("etc/protocols", "tcp 6 TCP\nudp 17 UDP\n")
        archive.directory("var/lib/nfs/rpc_pipefs")
        archive.file(self.config, "etc/krb5.conf")
        archive.data("etc/krb5.keytab", (self._top / "client.keytab").read_bytes(), 0o600)
        archive.data("etc/passwd", "".join(f"{name}:x:{uid}:{uid}::/:/bin/sh\n" for name, uid in {"root": 0, **users}.items()))
        archive.data("etc/group", "".join(f"{name}:x:{uid}:\n" for name, uid in {"root": 0, **users}.items()))
        known = "".join(f"{address} {name}\n" for name, address in hosts.items())
        archive.data("etc/hosts", f"127.0.0.1 localhost\n{known}")
        archive.data("etc/nsswitch.conf", NAME_SERVICE)
        archive.data("etc/services", "nfs 2049/tcp\n")
        return archive

    def _administer(self, command: str) -> None:
        self._run("kadmin.local", "-r", REALM, "-q", command)

    def _run(self, *command: str) -> None:
        subprocess.run(command, env=self._environment, check=True, stdin=subprocess.DEVNULL, capture_output=True)
