"""Snapshot policies: snapshots that are taken by themselves. Called by `control/`, whose scheduler acts on what `due` says. Trio thread.

A policy's record says up to which moment its schedule is done with. A snapshot and that moment are one operation, so after a crash no
firing is taken twice and none is lost. However many were missed while the volume was not mounted, or because a snapshot could not be taken:
the policy is due once, as soon as it can be, and then goes on by its schedule.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any, Literal

from msgspec.structs import replace

from anqfs.errors import AlreadyThere, Damaged, FilesystemError, NotFound, UsageError
from anqfs.namespace import schedules
from anqfs.namespace.core import NAME_MAX, RECORD_ROOM, Core, operation
from anqfs.namespace.security_keys import SecurityKeys
from anqfs.namespace.snapshots import Snapshots
from anqfs.store.administration import COUNTER_POLICY, Policy, Schedule, policy_key
from anqfs.store.schema import ROOT_INO, Counter, Snapshot, prefix_end

_log = logging.getLogger(__name__)
POLICIES_MAX = 1000
TEMPLATE_MAX = 255
VARIABLES = ("ID", "Year", "Month", "Day", "Hour", "Minute", "Policy", "Directory")
OF_ROOT, OF_DIRECTORY = b"{ID}_{Policy}", b"{ID}_{Policy}_{Directory}"
"""ANQ's templates: what policies of the root and of other directories use that have none of their own."""
_VARIABLE = re.compile(rb"\{([^{}]*)\}")
_ID = b"{ID}_"
_CLOCK_SET_BACK = 3600 * 10**9
"""A clock that is further behind what a policy knows was wrong then: the policy goes by the clock again."""


