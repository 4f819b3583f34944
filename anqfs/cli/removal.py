"""What is about to be removed, for the commands that remove something. A record that is damaged cannot be shown, but it can be removed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from anqfs.errors import Damaged


def about_to_go(look: Callable[[], dict[str, Any]], damaged: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what `look` finds; when its record is damaged, what `damaged` can say of it without the record."""
    try:
        return look()
    except Damaged:
        return damaged()
