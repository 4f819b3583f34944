"""Schemathesis on the real application: whatever the OpenAPI document allows, and more, is answered, and never with a fault."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from requests import Session
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance

from .conftest import Bench, lasting
from .serving import Relay, add_user, serving

CHECKS = [not_a_server_error, response_schema_conformance, content_type_conformance]
EXAMPLES = 8
"""Requests for each operation."""
REFS = st.sampled_from([None, "1", "2", "3", "/", "/directory", "/directory/0", "/directory/1", "/directory/.snapshot"])
NUMBERS = st.sampled_from([None, "1", "2", "3", "500", "1000"])
"""What is there: files by id and path; snapshots, directories and users. None: whatever schemathesis thinks of."""


def name_something(case: schemathesis.Case, ref: str | None, number: str | None) -> None:
    """Let a request name something that is there: few would by chance."""
    for name, value in (("ref", ref), ("id", number)):
        if value is not None and name in (case.path_parameters or {}):
            case.path_parameters[name] = value
    for name, value in (case.path_parameters or {}).items():
        # "." and the like at a path's end are taken out by the client, which then asks for something else
        assume(str(value).strip("./") != "" or f"{{{name}}}/" in case.path)
    if number is not None and "snapshot" in (case.query or {}):
        case.query["snapshot"] = number
    if isinstance(case.body, dict) and ref is not None:
        for name in ("source_file_id", "source_path", "old_path"):
            if name in case.body:
                case.body[name] = ref


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Bench, Relay, str]]:
    """A volume with a little of everything, served, and a token."""
    with lasting("anqfs-schema-") as bench:
        (bench.mountpoint / "directory").mkdir()
        for number in range(4):
            (bench.mountpoint / "directory" / str(number)).write_bytes(bytes(range(256)) * 40)
            bench.ok("snapshot", "create", bench.mountpoint / "directory")
        add_user(bench)
        token = bench.ok("api", "token", "create", "admin", "--mountpoint", bench.mountpoint).strip()
        with serving(bench, "--tls-self-signed", "--tls-cert", bench.top / "cert.pem", "--tls-key", bench.top / "key.pem") as relay:
            yield bench, relay, token


def test_no_request_that_the_schema_allows_is_a_fault(served: tuple[Bench, Relay, str]) -> None:
    bench, relay, token = served
    status, document = relay.request("GET", "/openapi.json", token=token)
    assert status == 200
    schema = schemathesis.openapi.from_dict(document)
    operations = [one.ok() for one in schema.get_all_operations()]
    assert len(operations) > 50
    with Session() as session:
        session.headers["Authorization"] = f"Bearer {token}"
        for operation in operations:

            @settings(max_examples=EXAMPLES, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
            @given(case=operation.as_strategy(), ref=REFS, number=NUMBERS)
            def ask(case: schemathesis.Case, ref: str | None, number: str | None) -> None:
                name_something(case, ref, number)
                answer = case.call(base_url=f"https://{relay.host}:{relay.port}", session=session, verify=str(bench.top / "cert.pem"))
                case.validate_response(answer, checks=CHECKS)

            ask()
