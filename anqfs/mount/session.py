"""One mount, from its checks to its end. `serve` is the whole life of it; `Session` is what others in the daemon see meanwhile.

pyfuse3 keeps its state in module globals, so there is one session in a process. Everything here runs on the trio thread unless it says
otherwise; what touches our own mount from inside goes to a thread, or the daemon would wait for itself.
"""

from __future__ import annotations

import errno
import gc
import logging
import os
import sys
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyfuse3
import trio

from ..errors import AnqfsError, MountFailed
from . import mountpoint as place
from . import poll
from .background import Background
from .durability import Durability
from .flush import Flush
from .identity import identity_device
from .invalidate import Invalidation
from .negotiate import Negotiated, fuse_descriptors, negotiate
from .operations import AnqfsOperations
from .readers import Readers

if TYPE_CHECKING:
    from ..namespace.namespace import Namespace
    from ..store.volume import Volume
    from .handler import Latency

log = logging.getLogger(__name__)

MAX_TASKS = 32
"""Requests in handlers at once. Each worker keeps a buffer of 1 MiB, and a write that waits for room another one."""
SWITCH_INTERVAL = 0.0005
"""Seconds another thread may hold the interpreter while the trio thread wants it. Python's 5 ms would be 200 requests."""

COLLECT_AFTER = (50_000, 20, 20)
"""gc.set_threshold's arguments. Records are no containers and make no cycles; Python's default looks at what keeps them every 700
allocations, which was an eighth of a cold look-up. Garbage in cycles waits for at most 50,000 new containers."""

LET_GO_SECONDS = 0.05
"""How long the kernel's word that it has forgotten an inode is waited for. It takes a fraction of a millisecond, if it comes."""


@dataclass(frozen=True)
class MountOptions:
    """How to mount.

    `allow_other`: let other users in; None: when root. `readahead_kb`: the kernel's read-ahead. `extra`: options for libfuse as they are.
    `suid_dev`: honour setuid files and devices; None: when root, as any local filesystem does. `fsid_device`: see `identity`.
    """

    allow_other: bool | None = None
    readahead_kb: int = 8192
    suid_dev: bool | None = None
    fsid_device: bool = False
    extra: frozenset[str] = field(default_factory=frozenset)


