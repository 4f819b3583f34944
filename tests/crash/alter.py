"""Ways to alter a store behind the program's back: single records and extents, whole databases, the superblock.

Each takes (database name, stage, store to alter, random source) and returns the first letter of the key it altered, or "".
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lmdb

PAGE = 4096
NODES = 16
"""Where a page of LMDB has the places of its nodes, two bytes each."""
BRANCH, LEAF = 1, 2
Alteration = Callable[..., str]


@dataclass
class Stage:
    """Stores to alter: `store` now, `older` some operations earlier, `foreign` another volume with the same key and the same names."""

    store: Path
    older: Path
    foreign: Path
    truth: dict[bytes, bytes]
    stale: dict[bytes, bytes]
    root: str
    older_root: str


@contextlib.contextmanager
def _database(store: Path, name: str, *, write: bool = True) -> Iterator[Any]:
    with lmdb.open(str(store / name), map_size=1 << 30, max_readers=4) as environment, environment.begin(write=write) as transaction:
        yield transaction


def _pairs(transaction: Any, letters: bytes | None = None) -> list[tuple[bytes, bytes]]:
    return [(bytes(key), bytes(value)) for key, value in transaction.cursor() if letters is None or key[0] in letters]


def _flipped(value: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(value) * 8)
    return value[: at // 8] + bytes([value[at // 8] ^ (1 << at % 8)]) + value[at // 8 + 1 :]


def flip(name: str, stage: Stage, store: Path, rng: random.Random) -> str:
    with _database(store, name) as transaction:
        key, value = rng.choice(_pairs(transaction))
        transaction.put(key, _flipped(value, rng))
    return key[:1].decode("latin-1")


def shorten(name: str, stage: Stage, store: Path, rng: random.Random) -> str:
    with _database(store, name) as transaction:
        key, value = rng.choice(_pairs(transaction))
        transaction.put(key, value[: rng.randrange(len(value))])
    return key[:1].decode("latin-1")


def lengthen(name: str, stage: Stage, store: Path, rng: random.Random) -> str:
    with _database(store, name) as transaction:
        key, value = rng.choice(_pairs(transaction))
        transaction.put(key, value + rng.randbytes(rng.choice([1, 16, 5000, 2_000_000])))
    return key[:1].decode("latin-1")


def remove(name: str, stage: Stage, store: Path, rng: random.Random) -> str:
    with _database(store, name) as transaction:
        key, _ = rng.choice(_pairs(transaction))
        transaction.delete(key)
    return key[:1].decode("latin-1")


def swap(name: str, stage: Stage, store: Path, rng: random.Random) -> str:
    with _database(store, name) as transaction:
        pairs = _pairs(transaction)
        key, value = rng.choice(pairs)
        alike = [pair for pair in pairs if pair[0] != key and (name == "extents" or pair[0][:1] == key[:1])]
        if not alike:
            return ""
        other, other_value = rng.choice(alike)
        transaction.put(key, other_value)
        transaction.put(other, value)
    return key[:1].decode("latin-1")


def copy_over(name: str, stage: Stage, store: Path, rng: random.Random) -> str:
    """One record's value also in another's place, or under a key that did not exist."""
    with _database(store, name) as transaction:
        pairs = _pairs(transaction)
        key, value = rng.choice(pairs)
        other = key[:-1] + bytes([key[-1] ^ rng.randrange(1, 256)])
        transaction.put(other, value)
    return key[:1].decode("latin-1")


def replay(name: str, stage: Stage, store: Path, rng: random.Random) -> str:
    """A value from the older copy of this store in its own place."""
    return _import(name, stage.older, store, rng)


def foreign(name: str, stage: Stage, store: Path, rng: random.Random) -> str:
    """A value from another volume in the same place."""
    return _import(name, stage.foreign, store, rng)


def _import(name: str, source: Path, store: Path, rng: random.Random) -> str:
    with _database(source, name, write=False) as transaction:
        pairs = dict(_pairs(transaction))
    with _database(store, name) as transaction:
        changed = [(key, pairs[key]) for key, value in _pairs(transaction) if key in pairs and pairs[key] != value]
        if not changed:
            return ""
        key, value = rng.choice(changed)
        transaction.put(key, value)
    return key[:1].decode("latin-1")


def _rewrite(path: Path, change: Callable[[bytearray], object]) -> None:
    content = bytearray(path.read_bytes())
    change(content)
    path.write_bytes(content)


def file_bits(name: str, stage: Stage, store: Path, rng: random.Random) -> str:
    """One to many bits of the database file."""

    def change(content: bytearray) -> None:
        for _ in range(rng.choice([1, 1, 3, 30])):
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)

    _rewrite(store / name / "data.mdb", change)
    return ""


def file_page(name: str, stage: Stage, store: Path, rng: random.Random) -> str:
    """A page zeroed, made of random bytes, or replaced by another page."""

    def change(content: bytearray) -> None:
        at = rng.randrange(len(content) // PAGE) * PAGE
        other = rng.randrange(len(content) // PAGE) * PAGE
        content[at : at + PAGE] = rng.choice([bytes(PAGE), rng.randbytes(PAGE), bytes(content[other : other + PAGE])])

    _rewrite(store / name / "data.mdb", change)
    return ""


def file_header(name: str, stage: Stage, store: Path, rng: random.Random) -> str:
    """Bytes of a page's header and of its table of nodes, where the structure is."""

    def change(content: bytearray) -> None:
        at = rng.randrange(len(content) // PAGE) * PAGE
        for _ in range(rng.choice([1, 2, 8])):
            content[at + rng.randrange(64)] = rng.randrange(256)

    _rewrite(store / name / "data.mdb", change)
    return ""


def file_keys(name: str, stage: Stage, store: Path, rng: random.Random) -> str:
    """Bits of keys in the tree's pages, or places of keys exchanged: the pages stay sound, their order does not."""

    def change(content: bytearray) -> None:
        pages = [at for at in range(0, len(content), PAGE) if int.from_bytes(content[at + 10 : at + 12], "little") in (BRANCH, LEAF)]
        for at in rng.sample(pages, min(len(pages), rng.choice([1, 3, 10]))):
            count = (int.from_bytes(content[at + 12 : at + 14], "little") - NODES) // 2
            places = [at + NODES + 2 * number for number in range(count)]
            if rng.random() < 0.5 and count > 1:
                one, other = rng.sample(places, 2)
                content[one : one + 2], content[other : other + 2] = content[other : other + 2], content[one : one + 2]
            elif places:
                node = at + int.from_bytes(content[(one := rng.choice(places)) : one + 2], "little")
                length = int.from_bytes(content[node + 6 : node + 8], "little")
                if length:
                    content[node + 8 + rng.randrange(length)] ^= 1 << rng.randrange(8)

    _rewrite(store / name / "data.mdb", change)
    return ""


def file_cut(name: str, stage: Stage, store: Path, rng: random.Random) -> str:
    path = store / name / "data.mdb"
    size = path.stat().st_size
    os.truncate(path, rng.choice([0, 1, PAGE, 2 * PAGE, size // 2 // PAGE * PAGE, size - PAGE, rng.randrange(size)]))
    return ""


def file_noise(name: str, stage: Stage, store: Path, rng: random.Random) -> str:
    (store / name / "data.mdb").write_bytes(rng.randbytes(rng.choice([10, PAGE, 20 * PAGE])))
    return ""


def file_gone(name: str, stage: Stage, store: Path, rng: random.Random) -> str:
    os.unlink(store / name / "data.mdb")
    return ""


def database_older(name: str, stage: Stage, store: Path, rng: random.Random) -> str:
    shutil.copy(stage.older / name / "data.mdb", store / name / "data.mdb")
    return ""


def database_foreign(name: str, stage: Stage, store: Path, rng: random.Random) -> str:
    shutil.copy(stage.foreign / name / "data.mdb", store / name / "data.mdb")
    return ""


def superblock(name: str, stage: Stage, store: Path, rng: random.Random) -> str:
    """The superblock flipped, cut, replaced by another volume's, removed or made of noise."""
    path = store / "superblock"
    kind = rng.choice(["flip", "cut", "foreign", "gone", "noise"])
    content = path.read_bytes()
    if kind == "gone":
        path.unlink()
    elif kind == "foreign":
        shutil.copy(stage.foreign / "superblock", path)
    else:
        path.write_bytes({"flip": _flipped(content, rng), "cut": content[: rng.randrange(len(content))], "noise": rng.randbytes(300)}[kind])
    return ""


RECORD_LEVEL = (flip, shorten, lengthen, remove, swap, copy_over, replay, foreign)
FILE_LEVEL = (file_bits, file_keys, file_page, file_header, file_cut, file_noise, file_gone, database_older, database_foreign, superblock)
