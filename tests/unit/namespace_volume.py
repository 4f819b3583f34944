"""A namespace over a real volume in a temporary directory, for the unit tests of the namespace."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from anqfs.crypto.secrets import Secret
from anqfs.errors import AnqfsError
from anqfs.namespace import Namespace
from anqfs.store.volume import Volume

SECRET = Secret.from_passphrase("correct horse")


class Clock:
    """A clock that moves on by a microsecond each time it is read."""

    def __init__(self) -> None:
        self.now = 1_700_000_000_000_000_000

    def __call__(self) -> int:
        self.now += 1_000
        return self.now


def make_store(path: Path) -> None:
    """Make a formatted volume."""
    Volume.create(path, SECRET, iterations=1)
    volume = Volume.open(path, SECRET)
    Namespace.format(volume)
    volume.close()


@contextmanager
def opened(path: Path, *, read_only: bool = False) -> Iterator[Namespace]:
    """Open a volume's namespace. Groups close only when a test commits."""
    volume = Volume.open(path, SECRET, group_seconds=1e6, read_only=read_only)
    try:
        yield Namespace(volume, clock=Clock())
    finally:
        volume.close()


def answer(call: Callable[[], object]) -> int:
    """Return the errno that a call answers, 0 for none."""
    try:
        call()
    except AnqfsError as error:
        return error.errno
    return 0


def work_off(ns: Namespace, budget: int = 64) -> None:
    """Do all background work."""
    for _ in range(100_000):
        if not ns.work(budget):
            return
    raise AssertionError("background work does not end")
