"""Routes, the call that a handler gets, and what it answers. Trio thread.

Paths are matched on the bytes of the request target, before percent-decoding: a file's reference is one component, `%2Fa%2Fb`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes, urlencode

import msgspec
from starlette.requests import ClientDisconnect, Request

from anqfs.control import wire
from anqfs.control.rest import etags, refs
from anqfs.control.rest.faults import Refused
from anqfs.errors import UsageError

if TYPE_CHECKING:
    from anqfs.control.rest.identity import Identity
    from anqfs.control.service import Service

PAGE_MAX = 1000
"""Most entries of one page; a page that is asked for without a limit has as many."""
_LARGEST = (1 << 63) - 1

Handler = Callable[["Call"], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Route:
    """One method of one path. The handler's docstring is its documentation.

    `body`, `query`, `answer` are msgspec types (`answer` only documents); `status` is a good answer's. `streams`: the handler reads the
    body itself, with `call.stream()`. `public`: no token is needed. `personal`: whoever is let in may do it, though it is no GET.
    `private`: observers may not. `local`: only on the Unix socket.
    """

    method: str
    path: str
    handler: Handler
    body: Any = None
    query: Any = None
    answer: Any = None
    status: int = 200
    streams: bool = False
    public: bool = False
    personal: bool = False
    private: bool = False
    local: bool = False

    @property
    def summary(self) -> str:
        """One line that says what the route does."""
        return (self.handler.__doc__ or self.path).strip().splitlines()[0]


@dataclass(slots=True)
class Answer:
    """An answer that is more than a value with status 200. `parts` streams bytes instead of a value."""

    value: Any = None
    status: int = 200
    etag: str | None = None
    parts: AsyncIterator[bytes] | None = None
    headers: dict[str, str] = field(default_factory=dict)


class CutShort(Exception):
    """An answer that has begun cannot be finished: the connection is closed, so that the client sees that it is cut short."""


class Call:
    """One request, as a handler sees it."""

    def __init__(self, service: Service, request: Request, route: Route, parameters: Mapping[str, bytes], who: Identity) -> None:
        self.service = service
        self.request = request
        self.route = route
        self.who = who
        self.body: Any = None
        self.query: Any = None
        self._parameters = parameters

    # --- what was asked

    def raw(self, name: str) -> bytes:
        """Return the bytes of a component of the path, percent-decoded."""
        return self._parameters[name]

    def text(self, name: str) -> str:
        """Return a component of the path, percent-decoded."""
        return wire.text(self._parameters[name])

    def number(self, name: str) -> int:
        """Return a component of the path that is an id. Raises UsageError."""
        return number_of(self.text(name), name)

    def node(self, snapshot: int | None = None) -> int:
        """Return the node that `{ref}` names: an id or an absolute path, live or in a snapshot. Raises FilesystemError, NotFound."""
        return refs.node_of(self.service, self._parameters["ref"], snapshot)

    @property
    def is_local(self) -> bool:
        """Whether the request came over the daemon's own socket."""
        return bool(self.request.scope.get("anqfs.local"))

    @property
    def if_match(self) -> str | None:
        """The If-Match header."""
        return self.request.headers.get("if-match")

    def must_match(self, etag: str) -> None:
        """Raise Refused (412) when the client expects another version than `etag`."""
        wanted = self.if_match
        if wanted is not None and not etags.matches(wanted, etag):
            raise Refused(412, "fs_revision_mismatch_error", "it was changed meanwhile: get it again and look at what changed")

    async def stream(self) -> AsyncIterator[bytes]:
        """Yield the body's parts as they come. Raises Refused when the client goes away."""
        try:
            async for part in self.request.stream():
                if part:
                    yield part
        except ClientDisconnect as error:
            raise Refused(400, "http_bad_request_error", "the request ended before its body did") from error

    # --- what is answered

    def page(self, entries: Sequence[Any], *, after: str | None, name: str = "entries") -> dict[str, Any]:
        """Return one page; `after` is what the next one begins behind, None when this is the last."""
        return {name: list(entries), "paging": {"next": "" if after is None else self._again(after)}}

    def _again(self, after: str) -> str:
        """Return this request's target with another `after`."""
        query = {**self.request.query_params, "after": after}
        return f"{self.request.scope['raw_path'].decode('ascii', 'replace')}?{urlencode(query, errors='surrogateescape')}"


def number_of(text: str, what: str) -> int:
    """Return a decimal number below 2**63. Raises UsageError."""
    if not (text.isascii() and text.isdigit() and len(text) <= 19 and int(text) <= _LARGEST):
        raise UsageError(f"{what} is {text[:40]!a}, not a number")
    return int(text)


def limit_of(limit: int | None) -> int:
    """Return how many entries a page has at most."""
    return PAGE_MAX if limit is None else max(1, min(limit, PAGE_MAX))


class _Place:
    """One component of the tree of paths."""

    __slots__ = ("literals", "parameter", "routes")

    def __init__(self) -> None:
        self.literals: dict[str, _Place] = {}
        self.parameter: _Place | None = None
        self.routes: dict[str, tuple[Route, tuple[str, ...]]] = {}


class Table:
    """All routes; finds the one for a request target."""

    def __init__(self, routes: Sequence[Route]) -> None:
        """Raises ValueError when two routes are for the same method and path."""
        self.routes = tuple(routes)
        self._root = _Place()
        for route in routes:
            self._add(route)

    def _add(self, route: Route) -> None:
        place, names = self._root, []
        for part in components(route.path):
            if part.startswith("{"):
                names.append(part[1:-1])
                if place.parameter is None:
                    place.parameter = _Place()
                place = place.parameter
            else:
                place = place.literals.setdefault(part, _Place())
        if route.method in place.routes:
            raise ValueError(f"{route.method} {route.path} is there twice")
        place.routes[route.method] = (route, tuple(names))

    def find(self, method: str, target: str) -> tuple[Route, dict[str, bytes]]:
        """Return the route for a method and a raw path, and the path's parameters, decoded. Raises Refused (404, 405)."""
        values: list[str] = []
        place = _descend(self._root, components(target), values)
        if place is None:
            raise Refused(404, "http_not_found_error", f"there is nothing at {target[:200]!a}")
        if method not in place.routes:
            raise Refused(405, "http_method_not_allowed_error", f"{target[:200]!a} takes {', '.join(place.routes)}, not {method[:20]!a}")
        route, names = place.routes[method]
        return route, {name: unquote_to_bytes(value) for name, value in zip(names, values, strict=True)}


def components(path: str) -> list[str]:
    """Return the components of a path; a slash at the end makes no difference."""
    parts = path.split("/")[1:]
    return parts[:-1] if parts and parts[-1] == "" else parts


def _descend(place: _Place, parts: list[str], values: list[str]) -> _Place | None:
    if not parts:
        return place if place.routes else None
    literal = place.literals.get(parts[0])
    if literal is not None:
        found = _descend(literal, parts[1:], values)
        if found is not None:
            return found
    if place.parameter is None or not parts[0]:
        return None
    mark = len(values)
    values.append(parts[0])
    found = _descend(place.parameter, parts[1:], values)
    if found is None:
        del values[mark:]
    return found


def converted(value: Any, kind: Any, what: str, *, strict: bool) -> Any:
    """Return `value` as the msgspec type `kind`. Raises UsageError, which names the field."""
    try:
        return msgspec.convert(value, kind, strict=strict)
    except (msgspec.ValidationError, RecursionError, OverflowError) as error:
        raise UsageError(f"the request's {what} makes no sense: {str(error)!a}") from error
