"""docs/semantics.md promises nothing that no test keeps: each promise names tests, and every test that is named exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
DOCUMENT = TESTS.parent / "docs" / "semantics.md"
_NAME = re.compile(r"`(?:(like_ext4)\[(\w+)\]|((?:[a-z_]+/)+test_\w+\.py)(?:::(test_\w+))?)`")


def promises() -> list[str]:
    """Return the items of the document's lists, each in one line."""
    found: list[str] = []
    for line in DOCUMENT.read_text(encoding="utf-8").splitlines():
        if line.startswith("- "):
            found.append(line)
        elif line.startswith("  ") and found:
            found[-1] += " " + line.strip()
    return found


def functions_of(path: Path) -> set[str]:
    return {
        node.name
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def cases() -> set[str]:
    return {name for path in (TESTS / "mount").glob("cases_*.py") for name in functions_of(path)}


def is_kept(case: str, file: str, function: str) -> bool:
    if case:
        return case in cases()
    path = TESTS / file
    return path.is_file() and any(name == function if function else name.startswith("test_") for name in functions_of(path))


@pytest.mark.parametrize("promise", promises(), ids=lambda promise: promise[2:40])
def test_a_promise_names_tests_that_exist(promise: str) -> None:
    named = [match.groups(default="")[1:] for match in _NAME.finditer(promise)]
    assert named, "no test is named"
    assert [each for each in named if not is_kept(*each)] == []


def test_promises_are_found_and_a_missing_test_is_noticed() -> None:
    assert len(promises()) > 20
    assert not is_kept("no_such_case", "", "")
    assert not is_kept("", "mount/test_session.py", "test_no_such")
    assert not is_kept("", "mount/test_none.py", "")
