"""A daemon for the crash tests: opens a store, mounts it and serves until told to stop. Run as a module, its own process.

It does what `anqfs mount` does, without the API and the registry.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys

import trio

from anqfs.crypto.secrets import Secret
from anqfs.errors import AnqfsError
from anqfs.mount.session import serve
from anqfs.namespace.namespace import Namespace
from anqfs.store.volume import Volume


async def serve_until_told(namespace: Namespace, volume: Volume, mountpoint: str) -> None:
    """Serve until SIGTERM or until somebody unmounts. SIGUSR1 rotates the keys."""
    stop = trio.Event()
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGUSR1) as signals:
        async with trio.open_nursery() as nursery:

            async def listen() -> None:
                async for number in signals:
                    if number == signal.SIGTERM:
                        stop.set()
                    else:
                        await trio.to_thread.run_sync(volume.rotate)

            nursery.start_soon(listen)
            await serve(namespace, volume, mountpoint, ready=lambda _: print("ready", flush=True), stop=stop)
            nursery.cancel_scope.cancel()


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("store")
    parser.add_argument("mountpoint")
    parser.add_argument("--key-file", required=True)
    parser.add_argument("--group-seconds", type=float, default=1.0)
    options = parser.parse_args()
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    try:
        volume = Volume.open(options.store, Secret.from_key_file(options.key_file), group_seconds=options.group_seconds)
    except AnqfsError as error:
        print(f"cannot open: {error!r}", file=sys.stderr)
        return error.exit_code
    try:
        trio.run(serve_until_told, Namespace(volume), volume, options.mountpoint)
    finally:
        volume.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