class Session:
    """A live mount."""

    def __init__(self, namespace: Namespace, volume: Volume, point: bytes) -> None:
        """`point` is the absolute mount point."""
        self.namespace = namespace
        self.volume = volume
        self.mountpoint = point
        self.poll: poll.AdaptivePoll | None = None
        self.negotiated = Negotiated(False, 0, 0, 0)
        self.invalidation: Invalidation | None = None
        self.durability = Durability(volume, self._hurry, self._pending)
        self.readers = Readers(namespace, volume, self._hurry, self._pending)
        self.background = Background(namespace, volume, self.durability)
        self.durability.kick = self.background.kick
        self.background.forget = self._forget_removed
        self.operations = AnqfsOperations(namespace, volume, self.durability, self.readers, self.flush)
        self.operations.mountpoint = point
        self._flush = Flush(namespace, self.operations.handles, point)
        self._unmounting = trio.Lock()
        self._ended = trio.Event()

    def _hurry(self) -> None:
        if self.poll is not None:
            self.poll.hurry()

    def _pending(self) -> bool:
        return self.poll is None or self.poll.pending()

    @property
    def latency(self) -> Latency:
        """How long requests took, by operation."""
        return self.operations.latency

    def changed(self) -> None:
        """Say that the namespace was changed by someone in the daemon, so that it becomes durable in time and is worked on."""
        self.durability.changed()

    async def flush(self) -> None:
        """Return when everything programs wrote before the call has reached the namespace. Raises FilesystemError EBUSY."""
        await self._flush()

    async def durable(self) -> None:
        """Return when every change so far is durable. Raises CommitFailed, NoSpace, ReadOnlyVolume."""
        await self.durability.durable()

    async def invalidate(self, nodes: Iterable[int] | None = None, entries: Iterable[tuple[int, bytes]] | None = None) -> None:
        """Make the kernel forget what it keeps of `nodes` and of the (parent node, name) `entries`; of everything when neither is given.

        Names are asked for again everywhere in any case. Call `flush` before the change, this after it.
        """
        if self.invalidation is None:
            return  # the mount is gone, and with it all that the kernel kept
        if nodes is None and entries is None:
            nodes = list(self.namespace.core.held)
            entries = [(1, name) for name, *_ in self.namespace.readdir(1, 0)]
        await trio.to_thread.run_sync(self.invalidation, list(nodes or ()), list(entries or ()))

    async def _forget_removed(self, changes: list[tuple[int, bytes | None]]) -> None:
        """Make the kernel forget single names and inodes that were removed behind its back."""
        invalidation = self.invalidation
        if invalidation is None:
            return
        names = dict.fromkeys((node, name) for node, name in changes if name is not None)
        nodes = dict.fromkeys(node for node, name in changes if name is None)
        try:
            await trio.to_thread.run_sync(invalidation.forget, list(nodes), list(names))
        except OSError as error:
            is_gone = self.invalidation is None or place.mounted_at(self.mountpoint) is None
            log.log(logging.INFO if is_gone else logging.ERROR, "the kernel was not told of what was removed: %s", error)

    def is_known(self, node: int) -> bool:
        """Tell whether the kernel knows a live inode: it goes by its own idea of a file's size, pages and times for as long as it does."""
        return node in self.namespace.core.held

    async def let_go(self, nodes: Iterable[int]) -> None:
        """Make the kernel forget inodes and wait until it has, for a moment: whatever is in use it does not forget."""
        is_open = self.operations.handles.is_open
        waiting = [node for node in nodes if not is_open(node)]
        if self.invalidation is None or not waiting:
            return
        names = [name for node in waiting for name in self.namespace.names_of(node)]
        await trio.to_thread.run_sync(self.invalidation.forget_names, names)
        with trio.move_on_after(LET_GO_SECONDS):
            while waiting := [node for node in waiting if self.is_known(node) and not is_open(node)]:
                await trio.sleep(0.0005)

    async def unmount(self, *, force: bool = False) -> None:
        """Take the mount away and return when it is gone and all is durable.

        Raises OSError EBUSY while it is in use, unless `force`: then everything written so far is brought in and made durable, and the
        programs that still use it get ENOTCONN.
        """
        async with self._unmounting:
            if self._ended.is_set():
                return
            try:
                await trio.to_thread.run_sync(place.unmount, self.mountpoint)
            except OSError as error:
                if not await self._gone(error, force):
                    raise
        await self._ended.wait()

    async def _gone(self, error: OSError, force: bool) -> bool:
        """Handle a failed umount; return whether the mount goes away all the same."""
        if error.errno == errno.EINVAL and place.mounted_at(self.mountpoint) is None:
            return True
        if not force:
            return False
        log.warning("%r is in use and is unmounted all the same (%s)", os.fsdecode(self.mountpoint), error.strerror)
        try:
            await self.flush()
            await self.durable()
            await trio.to_thread.run_sync(place.detach, self.mountpoint)
        except (AnqfsError, OSError) as fault:
            log.error("%r is left dead: %s", os.fsdecode(self.mountpoint), fault)
        pyfuse3.terminate()
        return True

    def statistics(self) -> dict[str, Any]:
        """Return counters of the transport."""
        spins = self.poll
        return {
            "open_files": len(self.operations.handles),
            "negotiated_flags": self.negotiated.flags,
            "polls_slept": spins.slept if spins else 0,
            "spins_won": spins.spins_won if spins else 0,
            "spins_lost": spins.spins_lost if spins else 0,
            "pieces_fetched": self.readers.fetched,
            "background_steps": self.background.steps,
        }


