"""Nothing that went in through a mount is in the store's files as it was: contents, names, targets, attributes, names of snapshots."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

from mounted import Mount

from plaintext_search import Searcher

COUNT = 1000
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def words(kind: str) -> Iterator[str]:
    """Yield words that are nowhere else, always the same."""
    chance = random.Random(f"plaintext {kind}")
    while True:
        yield f"{kind}-" + "".join(chance.choices(_LETTERS, k=16))


def test_nothing_known_is_in_the_raw_bytes_of_the_store(mount: Mount) -> None:
    known: set[bytes] = set()

    def word(kind: Iterator[str]) -> str:
        made = next(kind)
        known.add(made.encode())
        return made

    names, contents, targets, keys, values, shots = (words(kind) for kind in ("name", "content", "target", "key", "value", "shot"))
    for number in range(COUNT):
        if number % 100 == 0:
            directory = mount.point / word(names)
            directory.mkdir()
            (mount.point / ".snapshot" / word(shots)).mkdir()
        path = directory / word(names)
        content = word(contents)
        path.write_text(content * (1 if number % 10 else 10_000))
        os.setxattr(path, f"user.{word(keys)}", word(values).encode())
        os.symlink(word(targets), directory / word(names))
    for number, path in enumerate(sorted(directory.iterdir())):
        if number % 2:
            path.rename(directory / word(names))
    mount.umount()
    mount.reap()
    assert len(known) > 5 * COUNT
    searcher = Searcher({*known, *(each[:12] for each in known)})
    files = [path for path in mount.store.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) > 1 << 20
    assert [hit for path in files for hit in searcher.in_file(path)] == []
    (mount.store / "lock").write_bytes(b"." * 5000 + sorted(known)[17] + b".")
    assert [hit.offset for hit in searcher.in_tree(mount.store) if hit.needle in known] == [5000], "the search finds what is there"
