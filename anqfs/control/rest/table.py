"""The table of all routes: every module of this package that has ROUTES is part of it. Called when a daemon starts."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from anqfs.control import rest
from anqfs.control.rest.routing import Route, Table


@cache
def table() -> Table:
    """Return the routes of all resources."""
    found: list[Route] = []
    for module in sorted(pkgutil.iter_modules(rest.__path__), key=lambda one: one.name):
        found.extend(getattr(importlib.import_module(f"{rest.__name__}.{module.name}"), "ROUTES", ()))
    return Table(found)
