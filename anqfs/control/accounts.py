"""Who may use the API: passwords, sessions in memory, access tokens in the volume, and a brake on guessing. Trio thread.

A token that is sent is `session-v1:` or `access-v1:` and base64url. A session's 32 random bytes are looked up by their digest; an access
token says which user and which token it is, and its digest is compared in constant time. Nothing here is ever logged.
"""

from __future__ import annotations

import base64
import binascii
import os
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from struct import Struct
from typing import NamedTuple, TypeVar

import trio

from anqfs.control.rest.faults import Refused
from anqfs.control.rest.identity import Identity
from anqfs.crypto import passwords
from anqfs.errors import Damaged, NotFound, UsageError
from anqfs.namespace.api_users import ApiUsers
from anqfs.store.administration import AccessToken, ApiUser

SESSION_NS = 10 * 3600 * 1_000_000_000
"""How long a login lasts."""
SESSIONS_MAX = 1024
FAILURES_MAX = 10
"""Wrong passwords for one name within WINDOW_NS, above which nobody is let in by that name."""
ALL_FAILURES_MAX = 100
"""The same for all names together."""
WINDOW_NS = 60 * 1_000_000_000
_NAMES_MAX = 1000
_DERIVATIONS = 2
"""Passwords that are looked at at once: each takes 32 MiB."""
_WAITING_MAX = 32
"""Logins that wait for their turn; more are refused."""
_SESSION, _ACCESS = "session-v1:", "access-v1:"
_TOKEN = Struct(f">Q8s{passwords.TOKEN_BYTES}s")
_TOKEN_ID_BYTES = 8


R = TypeVar("R")


class _Session(NamedTuple):
    number: int
    password: bytes
    expires: int


