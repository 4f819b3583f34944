"""The key store: public keys whose private halves unlock snapshots. Called by `control/`, on the trio thread.

A key comes in only with a proof that somebody has its private half: a signature over the key's name. It can be replaced by another one, for
which both sign a challenge; what the old one locked, the new one unlocks from then on. A disabled key locks nothing more, and still
unlocks. A key that locks something, or that a policy locks with, stays.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

from msgspec.structs import replace

from anqfs.errors import AlreadyThere, BadSignature, Damaged, NotFound, SecurityKeyInUse, UsageError
from anqfs.namespace.core import RECORD_ROOM, Core, operation
from anqfs.store.administration import COUNTER_SECURITY_KEY, Policy, SecurityKey, security_key_key
from anqfs.store.schema import Counter, prefix_end
from anqfs.store.signatures import from_base64, is_signature, public_key

_log = logging.getLogger(__name__)
KEYS_MAX = 1000
NAME_MAX = 64
"""Characters of a key's name. Challenges are longer, so that nobody who signs a name signs a challenge."""
COMMENT_MAX = 1000


class SecurityKeys:
    """The security keys of a volume."""

    def __init__(self, core: Core) -> None:
        self.core = core

    def all(self) -> Iterator[tuple[int, SecurityKey]]:
        """Yield each key's number and record, in the order in which they came, without those whose records are damaged."""
        for number in self._numbers():
            try:
                yield number, self.get(number)
            except Damaged as error:
                _log.error("security key %d is damaged and unlocks nothing: %s", number, error)

    def damaged(self) -> list[int]:
        """Return the numbers of the keys whose records are damaged."""
        sound = {number for number, _ in self.all()}
        return [number for number in self._numbers() if number not in sound]

    def _numbers(self) -> list[int]:
        return [int.from_bytes(key[1:], "big") for key in self.core.volume.scan_keys(b"Y", prefix_end(b"Y"))]

    def get(self, number: int) -> SecurityKey:
        """Return a key. Raises NotFound, Damaged."""
        found = self.core.get(security_key_key(number))
        if not isinstance(found, SecurityKey):
            raise NotFound(f"there is no security key {number}: `anqfs security-key list` shows them")
        return found

    def find(self, ref: str) -> int:
        """Return the number of the key with this number or name. Raises NotFound."""
        if ref.isascii() and ref.isdigit() and len(ref) <= 18 and int(ref) in self._numbers():
            return int(ref)
        for number, key in self.all():
            if key.name == ref:
                return number
        raise NotFound(f"there is no security key {ref[:NAME_MAX]!a}: `anqfs security-key list` shows them")

    def usages(self, number: int) -> tuple[list[int], list[int]]:
        """Return the ids of the snapshots that a key, be it damaged, locks and of the policies that lock with it. Raises NotFound."""
        if number not in self._numbers():
            self.get(number)
        snapshots = [one.id for one in self.core.versions.live if one.lock_key == number]
        return snapshots, self._policies(number)

    def _policies(self, number: int) -> list[int]:
        """Return the policies that lock with a key. A damaged one may, so it is among them until it is deleted."""
        return [
            int.from_bytes(key[1:], "big")
            for key in self.core.volume.scan_keys(b"P", prefix_end(b"P"))
            if (found := self._policy_or_none(key)) is None or found.lock_key == number
        ]

    def _policy_or_none(self, key: bytes) -> Policy | None:
        try:
            found: Policy | None = self.core.get(key)
        except Damaged:
            return None
        return found

    @operation
    def add(self, name: str, key: str, signature: str, comment: str = "") -> int:
        """Add a public key (PEM, or base64 of DER) and return its number. `signature`: over the name, base64.

        Raises UsageError, BadSignature, AlreadyThere.
        """
        public = public_key(key)
        self._check_name(name, None)
        _check_comment(comment)
        _check_signature(public, name, signature, "the key's name")
        if sum(1 for _ in self.all()) >= KEYS_MAX:
            raise UsageError(f"there are {KEYS_MAX} security keys already: delete one that locks nothing")
        counter: Counter | None = self.core.get(COUNTER_SECURITY_KEY)
        number = counter.value if counter is not None else 1
        self.core.room(RECORD_ROOM)
        self.core.volume.put(COUNTER_SECURITY_KEY, Counter(number + 1))
        self.core.volume.put(security_key_key(number), SecurityKey(name, public, comment))
        return number

    @operation
    def change(self, number: int, *, name: str | None = None, comment: str | None = None, disabled: bool | None = None) -> SecurityKey:
        """Rename, comment, disable or enable a key: what is not None. Raises NotFound, UsageError, AlreadyThere, SecurityKeyInUse."""
        key = self.get(number)
        if name is not None:
            self._check_name(name, number)
            key = replace(key, name=name)
        if comment is not None:
            _check_comment(comment)
            key = replace(key, comment=comment)
        if disabled is not None:
            policies = self._policies(number)
            if disabled and policies:
                raise SecurityKeyInUse(
                    f"security key {key.name!a} locks what snapshot policy {policies[0]} makes: give the policy another key"
                )
            key = replace(key, disabled=disabled)
        return self._put(number, key)

    def replace_challenge(self, number: int) -> str:
        """Return what both the key and the one that is to replace it must sign. Raises NotFound."""
        return f"anqfs:replace-security-key:{self.core.volume.uuid}:key={number}:version={self.get(number).version}"

    @operation
    def replace(self, number: int, key: str, old_signature: str, new_signature: str) -> SecurityKey:
        """Replace a key by another one; number, name and what it locks stay. Raises NotFound, UsageError, BadSignature."""
        old, public, challenge = self.get(number), public_key(key), self.replace_challenge(number)
        _check_signature(old.public_key, challenge, old_signature, "the challenge, by the old key")
        _check_signature(public, challenge, new_signature, "the challenge, by the new key")
        return self._put(number, replace(old, public_key=public))

    @operation
    def delete(self, number: int) -> None:
        """Delete a key that nothing uses. Raises NotFound, SecurityKeyInUse."""
        self.check_unused(number)
        self.core.volume.delete(security_key_key(number))

    def check_unused(self, number: int) -> None:
        """Raise SecurityKeyInUse when something is locked with a key, or will be; NotFound."""
        snapshots, policies = self.usages(number)
        if snapshots or policies:
            what = f"snapshot {snapshots[0]}" if snapshots else f"what snapshot policy {policies[0]} makes"
            raise SecurityKeyInUse(f"security key {number} locks {what}: `anqfs security-key show` lists all")

    def for_locking(self, ref: str) -> int:
        """Return the number of a key that may lock something. Raises NotFound, UsageError for a disabled one."""
        number = self.find(ref)
        if self.get(number).disabled:
            raise UsageError(f"security key {self.get(number).name!a} is disabled: enable it, or lock with another one")
        return number

    def check_signed(self, number: int, message: str, signature: str) -> None:
        """Raise BadSignature unless a key, disabled or not, signed this message."""
        _check_signature(self.get(number).public_key, message, signature, "the challenge that is valid now")

    def _put(self, number: int, key: SecurityKey) -> SecurityKey:
        key = replace(key, version=key.version + 1)
        self.core.room(RECORD_ROOM)
        self.core.volume.put(security_key_key(number), key)
        return key

    def _check_name(self, name: str, number: int | None) -> None:
        if not name or len(name) > NAME_MAX or name.isdigit() or not name.isprintable():
            raise UsageError(f"a security key's name has 1 to {NAME_MAX} printable characters and not only digits")
        if any(key.name == name and other != number for other, key in self.all()):
            raise AlreadyThere(f"there is a security key {name!a} already: choose another name")


def is_text(text: str) -> bool:
    """Tell whether a record can hold a text: what JSON lets through as half of a surrogate pair is none."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _check_comment(comment: str) -> None:
    if len(comment) > COMMENT_MAX or not is_text(comment):
        raise UsageError(f"a comment has at most {COMMENT_MAX} characters of Unicode")


def _check_signature(public: bytes, message: str, signature: str, what: str) -> None:
    if not is_signature(public, message.encode(), from_base64(signature)):
        raise BadSignature(f"the signature is not one over {what}")
