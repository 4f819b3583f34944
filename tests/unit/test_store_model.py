"""Random operations, undone or kept, committed or not, against a dict: every read and scan answers as the dict does."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from anqfs.crypto.secrets import Secret
from anqfs.store.schema import COUNTER_EXTENT, ROOT_DIGEST, Counter, Dead, Inode, Orphan, Record, Window
from anqfs.store.ticket import Ticket
from anqfs.store.volume import Volume

SECRET = Secret.from_passphrase("model")
KEYS = [letter + bytes(7) + bytes((ino,)) for letter in (b"I", b"O") for ino in range(4)]
KEYS += [letter + bytes(7) + bytes((ino,)) + bytes(7) + bytes((n,)) for letter in (b"W", b"L") for ino in (1, 2, 255) for n in range(4)]
KEYS += [b"Cx", b"Cxy"]


def record(key: bytes, number: int) -> Record:
    """Return a record of the key's type that differs by number."""
    made: dict[bytes, Record] = {
        b"I": Inode(1, number, 0, 0, 1, 0, 0, 0, 0, 0, 0),
        b"O": Orphan(number),
        b"W": Window(number, bytes((number,)) * number),
        b"L": Dead(b"key", number),
        b"C": Counter(number),
    }
    return made[key[:1]]


def internal(key: bytes) -> bool:
    """Tell whether the key is one of the store's own."""
    return key[:1] in (b"K", b"F") or key in (COUNTER_EXTENT, ROOT_DIGEST)


class VolumeMachine(RuleBasedStateMachine):
    """The volume beside two dicts: `now`, and `kept`, what an undo goes back to."""

    @initialize()
    def make(self) -> None:
        self.directory = tempfile.TemporaryDirectory()
        path = Path(self.directory.name) / "store"
        Volume.create(path, SECRET, iterations=1)
        self.volume = Volume.open(path, SECRET)
        self.now: dict[bytes, Record] = {}
        self.extents: dict[int, tuple[bytes, int]] = {}
        self.kept: tuple[dict[bytes, Record], dict[int, tuple[bytes, int]]] | None = None
        self.tickets: list[Ticket] = []

    def teardown(self) -> None:
        if hasattr(self, "volume"):
            self.volume.close()
            self.directory.cleanup()

    @rule(key=st.sampled_from(KEYS), number=st.integers(0, 5))
    def put(self, key: bytes, number: int) -> None:
        self.volume.put(key, record(key, number))
        self.now[key] = record(key, number)

    @rule(key=st.sampled_from(KEYS))
    def delete(self, key: bytes) -> None:
        self.volume.delete(key)
        self.now.pop(key, None)

    @rule(key=st.sampled_from(KEYS))
    def get(self, key: bytes) -> None:
        assert self.volume.get(key) == self.now.get(key)

    @rule(data=st.binary(min_size=1, max_size=20))
    def write_extent(self, data: bytes) -> None:
        extent, number = self.volume.write_extent(bytearray(data))
        assert extent not in self.extents
        self.extents[extent] = (data, number)

    @precondition(lambda self: self.extents)
    @rule(choice=st.integers(0, 1000))
    def free_extent(self, choice: int) -> None:
        extent = sorted(self.extents)[choice % len(self.extents)]
        self.volume.free_extent(extent)
        del self.extents[extent]

    @precondition(lambda self: self.kept is None)
    @rule()
    def begin(self) -> None:
        self.volume.begin()
        self.kept = (dict(self.now), dict(self.extents))

    @precondition(lambda self: self.kept is not None)
    @rule()
    def finish(self) -> None:
        self.volume.finish()
        self.kept = None

    @precondition(lambda self: self.kept is not None)
    @rule()
    def undo(self) -> None:
        self.volume.undo()
        assert self.kept is not None
        self.now, self.extents = self.kept
        self.kept = None

    @precondition(lambda self: self.kept is None)
    @rule()
    def commit(self) -> None:
        self.tickets.append(self.volume.commit())

    @precondition(lambda self: self.kept is None)
    @rule()
    def close_group(self) -> None:
        self.volume.close_group()

    @rule()
    def wait(self) -> None:
        for ticket in self.tickets:
            assert ticket.wait(60)

    @rule()
    def forget_what_is_cached(self) -> None:
        for _ in range(2):
            self.volume._cache.turn()
        self.volume._young = self.volume._cache.young

    @rule()
    def age_what_is_cached(self) -> None:
        self.volume._cache.turn()
        self.volume._young = self.volume._cache.young

    @precondition(lambda self: self.kept is None)
    @rule()
    def reopen(self) -> None:
        self.volume.close()
        self.volume = Volume.open(self.volume.path, SECRET)
        assert self.volume.raw_extent_ids(0, 10_000) == sorted(self.extents)
        assert self.volume.recompute_root() == self.volume.root

    @rule(one=st.sampled_from(KEYS), other=st.sampled_from(KEYS))
    def scan_range(self, one: bytes, other: bytes) -> None:
        start, stop = sorted((one, other))
        expected = [(key, self.now[key]) for key in sorted(self.now) if start <= key < stop]
        found = [item for item in self.volume.scan(start, stop) if not internal(item[0])]
        assert found == expected

    @rule(letter=st.sampled_from([b"I", b"O", b"W", b"L", b"C"]))
    def scan_letter(self, letter: bytes) -> None:
        stop = bytes((letter[0] + 1,))
        expected = [key for key in sorted(self.now) if key[:1] == letter]
        assert [key for key in self.volume.scan_keys(letter, stop) if not internal(key)] == expected

    @invariant()
    def extents_read_back(self) -> None:
        for extent, (data, number) in getattr(self, "extents", {}).items():
            assert self.volume.read_extent(extent, 0, len(data), number) == data


VolumeMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=50)
TestVolumeAgainstADict = VolumeMachine.TestCase