class Policies:
    """The snapshot policies of a volume."""

    def __init__(self, core: Core, snapshots: Snapshots, keys: SecurityKeys, path_of: Callable[[int], bytes | None]) -> None:
        self.core = core
        self._snapshots = snapshots
        self._keys = keys
        self._path_of = path_of
        self._policies: dict[int, Policy] = {}
        self._damaged: set[int] = set()
        """Policies whose records are damaged: they can only be deleted."""
        self._next: dict[int, tuple[int, int]] = {}
        """(moment from which it was computed, next firing) of policies."""
        self._begins: dict[int, int] = {}
        """From when on policies are due whose records are of a time when the clock was wrong."""

    def load(self) -> None:
        """Read all policies. A damaged one takes no snapshots."""
        for key in list(self.core.volume.scan_keys(b"P", prefix_end(b"P"))):
            number = int.from_bytes(key[1:], "big")
            try:
                record = self.core.get(key)
            except Damaged as error:
                _log.error("snapshot policy %d is damaged and takes no snapshots: %s", number, error)
                self._damaged.add(number)
                continue
            assert isinstance(record, Policy)
            self._policies[number] = record
            try:
                schedules.zone(record.schedule.timezone)
            except UsageError as error:
                _log.error("snapshot policy %d goes by UTC: %s", number, error)

    # --- looking

    def all(self) -> list[tuple[int, Policy]]:
        """Return each policy's number and record, by number."""
        return sorted(self._policies.items())

    def get(self, number: int) -> Policy:
        """Return a policy. Raises NotFound, Damaged."""
        found = self._policies.get(number)
        if number in self._damaged:
            raise Damaged(f"snapshot policy {number} is damaged and takes no snapshots: delete it and make it anew")
        if found is None:
            raise NotFound(f"there is no snapshot policy {number}: `anqfs snapshot policy list` shows them")
        return found

    def name_of(self, number: int) -> bytes | None:
        """Return the name of a policy; None when there is none of this number (any more)."""
        found = self._policies.get(number)
        return None if found is None else found.name

    def next_firing(self, number: int) -> int | None:
        """Return when a policy takes its next snapshot, ns since 1970, which is past for one that is overdue; None for a disabled one."""
        policy, now = self.get(number), self.core.clock()
        if not policy.enabled:
            return None
        begin = policy.due_after
        if begin > now + _CLOCK_SET_BACK:
            begin = self._begins.get(number, now)
            self._begins[number] = begin = begin if begin <= now + _CLOCK_SET_BACK else now
        known = self._next.get(number)
        if known is None or known[0] != begin:
            known = self._next[number] = (begin, schedules.next_firing(policy.schedule, begin))
        return known[1]

    def due(self) -> list[int]:
        """Return the policies whose time has come."""
        now = self.core.clock()
        return [number for number, _ in self.all() if (when := self.next_firing(number)) is not None and when <= now]

    def template_of(self, policy: Policy) -> bytes:
        """Return the template of the names of a policy's snapshots."""
        return policy.template or (OF_ROOT if policy.root == ROOT_INO else OF_DIRECTORY)

    # --- changing

    @operation
    def create(
        self,
        name: bytes,
        directory: int,
        schedule: Schedule,
        *,
        time_to_live: str = "",
        template: bytes = b"",
        enabled: bool = True,
        lock_key: str | None = None,
    ) -> int:
        """Add a policy for a live directory's node and return its number. `lock_key` is a security key's number or name.

        Raises UsageError, AlreadyThere for the name, NotFound for the key, ENOTDIR, EROFS in snapshots, ESTALE, NoSpace.
        """
        ino, _ = self.core.writable_directory(directory)
        if len(self._policies) >= POLICIES_MAX:
            raise UsageError(f"there are {POLICIES_MAX} snapshot policies already")
        lifetime = schedules.time_to_live(time_to_live)
        policy = Policy(name, ino, schedule, lifetime, template, enabled, self._key(lock_key), self.core.clock())
        self._check(policy, None)
        counter: Counter | None = self.core.get(COUNTER_POLICY)
        number = counter.value if counter is not None else 1
        self.core.volume.put(COUNTER_POLICY, Counter(number + 1))
        self._put(number, policy)
        return number

    @operation
    def change(
        self,
        number: int,
        *,
        name: bytes | None = None,
        directory: int | None = None,
        schedule: Schedule | None = None,
        time_to_live: str | None = None,
        template: bytes | None = None,
        enabled: bool | None = None,
        lock_key: str | Literal[False] | None = None,
    ) -> Policy:
        """Change what is not None; an empty template is ANQ's, `lock_key` False is none. What was taken already stays as it is.

        A new schedule, and one that is enabled, begins now. Raises as `create`, and NotFound.
        """
        old = self.get(number)
        changes: dict[str, Any] = {"name": name, "schedule": schedule, "template": template, "enabled": enabled}
        new = replace(old, **{field: value for field, value in changes.items() if value is not None})
        if directory is not None:
            new = replace(new, root=self.core.writable_directory(directory)[0])
        if time_to_live is not None:
            new = replace(new, time_to_live=schedules.time_to_live(time_to_live))
        if lock_key is not None:
            new = replace(new, lock_key=self._key(lock_key or None))
        if new.schedule != old.schedule or (new.enabled and not old.enabled):
            new = replace(new, due_after=self.core.clock())
        self._check(new, number)
        new = replace(new, version=old.version + 1)
        self._put(number, new)
        return new

    @operation
    def delete(self, number: int) -> None:
        """Delete a policy, be it damaged; its snapshots stay. Raises NotFound."""
        if number not in self._damaged:
            self.get(number)
        self.core.volume.delete(policy_key(number))
        self.core.after.append(lambda: self._forget(number))

    def fire(self, number: int) -> Snapshot:
        """Take a policy's snapshot; what the kernel still holds must be flushed before.

        Raises NotFound for the policy and its directory, ENOSPC at the limit of snapshots, NoSpace.
        """
        self.core.usage.flush()
        return self._fire(number)

    @operation
    def _fire(self, number: int) -> Snapshot:
        policy = self.get(number)
        now = self.core.clock()
        try:
            self.core.writable_directory(policy.root)
        except FilesystemError as error:
            raise NotFound(f"the directory of snapshot policy {shown(policy)} is gone") from error
        expires = schedules.expiration(now, policy.time_to_live, policy.schedule.timezone)
        name = self._name(policy, now)
        snapshot = self._snapshots.create(policy.root, name, expires, policy=number, lock_key=policy.lock_key)
        self._put(number, replace(policy, due_after=now))
        return snapshot

    def _put(self, number: int, policy: Policy) -> None:
        self.core.room(RECORD_ROOM)
        self.core.volume.put(policy_key(number), policy)
        self.core.after.append(lambda: self._changed(number, policy))

    def _changed(self, number: int, policy: Policy) -> None:
        self._policies[number] = policy
        self._next.pop(number, None)
        self._begins.pop(number, None)
        self.core.timetable_changed()

    def _forget(self, number: int) -> None:
        self._policies.pop(number, None)
        self._damaged.discard(number)
        self._next.pop(number, None)
        self._begins.pop(number, None)
        self.core.timetable_changed()

    # --- what is asked for

    def _key(self, ref: str | None) -> int:
        return 0 if ref is None else self._keys.for_locking(ref)

    def _check(self, policy: Policy, number: int | None) -> None:
        name = policy.name
        if not name or len(name) > NAME_MAX or b"/" in name or b"\0" in name:
            raise UsageError(f"a snapshot policy's name has 1 to {NAME_MAX} bytes and no slash")
        if any(one.name == name and other != number for other, one in self._policies.items()):
            raise AlreadyThere(f"there is a snapshot policy {shown(policy)} already: choose another name")
        schedules.check(policy.schedule)
        check_template(policy.template)

    def _name(self, policy: Policy, now: int) -> bytes:
        """Return the name of a snapshot that is taken now, without the id that it begins with in `.snapshot`."""
        number = b"%d" % self._snapshots.next_number()
        when = schedules.local_time(now, policy.schedule.timezone)
        values = {
            b"ID": number,
            b"Year": b"%04d" % when.year,
            b"Month": b"%02d" % when.month,
            b"Day": b"%02d" % when.day,
            b"Hour": b"%02d" % when.hour,
            b"Minute": b"%02d" % when.minute,
            b"Policy": policy.name,
            b"Directory": (self._path_of(policy.root) or b"").rpartition(b"/")[2],
        }
        template = self.template_of(policy).removeprefix(_ID)
        name = _VARIABLE.sub(lambda found: values[found[1]], template) or policy.name
        return _cut(name, NAME_MAX - len(number) - 1)


def check_template(template: bytes) -> None:
    """Raise UsageError for a template of snapshots' names that makes none."""
    unknown = [name for name in _VARIABLE.findall(template) if name.decode("ascii", "replace") not in VARIABLES]
    if unknown:
        raise UsageError(f"a template knows {', '.join('{' + name + '}' for name in VARIABLES)}, not {unknown[0][:40]!a}")
    if len(template) > TEMPLATE_MAX or b"/" in template or b"\0" in template or template == _ID:
        raise UsageError(f"a template of names has at most {TEMPLATE_MAX} bytes, no slash, and more than {_ID.decode()}")


def shown(policy: Policy) -> str:
    """Return a policy's name for a message."""
    return repr(policy.name.decode("utf-8", "surrogateescape")[:64])


def _cut(name: bytes, size: int) -> bytes:
    """Return a name of at most `size` bytes; UTF-8 is cut between characters."""
    if len(name) <= size:
        return name
    end = size
    while end > size - 4 and name[end] & 0xC0 == 0x80:
        end -= 1
    return name[:end]
