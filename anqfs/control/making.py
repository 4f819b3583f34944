"""Restores and clones, as jobs of the daemon. Used by `service`, on its trio thread."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anqfs.control import wire
from anqfs.errors import AnqfsError, UsageError
from anqfs.namespace.clone import Clone
from anqfs.namespace.restore import Progress, Restore

if TYPE_CHECKING:
    from anqfs.control.requests import CloneRequest, RestoreRequest
    from anqfs.control.service import Service

_STEP_BUDGET = 64
"""How many small parts of a restore one step does."""
_FORGET_AT = 1000
"""Changes after which the kernel is told what to forget; it is told of the rest at the end."""


class Making:
    """Starts restores and clones of one volume."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def restore(self, request: RestoreRequest) -> dict[str, Any]:
        """Start a restore and return its job. Raises NotFound, UsageError, StoreInUse while another runs."""
        self._service.jobs.must_be_free("restore")
        self._service.must_stay()
        self._service.must_be_writable()
        destination = _destination(request)
        path = b"/".join(_components(request.path))
        self._service.existing(request.snapshot)
        await self._service.session.flush()
        self._service.must_stay()
        self._service.jobs.must_be_free("restore")
        in_use, only = self._service.session.is_known, request.check_only
        work = Restore(self._service.namespace, request.snapshot, path, destination, in_use, check_only=only)
        return self._start_making("restore check" if only else "restore", work, {"snapshot": request.snapshot})

    async def clone(self, request: CloneRequest) -> dict[str, Any]:
        """Start a clone and return its job. Raises NotFound, FilesystemError, UsageError, StoreInUse while another runs."""
        self._service.jobs.must_be_free("clone")
        self._service.must_stay()
        self._service.must_be_writable()
        name = _new_name(request.name)
        await self._service.session.flush()
        self._service.must_stay()
        self._service.jobs.must_be_free("clone")
        work = Clone(self._service.namespace, request.source, (request.parent, name))
        return self._start_making("clone", work, {"name": request.name})

    def _start_making(self, kind: str, work: Restore | Clone, facts: dict[str, Any]) -> dict[str, Any]:
        """Start the job that does the steps of a restore or a clone, and return it."""
        changes: list[tuple[int, bytes | None]] = []

        async def step() -> bool:
            if self._service.volume.must_wait():
                await self._service.session.durability.room()
            try:
                more = work.step(_STEP_BUDGET)
            except AnqfsError:
                await self._forget([*changes, *work.take_changes()])
                self._service.session.background.kick()
                raise
            self._service.session.changed()
            changes.extend(work.take_changes())
            wishes = work.take_wishes()
            if wishes:
                await self._service.tell_kernel(lambda: self._service.session.let_go(wishes))
            if len(changes) >= _FORGET_AT:
                await self._forget(changes)
                changes.clear()
            return more

        async def finish(cancelled: bool) -> None:
            if cancelled and isinstance(work, Clone):
                work.give_up()
            await self._forget([*changes, *work.take_changes()])
            await self._service.session.durable()
            self._service.session.background.kick()

        def progress() -> dict[str, Any]:
            return {**facts, **_restored(work.progress)}

        return self._service.jobs.start(kind, step, progress, finish).document()

    async def _forget(self, changes: list[tuple[int, bytes | None]]) -> None:
        """Make the kernel forget what it keeps of these inodes (inode, None) and names (directory, name)."""
        if not changes:
            return
        nodes = dict.fromkeys(node for node, _ in changes)
        names = dict.fromkeys((node, name) for node, name in changes if name is not None)
        await self._service.tell_kernel(lambda: self._service.session.invalidate(nodes, names))


def _destination(request: RestoreRequest) -> tuple[int, bytes] | None:
    if request.in_place:
        if request.parent is not None or request.name is not None:
            raise UsageError("a restore in place has no parent and no name")
        return None
    if request.parent is None or request.name is None:
        raise UsageError("say where to: in_place, or parent and name")
    return request.parent, _new_name(request.name)


def _restored(progress: Progress) -> dict[str, Any]:
    done = progress.files + progress.directories
    return {
        "files": progress.files,
        "directories": progress.directories,
        "bytes": progress.bytes,
        "removed": progress.removed,
        "part": min(1.0, done / progress.total) if progress.total else None,
    }


def _new_name(text: str) -> bytes:
    name = wire.raw(text)
    if b"/" in name or name in (b".", b".."):
        raise UsageError(f"{text!a} is no name for a new file")
    return name


def _components(path: str) -> list[bytes]:
    parts = [part for part in wire.raw(path).split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise UsageError(f"{path!a} leaves the snapshot: name a path inside it")
    return parts
