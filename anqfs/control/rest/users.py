"""`/v1/users/`: the users of the API. They live in the volume; the first is `admin`."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated, Any

import msgspec

from anqfs.control.rest import etags, moments
from anqfs.control.rest.faults import Refused
from anqfs.control.rest.identity import ADMINS_GROUP, USERS_GROUP
from anqfs.control.rest.routing import Answer, Call, Route
from anqfs.errors import Damaged
from anqfs.namespace.api_users import ADMINISTRATORS, OBSERVERS
from anqfs.store.administration import ApiUser

Text = Annotated[str, msgspec.Meta(max_length=1024)]


class User(msgspec.Struct):
    """A user of the API."""

    id: str
    name: str
    primary_group: str
    sid: str | None
    uid: str | None
    home_directory: str | None
    role: str
    creation_time: str
    password_last_changed: str
    access_tokens: int


class NewUser(msgspec.Struct):
    """A user to add. `role` says what the user may do, else `primary_group`: 512 (Administrators) everything, any other only look."""

    name: Text
    password: Text
    primary_group: Text = ""
    role: Text | None = None
    uid: Text | None = None
    home_directory: Text | None = None

    def __repr__(self) -> str:
        return f"NewUser({self.name!a})"


class ChangedUser(msgspec.Struct):
    """A user as it is to be: only the password can be changed."""

    name: Text | None = None
    password: Text | None = None

    def __repr__(self) -> str:
        return f"ChangedUser({self.name!a})"


class NewPassword(msgspec.Struct):
    """A password to set."""

    new_password: Text

    def __repr__(self) -> str:
        return "NewPassword()"


class Group(msgspec.Struct):
    """A group that a user is in."""

    id: str
    name: str
    sid: str | None = None
    gid: str | None = None


def _user(number: int, user: ApiUser) -> User:
    return User(
        id=str(number),
        name=user.name,
        primary_group=str(USERS_GROUP),
        sid=None,
        uid=None,
        home_directory=None,
        role=user.role,
        creation_time=moments.shown(user.created),
        password_last_changed=moments.shown(user.changed),
        access_tokens=len(user.tokens),
    )


def _role_of(primary_group: str) -> str:
    """Return the role of a new user for whom none is named: nobody becomes as good as root by leaving something out."""
    return ADMINISTRATORS if primary_group == str(ADMINS_GROUP) else OBSERVERS


def _answer(call: Call, number: int) -> Answer:
    user = call.service.accounts.users.get(number)
    return Answer(_user(number, user), etag=etags.of(number, user))


async def _get_all(call: Call) -> Any:
    """List the users."""
    return [_user(number, user) for number, user in call.service.accounts.users.all()]


async def _get(call: Call) -> Any:
    """Return a user."""
    return _answer(call, call.number("id"))


async def _add(call: Call) -> Any:
    """Add a user."""
    wanted: NewUser = call.body
    accounts = call.service.accounts
    call.service.must_be_writable()
    password = await accounts.hashed(wanted.password)
    number = accounts.users.add(wanted.name, wanted.role or _role_of(wanted.primary_group), password)
    await call.service.durable()
    return _answer(call, number)


async def _set_password(call: Call, number: int, password: str) -> None:
    accounts = call.service.accounts
    call.service.must_be_writable()
    user = accounts.users.get(number)
    hashed = await accounts.hashed(password)
    call.must_match(etags.of(number, user))
    accounts.users.set_password(number, hashed)
    await call.service.durable()


async def _change(call: Call) -> Any:
    """Set a user's password."""
    wanted: ChangedUser = call.body
    number = call.number("id")
    if wanted.name is not None and wanted.name != call.service.accounts.users.get(number).name:
        raise Refused(400, "auth_cannot_rename_user_error", "a user cannot be renamed: add another one")
    if wanted.password is not None:
        await _set_password(call, number, wanted.password)
    return _answer(call, number)


async def _post_password(call: Call) -> Any:
    """Set a user's password, which ends the user's sessions."""
    await _set_password(call, call.number("id"), call.body.new_password)
    return Answer()


async def _remove(call: Call) -> Any:
    """Remove a user with all sessions and access tokens; the last administrator stays."""
    number = call.number("id")
    call.service.must_be_writable()
    with suppress(Damaged):  # of what is damaged nobody knows a version
        call.must_match(_answer(call, number).etag or "")
    call.service.accounts.users.remove(number)
    await call.service.durable()
    return Answer()


async def _groups(call: Call) -> Any:
    """Return the groups that a user is in: one for all, and one for the administrators."""
    role = call.service.accounts.users.get(call.number("id")).role
    groups = [Group(str(USERS_GROUP), "Users")]
    return groups if role == OBSERVERS else [*groups, Group(str(ADMINS_GROUP), "Administrators")]


ROUTES = [
    Route("GET", "/v1/users/", _get_all, answer=list[User]),
    Route("POST", "/v1/users/", _add, body=NewUser, answer=User),
    Route("GET", "/v1/users/{id}", _get, answer=User),
    Route("PUT", "/v1/users/{id}", _change, body=ChangedUser, answer=User),
    Route("DELETE", "/v1/users/{id}", _remove),
    Route("POST", "/v1/users/{id}/setpassword", _post_password, body=NewPassword),
    Route("GET", "/v1/users/{id}/groups/", _groups, answer=list[Group]),
]
