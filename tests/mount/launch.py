"""Serve a volume for a test: `python launch.py STORE MOUNTPOINT KEYFILE [OPTION...]`. Options: read-only, small-groups,
cold (every extent on the disk counts as not in memory).

Prints `ready` when mounted. Then each line on standard input is a question, answered by one line of JSON on standard output; see ASK.
SIGTERM unmounts. The log goes to standard error.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import trio

from anqfs.crypto.secrets import Secret
from anqfs.mount.session import Session, serve
from anqfs.namespace import ROOT, Namespace
from anqfs.namespace.restore import Restore
from anqfs.store.data_file import DataFile
from anqfs.store.volume import Volume


async def _invalidate(session: Session, *nodes: int) -> None:
    await session.invalidate(nodes or None)


async def _fail(session: Session) -> None:
    def broken(*_arguments: object) -> None:
        raise ZeroDivisionError("a fault that nobody foresaw")

    session.namespace.readlink = broken  # type: ignore[method-assign]


async def _stall(session: Session) -> None:
    def stalled(*_arguments: object, **_named: object) -> None:
        logging.info("a write is stalled")
        threading.Event().wait()

    session.namespace.write = stalled  # type: ignore[method-assign]


async def _snapshot(session: Session, path: str, name: str) -> int:
    await session.flush()
    node = 1
    for part in filter(None, path.split("/")):
        node = session.namespace.lookup(node, os.fsencode(part))[0]
    snapshot = session.namespace.snapshot_create(node, os.fsencode(name))
    session.changed()
    return snapshot.id


async def _restore(session: Session, snapshot: int) -> None:
    """Restore a snapshot in place, a few parts in each step."""
    await session.flush()
    work = Restore(session.namespace, snapshot, in_use=session.is_known)
    more = True
    while more:
        more = work.step(4)
        await session.let_go(work.take_wishes())
    changes = work.take_changes()
    await session.invalidate({node for node, _ in changes}, {(node, name) for node, name in changes if name is not None})
    session.changed()


async def _lock(session: Session, path: str, retained: int | None, legal_hold: bool | None) -> None:
    await session.flush()
    node = 1
    for part in filter(None, path.split("/")):
        node = session.namespace.lookup(node, os.fsencode(part))[0]
    session.namespace.file_locks.change(node, retained=retained, legal_hold=legal_hold)
    session.changed()


async def _behind(session: Session, directory: str) -> None:
    """Change files without the kernel's knowing."""
    namespace = session.namespace
    parent = namespace.lookup(1, os.fsencode(directory))[0]
    namespace.create(parent, b"new", 0o644, ROOT)
    namespace.unlink(parent, b"gone")
    node = namespace.lookup(parent, b"changed")[0]
    namespace.write(node, 0, b"NEW CONTENT, and it is longer")
    namespace.set_attributes(node, mode=0o600, caller=ROOT)
    session.changed()


ASK: dict[str, Callable[..., Awaitable[Any]]] = {
    "flush": lambda session: session.flush(),
    "durable": lambda session: session.durable(),
    "invalidate": _invalidate,
    "lock": _lock,
    "behind": _behind,
    "fail": _fail,
    "stall": _stall,
    "snapshot": _snapshot,
    "restore": _restore,
}


def _facts(session: Session) -> dict[str, Any]:
    return {
        "counters": dict(session.volume.counters),
        "statistics": session.statistics(),
        "namespace": session.namespace.statistics(),
        "last_commit": session.volume.last_commit[0],
        "dirty": session.volume.dirty_bytes(),
        "requests": {operation: session.latency.requests(operation) for operation in session.latency.snapshot()},
    }


async def _answer(session: Session) -> None:
    stream = trio.lowlevel.FdStream(os.dup(0))
    pending = b""
    async for chunk in stream:
        pending += chunk
        while b"\n" in pending:
            line, _, pending = pending.partition(b"\n")
            question, *arguments = json.loads(line)
            if question == "facts":
                answer: Any = _facts(session)
            else:
                try:
                    answer = await ASK[question](session, *arguments)
                except Exception as error:
                    answer = {"error": repr(error)}
            print(json.dumps(answer), flush=True)


async def main(store: str, point: str, key_file: str, *options: str) -> None:
    if "cold" in options:
        DataFile.read_now = lambda *_: False
    volume = Volume.open(
        store,
        Secret.from_key_file(key_file),
        read_only="read-only" in options,
        group_bytes=1 << 20 if "small-groups" in options else 64 << 20,
    )
    try:
        stop = trio.Event()
        async with trio.open_nursery() as nursery:

            def ready(session: Session) -> None:
                print("ready", flush=True)
                nursery.start_soon(_answer, session)

            async def on_signal() -> None:
                with trio.open_signal_receiver(signal.SIGTERM) as signals:
                    async for _ in signals:
                        stop.set()

            nursery.start_soon(on_signal)
            await serve(Namespace(volume), volume, os.fsencode(point), ready=ready, stop=stop)
            nursery.cancel_scope.cancel()
    finally:
        volume.close()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    trio.run(main, *sys.argv[1:])
