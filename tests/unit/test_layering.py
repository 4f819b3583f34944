"""Who may import whom: the table of the house in docs/design.md, held against every import statement of the package."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "anqfs"

ORDER = ["errors", "crypto", "store", "namespace", "dicom", "replication", "export", "mount", "control", "cli"]
"""From the ground up. For annotations only (under TYPE_CHECKING) a room may name anything below it."""
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "crypto": {"errors"},
    "store": {"errors", "crypto"},
    "namespace": {"errors", "store"},
    "dicom": {"errors", "namespace"},
    "replication": {"errors", "namespace"},
    "export": {"errors", "namespace"},
    "mount": {"errors", "namespace"},
    "control": {"errors", "crypto", "store", "namespace", "dicom", "replication", "export", "mount"},
    "cli": {"errors", "crypto", "control"},
}
OWNERS = {
    "cryptography": "crypto",
    "lmdb": "store",
    "pyfuse3": "mount",
    "pydicom": "dicom",
    "starlette": "control",
    "hypercorn": "control",
    "typer": "cli",
    "rich": "cli",
}
NOT_IN_NAMESPACE = {"trio", "threading", "socket", "asyncio", "concurrent", "multiprocessing", "subprocess"}


class Import(NamedTuple):
    """One imported module and where."""

    module: str
    where: str
    for_types: bool


def _is_type_checking(test: ast.expr) -> bool:
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING")


def _targets(node: ast.Import | ast.ImportFrom, package: list[str]) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    base = package[: len(package) - node.level + 1] if node.level else []
    name = ".".join(base + ([node.module] if node.module else []))
    return [f"{name}.{alias.name}" for alias in node.names] if name == "anqfs" or not node.module else [name]


def _walk(node: ast.AST, package: list[str], where: str, for_types: bool, found: list[Import]) -> None:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            found.extend(Import(target, f"{where}:{child.lineno}", for_types) for target in _targets(child, package))
        elif isinstance(child, ast.If) and _is_type_checking(child.test):
            for part in child.body:
                _walk(ast.Module([part], []), package, where, True, found)
            for part in child.orelse:
                _walk(ast.Module([part], []), package, where, for_types, found)
        else:
            _walk(child, package, where, for_types, found)


def imports_of(source: str, package: list[str], where: str) -> list[Import]:
    """Return every import of a module, also those inside functions. `package` is its package, as ["anqfs", "store"]."""
    found: list[Import] = []
    _walk(ast.parse(source), package, where, False, found)
    return found


def _room(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def faults(room: str, imports: list[Import]) -> list[str]:
    """Return what the table forbids."""
    wrong = []
    for one in imports:
        parts = one.module.split(".")
        if parts[0] in OWNERS and OWNERS[parts[0]] != room:
            wrong.append(f"{one.where}: only {OWNERS[parts[0]]}/ imports {parts[0]}")
        if room == "namespace" and parts[0] in NOT_IN_NAMESPACE:
            wrong.append(f"{one.where}: namespace/ has no {parts[0]}")
        target = parts[1] if parts[0] == "anqfs" and len(parts) > 1 else ""
        if target not in ORDER or target == room:
            continue
        below = ORDER.index(target) < ORDER.index(room)
        if not (target in MAY_IMPORT[room] or (one.for_types and below)):
            wrong.append(f"{one.where}: {room}/ may not import {one.module}")
    return wrong


MODULES = [path for path in sorted(PACKAGE.rglob("*.py")) if path.parent != PACKAGE or path.stem == "errors"]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_import_is_in_the_table(path: Path) -> None:
    where = str(path.relative_to(PACKAGE.parent))
    package = list(path.relative_to(PACKAGE.parent).parent.parts)
    assert faults(_room(path), imports_of(path.read_text(encoding="utf-8"), package, where)) == []


def test_every_room_is_in_the_table() -> None:
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert rooms <= set(MAY_IMPORT)


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("namespace", "import lmdb"),
        ("namespace", "import trio"),
        ("namespace", "from anqfs.mount import poll"),
        ("namespace", "from ..mount.session import Session"),
        ("namespace", "def f():\n    from anqfs import control\n"),
        ("store", "from anqfs.namespace.namespace import Namespace"),
        ("crypto", "import pyfuse3.asyncio"),
        ("mount", "from ..store.volume import Volume"),
        ("mount", "from .. import store"),
        ("mount", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..control.daemon import Order\n"),
        ("control", "try:\n    from anqfs.cli import app\nexcept ImportError:\n    app = None\n"),
        ("cli", "from anqfs.mount.session import Session"),
        ("errors", "from anqfs.store import schema"),
    ],
)
def test_a_forbidden_import_is_found(room: str, source: str) -> None:
    assert len(faults(room, imports_of(source, ["anqfs", room], "here"))) == 1


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("mount", "import pyfuse3\nfrom ..namespace.namespace import Namespace\nfrom . import poll"),
        ("mount", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..store.volume import Volume\n"),
        ("namespace", "from anqfs.store.schema import Inode\nfrom anqfs.errors import Damaged"),
        ("store", "from anqfs import errors\nimport lmdb"),
        ("cli", "import anqfs\nimport typer\nfrom anqfs.control import locate"),
    ],
)
def test_an_allowed_import_passes(room: str, source: str) -> None:
    assert faults(room, imports_of(source, ["anqfs", room], "here")) == []
