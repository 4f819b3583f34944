"""The recipes of docs/operations.md, as they stand there."""

from __future__ import annotations

import textwrap
from pathlib import Path

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "operations.md"


def blocks(heading: str) -> list[str]:
    """Return the indented blocks of the section with this heading . Raises StopIteration when there is none."""
    lines = iter(DOCUMENT.read_text(encoding="utf-8").splitlines())
    level = next(line for line in lines if line.lstrip("#") == f" {heading}").split(" ")[0]
    found: list[list[str]] = [[]]
    for line in lines:
        if line.startswith("#") and len(line.split(" ")[0]) <= len(level):
            break
        if line.startswith("    "):
            found[-1].append(line)
        elif line and found[-1]:
            found.append([])
        elif found[-1]:
            found[-1].append("")
    return [textwrap.dedent("\n".join(block)).strip("\n") + "\n" for block in found if block]
