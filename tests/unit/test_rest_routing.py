"""The frame of the REST API: matching paths, times, versions, the error envelope, and the OpenAPI document."""

from __future__ import annotations

import errno
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anqfs import errors
from anqfs.control import wire
from anqfs.control.rest import etags, faults, moments
from anqfs.control.rest.faults import Refused
from anqfs.control.rest.openapi import document
from anqfs.control.rest.routing import Call, Route, Table
from anqfs.control.rest.table import table


async def _nothing(call: Call) -> Any:
    """Do nothing."""


TABLE = Table(
    [
        Route("GET", "/v1/files/{ref}/data", _nothing),
        Route("GET", "/v1/files/{ref}/entries/{name}", _nothing),
        Route("GET", "/v1/files/quotas/", _nothing),
        Route("GET", "/v1/files/quotas/{id}", _nothing),
        Route("PUT", "/v1/files/quotas/{id}", _nothing),
    ]
)


@pytest.mark.parametrize(
    ("target", "path", "parameters"),
    [
        ("/v1/files/%2Fa%2Fb/data", "/v1/files/{ref}/data", {"ref": b"/a/b"}),
        ("/v1/files/%2Fa%2Fb/data/", "/v1/files/{ref}/data", {"ref": b"/a/b"}),
        ("/v1/files/%FF%0A/entries/%2e%2e", "/v1/files/{ref}/entries/{name}", {"ref": b"\xff\n", "name": b".."}),
        ("/v1/files/quotas", "/v1/files/quotas/", {}),
        ("/v1/files/quotas/7", "/v1/files/quotas/{id}", {"id": b"7"}),
        ("/v1/files/quotas/data", "/v1/files/quotas/{id}", {"id": b"data"}),
        ("/v1/files/quotas/entries/x", "/v1/files/{ref}/entries/{name}", {"ref": b"quotas", "name": b"x"}),
    ],
)
def test_paths_are_matched_before_they_are_decoded(target: str, path: str, parameters: dict[str, bytes]) -> None:
    route, found = TABLE.find("GET", target)
    assert (route.path, found) == (path, parameters)


@pytest.mark.parametrize(
    "target", ["", "/", "//", "/v1", "/v1/files", "/v1/files//data", "/v1//files/1/data", "/v1/files/1/2/data", "v1/x/"]
)
def test_what_is_not_there_is_not_found(target: str) -> None:
    with pytest.raises(Refused) as refused:
        TABLE.find("GET", target)
    assert faults.named(refused.value) == (404, "http_not_found_error")


def test_another_method_is_not_allowed() -> None:
    with pytest.raises(Refused) as refused:
        TABLE.find("DELETE", "/v1/files/quotas/7")
    assert faults.named(refused.value) == (405, "http_method_not_allowed_error")
    assert "GET, PUT" in str(refused.value)


def test_a_route_that_is_there_twice_is_noticed() -> None:
    route = Route("GET", "/v1/files/{other}/data", _nothing)
    with pytest.raises(ValueError, match="twice"):
        Table([*TABLE.routes, route])


@given(st.integers(min_value=-(1 << 63), max_value=(1 << 63) - 1))
def test_a_time_comes_back_to_the_nanosecond(nanoseconds: int) -> None:
    assert moments.parsed(moments.shown(nanoseconds)) == nanoseconds


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01t00:00:01.5z", 1_500_000_000),
        ("1970-01-01T01:00:00+01:00", 0),
        ("1969-12-31T23:00:00.000000001-01:00", 1),
        ("2016-12-31T23:59:60Z", 1_483_228_800_000_000_000),
    ],
)
def test_times_are_rfc_3339(text: str, nanoseconds: int) -> None:
    assert moments.parsed(text) == nanoseconds


@pytest.mark.parametrize(
    "text", ["", "now", "2026-01-01", "2026-02-30T00:00:00Z", "2026-01-01T24:00:00Z", "2026-01-01T00:00:00", "２026-01-01T00:00:00Z"]
)
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(errors.UsageError):
        moments.parsed(text)


def test_a_version_changes_with_the_thing_and_is_found_in_if_match() -> None:
    one, other = etags.of(1, b"a"), etags.of(1, b"b")
    assert one != other
    assert one == etags.of(1, b"a")
    assert etags.matches(one, one) and etags.matches(one.strip('"'), one) and etags.matches("*", one)
    assert etags.matches(f"{other}, W/{one}", one)
    assert not etags.matches(other, one) and not etags.matches("", one)


@pytest.mark.parametrize(
    ("error", "status", "name"),
    [
        (errors.FilesystemError(errno.ENOENT), 404, "fs_no_such_entry_error"),
        (errors.FilesystemError(errno.EEXIST), 409, "fs_entry_exists_error"),
        (errors.FilesystemError(errno.ENOTEMPTY), 409, "fs_directory_not_empty_error"),
        (errors.FilesystemError(errno.EROFS), 403, "fs_read_only_error"),
        (errors.FilesystemError(errno.EDQUOT), 507, "fs_quota_no_space_error"),
        (errors.UsageError("x"), 400, "http_bad_request_error"),
        (errors.NotFound("x"), 404, "http_not_found_error"),
        (errors.NoSpace("x"), 507, "fs_no_space_error"),
        (errors.Damaged("x"), 500, "internal_error"),
        (Refused(412, "fs_revision_mismatch_error", "x"), 412, "fs_revision_mismatch_error"),
    ],
)
def test_errors_have_anqs_names_and_come_back_as_what_they_were(error: errors.AnqfsError, status: int, name: str) -> None:
    assert faults.named(error) == (status, name)
    envelope = json.loads(wire.dumps(faults.envelope(error)))
    assert set(envelope) >= {"error_class", "description", "module", "user_visible", "stack", "inner"}
    assert envelope["error_class"] == name
    back = wire.from_fault(envelope)
    assert back.exit_code == error.exit_code
    assert type(back) is (errors.UsageError if isinstance(error, Refused) else type(error))


def test_every_route_is_described() -> None:
    routes = table().routes
    described = document(routes, local=True)["paths"]
    assert {(route.method.lower(), route.path) for route in routes} == {(method, path) for path in described for method in described[path]}
    for route in routes:
        assert route.handler.__doc__, f"{route.method} {route.path} says nothing of itself"
    public = document(routes, local=False)
    shown = {(method, path) for path in public["paths"] for method in public["paths"][path]}
    assert shown == {(route.method.lower(), route.path) for route in routes if not route.local}
    assert [route.path for route in routes if route.public] == ["/v1/session/login"]
    json.dumps(public)
