"""A volume over NFS version 3, which needs rpcbind: in a network namespace, with libnfs' tools and nfs-rs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest

from tests.export.conftest import Served
from tests.export.network import ADDRESS, Network

_TALK = """
import sys
from nfs_rs import Client, NfsError
url, path = sys.argv[1:]
with Client.connect(url, connect_timeout=10, operation_timeout=60) as client:
    with client.open(path, "wb") as stream:
        stream.write(b"over version 3")
    client.rename(path, path + ".moved")
    client.symlink("target", path + ".link")
    with client.open(path + ".moved", "rb") as stream:
        assert stream.read() == b"over version 3"
    inside = sorted(entry.name for entry in client.scandir("study/.snapshot"))
    assert len(inside) == 1, inside
    assert [entry.name for entry in client.scandir("study/.snapshot/" + inside[0])] == ["image"]
    try:
        client.unlink("study/.snapshot/" + inside[0] + "/image")
    except NfsError as error:
        print(error.code_name)
"""


@pytest.fixture
def network() -> Iterator[Network]:
    """A network of its own."""
    made = Network()
    try:
        yield made
    finally:
        made.close()


def test_version_3_without_rpcbind_is_refused_and_said(served: Served) -> None:
    served.init()
    served.edit('versions = ["4.0"', 'versions = ["3", "4.0"')
    served.ok("export", "add", "nfs", served.mountpoint, "--name", "archive", "--clients", "127.0.0.1")
    with open("/proc/net/tcp") as table:
        assert not any(line.split()[1].endswith(":006F") for line in list(table)[1:]), "rpcbind runs on this machine"
    assert "needs rpcbind" in served.fails(12, "export", "start", served.mountpoint)


def test_version_3_reads_writes_renames_and_lists_snapshots(served: Served, network: Network) -> None:
    point = served.mountpoint
    (point / "study").mkdir()
    (point / "study/image").write_text("kept")
    served.json("snapshot", "create", point / "study", "--name", "first")
    data = os.urandom(2_000_003)
    (point / "big").write_bytes(data)
    served.init("--bind", ADDRESS)
    served.edit('versions = ["4.0"', 'versions = ["3", "4.0"')
    served.edit(f"port = {served.nfs_port}\n", f"port = {served.nfs_port}\nmountd_port = 20048\n")
    served.ok("export", "add", "nfs", point, "--name", "archive", "--read-write", "--no-root-squash", "--clients", ADDRESS)
    network.run(*served.command("export", "start", point), env=served.environment)
    try:
        where = f"nfs://{ADDRESS}/archive{{}}?version=3&nfsport={served.nfs_port}&mountport=20048"
        listed = network.run("nfs-ls", where.format("")).stdout
        assert {line.split()[-1] for line in listed.splitlines()} == {"study", "big"}
        network.run("nfs-cp", where.format("/big"), served.top / "copy")
        assert (served.top / "copy").read_bytes() == data
        network.run("nfs-cp", served.top / "copy", where.format("/back"))
        assert (point / "back").read_bytes() == data
        said = network.run(sys.executable, "-c", _TALK, where.format("") + "&noresvport=true", "new").stdout
        assert said == "NFS3ERR_ROFS\n"
        assert (point / "new.moved").read_bytes() == b"over version 3" and os.readlink(point / "new.link") == "target"
    finally:
        served.ok("export", "stop", point)
