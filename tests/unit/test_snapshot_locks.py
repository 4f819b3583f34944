"""Locked snapshots, the key store, holds and expirations: nothing gets past them, whichever way it comes, over restarts."""

from __future__ import annotations

import base64
import errno
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from anqfs.crypto.signatures import SigningKey, public_key
from anqfs.errors import (
    AlreadyThere,
    AnqfsError,
    BadSignature,
    Damaged,
    NotFound,
    SecurityKeyInUse,
    SnapshotHeld,
    SnapshotLocked,
    UsageError,
    WrongKey,
)
from anqfs.namespace import ROOT, Namespace
from anqfs.namespace.check import check
from anqfs.namespace.nodes import snapshots_node
from anqfs.namespace.schedules import DAILY, Schedule
from anqfs.namespace.snapshots import label
from anqfs.store.administration import api_user_key, hold_key, security_key_key
from anqfs.store.schema import snapshot_key
from tests.unit.damaged_volume import Damage, Facts
from tests.unit.namespace_volume import answer, make_store, opened, work_off
from tests.unit.signing import new_key, new_pem

HOUR = 3600 * 10**9
LATER = 1_700_000_000_000_000_000 + 24 * HOUR


def add(ns: Namespace, name: str, key: SigningKey) -> int:
    return ns.security_keys.add(name, key.public, key.sign(name))


def refused(kind: type[AnqfsError], call: Callable[[], object]) -> str:
    with pytest.raises(kind) as caught:
        call()
    return str(caught.value)


# --- locks


def test_a_locked_snapshot_goes_by_no_way_and_is_only_extended(ns: Namespace) -> None:
    key = new_key()
    number = add(ns, "keeper", key)
    top, _ = ns.mkdir(1, b"top", 0o755, ROOT)
    snapshot = ns.snapshot_create(top, b"evidence", LATER)
    assert ns.snapshot_locks.lock(snapshot.id, "keeper").lock_key == number
    before = list(ns.volume.scan(b"S", b"T"))
    assert answer(lambda: ns.rmdir(snapshots_node(top), label(snapshot))) == errno.EPERM
    assert "is locked by security key 1" in refused(SnapshotLocked, lambda: ns.snapshot_delete(snapshot.id))
    refused(SnapshotLocked, lambda: ns.snapshot_modify(snapshot.id, LATER - 1))
    refused(SnapshotLocked, lambda: ns.snapshot_modify(snapshot.id, 1))
    refused(AlreadyThere, lambda: ns.snapshot_locks.lock(snapshot.id, "keeper"))
    assert list(ns.volume.scan(b"S", b"T")) == before
    assert ns.snapshot_modify(snapshot.id, LATER + 1).expires == LATER + 1
    assert ns.snapshot_modify(snapshot.id, 0).expires == 0
    refused(SnapshotLocked, lambda: ns.snapshot_modify(snapshot.id, LATER + 2))
    ns.rmdir(1, b"top")
    work_off(ns)
    assert ns.snapshot(snapshot.id).lock_key == number
    assert ns.attributes(ns.snapshot_node(snapshot.id)).nlink == 2


def test_a_lock_survives_restarts_and_crashes(tmp_path: Path) -> None:
    make_store(tmp_path / "store")
    key = new_key()
    with opened(tmp_path / "store") as ns:
        add(ns, "keeper", key)
        snapshot = ns.snapshot_create(1, b"kept", LATER)
        ns.snapshot_locks.lock(snapshot.id, "1")
        ns.volume.commit().wait()
    with opened(tmp_path / "store") as ns:
        refused(SnapshotLocked, lambda: ns.snapshot_delete(snapshot.id))
        ns.snapshot_locks.unlock(snapshot.id, key.sign(ns.snapshot_locks.challenge(snapshot.id)))
        ns.snapshot_delete(snapshot.id)
        work_off(ns)
        ns.volume.commit().wait()
        assert check(ns.volume).findings == []


