"""`/v1/auth/access-tokens/`: long-lived tokens. One is shown once, when it is made; the volume keeps only its digest."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from anqfs.control.rest import moments
from anqfs.control.rest.identity import ROOT, Identity
from anqfs.control.rest.routing import Answer, Call, Route, limit_of
from anqfs.errors import NotFound, UsageError
from anqfs.store.administration import AccessToken, ApiUser

Text = Annotated[str, msgspec.Meta(max_length=256)]


class Named(msgspec.Struct):
    """A user, by number or by name."""

    auth_id: Text | None = None
    name: Text | None = None


class Creation(msgspec.Struct):
    """Whose the token is, and when it ends; without a time it does not."""

    user: Named
    expiration_time: Text | None = None


class Change(msgspec.Struct):
    """What can be changed of a token."""

    expiration_time: Text | None = None
    enabled: bool | None = None


class Made(msgspec.Struct):
    """A new token."""

    id: str
    bearer_token: str


class Metadata(msgspec.Struct):
    """What is known of a token."""

    id: str
    user: dict[str, Any]
    creator: dict[str, Any]
    creation_time: str
    expiration_time: str | None
    enabled: bool


class ListQuery(msgspec.Struct):
    """One page; `user`: only that user's tokens, by number or name."""

    user: Text | None = None
    after: Text | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] | None = None


class Page(msgspec.Struct):
    """One page of tokens."""

    entries: list[Metadata]
    paging: dict[str, str]


def _found(call: Call, named: Named) -> tuple[int, ApiUser]:
    """Return the user that is named. Raises NotFound, UsageError."""
    users = call.service.accounts.users
    if named.auth_id is not None:
        if not (named.auth_id.isascii() and named.auth_id.isdigit() and len(named.auth_id) < 20 and int(named.auth_id) < 1 << 63):
            raise UsageError(f"the auth_id {named.auth_id[:40]!a} is not a number")
        return int(named.auth_id), users.get(int(named.auth_id))
    if named.name is None:
        raise UsageError("name the user by auth_id or name")
    return users.find(named.name)


def _identity(call: Call, number: int) -> dict[str, Any]:
    """Return who a number is; one who was removed has no name any more."""
    if number == ROOT.number:
        return ROOT.document()
    try:
        return Identity(number, call.service.accounts.users.get(number).name, "").document()
    except NotFound:
        return {**Identity(number, "", "").document(), "name": None}


def _metadata(call: Call, number: int, token: AccessToken) -> Metadata:
    return Metadata(
        id=token.id.hex(),
        user=_identity(call, number),
        creator=_identity(call, token.creator),
        creation_time=moments.shown(token.created),
        expiration_time=moments.shown(token.expires) if token.expires else None,
        enabled=token.enabled,
    )


def _token(call: Call) -> tuple[int, AccessToken]:
    """Return the token that the path names, and whose it is. Raises NotFound."""
    try:
        wanted = bytes.fromhex(call.text("id"))
    except ValueError:
        wanted = b""
    return call.service.accounts.users.token(wanted)


async def _get_all(call: Call) -> Any:
    """List the tokens, one page at a time."""
    query: ListQuery = call.query
    users = call.service.accounts.users
    if query.user is None:
        every = [(number, token) for number, user in users.all() for token in user.tokens]
    else:
        number, user = _found(call, Named(auth_id=query.user) if query.user.isdigit() else Named(name=query.user.removeprefix("local:")))
        every = [(number, token) for token in user.tokens]
    every.sort(key=lambda one: one[1].id)
    left = [one for one in every if query.after is None or one[1].id.hex() > query.after]
    shown = left[: limit_of(query.limit)]
    after = shown[-1][1].id.hex() if len(shown) < len(left) else None
    return call.page([_metadata(call, number, token) for number, token in shown], after=after)


async def _create(call: Call) -> Any:
    """Make a token for a user. It is shown this once."""
    service, wanted = call.service, call.body
    service.must_be_writable()
    number, _ = _found(call, wanted.user)
    name, bearer = service.accounts.new_access_token(number, call.who.number, moments.expiration(wanted.expiration_time or ""))
    await service.durable()
    return Made(name, bearer)


async def _get(call: Call) -> Any:
    """Return what is known of a token."""
    return _metadata(call, *_token(call))


async def _modify(call: Call) -> Any:
    """Change when a token ends, or whether it is let in."""
    service, wanted = call.service, call.body
    service.must_be_writable()
    number, token = _token(call)
    if wanted.expiration_time is not None:
        token = msgspec.structs.replace(token, expires=moments.expiration(wanted.expiration_time))
    if wanted.enabled is not None:
        token = msgspec.structs.replace(token, enabled=wanted.enabled)
    service.accounts.users.replace_token(number, token)
    await service.durable()
    return _metadata(call, number, token)


async def _delete(call: Call) -> Any:
    """Revoke a token."""
    call.service.must_be_writable()
    number, token = _token(call)
    call.service.accounts.users.remove_token(number, token.id)
    await call.service.durable()
    return Answer()


ROUTES = [
    Route("GET", "/v1/auth/access-tokens/", _get_all, query=ListQuery, answer=Page),
    Route("POST", "/v1/auth/access-tokens/", _create, body=Creation, answer=Made),
    Route("GET", "/v1/auth/access-tokens/{id}", _get, answer=Metadata),
    Route("PATCH", "/v1/auth/access-tokens/{id}", _modify, body=Change, answer=Metadata),
    Route("DELETE", "/v1/auth/access-tokens/{id}", _delete),
]
