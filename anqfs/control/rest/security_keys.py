"""`/v1/file-system/security/keys/`: public keys whose private halves unlock snapshots, by id or name."""

from __future__ import annotations

import base64
from contextlib import suppress
from typing import Annotated, Any

import msgspec

from anqfs.control.rest import etags
from anqfs.control.rest.quotas import Paging
from anqfs.control.rest.routing import Answer, Call, Route, limit_of
from anqfs.errors import Damaged, UsageError
from anqfs.store.administration import SecurityKey

_Text = Annotated[str, msgspec.Meta(max_length=4096)]
SNAPSHOT, POLICY = "SNAPSHOT", "SNAPSHOT_POLICY"


class Key(msgspec.Struct):
    """A key: the public half is base64 of DER SubjectPublicKeyInfo."""

    id: str
    name: str
    public_key: str
    comment: str
    disabled: bool


class Keys(msgspec.Struct):
    """All keys, by id."""

    entries: list[Key]


class Creation(msgspec.Struct, forbid_unknown_fields=True):
    """A key and a signature of its private half over its name, base64."""

    name: _Text
    public_key: _Text
    verification_signature: _Text
    comment: _Text = ""


class Change(msgspec.Struct, forbid_unknown_fields=True):
    """What is not null is changed."""

    name: _Text | None = None
    comment: _Text | None = None
    disabled: bool | None = None


class Replacement(msgspec.Struct, forbid_unknown_fields=True):
    """Another key, and the signatures of both over the replacement challenge."""

    replacement_key: _Text
    old_key_verification_signature: _Text
    replacement_key_verification_signature: _Text


class Challenge(msgspec.Struct):
    """What is to be signed."""

    challenge: str


class PageQuery(msgspec.Struct):
    """`after`: the type and id that the page goes on behind."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] | None = None
    after: str = ""


class Usage(msgspec.Struct):
    """What a key locks: `type` is SNAPSHOT or SNAPSHOT_POLICY."""

    type: str
    id: str


class Usages(msgspec.Struct):
    """A page of what a key locks."""

    usages: list[Usage]
    paging: Paging


def _shown(number: int, key: SecurityKey) -> Key:
    return Key(str(number), key.name, base64.b64encode(key.public_key).decode(), key.comment, key.disabled)


def _answer(number: int, key: SecurityKey) -> Answer:
    return Answer(_shown(number, key), etag=etags.of(number, key))


def _number(call: Call) -> int:
    return call.service.namespace.security_keys.find(call.text("ref"))


async def _get_all(call: Call) -> Any:
    """List security keys. Of one whose record is damaged only the id is known."""
    keys = call.service.namespace.security_keys
    shown = {number: _shown(number, key) for number, key in keys.all()}
    lost = {number: Key(str(number), "", "", "the key's record is damaged", True) for number in keys.damaged()}
    return Keys([one for _, one in sorted((shown | lost).items())])


async def _add(call: Call) -> Any:
    """Add a security key, with a proof that somebody has its private half."""
    call.service.must_be_writable()
    keys, wanted = call.service.namespace.security_keys, call.body
    number = keys.add(wanted.name, wanted.public_key, wanted.verification_signature, wanted.comment)
    await call.service.durable()
    return _answer(number, keys.get(number))


async def _get(call: Call) -> Any:
    """Return a security key."""
    number = _number(call)
    return _answer(number, call.service.namespace.security_keys.get(number))


async def _change(call: Call) -> Any:
    """Rename, comment, disable or enable a security key."""
    call.service.must_be_writable()
    number, wanted, keys = _number(call), call.body, call.service.namespace.security_keys
    call.must_match(etags.of(number, keys.get(number)))
    if (wanted.name, wanted.comment, wanted.disabled) == (None, None, None):
        return _answer(number, keys.get(number))
    key = keys.change(number, name=wanted.name, comment=wanted.comment, disabled=wanted.disabled)
    await call.service.durable()
    return _answer(number, key)


async def _delete(call: Call) -> Any:
    """Delete a security key that locks nothing."""
    call.service.must_be_writable()
    number, keys = _number(call), call.service.namespace.security_keys
    with suppress(Damaged):  # of what is damaged nobody knows a version
        call.must_match(etags.of(number, keys.get(number)))
    keys.delete(number)
    await call.service.durable()
    return None


async def _get_usages(call: Call) -> Any:
    """List the snapshots that a security key locks and the policies that lock with it."""
    snapshots, policies = call.service.namespace.security_keys.usages(_number(call))
    every = [(SNAPSHOT, number) for number in sorted(snapshots)] + [(POLICY, number) for number in sorted(policies)]
    most, begin = limit_of(call.query.limit), _behind(call.query.after)
    found = [one for one in every if one > begin][: most + 1]
    after = f"{found[most - 1][0]}:{found[most - 1][1]}" if len(found) > most else None
    return call.page([Usage(kind, str(number)) for kind, number in found[:most]], after=after, name="usages")


def _behind(after: str) -> tuple[str, int]:
    if not after:
        return ("", 0)
    kind, _, number = after.partition(":")
    if kind not in (SNAPSHOT, POLICY) or not (number.isascii() and number.isdigit() and len(number) < 19):
        raise UsageError(f"after is {after[:40]!a}, which no page ended with")
    return kind, int(number)


async def _get_challenge(call: Call) -> Any:
    """Return what both the key and the one that is to replace it must sign."""
    return Challenge(call.service.namespace.security_keys.replace_challenge(_number(call)))


async def _replace(call: Call) -> Any:
    """Replace a security key; its name and what it locks stay."""
    call.service.must_be_writable()
    number, wanted = _number(call), call.body
    key = call.service.namespace.security_keys.replace(
        number, wanted.replacement_key, wanted.old_key_verification_signature, wanted.replacement_key_verification_signature
    )
    await call.service.durable()
    return _answer(number, key)


_KEYS = "/v1/file-system/security/keys/"
ROUTES = [
    Route("GET", _KEYS, _get_all, answer=Keys),
    Route("POST", _KEYS, _add, body=Creation, answer=Key),
    Route("GET", _KEYS + "{ref}", _get, answer=Key),
    Route("PATCH", _KEYS + "{ref}", _change, body=Change, answer=Key),
    Route("DELETE", _KEYS + "{ref}", _delete),
    Route("GET", _KEYS + "{ref}/usages", _get_usages, query=PageQuery, answer=Usages),
    Route("GET", _KEYS + "{ref}/key-replacement-challenge", _get_challenge, answer=Challenge),
    Route("POST", _KEYS + "{ref}/replace", _replace, body=Replacement, answer=Key),
]
