"""What the daemon can be asked to do, as plain functions over the mounted session. Called by `server`, on the daemon's trio thread.

Every namespace call here is synchronous and whole, as everywhere: no await lies inside one. What blocks (deriving a passphrase's key,
unmounting) goes to a thread.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any

import trio

import anqfs
from anqfs.control import exports, keys, offline, wire
from anqfs.control.accounts import Accounts
from anqfs.control.coherence import Coherence
from anqfs.control.jobs import Jobs
from anqfs.control.making import Making
from anqfs.control.requests import KeyRequest, SettingsRequest
from anqfs.control.scrubbing import Scrubbing
from anqfs.errors import AnqfsError, CommitFailed, Damaged, MountFailed, NotFound, ReadOnlyVolume, StoreInUse, UsageError
from anqfs.mount import mountpoint as place
from anqfs.namespace.nodes import ino_of, view_of
from anqfs.namespace.quota_accounts import capacity_below
from anqfs.store.schema import ROOT_INO, Snapshot

if TYPE_CHECKING:
    from anqfs.control.registry import Entry
    from anqfs.mount.session import Session

_log = logging.getLogger("anqfs.control.service")

_SNAPSHOTS_AT_ONCE = 256
_PARTS = {"p50_us": 0.5, "p90_us": 0.9, "p99_us": 0.99, "max_us": 1.0}
"""Shares of the requests of one kind; the bounds are powers of two nanoseconds."""


class Service:
    """One mounted volume; `entry`, `session`, `volume`, `namespace` and `jobs` are for the resources of `rest`.

    `unmount` takes the mount away (raising MountFailed when it is busy) and waits for `over`, the session's end.
    """

    def __init__(self, entry: Entry, session: Session, jobs: Jobs, unmount: Callable[[], Awaitable[None]], over: trio.Event) -> None:
        self.entry = entry
        self.session = session
        self.volume = session.volume
        self.namespace = session.namespace
        self.jobs = jobs
        self.kernel = Coherence(session)
        self.accounts = Accounts(session.namespace.api_users)
        self._unmount = unmount
        self._over = over
        self.making = Making(self)
        self.scrubbing = Scrubbing(self)
        self._began = time.time_ns()
        self._stopping = False

    async def durable(self) -> None:
        """Return when what was changed so far is durable. Raises CommitFailed, NoSpace."""
        self.session.changed()
        await self.session.durable()

    # --- facts

    async def status(self, *, latency: bool = False) -> dict[str, Any]:
        """Return everything `anqfs status` shows."""
        entry, volume = self.entry, self.volume
        capacity = volume.capacity()
        number, moment = volume.last_commit
        restore = self.jobs.last("restore")
        document = {
            "mounted": True,
            "pid": entry.pid,
            "version": anqfs.__version__,
            "store": entry.store,
            "mountpoint": entry.mountpoint,
            "uuid": entry.uuid,
            "read_only": entry.read_only,
            "started": wire.moment(self._began),
            "log": entry.log,
            "capacity": capacity._asdict(),
            "usage": self._usage_or_none(),
            "snapshots": len(self.namespace.snapshots()),
            "last_commit": {"number": number, "time": wire.moment(moment)},
            "uncommitted_bytes": volume.dirty_bytes(),
            "root": volume.root,
            "failed": None if volume.failed is None else str(volume.failed),
            "scrub": self.scrubbing.state(),
            "restore": None if restore is None else restore.document(),
            "slots": [offline.slot(one.number, one.kind, one.iterations, one.created) for one in volume.slots()],
            "counters": dict(volume.counters),
            "namespace": self.namespace.statistics(),
            "transport": self.session.statistics(),
        }
        if latency:
            document["latency"] = _latency(self.session.latency.snapshot())
        return document

    def usage(self, inode: int) -> dict[str, int]:
        """Return the recursive totals below a node. Raises FilesystemError."""
        totals = self.namespace.usage(inode)
        return {
            "bytes": totals.size,
            "allocated": totals.allocated,
            "capacity": capacity_below(totals),
            "files": totals.files,
            "directories": totals.directories,
            "symlinks": totals.symlinks,
            "others": totals.others,
        }

    def _usage_or_none(self) -> dict[str, int] | None:
        try:
            return self.usage(ROOT_INO)
        except Damaged as error:
            _log.error("the totals of the root: %s", error)
            return None

    # --- snapshots

    def _path(self, inode: int) -> str | None:
        """Return the absolute path of a live directory; None when it is gone, or damage hides it."""
        try:
            path = self.namespace.path_of(inode)
        except Damaged as error:
            _log.error("the path of inode %d: %s", inode, error)
            return None
        if path is None:
            return None
        mountpoint = os.fsencode(self.entry.mountpoint)
        inside = path.strip(b"/")
        return os.fsdecode(mountpoint.rstrip(b"/") + b"/" + inside if inside else mountpoint)

    def _snapshot(self, snapshot: Snapshot, directory: str | None) -> dict[str, Any]:
        name = wire.text(snapshot.name)
        policy = self.namespace.policies.name_of(snapshot.policy)
        return {
            "id": snapshot.id,
            "name": name,
            "directory": directory,
            "path": None if directory is None else f"{directory.rstrip('/')}/.snapshot/{snapshot.id}_{name}",
            "created": wire.moment(snapshot.created),
            "expires": wire.moment(snapshot.expires),
            "in_delete": snapshot.state != 0,
            "policy": None if policy is None else wire.text(policy),
            "lock_key": snapshot.lock_key or None,
            "owners": list(self.namespace.snapshot_locks.owners(snapshot.id)),
            "inode": snapshot.root,
            "mountpoint": self.entry.mountpoint,
            "uuid": self.entry.uuid,
        }

    def snapshot(self, number: int) -> dict[str, Any]:
        """Return a snapshot. Raises NotFound."""
        found = self.existing(number)
        return self._snapshot(found, self._path(found.root))

    async def _every_snapshot(self) -> list[dict[str, Any]]:
        """Return all snapshots, giving way now and then: there may be 40,000."""
        directories: dict[int, str | None] = {}
        every = []
        for number, one in enumerate(self.namespace.snapshots()):
            if number % _SNAPSHOTS_AT_ONCE == _SNAPSHOTS_AT_ONCE - 1:
                await trio.sleep(0)
            if one.root not in directories:
                directories[one.root] = self._path(one.root)
            every.append(self._snapshot(one, directories[one.root]))
        return every

    async def snapshots(self, inode: int | None = None) -> list[dict[str, Any]]:
        """Return the snapshots: all, or those of a directory, of those above it that cover it, and of those below it.

        A directory inside a snapshot, or a `.snapshot`, stands for the live directory.
        """
        every = await self._every_snapshot()
        if inode is None or ino_of(inode) == ROOT_INO:
            return every
        inode = ino_of(inode)
        covering = {one.id for one in self.namespace.covering(inode)}
        path = self._path(inode)
        below = None if path is None else path + "/"
        return [one for one in every if one["id"] in covering or (below is not None and (one["directory"] or "").startswith(below))]

    async def snapshot_create(self, directory: int, name: bytes | None, expires: int) -> Snapshot:
        """Take a snapshot of a directory's node: what applications wrote is flushed first, and it is durable when this returns.

        Raises UsageError, ReadOnlyVolume, FilesystemError, NoSpace.
        """
        if name is not None and (not name or b"/" in name):
            raise UsageError(f"the name {wire.shown(name)} is empty or holds a slash: give another")
        self.must_be_writable()
        if view_of(directory):
            raise UsageError("the directory is in a snapshot: snapshots are of live directories")
        await self.session.flush()
        snapshot = self.namespace.snapshot_create(directory, name, expires)
        await self.session.durable()
        return snapshot

    async def snapshot_delete(self, number: int) -> None:
        """Delete a snapshot, durably; its space comes back in the background. Raises NotFound."""
        self.must_be_writable()
        self.existing(number)
        self.namespace.snapshot_delete(number)
        self.session.changed()
        self.session.background.kick()
        await self.session.durable()

    def existing(self, number: int) -> Snapshot:
        """Return a snapshot. Raises NotFound, which says what to do."""
        try:
            return self.namespace.snapshot(number)
        except NotFound as error:
            raise NotFound(f"{error}: see `anqfs snapshot list`") from error

    # --- jobs

    def job(self, number: int) -> dict[str, Any]:
        """Return a job. Raises NotFound."""
        return self.jobs.by_number(number).document()

    def cancel(self, number: int) -> dict[str, Any]:
        """Cancel a scrub. A restore cannot be cancelled: it would be left half done. Raises NotFound, UsageError."""
        job = self.jobs.by_number(number)
        if job.kind == "restore":
            raise UsageError("a restore goes on to its end")
        job.cancel()
        return job.document()

    async def tell(self, nodes: Iterable[int], names: Iterable[tuple[int, bytes]]) -> None:
        """Tell the kernel that these live inodes and these (directory, name) were changed behind its back."""
        inodes, entries = list(nodes), list(names)
        await self.tell_kernel(lambda: self.session.invalidate(inodes, entries))

    async def tell_kernel(self, tell: Callable[[], Awaitable[None]]) -> None:
        """Tell the kernel to forget something, unless the mount is gone or goes meanwhile."""
        if self._is_gone():
            return
        try:
            await tell()
        except OSError as error:
            if not self._is_gone():
                raise
            _log.info("the mount went away while the kernel was told of changes: %s", error)

    def _is_gone(self) -> bool:
        """Tell whether the mount is taken away already: the FUSE descriptor may be closed then and must not be written to."""
        return self._over.is_set() or place.mounted_at(self.session.mountpoint) is None

    def is_writable(self) -> bool:
        """Tell whether the volume takes changes."""
        return not self.volume.read_only and self.volume.failed is None

    def must_be_writable(self) -> None:
        """Raise ReadOnlyVolume when nothing can be changed, or what the volume failed with."""
        if self.volume.failed is not None:
            raise self.volume.failed
        if self.volume.read_only:
            raise ReadOnlyVolume(f"{wire.shown(self.entry.mountpoint)}: is mounted read-only")

    # --- settings

    def settings(self) -> dict[str, Any]:
        """Return what an administrator chose for the volume."""
        return {"snapshot_directory_mode": self.namespace.settings.read().snapshot_directory_mode}

    async def settings_change(self, request: SettingsRequest) -> dict[str, Any]:
        """Change settings, durably. Raises UsageError."""
        self.must_be_writable()
        self.namespace.settings.change(snapshot_directory_mode=request.snapshot_directory_mode)
        await self.durable()
        try:
            await trio.to_thread.run_sync(exports.changed, self.entry.mountpoint)
        except OSError as error:  # the change is made; servers that were not told go by it when they start again
            _log.error("the file servers were not told of changed settings: %s", error)
        return self.settings()

    # --- keys

    def keys(self) -> dict[str, Any]:
        """Return the key slots."""
        block = offline.superblock(self.entry.store)
        return keys.document(offline.slots_of(block), len(block.generations))

    async def key_add(self, request: KeyRequest) -> dict[str, Any]:
        """Add a slot. The derivation takes half a second, off the trio thread."""
        secret = request.secret()
        self.must_be_writable()
        return {"slot": await trio.to_thread.run_sync(self.volume.add_slot, secret)}

    async def key_remove(self, slot: int) -> dict[str, Any]:
        """Remove a slot. Raises KeySlotError."""
        self.must_be_writable()
        await trio.to_thread.run_sync(self.volume.remove_slot, slot)
        return self.keys()

    def last_rotation(self) -> str | None:
        """Return when the keys were rotated last, RFC 3339; None: never."""
        return wire.moment(self.volume.rotated)

    async def key_rotate(self) -> dict[str, Any]:
        """Make a key generation, durable when this returns."""
        self.must_be_writable()
        self.volume.rotate()
        await self.session.durable()
        return self.keys()

    # --- the end

    def must_stay(self) -> None:
        """Raise StoreInUse when the volume is being unmounted."""
        if self._stopping:
            raise StoreInUse("the volume is being unmounted")

    async def stop(self) -> dict[str, Any]:
        """Unmount and answer when everything is durable.

        Raises MountFailed when files are open or a restore runs, and what keeps the last changes from becoming durable: the mount stays
        then, so that they can still be read and copied away. A volume that had failed before is unmounted, and the answer says so.
        """
        restore = self.jobs.last("restore")
        if restore is not None and restore.is_running:
            raise MountFailed(f"{wire.shown(self.entry.mountpoint)}: a restore is running: wait for it")
        if self._stopping:
            raise StoreInUse(f"{wire.shown(self.entry.mountpoint)}: is being unmounted already")
        self._stopping = True
        had_failed = self.volume.failed
        try:
            if self.is_writable():
                await self._save_all()
            await self._unmount()
        finally:
            self._stopping = False
        return {"pid": self.entry.pid, "failed": None if had_failed is None else str(had_failed)}

    async def _save_all(self) -> None:
        try:
            await self.session.flush()
            await self.session.durable()
        except AnqfsError as error:
            shown = wire.shown(self.entry.mountpoint)
            failure = CommitFailed(f"{shown}: is not unmounted: {error}: copy what is needed, then unmount again")
            failure.exit_code = error.exit_code
            raise failure from error


def _latency(histograms: dict[str, list[tuple[int, int]]]) -> dict[str, dict[str, float]]:
    """Return, for each operation, how many requests there were and within how many microseconds so many of them were answered."""
    return {
        operation: {"requests": sum(count for _, count in buckets), **{name: _within(buckets, part) for name, part in _PARTS.items()}}
        for operation, buckets in sorted(histograms.items())
    }


def _within(buckets: list[tuple[int, int]], part: float) -> float:
    wanted = part * sum(count for _, count in buckets)
    seen = 0
    for bound, count in buckets:
        seen += count
        if seen >= wanted:
            return bound / 1000
    return buckets[-1][0] / 1000
