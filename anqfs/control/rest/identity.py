"""Who asks: root (or the daemon's owner) on the Unix socket, or a user of the API who showed a token. Pure."""

from __future__ import annotations

from typing import Any, NamedTuple

ADMINISTRATORS, OBSERVERS = "Administrators", "Observers"
ROLES = (ADMINISTRATORS, OBSERVERS)
"""ANQ's built-in roles that anqfs knows: administrators may do everything, observers may look."""
ADMIN_ID = 500
"""The auth_id of the first user, `admin`; others follow from FIRST_ID on."""
FIRST_ID = 1000
SYSTEM_ID = 1


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
