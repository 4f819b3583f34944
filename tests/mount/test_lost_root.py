"""A volume that lost its root directory's inode mounts, and what is below stays in use."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import lmdb
import pytest
from mounted import Mount

from anqfs.store.schema import inode_key


def flip(store: Path, key: bytes) -> None:
    """Change one bit of a record."""
    with lmdb.open(str(store / "records"), map_size=1 << 30) as environment, environment.begin(write=True) as transaction:
        value = bytearray(transaction.get(key) or b"")
        value[-1] ^= 1
        transaction.put(key, bytes(value))


def test_a_volume_without_its_root_inode_mounts_and_is_used_below(mount: Mount) -> None:
    point = mount.point
    (point / "d").mkdir()
    (point / "d" / "file").write_bytes(b"before")
    (point / ".snapshot" / "one").mkdir()
    [name] = os.listdir(point / ".snapshot")
    mount.stop()
    flip(mount.store, inode_key(1))
    mount.expect("root directory's inode is lost")
    mount.start()
    assert os.listdir(point) == ["d"]
    (point / "d" / "file").write_bytes(b"after")
    (point / "d" / "new").mkdir()
    assert (point / ".snapshot" / name / "d" / "file").read_bytes() == b"before"
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        (point / "other").mkdir()
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        point.chmod(0o700)
    mount.remount()
    assert (point / "d" / "file").read_bytes() == b"after"
    assert point.stat().st_mode & 0o7777 == 0o755
