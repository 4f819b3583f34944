"""`/v1/version`: what answers here."""

from __future__ import annotations

from typing import Any

import msgspec

import anqfs
from anqfs.control.rest.routing import Call, Route


class Version(msgspec.Struct):
    """ANQ's version document. The vendor's client takes the number after the last blank of `revision_id`."""

    revision_id: str
    build_id: str
    flavor: str
    build_date: str


async def _get(call: Call) -> Any:
    """Return the version of anqfs."""
    return Version(revision_id=f"anqfs {anqfs.__version__}", build_id=anqfs.__version__, flavor="release", build_date="")


ROUTES = [Route("GET", "/v1/version", _get, answer=Version)]
