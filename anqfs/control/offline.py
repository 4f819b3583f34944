"""Work on a store that is not mounted: make one, show what needs no key, verify it. Called by the command line, blocking."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from anqfs.control import wire
from anqfs.errors import AnqfsError, Damaged, StoreExists, StoreMissing, WrongKey

_COUNTS = ("records", "extents", "files", "directories", "snapshots")

if TYPE_CHECKING:
    from pathlib import Path

    from anqfs.crypto.secrets import Secret
    from anqfs.store.superblock import Superblock
    from anqfs.store.volume import Volume


def must_be_free(store: str) -> None:
    """Raise StoreExists when something other than an empty directory is at `store`, StoreMissing when its parent is not there."""
    shown = wire.shown(store)
    parent = os.path.dirname(os.path.abspath(store))
    if not os.path.isdir(parent):
        raise StoreMissing(f"{shown}: the directory {wire.shown(parent)} does not exist: make it first")
    if not os.path.lexists(store):
        return
    try:
        occupied = bool(os.listdir(store))
    except NotADirectoryError as error:
        raise StoreExists(f"{shown}: is no directory: name a new path for the store") from error
    except OSError as error:
        raise StoreExists(f"{shown}: {error.strerror}: name a new path for the store") from error
    if occupied:
        raise StoreExists(f"{shown}: is not empty: name a new path for the store")


def make(store: str, secret: Secret) -> str:
    """Make a store with an empty tree and return its uuid. A failure leaves nothing behind. Raises as Volume.create."""
    from pathlib import Path

    from anqfs.namespace.namespace import Namespace
    from anqfs.store.volume import Volume

    existed = os.path.lexists(store)
    path = Path(os.path.abspath(store))
    try:
        Volume.create(path, secret)
        volume = Volume.open(path, secret)
        try:
            Namespace.format(volume)
        finally:
            volume.close()
        return str(volume.uuid)
    except BaseException as error:
        _clear(store, existed=existed)
        if isinstance(error, OSError):
            raise StoreMissing(f"{wire.shown(store)}: {error.strerror}: the store was not made") from error
        raise


def _clear(store: str, *, existed: bool) -> None:
    """Remove what a failed mkfs made; must_be_free has seen that nothing else was there."""
    if not existed:
        shutil.rmtree(store, ignore_errors=True)
        return
    for entry in os.scandir(store):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path, ignore_errors=True)
        else:
            os.unlink(entry.path)


def superblock(store: str) -> Superblock:
    """Return a store's superblock, which needs no key. Raises StoreMissing, Damaged or UnsupportedFormat."""
    from anqfs.store import superblock as superblocks

    if not os.path.isdir(store):
        missing = not os.path.lexists(store)
        raise StoreMissing(f"{wire.shown(store)}: {'does not exist' if missing else 'is no directory'}: name a store that mkfs made")
    try:
        return superblocks.unpack(superblocks.load(os.fsencode(store)))
    except StoreMissing as error:
        raise StoreMissing(f"{wire.shown(store)}: is no anqfs store: name one that mkfs made") from error
    except AnqfsError as error:
        raise type(error)(f"{wire.shown(store)}: {error}") from error


def must_be_store(store: str) -> None:
    """Raise StoreMissing, Damaged or UnsupportedFormat when `store` cannot be opened whatever the key."""
    superblock(store)


def slots_of(block: Superblock) -> list[dict[str, Any]]:
    """Return a superblock's key slots as JSON."""
    return [slot(one.number, one.kind, one.iterations, one.created) for one in block.slots]


def slot(number: int, kind: str, iterations: int, created: int) -> dict[str, Any]:
    """Return a key slot as JSON. `iterations` are PBKDF2's, null for a key file."""
    return {"slot": number, "kind": kind, "iterations": iterations if kind == "passphrase" else None, "created": wire.moment(created)}


