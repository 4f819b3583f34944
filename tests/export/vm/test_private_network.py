"""Servers that are bound to the address of one network answer that network and nobody else."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from . import recipes
from .network import Network
from .site import ADDRESS, MOUNT_PORT, NFS_PORT, OTHER_ADDRESS, OTHER_WIRE, PASSWORD, SMB_PORT, SUBNET, USER, Site, eventually

PORTS = (NFS_PORT, MOUNT_PORT, SMB_PORT)
LISTENING = "0A"
MAPPED = "0000000000000000FFFF0000"
"""What an IPv4 address in /proc/net/tcp6 begins with."""
LIST_OVER_NFS = f"""
import nfs_rs
client = nfs_rs.Client.connect("nfs://{ADDRESS}/archive?version=4.1&noresvport=true")
print(sorted(entry.name for entry in client.scandir("club")))
"""


def connect(network: Network, address: str, port: int, seconds: float = 20) -> int:
    """Connect to a TCP port from a namespace; return the errno, 0 for success, EAGAIN when there was no answer in time."""

    def work() -> int:
        with socket.socket() as probe:
            probe.settimeout(seconds)
            return probe.connect_ex((address, port))

    return network.call(work)


def list_over_nfs(network: Network) -> subprocess.CompletedProcess[str]:
    return subprocess.run(network.within(sys.executable, "-c", LIST_OVER_NFS), capture_output=True, text=True, timeout=60, check=False)


def list_over_smb(network: Network) -> subprocess.CompletedProcess[str]:
    command = ["smbclient", f"//{ADDRESS}/archive", "-U", USER, "-m", "SMB3", "-s", "/dev/null", "-c", "cd club; ls"]
    environment = {**os.environ, "PASSWD": PASSWORD}
    return subprocess.run(network.within(*command), capture_output=True, text=True, timeout=60, check=False, env=environment)


@contextlib.contextmanager
def route(site: Site) -> Iterator[None]:
    """Give the outside a way to the servers' address, by another address of the same machine."""
    site.outside.run("ip", "route", "add", SUBNET, "via", OTHER_ADDRESS)
    try:
        yield
    finally:
        site.outside.run("ip", "route", "del", SUBNET)


def test_the_servers_listen_on_the_address_they_were_given_only(site: Site) -> None:
    lines = [line.split() for name in ("tcp", "tcp6") for line in site.server.run("cat", f"/proc/net/{name}").splitlines()[1:]]
    local = [fields[1].removeprefix(MAPPED).rsplit(":", 1) for fields in lines if fields[3] == LISTENING]
    listening = {(address, int(port, 16)) for address, port in local if int(port, 16) in PORTS}
    expected = socket.inet_aton(ADDRESS)[::-1].hex().upper()
    assert listening == {(expected, port) for port in PORTS}


def test_its_network_is_answered_and_another_address_of_the_machine_is_not(site: Site) -> None:
    for port in PORTS:
        assert connect(site.client, ADDRESS, port) == 0
        assert connect(site.outside, OTHER_ADDRESS, port) == errno.ECONNREFUSED
        assert connect(site.outside, ADDRESS, port) == errno.ENETUNREACH


def test_who_finds_a_way_around_is_refused_by_the_lists_of_clients(site: Site) -> None:
    (site.files / "archive" / "club").mkdir()
    (site.files / "archive" / "club" / "for members only").write_bytes(b"x")
    inside_nfs, inside_smb = list_over_nfs(site.client), list_over_smb(site.client)
    assert "for members only" in inside_nfs.stdout, inside_nfs
    assert "for members only" in inside_smb.stdout, inside_smb
    with route(site):
        for port in PORTS:
            assert connect(site.outside, ADDRESS, port) == 0
        outside_nfs, outside_smb = list_over_nfs(site.outside), list_over_smb(site.outside)
    assert outside_nfs.returncode != 0 and "for members only" not in outside_nfs.stdout
    assert "NfsNotFoundError" in outside_nfs.stderr, outside_nfs
    assert outside_smb.returncode != 0 and "NT_STATUS_ACCESS_DENIED" in outside_smb.stdout + outside_smb.stderr, outside_smb


def test_an_export_for_others_is_not_even_seen(site: Site) -> None:
    add = ("export", "add", "nfs", site.files / "extra", "--name", "extra", "--read-write")
    site.bench.ok(*add, "--clients", "192.0.2.0/24")
    try:
        with pytest.raises(OSError) as refused, site.nfs("4.2", "extra"):
            pass
        assert refused.value.errno == errno.ENOENT
        site.bench.ok("export", "remove", "nfs", "extra", "--mountpoint", site.files)
        site.bench.ok(*add, "--clients", SUBNET)
        eventually("the export to be seen by its clients", lambda: _can_mount(site, "extra"))
    finally:
        site.bench.ok("export", "remove", "nfs", "extra", "--mountpoint", site.files)


def _can_mount(site: Site, export: str) -> bool:
    try:
        with site.nfs("4.2", export):
            return True
    except FileNotFoundError:
        return False


def test_the_firewall_rule_of_the_documentation_drops_everyone_else(site: Site) -> None:
    (rules,) = (block for block in recipes.blocks("Only one network") if block.startswith("table"))
    load = site.server.within("nft", "-f", "-")
    with route(site):
        try:
            subprocess.run(load, input=rules, text=True, check=True, capture_output=True)
            for port in PORTS:
                assert connect(site.outside, ADDRESS, port, 0.5) == errno.EAGAIN
                assert connect(site.client, ADDRESS, port) == 0
        finally:
            site.server.run("nft", "flush", "ruleset")
        assert connect(site.outside, ADDRESS, NFS_PORT) == 0
    assert OTHER_WIRE in site.server.run("ip", "link")