class Attempts:
    """Counts wrong passwords within the last minute, by name and altogether. Bounded."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._by_name: OrderedDict[str, deque[int]] = OrderedDict()
        self._all: deque[int] = deque(maxlen=ALL_FAILURES_MAX)

    def check(self, name: str) -> None:
        """Raise Refused (429) when there were too many."""
        start = self._clock() - WINDOW_NS
        mine = self._by_name.get(name, deque())
        for failures, limit in ((mine, FAILURES_MAX), (self._all, ALL_FAILURES_MAX)):
            while failures and failures[0] < start:
                failures.popleft()
            if len(failures) >= limit:
                raise Refused(429, "auth_too_many_attempts_error", "there were too many wrong passwords: try again in a minute")

    def failed(self, name: str) -> None:
        """Note a wrong password."""
        now = self._clock()
        self._all.append(now)
        self._by_name.setdefault(name, deque(maxlen=FAILURES_MAX)).append(now)
        self._by_name.move_to_end(name)
        if len(self._by_name) > _NAMES_MAX:
            self._by_name.popitem(last=False)


class Accounts:
    """The users of one volume's API, while its daemon runs."""

    def __init__(self, users: ApiUsers, clock: Callable[[], int] = time.time_ns) -> None:
        """`clock`: ns since 1970, for what expires."""
        self.users = users
        self._clock = clock
        self._sessions: OrderedDict[bytes, _Session] = OrderedDict()
        self._attempts = Attempts(clock)
        self._limiter = trio.CapacityLimiter(_DERIVATIONS)
        self._nobody: bytes | None = None

    # --- passwords

    async def hashed(self, password: str) -> bytes:
        """Return the hash of a new password. Raises UsageError when it cannot be one."""
        data = password.encode("utf-8", "surrogatepass")
        if not 1 <= len(data) <= passwords.PASSWORD_MAX:
            raise UsageError(f"a password has 1 to {passwords.PASSWORD_MAX} bytes")
        return await self._derive(passwords.hashed, data)

    async def is_password(self, user: ApiUser | None, password: str) -> bool:
        """Tell whether a password is the user's; for nobody it takes as long, so that names cannot be found out."""
        if self._nobody is None:
            self._nobody = await self._derive(passwords.hashed, passwords.new_token())
        kept = self._nobody if user is None else user.password
        data = password.encode("utf-8", "surrogatepass")[: passwords.PASSWORD_MAX + 1]
        return await self._derive(passwords.is_password, data, kept) and user is not None

    async def _derive(self, function: Callable[..., R], *arguments: bytes) -> R:
        if self._limiter.statistics().tasks_waiting >= _WAITING_MAX:
            raise Refused(429, "auth_too_many_attempts_error", "there are too many logins at once: try again in a moment")
        return await trio.to_thread.run_sync(function, *arguments, limiter=self._limiter)

    # --- sessions

    async def login(self, name: str, password: str) -> str:
        """Return a new session's token. Raises Refused: 401, or 429 after too many wrong passwords."""
        self._attempts.check(name)
        try:
            number, user = self.users.find(name)
        except NotFound:
            number, user = 0, None
        if not await self.is_password(user, password) or user is None:
            self._attempts.failed(name)
            raise Refused(401, "auth_invalid_credentials_error", "the name or the password is wrong")
        token = passwords.new_token()
        self._sessions[passwords.digest(token)] = _Session(number, user.password, self._clock() + SESSION_NS)
        while len(self._sessions) > SESSIONS_MAX:
            self._sessions.popitem(last=False)
        return _SESSION + _text(token)

    async def change_password(self, who: Identity, old: str, new: str) -> None:
        """Change one's own password, which ends one's sessions. Raises Refused, UsageError."""
        user = self.users.get(who.number)
        self._attempts.check(user.name)
        if not await self.is_password(user, old):
            self._attempts.failed(user.name)
            raise Refused(401, "auth_invalid_credentials_error", "the old password is wrong")
        self.users.set_password(who.number, await self.hashed(new))

    def logout(self, authorization: str) -> None:
        """End the session of an Authorization header, if it is one."""
        token = _bytes(_bearer(authorization).removeprefix(_SESSION))
        if token is not None:
            self._sessions.pop(passwords.digest(token), None)

    # --- who is it

    def who(self, authorization: str | None) -> Identity | None:
        """Return whose token an Authorization header shows; None for none, a wrong one, or one that is over."""
        bearer = _bearer(authorization or "")
        if bearer.startswith(_SESSION):
            return self._of_session(_bytes(bearer[len(_SESSION) :]))
        if bearer.startswith(_ACCESS):
            return self._of_access_token(_bytes(bearer[len(_ACCESS) :]))
        return None

    def _of_session(self, token: bytes | None) -> Identity | None:
        key = passwords.digest(token or b"")
        session = self._sessions.get(key)
        if session is None:
            return None
        user = self._user(session.number)
        if user is None or user.password != session.password or session.expires <= self._clock():
            del self._sessions[key]
            return None
        return Identity(session.number, user.name, user.role)

    def _of_access_token(self, token: bytes | None) -> Identity | None:
        if token is None or len(token) != _TOKEN.size:
            return None
        number, wanted, secret = _TOKEN.unpack(token)
        user = self._user(number)
        for kept in user.tokens if user is not None else ():
            if kept.id == wanted and passwords.is_token(secret, kept.digest) and self._is_good(kept):
                assert user is not None
                return Identity(number, user.name, user.role)
        return None

    def _is_good(self, token: AccessToken) -> bool:
        return token.enabled and (token.expires == 0 or token.expires > self._clock())

    def _user(self, number: int) -> ApiUser | None:
        try:
            return self.users.get(number)
        except (Damaged, NotFound):
            return None

    # --- access tokens

    def new_access_token(self, number: int, creator: int, expires: int) -> tuple[str, str]:
        """Give a user a token; returns its id and the token itself, which is never told again. Raises NotFound, UsageError."""
        secret, token = passwords.new_token(), os.urandom(_TOKEN_ID_BYTES)
        if expires and expires <= self._clock():
            raise UsageError("the expiration time is over already")
        self.users.add_token(number, AccessToken(token, passwords.digest(secret), creator, self._clock(), expires))
        return token.hex(), _ACCESS + _text(_TOKEN.pack(number, token, secret))


def _bearer(authorization: str) -> str:
    scheme, _, token = authorization.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _text(token: bytes) -> str:
    return base64.urlsafe_b64encode(token).decode("ascii").rstrip("=")


def _bytes(text: str) -> bytes | None:
    """Return the bytes of a token; None when it is none."""
    if len(text) > 128:
        return None
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