def fuse_options(options: MountOptions, *, read_only: bool, device: str | None = None) -> set[str]:
    """Return the mount options for libfuse; `device` is the block device to mount on. Never max_read: it would cut requests to pieces."""
    root = os.geteuid() == 0
    chosen = {"default_permissions", "subtype=anqfs", *(("fsname=anqfs",) if device is None else ("blkdev", f"fsname={device}"))}
    if root if options.allow_other is None else options.allow_other:
        chosen.add("allow_other")
    if root if options.suid_dev is None else options.suid_dev:
        chosen |= {"suid", "dev"}
    if read_only:
        chosen.add("ro")
    return chosen | options.extra


def _mount(session: Session, options: MountOptions) -> None:
    """Make the mount and agree with the kernel on how to talk. Raises MountFailed."""
    before = fuse_descriptors()
    try:
        with identity_device(session.volume.uuid) if options.fsid_device else nullcontext() as device:
            chosen = fuse_options(options, read_only=session.volume.read_only, device=device)
            pyfuse3.init(session.operations, os.fsdecode(session.mountpoint), chosen)
    except RuntimeError as error:
        raise MountFailed(f"the kernel or fusermount3 refused the mount at {os.fsdecode(session.mountpoint)!r} ({error})") from None
    try:
        (descriptor,) = fuse_descriptors() - before
        session.negotiated = negotiate(descriptor)
        session.operations.kernel_keeps_times = session.negotiated.keeps_times
        session.operations.direct_files = session.negotiated.direct_files
        session.poll = poll.install(descriptor)
        session.invalidation = Invalidation(descriptor, session.negotiated.minor)
        session.operations.names_may_stay(session.invalidation.names_may_stay)
    except BaseException:
        pyfuse3.close(unmount=True)
        raise


async def serve(
    namespace: Namespace,
    volume: Volume,
    mountpoint: str | bytes | os.PathLike[str],
    options: MountOptions | None = None,
    *,
    ready: Callable[[Session], None],
    stop: trio.Event,
) -> None:
    """Mount `namespace` and serve it until it is unmounted, by whomever; return when all is durable.

    `ready` is called with the session once requests are answered. Setting `stop` unmounts, even while the mount is in use.
    Raises MountFailed; CommitFailed or NoSpace when the last group cannot be made durable. The volume stays open.
    """
    options = options or MountOptions()
    point = place.absolute(mountpoint)
    await trio.to_thread.run_sync(place.prepare, point)
    sys.setswitchinterval(SWITCH_INTERVAL)
    gc.freeze()  # modules, classes and functions live as long as the process: no use in looking at them again
    gc.set_threshold(*COLLECT_AFTER)
    session = Session(namespace, volume, point)
    _mount(session, options)
    orderly = True
    try:
        place.set_readahead(point, options.readahead_kb)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(session.durability.run)
            nursery.start_soon(session.background.run)
            nursery.start_soon(session._flush.start)
            nursery.start_soon(_unmount_when, stop, session)
            ready(session)
            volume.read_ahead()  # now that nobody waits for the mount: what it needed itself was not behind this at the disk
            await pyfuse3.main(min_tasks=1, max_tasks=MAX_TASKS)
            nursery.cancel_scope.cancel()
    except Exception:
        log.critical("the mount at %r died; it is left dead, so that nothing is written below it", os.fsdecode(point))
        orderly = False
        raise
    finally:
        poll.uninstall()
        session.invalidation = None  # its descriptor is closed now and its number may be another file's soon
        pyfuse3.close(unmount=orderly and place.mounted_at(point) is not None)
        session._flush.close()
        try:
            with trio.CancelScope(shield=True):
                await _last_commit(session)
        finally:
            session._ended.set()


async def _unmount_when(stop: trio.Event, session: Session) -> None:
    await stop.wait()
    await session.unmount(force=True)


async def _last_commit(session: Session) -> None:
    if session.volume.failed is None and not session.volume.read_only:
        await session.durable()
