"""Where tests put their files."""

from __future__ import annotations

import tempfile
from pathlib import Path


def _usual_and_above() -> list[Path]:
    usual = Path(tempfile.gettempdir()).resolve()
    return [usual, *usual.parents]


def open_temporary(prefix: str) -> Path:
    """Make a temporary directory that every user may enter: where temporary files go, or else in the nearest directory above it."""
    open_to_all = [place for place in _usual_and_above() if all(each.stat().st_mode & 0o1 for each in (place, *place.parents))]
    path = Path(tempfile.mkdtemp(prefix=prefix, dir=open_to_all[0]))
    path.chmod(0o755)
    return path


def plain_temporary(prefix: str) -> Path:
    """Make a temporary directory whose path has no dot in it."""
    plain = [place for place in _usual_and_above() if "." not in str(place)]
    return Path(tempfile.mkdtemp(prefix=prefix, dir=plain[0]))


def secret_file(path: Path, content: bytes | str) -> Path:
    """Write a file that is its owner's alone, as those with secrets must be, and return its path."""
    path.touch(mode=0o600)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path
