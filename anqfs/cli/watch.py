"""Watching a job of the daemon until it ends."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from anqfs.cli import output
from anqfs.control import wire

if TYPE_CHECKING:
    from anqfs.control.client import Client

_FIRST_PAUSE = 0.01
_LONGEST_PAUSE = 0.3


def line(job: dict[str, Any]) -> str:
    """Return a job's progress as one line."""
    parts = [f"{job['kind']}: {job['state']}"]
    if job.get("part") is not None:
        parts.append(f"{100 * job['part']:.1f} %")
    parts += [f"{job[name]} {name}" for name in ("files", "records", "extents") if name in job]
    if job["seconds"] > 0:
        parts.append(f"{output.size(job['bytes'])}, {output.size(int(job['bytes'] / job['seconds']))}/s")
    return ", ".join(parts)


def watch_job(daemon: Client, job: dict[str, Any], *, quiet: bool) -> dict[str, Any]:
    """Poll a job until it ends, drawing progress on a terminal. Returns its last state; raises its error when it failed."""
    progress = output.Progress(quiet=quiet)
    pause = _FIRST_PAUSE
    try:
        while job["state"] == "running":
            progress.show(line(job))
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
            job = daemon.get(f"/anqfs/v1/jobs/{job['job']}")
    finally:
        progress.done()
    if job["error"] is not None:
        raise wire.from_fault(job["error"])
    return job
