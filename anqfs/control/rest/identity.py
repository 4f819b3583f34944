"""Who asks: root (or the daemon's owner) on the Unix socket, or a user of the API who showed a token. Pure.

Users of the API act as root of the namespace: modes and ACLs do not hold them back, roles do.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from anqfs.namespace.api_users import ADMINISTRATORS

SYSTEM_ID = 1
"""ANQ's auth_id of the system itself."""
USERS_GROUP, ADMINS_GROUP = 513, 512
"""ANQ's auth_ids of the groups that all users, and administrators, are in."""


class Identity(NamedTuple):
    """One user of the API. `number` is ANQ's auth_id."""

    number: int
    name: str
    role: str

    @property
    def may_change(self) -> bool:
        """Whether the user may do more than look."""
        return self.role == ADMINISTRATORS

    def document(self) -> dict[str, Any]:
        """Return the identity as ANQ shows it."""
        return {"domain": "LOCAL", "auth_id": str(self.number), "uid": None, "gid": None, "sid": None, "name": self.name}


ROOT = Identity(SYSTEM_ID, "root", ADMINISTRATORS)
"""Whoever can open the Unix socket."""
NOBODY = Identity(0, "nobody", "")
"""Whoever has not logged in yet."""
