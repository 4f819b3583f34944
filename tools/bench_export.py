"""The benchmark's rows for file servers: the same ganesha and smbd, with the same configuration, on each peer, over the loopback.

The clients are nfs-rs (NFS 4.0) and smbclient; they cost the same for every peer, and bound what any of them can show.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nfs_rs import Client

from anqfs.export import settings, users
from anqfs.export.description import Description, Kind, Nfs, NfsExport, Smb, SmbShare
from anqfs.export.layout import Layout
from anqfs.export.life import Life
from anqfs.export.servers import server
from bench_peers import PATIENCE, Anqfs, Peer, Unavailable
from bench_rows import MIB, Figures, Mismatch, Sizes, content, timed

_LOOPBACK = "127.0.0.1"
_PASSWORD = b"a password for a benchmark"
_STREAM_SHARE, _FILES_SHARE = 4, 5
"""A stream over a server is a fourth of the local one, and there are a fifth of the small files."""


def export(peer: Peer, work: Path, sizes: Sizes) -> Figures:
    """Streams and small files over NFS and over SMB. anqfs is mounted as `docs/operations.md` says for servers."""
    if isinstance(peer, Anqfs):
        peer.unmount()
        peer.options = ("--fsid-device",)
        peer.mount()
    with tempfile.TemporaryDirectory(prefix="anqfs-bench-export-") as base, _served(work, Path(base)) as description:
        source = Path(base) / "source"
        source.mkdir()
        yield from _over_nfs(description, work, sizes)
        yield from _over_smb(description, Path(base), source, work, sizes)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def _served(work: Path, base: Path) -> Iterator[Description]:
    """Export `work` to this machine, to root, over both protocols."""
    description = Description(
        str(work),
        "benchmark",
        _LOOPBACK,
        Nfs(port=_free_port(), export=(NfsExport("work", 1, access="read-write", clients=(_LOOPBACK,), squash="none"),)),
        Smb(port=_free_port(), share=(SmbShare("work", access="read-write", clients=(_LOOPBACK,)),)),
    )
    base.chmod(0o755)
    layout = Layout(base / "conf")
    settings.generate(layout, description)
    users.add(layout, "root", _PASSWORD)
    kinds: tuple[Kind, ...] = ("nfs", "smb")
    lives = [Life(server(kind, description, layout)) for kind in kinds]
    try:
        for life in lives:
            _start(life)
        yield description
    finally:
        for life in lives:
            life.stop()


def _start(life: Life) -> None:
    life.start()
    deadline = time.monotonic() + PATIENCE
    while life.state == "starting":
        if time.monotonic() > deadline:
            raise Unavailable(f"{life.server.kind} does not answer")
        time.sleep(0.02)
        life.step()
    if life.state != "running":
        raise Unavailable(f"{life.server.kind}: {life.error}")


def _over_nfs(description: Description, work: Path, sizes: Sizes) -> Figures:
    address = f"nfs://{_LOOPBACK}/work?version=4.0&nfsport={description.nfs.port}&noresvport=true"
    block = content(1, 4 * MIB)
    count = max(1, sizes.stream // _STREAM_SHARE // len(block))
    files = sizes.files // _FILES_SHARE
    data = [content(number) for number in range(files)]
    with Client.connect(address, connect_timeout=10, operation_timeout=60) as client:

        def write() -> None:
            with client.open("stream", "wb") as stream:
                for _ in range(count):
                    _write(stream, block)

        def read() -> None:
            with client.open("stream", "rb") as stream:
                for _ in range(count):
                    if _read(stream, len(block)) != block:
                        raise Mismatch("the stream over NFS")

        def create(number: int) -> None:
            with client.open(f"small/{number}", "wb") as stream:
                _write(stream, data[number])

        def get(number: int) -> None:
            with client.open(f"small/{number}", "rb") as stream:
                if stream.read() != data[number]:
                    raise Mismatch(f"file {number} over NFS")

        size = count * len(block) / MIB
        yield "NFS stream write", size / timed(write)
        yield "NFS stream read", size / timed(read)
        client.mkdir("small")
        yield "NFS create", files / timed(lambda: [create(number) for number in range(files)])
        yield "NFS read", files / timed(lambda: [get(number) for number in range(files)])
    (work / "stream").unlink()
    shutil.rmtree(work / "small")


def _write(stream: object, data: bytes) -> None:
    done = 0
    while done < len(data):
        done += stream.write(data[done:])  # type: ignore[attr-defined]


def _read(stream: object, size: int) -> bytes:
    pieces, left = [], size
    while left and (piece := stream.read(left)):  # type: ignore[attr-defined]
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)


def _over_smb(description: Description, base: Path, source: Path, work: Path, sizes: Sizes) -> Figures:
    credentials = base / "credentials"
    credentials.write_text(f"username = root\npassword = {_PASSWORD.decode()}\n")
    small, back = source / "small", base / "back"
    for directory in (small, back):
        directory.mkdir()
    blocks = content(1, 4 * MIB)
    count = max(1, sizes.stream // _STREAM_SHARE // len(blocks))
    with (source / "stream").open("wb") as stream:
        for _ in range(count):
            stream.write(blocks)
    files = sizes.files // _FILES_SHARE
    for number in range(files):
        (small / str(number)).write_bytes(content(number))

    def smb(commands: str) -> float:
        command = [
            "smbclient",
            f"//{_LOOPBACK}/work",
            "-p",
            str(description.smb.port),
            "-A",
            str(credentials),
            "-m",
            "SMB3_11",
            "-c",
            commands,
        ]
        return timed(lambda: subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True, timeout=600))

    size = count * len(blocks) / MIB
    yield "SMB stream write", size / smb(f"put {source}/stream stream")
    yield "SMB stream read", size / smb(f"get stream {back}/stream")
    if not _same(source / "stream", back / "stream"):
        raise Mismatch("the stream over SMB")
    yield "SMB create", files / smb(f"prompt; mkdir small; cd small; lcd {small}; mput *")
    yield "SMB read", files / smb(f"prompt; cd small; lcd {back}; mget *")
    for number in range(files):
        if (back / str(number)).read_bytes() != content(number):
            raise Mismatch(f"file {number} over SMB")
    os.unlink(work / "stream")
    shutil.rmtree(work / "small")


def _same(one: Path, other: Path) -> bool:
    return subprocess.run(["cmp", "-s", str(one), str(other)], check=False).returncode == 0
