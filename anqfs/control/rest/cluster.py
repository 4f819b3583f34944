"""`/v1/cluster/settings`: the volume's name. ANQ's names have 2 to 15 letters, digits and hyphens."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from anqfs.control.rest import etags
from anqfs.control.rest.routing import Answer, Call, Route


class ClusterSettings(msgspec.Struct):
    """The name that clients are shown."""

    cluster_name: Annotated[str, msgspec.Meta(min_length=2, max_length=15, pattern="^[A-Za-z][A-Za-z0-9-]*[A-Za-z0-9]$")]


def _answer(call: Call) -> Answer:
    settings = ClusterSettings(call.service.namespace.settings.read().cluster_name)
    return Answer(settings, etag=etags.of(settings))


async def _get(call: Call) -> Any:
    """Return the volume's name."""
    return _answer(call)


async def _put(call: Call) -> Any:
    """Give the volume another name."""
    call.service.must_be_writable()
    call.must_match(_answer(call).etag or "")
    call.service.namespace.settings.change(cluster_name=call.body.cluster_name)
    await call.service.durable()
    return _answer(call)


ROUTES = [
    Route("GET", "/v1/cluster/settings", _get, answer=ClusterSettings),
    Route("PUT", "/v1/cluster/settings", _put, body=ClusterSettings, answer=ClusterSettings),
]
