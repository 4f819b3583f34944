"""Makes the golden volume of the newest format: `python -m tests.golden.make`. Run once for each, never again: what it made stays readable.

The volume holds one of each thing the format knows. `format-N.tar.xz` has its store and its key file; `format-N.json` says what a reader
must find in it.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from anqfs.crypto.secrets import Secret
from anqfs.namespace import Caller, Namespace
from anqfs.store.schema import WINDOW
from anqfs.store.superblock import CHUNKS
from anqfs.store.volume import Volume

HERE = Path(__file__).resolve().parent
KEY = bytes(range(64))
NEWEST = max(CHUNKS)
PASSPHRASE = "golden volume, format {}"
CALLER = Caller(1000, 1000, frozenset(), 0o022)


def content(seed: int, length: int) -> bytes:
    """Return bytes that depend on `seed` alone."""
    return hashlib.shake_128(b"golden %d" % seed).digest(length)


def fill(ns: Namespace) -> None:
    """Write one of each thing."""
    study, _ = ns.mkdir(1, b"study", 0o2775, CALLER)
    for number in range(80):
        node, _ = ns.create(study, b"image-%02d" % number, 0o640, CALLER)
        ns.write(node, 0, content(number, 3000))
    large, _ = ns.create(1, b"large", 0o600, CALLER)
    ns.write(large, 0, content(1000, WINDOW))
    ns.write(large, 5 * WINDOW + 100, content(1001, 70_000))
    ns.setxattr(large, b"user.patient", b"none", 0, CALLER)
    ns.link(large, study, b"second name")
    ns.symlink(1, b"link", b"study/image-00", CALLER)
    ns.mknod(1, b"pipe", stat.S_IFIFO | 0o600, 0, CALLER)
    hostile, _ = ns.create(1, b"\xff\n'\" name", 0o644, CALLER)
    ns.write(hostile, 0, b"small")
    ns.snapshot_create(1, b"first")
    ns.snapshot_create(study, b"of the study")
    ns.unlink(study, b"image-01")
    ns.write(large, 10, b"changed")
    ns.set_attributes(study, mtime=1_500_000_000_123_456_789, caller=CALLER)
    ns.rename(study, b"image-02", 1, b"moved", 0)


def seen(ns: Namespace, node: int = 1, path: str = "") -> dict[str, Any]:
    """Return what a reader finds below a node: path -> facts, snapshots included."""
    found: dict[str, Any] = {}
    for name, child, inode, _ in ns.readdir(node, 0):
        assert inode is not None
        where = f"{path}/{os.fsdecode(name)}"
        facts: dict[str, Any] = {"mode": inode.mode, "uid": inode.uid, "size": inode.size, "mtime": inode.mtime}
        if stat.S_ISDIR(inode.mode):
            del facts["size"]
            found.update(seen(ns, child, where))
        elif stat.S_ISREG(inode.mode):
            facts["sha256"] = hashlib.sha256(ns.read(child, 0, inode.size)).hexdigest()
            facts["nlink"] = inode.nlink
        elif stat.S_ISLNK(inode.mode):
            facts["target"] = os.fsdecode(ns.readlink(child))
        facts["xattrs"] = {os.fsdecode(each): ns.getxattr(child, each).hex() for each in ns.listxattr(child)}
        found[where] = facts
    return found


def everything(ns: Namespace) -> dict[str, Any]:
    """Return what a reader finds in the live tree and in each snapshot."""
    trees = {"live": seen(ns)}
    for snapshot in ns.snapshots():
        trees[f"{snapshot.id}_{os.fsdecode(snapshot.name)}"] = seen(ns, ns.snapshot_node(snapshot.id))
    return trees


def main() -> None:
    """Make both files."""
    with tempfile.TemporaryDirectory() as directory:
        name = f"format-{NEWEST}"
        base = Path(directory) / name
        base.mkdir()
        (base / "key").write_bytes(KEY)
        (base / "key").chmod(0o600)
        (base / "key").chmod(0o600)
        secret = Secret.from_key_file(base / "key")
        Volume.create(base / "store", secret)
        volume = Volume.open(base / "store", secret)
        Namespace.format(volume)
        volume.add_slot(Secret.from_passphrase(PASSPHRASE.format(NEWEST)), iterations=1000)
        ns = Namespace(volume)
        fill(ns)
        volume.close()
        volume = Volume.open(base / "store", secret)
        volume.rotate()
        ns = Namespace(volume)
        node, _ = ns.create(1, b"after a rotation", 0o644, CALLER)
        ns.write(node, 0, content(2000, 5000))
        expected = everything(ns)
        volume.close()
        for data in base.glob("store/*/data.mdb"):
            drop_zeros(data)
        with tarfile.open(HERE / f"{name}.tar.xz", "w:xz") as archive:
            archive.add(base, name, filter=lambda member: None if member.name.endswith("lock.mdb") else member)
    (HERE / f"{name}.json").write_text(json.dumps(expected, indent=1, sort_keys=True, ensure_ascii=True) + "\n")


def drop_zeros(path: Path) -> None:
    """Cut the zeros at a file's end, which are only there to be sparse."""
    data = path.read_bytes()
    used = -(-len(data.rstrip(b"\0")) // 4096) * 4096
    os.truncate(path, used)


if __name__ == "__main__":
    main()
