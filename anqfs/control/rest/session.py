"""`/v1/session`: logging in and out, and who one is. The vendor's client keeps the token that a login returns."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from anqfs.control.rest import moments
from anqfs.control.rest.identity import SYSTEM_ID, USERS_GROUP
from anqfs.control.rest.routing import Answer, Call, Route

Text = Annotated[str, msgspec.Meta(max_length=1024)]


class Login(msgspec.Struct):
    """Who one is, and the proof."""

    username: Text
    password: Text

    def __repr__(self) -> str:
        return f"Login({self.username!a})"


class Token(msgspec.Struct):
    """What to send as `Authorization: Bearer TOKEN` from now on."""

    bearer_token: str


class PasswordChange(msgspec.Struct):
    """One's own password."""

    old_password: Text
    new_password: Text

    def __repr__(self) -> str:
        return "PasswordChange()"


class Me(msgspec.Struct):
    """The user who asks."""

    id: str
    name: str
    primary_group: str
    sid: str | None
    uid: str | None
    home_directory: str | None
    can_change_password: bool
    password_last_changed: str | None


async def _login(call: Call) -> Any:
    """Log in with a password; the answer's token is good for ten hours."""
    return Token(await call.service.accounts.login(call.body.username, call.body.password))


async def _logout(call: Call) -> Any:
    """End the session whose token is sent."""
    call.service.accounts.logout(call.request.headers.get("authorization", ""))
    return Answer()


async def _who_am_i(call: Call) -> Any:
    """Return who asks."""
    is_user = call.who.number != SYSTEM_ID
    changed = moments.shown(call.service.accounts.users.get(call.who.number).changed) if is_user else None
    return Me(str(call.who.number), call.who.name, str(USERS_GROUP), None, None, None, is_user, changed)


async def _roles(call: Call) -> Any:
    """Return the roles of who asks."""
    return [call.who.role]


async def _change_password(call: Call) -> Any:
    """Change one's own password."""
    call.service.must_be_writable()
    await call.service.accounts.change_password(call.who, call.body.old_password, call.body.new_password)
    await call.service.durable()
    return Answer()


ROUTES = [
    Route("POST", "/v1/session/login", _login, body=Login, answer=Token, public=True),
    Route("POST", "/v1/session/logout", _logout, personal=True),
    Route("GET", "/v1/session/who-am-i", _who_am_i, answer=Me),
    Route("GET", "/v1/session/roles", _roles, answer=list[str]),
    Route("POST", "/v1/session/change-password", _change_password, body=PasswordChange, personal=True),
]
