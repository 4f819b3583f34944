"""`/openapi.json`, `/v1/openapi`: the API described, OpenAPI 3.1, made from the same table that answers requests."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import msgspec

import anqfs
from anqfs.control.rest.routing import Call, Route

_REF = "#/components/schemas/{name}"
_PARAMETER = re.compile(r"\{(\w+)\}")
_PARAMETERS: dict[str, dict[str, Any]] = {
    "ref": {
        "description": "A file: its id, or its absolute path, percent-encoded",
        "schema": {"type": "string", "minLength": 1},
        "examples": {"root": {"value": "1"}, "path": {"value": "/"}},
    },
    "id": {"description": "An id", "schema": {"type": "string", "minLength": 1}, "examples": {"first": {"value": "1"}}},
}
_TEXT = {"schema": {"type": "string", "minLength": 1}}


class Fault(msgspec.Struct):
    """What is answered instead, when a request is refused: `error_class` is one of ANQ's names."""

    error_class: str
    description: str
    module: str
    user_visible: bool
    stack: list[str]
    inner: dict[str, Any] | None
    error: str
    message: str
    exit_code: int
    errno: int


def document(routes: tuple[Route, ...], *, local: bool) -> dict[str, Any]:
    """Return the OpenAPI document of routes; `local`: with those that only the Unix socket serves."""
    shown = [route for route in routes if local or not route.local]
    kinds = [kind for route in shown for kind in (route.body, route.query, route.answer) if kind is not None]
    schemas, components = msgspec.json.schema_components([Fault, *kinds], ref_template=_REF)
    named = dict(zip(map(repr, [Fault, *kinds]), schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in shown:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, named, components)
    return {
        "openapi": "3.1.0",
        "info": {"title": "anqfs", "version": anqfs.__version__, "description": "The API of an anqfs volume, in ANQ's shapes."},
        "security": [{"bearer": []}],
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}}},
    }


def _operation(route: Route, named: dict[str, Any], components: dict[str, Any]) -> dict[str, Any]:
    good: dict[str, Any] = {"description": "Done"}
    if route.answer is not None:
        good["content"] = {"application/json": {"schema": named[repr(route.answer)]}}
    operation: dict[str, Any] = {
        "operationId": f"{route.method.lower()}{re.sub(r'[^a-zA-Z0-9]+', '_', route.path)}",
        "summary": route.summary,
        "parameters": [*map(_path_parameter, _PARAMETER.findall(route.path)), *_query_parameters(route, named, components)],
        "responses": {
            str(route.status): good,
            "default": {"description": "Refused", "content": {"application/json": {"schema": named[repr(Fault)]}}},
        },
    }
    if route.public:
        operation["security"] = []
    if route.streams:
        operation["requestBody"] = {"required": True, "content": {"application/octet-stream": {}}}
    elif route.body is not None:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": named[repr(route.body)]}}}
    return operation


def _path_parameter(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, **_PARAMETERS.get(name, _TEXT)}


def _query_parameters(route: Route, named: dict[str, Any], components: dict[str, Any]) -> list[dict[str, Any]]:
    if route.query is None:
        return []
    schema = components[named[repr(route.query)]["$ref"].rpartition("/")[2]]
    required = schema.get("required", [])
    return [
        {"name": name, "in": "query", "required": name in required, "schema": _given(one)} for name, one in schema["properties"].items()
    ]


def _given(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a query's parameter when it is there at all: null cannot be written in a query."""
    kinds = [one for one in schema.get("anyOf", ()) if one.get("type") != "null"]
    return kinds[0] if len(kinds) == 1 else {name: value for name, value in schema.items() if value is not None}


@cache
def _document(local: bool) -> dict[str, Any]:
    from anqfs.control.rest.table import table

    return document(table().routes, local=local)


async def _get(call: Call) -> Any:
    """Describe the API."""
    return _document(call.is_local)


ROUTES = [Route("GET", "/openapi.json", _get), Route("GET", "/v1/openapi", _get)]
