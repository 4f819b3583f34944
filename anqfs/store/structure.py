"""Whether the pages of a store's databases form sound trees. Called on a store that nobody has open; any thread.

LMDB trusts its files: a page that is not of the kind its parent says ends the process. py-lmdb's verifier reads a file without LMDB, so
what somebody, or a failing disk, did to a tree becomes a sentence. It reads the pages of keys, not those of large values: a hundred
thousand files take it half a second.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from lmdb import verify as lmdb_verify

from anqfs.store.creation import EXTENTS, RECORDS

_verify: Callable[[str, bool], list[str]] = lmdb_verify.verify
_LISTED = 20
"""Faults told of one database; of more only their number."""


def faults(store: bytes) -> list[str]:
    """Return what is wrong with the trees of the databases in the directory `store`, a sentence each; none if they are sound."""
    found: list[str] = []
    for name, what in ((RECORDS, "record"), (EXTENTS, "extent")):
        listed = _faults(os.path.join(store, name))
        found += [f"the tree of the {what} database is not sound: {fault}" for fault in listed[:_LISTED]]
        if len(listed) > _LISTED:
            found.append(f"the tree of the {what} database has {len(listed) - _LISTED} more faults, at least")
    return found


def _faults(environment: bytes) -> list[str]:
    try:
        return list(_verify(os.fsdecode(environment), True))
    except (lmdb_verify.VerifyError, ValueError) as error:
        return [str(error)]
    except OSError as error:
        return [f"its file cannot be read: {error.strerror}"]
