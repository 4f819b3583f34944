"""The process that supervises a volume's file servers: `python -m anqfs.control.supervise CONFDIR REPORT_FD`, started by `exports`.

The outcome of starting goes back through the pipe as one line of JSON. What is below it is `anqfs.export.supervisor`; here is what that
room may not know: the registry of mounted volumes.
"""

from __future__ import annotations

import logging
import logging.handlers
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anqfs.control import client, registry, wire
from anqfs.control.outcome import reporter
from anqfs.errors import AnqfsError
from anqfs.export.layout import Layout
from anqfs.export.supervisor import Mounted, Supervisor
from anqfs.mount import mountpoint as place

if TYPE_CHECKING:
    from anqfs.export.description import Description

_log = logging.getLogger("anqfs.control.supervise")
_LOG_BYTES = 4 << 20


def find_mount(description: Description) -> Mounted | None:
    """Return the live mount of the volume that a description means; another volume that is mounted there is not returned."""
    mount = place.mounted_at(os.fsencode(description.mountpoint))
    if mount is None:
        return None
    for entry in registry.entries():
        if entry.mountpoint == description.mountpoint and entry.device == mount.device and entry.uuid == description.volume:
            return Mounted(entry.pid, entry.started, entry.device)
    return None


def snapshot_mode(description: Description) -> str | None:
    """Return how a mounted volume wants SMB shares to show `.snapshot`; None when its daemon does not say."""
    mount = find_mount(description)
    entry = next((each for each in registry.entries() if mount is not None and each.pid == mount.pid), None)
    if entry is None:
        return None
    try:
        mode: str = client.Client(entry).get("/anqfs/v1/settings")["snapshot_directory_mode"]
    except AnqfsError as error:
        _log.warning("how .snapshot is to show stays as it was: %s", error)
        return None
    return mode


def log_to(path: Path | None) -> None:
    """Log to a file of bounded size, or to stderr."""
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    if path is not None:
        handler = logging.handlers.RotatingFileHandler(
            path, maxBytes=_LOG_BYTES, backupCount=1, encoding="utf-8", errors="backslashreplace"
        )
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


def run(layout: Layout, report: Callable[[dict[str, Any]], None], *, foreground: bool) -> int:
    """Supervise until SIGTERM; return an exit code. `report` gets the outcome of starting."""
    told = False

    def ready() -> None:
        nonlocal told
        told = True
        report({"ok": True, "pid": os.getpid()})

    os.umask(0o077)
    try:
        layout.make()
        log_to(None if foreground else layout.supervisor_log)
        Supervisor(layout, find_mount, snapshot_mode).run(ready)
    except AnqfsError as error:
        return _fail(error, told, report)
    except Exception as error:
        _log.exception("the supervisor ends")
        return _fail(AnqfsError(f"the supervisor met an unforeseen fault ({type(error).__name__}: {error})"), told, report)
    return 0


def _fail(error: AnqfsError, told: bool, report: Callable[[dict[str, Any]], None]) -> int:
    if told:
        _log.error("%s", error)
    else:
        report(wire.to_fault(error))
    return error.exit_code


def main(arguments: list[str]) -> int:
    """Entry point of the detached supervisor."""
    with os.fdopen(int(arguments[1]), "wb") as outcome:
        return run(Layout(Path(arguments[0])), reporter(outcome), foreground=False)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
