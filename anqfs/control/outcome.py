"""The outcome of starting a process in the background: one line of JSON through a pipe. Used by the daemon and the servers' supervisor."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import IO, Any

_log = logging.getLogger(__name__)


def reporter(pipe: IO[bytes]) -> Callable[[dict[str, Any]], None]:
    """Return what writes the outcome to a pipe and closes it; a starter who has gone away meanwhile is no fault."""

    def report(document: dict[str, Any]) -> None:
        try:
            pipe.write(json.dumps(document).encode() + b"\n")
            pipe.close()
        except BrokenPipeError:
            _log.warning("nobody waits for the outcome any more")

    return report