def facts(store: str) -> dict[str, Any]:
    """Return what needs no key of a store that is not mounted. Raises StoreMissing, Damaged or UnsupportedFormat."""
    block = superblock(store)
    return {
        "mounted": False,
        "store": os.path.abspath(store),
        "uuid": str(uuid.UUID(bytes=block.uuid)),
        "format": block.format,
        "created": wire.moment(block.created),
        "slots": slots_of(block),
        "generations": len(block.generations),
    }


def check(store: str, secret: Secret, progress: Callable[[str], None]) -> dict[str, Any]:
    """Verify a store and return the report as JSON: ok, findings (path, what), counts, leftovers, bytes, root. Raises as Volume.open."""
    from anqfs.store import structure

    faults = structure.faults(os.fsencode(store))
    if not faults:
        return _checked(store, secret, progress)
    report = _in_child(lambda: _checked(store, secret, lambda _text: None, settle=False))
    if report is None:
        report = _not_verified("the rest cannot be verified: LMDB gives up on a tree like this")
    report["ok"] = False
    report["findings"] = [_finding("volume", fault) for fault in faults] + report["findings"]
    return report


def _in_child(work: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
    """Return what `work` returns in a process of its own; None when LMDB ended that. Raises the AnqfsError that `work` raises."""
    import multiprocessing

    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def answer() -> None:
        try:
            sender.send(work())
        except AnqfsError as error:
            sender.send(error)

    process = context.Process(target=answer)
    process.start()
    sender.close()
    try:
        answered = receiver.recv()
    except EOFError:
        answered = None
    finally:
        process.join()
        receiver.close()
    if answered is None and (process.exitcode is None or process.exitcode >= 0):
        raise RuntimeError(f"the check of a store whose trees are not sound ended with {process.exitcode}")  # no signal: a fault of ours
    if isinstance(answered, AnqfsError):
        raise answered
    return cast("dict[str, Any]", answered)


def _finding(path: str, what: str) -> dict[str, Any]:
    return {"path": path, "what": what}


def _not_verified(why: str) -> dict[str, Any]:
    """Return the report of a store of which nothing was verified."""
    return {"ok": False, "findings": [_finding("volume", why)], "unlisted": 0, "counts": {}, "leftovers": 0, "root": None}


def _settled(path: Path, secret: Secret) -> tuple[Volume, int]:
    """Open a volume read-only, and return the groups that its intent log lost. What the log holds is brought into the stores first."""
    from anqfs.store.volume import Volume

    volume = Volume.open(path, secret, read_only=True)
    lost = volume.lost_groups
    if volume.replayed:
        volume.close()
        Volume.open(path, secret).close()
        volume = Volume.open(path, secret, read_only=True)
    return volume, lost


def _checked(store: str, secret: Secret, progress: Callable[[str], None], *, settle: bool = True) -> dict[str, Any]:
    """Return the report on a store whose trees LMDB can read. Unless `settle`, one with changes in its intent log is not touched."""
    from pathlib import Path

    from anqfs.namespace.check import check as verify
    from anqfs.store.volume import Volume

    def show(done: int, total: int) -> None:
        progress(f"check: {done} of {total} records and extents")

    path = Path(os.path.abspath(store))
    try:
        volume, lost = _settled(path, secret) if settle else (Volume.open(path, secret, read_only=True), 0)
    except WrongKey as error:
        raise WrongKey(f"{wire.shown(store)}: {error}") from error
    except Damaged as error:
        return _not_verified(str(error))
    try:
        if volume.replayed and not settle:
            return _not_verified("the rest is not verified: the intent log holds changes, which are not written to such a tree")
        report = verify(volume, show)
        damage = [_finding("volume", f"the intent log is damaged: {lost} groups of the last changes are lost")] if lost else []
        return {
            "ok": report.clean and not lost,
            "findings": damage + [_finding(wire.text(one.path), one.what) for one in report.findings],
            "unlisted": report.unlisted,
            "counts": {name: getattr(report, name) for name in _COUNTS},
            "leftovers": report.leftovers,
            "bytes": report.size,
            "root": report.root,
        }
    finally:
        volume.close()
