"""The users of the API and their access tokens, kept in the volume. Called by `control/accounts`, on the trio thread.

A user is one record with the tokens in it, so that whoever removes a user removes all ways in. There is always an administrator, and the
first user is `admin`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator

from msgspec.structs import replace

from anqfs.errors import Damaged, NotFound, UsageError
from anqfs.namespace.core import RECORD_ROOM, Core, operation
from anqfs.store.administration import AccessToken, ApiUser, api_user_key
from anqfs.store.schema import prefix_end

_log = logging.getLogger(__name__)
ADMINISTRATORS, OBSERVERS = "Administrators", "Observers"
ROLES = (ADMINISTRATORS, OBSERVERS)
"""ANQ's built-in roles that anqfs knows: administrators may do everything, observers may look, but not into files."""
ADMIN = "admin"
ADMIN_ID = 500
"""ANQ's auth_id of the first user; others follow from FIRST_ID on."""
FIRST_ID = 1000
USERS_MAX = 1000
TOKENS_MAX = 100
"""Tokens of one user."""
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._@-]{0,63}", re.ASCII)


class ApiUsers:
    """The users of the API of one volume."""

    def __init__(self, core: Core) -> None:
        self.core = core

    def all(self) -> Iterator[tuple[int, ApiUser]]:
        """Yield each user's number and record. One whose record is damaged is nobody, and keeps nobody else out."""
        for number in self._numbers():
            try:
                yield number, self.get(number)
            except Damaged as error:
                _log.error("the API user with the id %d is damaged and let in no more: %s", number, error)

    def _numbers(self) -> list[int]:
        return [int.from_bytes(key[1:], "big") for key in self.core.volume.scan_keys(b"A", prefix_end(b"A"))]

    def get(self, number: int) -> ApiUser:
        """Return a user. Raises NotFound, Damaged."""
        found = self.core.get(api_user_key(number))
        if not isinstance(found, ApiUser):
            raise NotFound(f"there is no API user with the id {number}: `anqfs api user list` shows them")
        return found

    def find(self, name: str) -> tuple[int, ApiUser]:
        """Return the number and record of the user of a name. Raises NotFound."""
        for number, user in self.all():
            if user.name == name:
                return number, user
        raise NotFound(f"there is no API user {name[:64]!a}: `anqfs api user list` shows them")

    @operation
    def add(self, name: str, role: str, password: bytes) -> int:
        """Add a user with the hash of a password and return the number. Raises UsageError."""
        users = dict(self.all())
        _check(name, role)
        if not users and (name != ADMIN or role != ADMINISTRATORS):
            raise UsageError(f"the first API user is {ADMIN!a}: add it first")
        if any(user.name == name for user in users.values()):
            raise UsageError(f"there is an API user {name!a} already: `anqfs api user passwd` sets a new password")
        if len(users) >= USERS_MAX:
            raise UsageError(f"there are {USERS_MAX} API users already")
        number = ADMIN_ID if name == ADMIN else max([FIRST_ID - 1, *self._numbers()]) + 1
        now = self.core.clock()
        self._put(number, ApiUser(name, role, password, now, now))
        return number

    @operation
    def set_password(self, number: int, password: bytes) -> None:
        """Set the hash of a user's password. Raises NotFound."""
        self._put(number, replace(self.get(number), password=password, changed=self.core.clock()))

    @operation
    def remove(self, number: int) -> None:
        """Remove a user and the tokens; one whose record is damaged, too. Raises NotFound, UsageError for the last administrator."""
        try:
            self._check_goes(number)
        except Damaged as error:
            _log.warning("the API user with the id %d is removed, the record is damaged: %s", number, error)
        self.core.volume.delete(api_user_key(number))

    def _check_goes(self, number: int) -> None:
        user = self.get(number)
        others = [one for other, one in self.all() if other != number and one.role == ADMINISTRATORS]
        if user.role == ADMINISTRATORS and not others:
            raise UsageError(f"{user.name!a} is the last administrator: add another one first")

    # --- tokens

    @operation
    def add_token(self, number: int, token: AccessToken) -> None:
        """Give a user a token. Raises NotFound, UsageError."""
        user = self.get(number)
        if len(user.tokens) >= TOKENS_MAX:
            raise UsageError(f"{user.name!a} has {TOKENS_MAX} access tokens already: revoke one first")
        self._put(number, replace(user, tokens=(*user.tokens, token)))

    @operation
    def replace_token(self, number: int, token: AccessToken) -> None:
        """Replace a user's token by another one with the same id. Raises NotFound."""
        user = self.get(number)
        self._put(number, replace(user, tokens=tuple(token if one.id == token.id else one for one in user.tokens)))

    @operation
    def remove_token(self, number: int, token: bytes) -> None:
        """Take a token, named by its id, from a user. Raises NotFound."""
        user = self.get(number)
        self._put(number, replace(user, tokens=tuple(one for one in user.tokens if one.id != token)))

    def token(self, wanted: bytes) -> tuple[int, AccessToken]:
        """Return the user's number and the token of an id. Raises NotFound."""
        for number, user in self.all():
            for token in user.tokens:
                if token.id == wanted:
                    return number, token
        raise NotFound("there is no access token with this id: `anqfs api token list` shows them")

    def _put(self, number: int, user: ApiUser) -> None:
        self.core.room(RECORD_ROOM)
        self.core.volume.put(api_user_key(number), user)


def _check(name: str, role: str) -> None:
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name[:64]!a} is no name for an API user: use up to 64 letters, digits and . _ @ -, beginning with a letter or digit"
        )
    if role not in ROLES:
        raise UsageError(f"the role is one of {', '.join(ROLES)}, not {role[:40]!a}")
