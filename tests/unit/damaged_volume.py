"""A small volume with one of everything, and ways to damage a copy of it: for the tests of `check` and `scrub`."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import lmdb

from anqfs.namespace import Caller, Namespace
from anqfs.namespace.restore import Restore
from anqfs.store.schema import WINDOW, Inode, Record, Window, dirent_key, inode_key, window_key
from anqfs.store.volume import Volume
from tests.unit.namespace_volume import SECRET, Clock, make_store, work_off

ROOT = 1
USER = Caller(0, 0, frozenset(), 0o022)
SNAPSHOT = b"/d/.snapshot/1_daily"


class Facts:
    """The inode numbers of the volume's files, by path."""

    def __init__(self) -> None:
        self.ino: dict[bytes, int] = {}


def build(store: Path) -> Facts:
    """Make the volume.

    /d/file (2 MiB, its first window rewritten after the snapshot), /d/small (inline, an attribute), /d/one and /d/two (one inode), /d/sub,
    /d/link, /d/gone (only in snapshot 1 of /d), /copy (restored from it: it shares extents), /held (an orphan, unlinked while held).
    """
    make_store(store)
    volume = Volume.open(store, SECRET)
    ns = Namespace(volume, clock=Clock())
    facts, data = Facts(), random.Random(1)
    facts.ino[b"/d"] = d = ns.mkdir(ROOT, b"d", 0o755, USER)[0]
    facts.ino[b"/d/sub"] = ns.mkdir(d, b"sub", 0o755, USER)[0]
    for name, size in ((b"file", 2 * WINDOW), (b"small", 100), (b"one", 20_000), (b"gone", 30_000), (b"plain", 50_000)):
        facts.ino[b"/d/" + name] = node = ns.create(d, name, 0o644, USER)[0]
        for offset in range(0, size, WINDOW):
            ns.write(node, offset, data.randbytes(min(size, WINDOW)))
    ns.link(facts.ino[b"/d/one"], d, b"two")
    facts.ino[b"/d/link"] = ns.symlink(d, b"link", b"small", USER)[0]
    ns.setxattr(facts.ino[b"/d/small"], b"user.note", b"a value", 0, USER)
    ns.snapshot_create(d, b"daily")
    ns.write(facts.ino[b"/d/file"], 0, data.randbytes(WINDOW))
    ns.write(facts.ino[b"/d/small"], 0, b"changed")
    ns.setxattr(facts.ino[b"/d/small"], b"user.note", b"another", 0, USER)
    ns.unlink(d, b"gone")
    ns.readdir(ns.snapshot_node(1), 0)
    restore = Restore(ns, 1, b"", (ROOT, b"copy"))
    while restore.step():
        pass
    facts.ino[b"/copy"] = ns.lookup(ROOT, b"copy")[0]
    facts.ino[b"/held"] = held = ns.create(ROOT, b"held", 0o600, USER)[0]
    ns.hold(held)
    ns.write(held, 0, data.randbytes(10_000))
    ns.unlink(ROOT, b"held")
    work_off(ns)
    volume.commit().wait()
    volume.close()
    return facts


class Damage:
    """A copy of the volume that a test may damage."""

    def __init__(self, store: Path, facts: Facts) -> None:
        self.store = store
        self.facts = facts

    def raw(self, kind: str, change: Callable[[lmdb.Transaction], object]) -> None:
        """Change one of the databases behind the store's back."""
        with lmdb.open(str(self.store / kind), map_size=1 << 30) as env, env.begin(write=True) as txn:
            change(txn)

    def flip_record(self, key: bytes) -> None:
        """Change one bit of a sealed record."""
        self.raw("records", lambda txn: txn.put(key, flipped(txn.get(key), -1)))

    def drop_record(self, key: bytes) -> None:
        """Remove a record from the database."""
        self.raw("records", lambda txn: txn.delete(key))

    def flip_extent(self, extent: int, offset: int = 5) -> None:
        """Change one bit of a sealed extent."""
        self.raw("extents", lambda txn: txn.put(extent.to_bytes(8, "big"), flipped(txn.get(extent.to_bytes(8, "big")), offset)))

    def drop_extent(self, extent: int) -> None:
        """Remove an extent from the database."""
        self.raw("extents", lambda txn: txn.delete(extent.to_bytes(8, "big")))

    def edit(self, change: Callable[[Volume], object]) -> None:
        """Put wrong but well-sealed records through the volume."""
        volume = Volume.open(self.store, SECRET)
        try:
            change(volume)
            volume.commit().wait()
        finally:
            volume.close()

    def get(self, key: bytes) -> Record:
        """Return a record of the volume."""
        found: list[Record | None] = []
        self.edit(lambda volume: found.append(volume.get(key)))
        assert found[0] is not None, key
        return found[0]

    def replace(self, key: bytes, change: Callable[[Record], Record]) -> None:
        """Replace a record by a changed one."""

        def run(volume: Volume) -> None:
            old = volume.get(key)
            assert old is not None, key
            volume.put(key, change(old))

        self.edit(run)

    def key_of(self, path: bytes) -> bytes:
        """Return the inode key of a path."""
        return inode_key(self.facts.ino[path])

    def name_key(self, parent: bytes, name: bytes) -> bytes:
        """Return the dirent key of a name."""
        found: list[bytes] = []
        self.edit(lambda volume: found.append(volume.name_hash(name)))
        return dirent_key(self.facts.ino[parent] if parent != b"/" else ROOT, found[0])

    def window_of(self, path: bytes, number: int = 0) -> Window:
        """Return a live window of a file."""
        record = self.get(window_key(self.facts.ino[path], number))
        assert isinstance(record, Window)
        return record

    def inode_of(self, path: bytes) -> Inode:
        """Return a live inode."""
        record = self.get(self.key_of(path))
        assert isinstance(record, Inode)
        return record

    def keys(self, letter: bytes) -> list[bytes]:
        """Return all keys that begin with a letter."""
        found: list[bytes] = []
        self.edit(lambda volume: found.extend(volume.scan_keys(letter, bytes((letter[0] + 1,)))))
        return found


def flipped(value: bytes, at: int) -> bytes:
    """Return the bytes with one bit changed."""
    changed = bytearray(value)
    changed[at] ^= 1
    return bytes(changed)


def copied(original: Path, facts: Facts, to: Path) -> Damage:
    """Copy the volume."""
    shutil.copytree(original, to)
    return Damage(to, facts)