def test_damage_of_its_record_does_not_unlock_a_snapshot(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = tmp_path / "store"
    make_store(store)
    with opened(store) as ns:
        file, _ = ns.create(1, b"f", 0o644, ROOT)
        ns.write(file, 0, b"kept")
        ns.snapshot_locks.lock(ns.snapshot_create(1, b"kept").id, str(add(ns, "vault", new_key())))
        ns.unlink(1, b"f")
        ns.volume.commit().wait()
    Damage(store, Facts()).flip_record(snapshot_key(1))
    with opened(store) as ns:
        for change in (
            lambda: ns.snapshot_delete(1),
            lambda: ns.snapshot_modify(1, LATER),
            lambda: ns.rmdir(snapshots_node(1), b"1_damaged"),
        ):
            refused(Damaged, change)
        assert ns.read(ns.lookup(ns.snapshot_node(1), b"f")[0], 0, 10) == b"kept"
    assert "snapshot 1 is damaged" in caplog.text
    caplog.clear()


def test_only_a_signature_over_the_present_challenge_unlocks_and_each_only_once(ns: Namespace) -> None:
    key, other = new_key(), new_key()
    add(ns, "keeper", key)
    add(ns, "other", other)
    locks = ns.snapshot_locks
    first, second = ns.snapshot_create(1, b"a", LATER), ns.snapshot_create(1, b"b", LATER)
    refused(UsageError, lambda: locks.challenge(first.id))
    locks.lock(first.id, "keeper")
    locks.lock(second.id, "keeper")
    challenge = locks.challenge(first.id)
    assert str(ns.volume.uuid) in challenge and challenge != locks.challenge(second.id)
    for wrong in (other.sign(challenge), key.sign(locks.challenge(second.id)), key.sign("keeper"), "", "AAAA", "no base64!"):
        refused(BadSignature, lambda wrong=wrong: locks.unlock(first.id, wrong))  # type: ignore[misc]
    early = key.sign(challenge)
    ns.snapshot_modify(first.id, LATER + 1)
    refused(BadSignature, lambda: locks.unlock(first.id, early))
    commented = key.sign(locks.challenge(first.id))
    ns.security_keys.change(1, comment="of the vault")
    refused(BadSignature, lambda: locks.unlock(first.id, commented))
    good = key.sign(locks.challenge(first.id))
    assert locks.unlock(first.id, good).lock_key == 0
    locks.lock(first.id, "keeper")
    refused(BadSignature, lambda: locks.unlock(first.id, good))
    refused(SnapshotLocked, lambda: ns.snapshot_delete(first.id))


def test_a_locked_snapshot_goes_at_its_expiration_and_one_without_stays(ns: Namespace) -> None:
    add(ns, "keeper", new_key())
    now = ns.core.clock()
    ends, never = ns.snapshot_create(1, b"ends", now + HOUR), ns.snapshot_create(1, b"never")
    for one in (ends, never):
        ns.snapshot_locks.lock(one.id, "keeper")
    assert ns.next_expiration() == now + HOUR
    assert ns.snapshot_expire() is None
    ns.core.clock = lambda: now + HOUR
    assert ns.snapshot_expire() == ends.id
    assert ns.snapshots_in_deletion() == [ends.id]
    assert (ns.snapshot_expire(), ns.next_expiration()) == (None, None)
    work_off(ns)
    assert ns.snapshots_in_deletion() == [] and [one.id for one in ns.snapshots()] == [never.id]


# --- expirations and holds


def test_the_next_to_expire_is_known_through_changes_and_restarts(tmp_path: Path) -> None:
    make_store(tmp_path / "store")
    with opened(tmp_path / "store") as ns:
        now = ns.core.clock()
        a, b, c = (ns.snapshot_create(1, name, now + hours * HOUR) for name, hours in ((b"a", 3), (b"b", 2), (b"c", 1)))
        changes: list[int] = []
        ns.core.timetable_changed = lambda: changes.append(1)
        ns.snapshot_modify(c.id, now + 5 * HOUR)
        assert (ns.next_expiration(), len(changes)) == (now + 2 * HOUR, 1)
        ns.snapshot_delete(b.id)
        assert ns.next_expiration() == now + 3 * HOUR
        ns.snapshot_modify(a.id, 0)
        assert ns.next_expiration() == now + 5 * HOUR
        ns.volume.commit().wait()
    with opened(tmp_path / "store") as ns:
        assert ns.next_expiration() == now + 5 * HOUR


def test_a_held_snapshot_is_neither_deleted_nor_changed_and_outlives_its_expiration(tmp_path: Path) -> None:
    make_store(tmp_path / "store")
    with opened(tmp_path / "store") as ns:
        now = ns.core.clock()
        snapshot = ns.snapshot_create(1, b"sent", now + HOUR)
        first, second = ns.snapshot_locks.hold(snapshot.id, "replication 1"), ns.snapshot_locks.hold(snapshot.id, "replication 2")
        ns.volume.commit().wait()
        assert check(ns.volume).findings == []
    with opened(tmp_path / "store") as ns:
        assert list(ns.snapshot_locks.owners(snapshot.id)) == ["replication 1", "replication 2"]
        assert "is needed by replication 1" in refused(SnapshotHeld, lambda: ns.snapshot_delete(snapshot.id))
        assert answer(lambda: ns.rmdir(snapshots_node(1), label(snapshot))) == errno.EBUSY
        refused(SnapshotHeld, lambda: ns.snapshot_modify(snapshot.id, 0))
        ns.core.clock = lambda: now + 2 * HOUR
        assert (ns.snapshot_expire(), ns.next_expiration()) == (None, None)
        ns.snapshot_locks.release(snapshot.id, first)
        assert ns.snapshot_expire() is None
        ns.snapshot_locks.release(snapshot.id, second)
        refused(NotFound, lambda: ns.snapshot_locks.release(snapshot.id, second))
        assert ns.snapshot_expire() == snapshot.id


def test_a_damaged_key_goes_when_nothing_uses_it_and_keeps_no_other_from_its_work(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store, key = tmp_path / "store", new_key()
    make_store(store)
    with opened(store) as ns:
        for name in ("used", "spare", "sound"):
            add(ns, name, key)
        snapshot = ns.snapshot_create(1, b"a")
        ns.snapshot_locks.lock(snapshot.id, "used")
        ns.volume.commit().wait()
    for number in (1, 2):
        Damage(store, Facts()).flip_record(security_key_key(number))
    with opened(store) as ns:
        keys = ns.security_keys
        assert ([number for number, _ in keys.all()], keys.damaged(), keys.find("sound")) == ([3], [1, 2], 3)
        refused(SecurityKeyInUse, lambda: keys.delete(1))
        refused(Damaged, lambda: ns.snapshot_locks.unlock(snapshot.id, key.sign("anything")))
        keys.delete(2)
        refused(NotFound, lambda: keys.delete(2))
        assert (keys.damaged(), add(ns, "another", key)) == ([1], 4)
    assert "security key 1 is damaged" in caplog.text
    caplog.clear()


def test_a_hold_whose_record_is_damaged_still_holds_and_the_volume_opens(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = tmp_path / "store"
    make_store(store)
    with opened(store) as ns:
        snapshot = ns.snapshot_create(1, b"sent")
        hold = ns.snapshot_locks.hold(snapshot.id, "replication 1")
        ns.api_users.add("admin", "Administrators", b"")
        ns.api_users.add("other", "Observers", b"")
        ns.volume.commit().wait()
    damage = Damage(store, Facts())
    damage.flip_record(hold_key(snapshot.id, hold))
    damage.flip_record(api_user_key(1000))
    with opened(store) as ns:
        refused(SnapshotHeld, lambda: ns.snapshot_delete(snapshot.id))
        ns.snapshot_locks.release(snapshot.id, hold)
        ns.snapshot_delete(snapshot.id)
        assert [user.name for _, user in ns.api_users.all()] == ["admin"]
        assert ns.api_users.add("another", "Observers", b"") == 1001
    assert "the snapshot stays held" in caplog.text
    assert "let in no more" in caplog.text
    caplog.clear()


def test_check_misses_the_key_of_a_lock_and_the_snapshot_of_a_hold(ns: Namespace) -> None:
    add(ns, "keeper", new_key())
    snapshot = ns.snapshot_create(1, b"a")
    ns.snapshot_locks.lock(snapshot.id, "keeper")
    ns.snapshot_locks.hold(snapshot.id, "somebody")
    ns.volume.commit().wait()
    assert check(ns.volume).findings == []
    for key in [key for letter in (b"Y", b"B") for key in ns.volume.scan_keys(letter, bytes((letter[0] + 1,)))]:
        record = ns.volume.get(key)
        assert record is not None
        ns.volume.delete(key)
        ns.volume.put(key[:-1] + b"\x09", record)
    ns.volume.delete(b"S" + (1).to_bytes(8, "big"))
    found = {str(one) for one in check(ns.volume).findings}
    assert any("somebody holds it, but it does not exist" in one for one in found)
    assert any("the counter key is 2, but 9 is in use" in one for one in found)
    ns.volume.put(b"S" + (1).to_bytes(8, "big"), ns.snapshot(1))
    assert any("security key 1 locks it, but does not exist" in str(one) for one in check(ns.volume).findings)


# --- the key store


def test_a_key_comes_in_with_a_proof_over_its_name(ns: Namespace) -> None:
    key = new_key()
    refused(BadSignature, lambda: ns.security_keys.add("keeper", key.public, key.sign("kepper")))
    refused(BadSignature, lambda: ns.security_keys.add("keeper", key.public, new_key().sign("keeper")))
    assert list(ns.security_keys.all()) == []
    assert add(ns, "keeper", key) == 1
    refused(AlreadyThere, lambda: add(ns, "keeper", new_key()))
    for name in ("", "12345", "x" * 65, "two\nlines"):
        refused(UsageError, lambda name=name: add(ns, name, key))  # type: ignore[misc]
    for comment in ("x" * 1001, "half \udc80"):
        refused(UsageError, lambda comment=comment: ns.security_keys.change(1, comment=comment))  # type: ignore[misc]
    assert ns.security_keys.change(1, comment="Schlüssel im Tresor").comment == "Schlüssel im Tresor"
    assert (ns.security_keys.find("keeper"), ns.security_keys.find("1")) == (1, 1)
    for missing in ("2", "keepers", "9" * 30):
        refused(NotFound, lambda missing=missing: ns.security_keys.find(missing))  # type: ignore[misc]


@pytest.mark.parametrize("arguments", ["genpkey -algorithm ed25519", "ecparam -name secp384r1 -genkey -noout", "genrsa 2048"])
def test_other_kinds_of_keys_are_refused(arguments: str) -> None:
    pem = subprocess.run(["openssl", *arguments.split()], capture_output=True, check=True).stdout
    refused(UsageError, lambda: SigningKey(pem))
    public = subprocess.run(["openssl", "pkey", "-pubout"], input=pem, capture_output=True, check=True).stdout
    assert "P-256" in refused(UsageError, lambda: public_key(public.decode()))


def test_keys_come_as_pem_der_or_openssh_and_openssl_verifies_what_they_sign(tmp_path: Path) -> None:
    pem = new_pem()
    (tmp_path / "key").write_bytes(pem)
    der = subprocess.run(["openssl", "ec", "-outform", "DER"], input=pem, capture_output=True, check=True).stdout
    public = subprocess.run(["openssl", "ec", "-pubout"], input=pem, capture_output=True, check=True).stdout
    (tmp_path / "public").write_bytes(public)
    assert SigningKey(pem).public == SigningKey(der).public
    assert public_key(public.decode()) == public_key(SigningKey(pem).public) == base64.b64decode(SigningKey(pem).public)
    (tmp_path / "signature").write_bytes(base64.b64decode(SigningKey(der).sign("message")))
    verify = ["openssl", "dgst", "-sha256", "-verify", str(tmp_path / "public"), "-signature", str(tmp_path / "signature")]
    assert subprocess.run(verify, input=b"message", capture_output=True, check=True).stdout == b"Verified OK\n"
    protected = subprocess.run(["openssl", "pkcs8", "-topk8", "-passout", "pass:word"], input=pem, capture_output=True, check=True).stdout
    assert SigningKey(protected, b"word").public == SigningKey(pem).public
    refused(WrongKey, lambda: SigningKey(protected))
    for nothing in (b"", b"-----BEGIN", public):
        refused(UsageError, lambda nothing=nothing: SigningKey(nothing))  # type: ignore[misc]
    for nothing in ("", "AAAA", "no base64!", "-----BEGIN PUBLIC KEY-----"):
        refused(UsageError, lambda nothing=nothing: public_key(nothing))  # type: ignore[misc]


def test_a_disabled_key_locks_nothing_more_and_still_unlocks(ns: Namespace) -> None:
    key = new_key()
    add(ns, "keeper", key)
    snapshot, other = ns.snapshot_create(1, b"a"), ns.snapshot_create(1, b"b")
    ns.snapshot_locks.lock(snapshot.id, "keeper")
    ns.security_keys.change(1, disabled=True)
    refused(UsageError, lambda: ns.snapshot_locks.lock(other.id, "keeper"))
    refused(UsageError, lambda: ns.policies.create(b"daily", 1, Schedule(DAILY), lock_key="keeper"))
    ns.snapshot_locks.unlock(snapshot.id, key.sign(ns.snapshot_locks.challenge(snapshot.id)))
    ns.security_keys.change(1, disabled=False)
    ns.policies.create(b"daily", 1, Schedule(DAILY), lock_key="keeper")
    refused(SecurityKeyInUse, lambda: ns.security_keys.change(1, disabled=True))


def test_a_replaced_key_unlocks_no_more_and_both_must_sign(ns: Namespace) -> None:
    old, new = new_key(), new_key()
    add(ns, "keeper", old)
    keys = ns.security_keys
    snapshot = ns.snapshot_create(1, b"a")
    ns.snapshot_locks.lock(snapshot.id, "keeper")
    challenge = keys.replace_challenge(1)
    refused(BadSignature, lambda: keys.replace(1, new.public, new.sign(challenge), new.sign(challenge)))
    refused(BadSignature, lambda: keys.replace(1, new.public, old.sign(challenge), old.sign(challenge)))
    keys.change(1, name="keeper of keys")
    refused(BadSignature, lambda: keys.replace(1, new.public, old.sign(challenge), new.sign(challenge)))
    challenge = keys.replace_challenge(1)
    replaced = keys.replace(1, new.public, old.sign(challenge), new.sign(challenge))
    assert (replaced.name, replaced.public_key) == ("keeper of keys", public_key(new.public))
    refused(BadSignature, lambda: ns.snapshot_locks.unlock(snapshot.id, old.sign(ns.snapshot_locks.challenge(snapshot.id))))
    ns.snapshot_locks.unlock(snapshot.id, new.sign(ns.snapshot_locks.challenge(snapshot.id)))


def test_a_key_that_is_used_stays(ns: Namespace) -> None:
    key = new_key()
    add(ns, "keeper", key)
    snapshot = ns.snapshot_create(1, b"a")
    ns.snapshot_locks.lock(snapshot.id, "keeper")
    policy = ns.policies.create(b"daily", 1, Schedule(DAILY), lock_key="keeper")
    assert ns.security_keys.usages(1) == ([snapshot.id], [policy])
    refused(SecurityKeyInUse, lambda: ns.security_keys.delete(1))
    ns.snapshot_locks.unlock(snapshot.id, key.sign(ns.snapshot_locks.challenge(snapshot.id)))
    refused(SecurityKeyInUse, lambda: ns.security_keys.delete(1))
    ns.policies.change(policy, lock_key=False)
    ns.security_keys.delete(1)
    refused(NotFound, lambda: ns.security_keys.get(1))
    assert add(ns, "keeper", key) == 2


def test_names_that_are_signed_are_never_challenges(ns: Namespace) -> None:
    """Who signs a key's name, as adding a key asks for, can be made to sign nothing that unlocks or replaces."""
    key = new_key()
    add(ns, "keeper", key)
    snapshot = ns.snapshot_create(1, b"a")
    ns.snapshot_locks.lock(snapshot.id, "keeper")
    for challenge in (ns.snapshot_locks.challenge(snapshot.id), ns.security_keys.replace_challenge(1)):
        refused(UsageError, lambda challenge=challenge: add(ns, challenge, key))  # type: ignore[misc]
