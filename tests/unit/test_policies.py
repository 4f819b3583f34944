"""Snapshot policies on a clock of the test's: what they take, when, how it is called, and what becomes of missed firings."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from anqfs.errors import AlreadyThere, FilesystemError, NotFound, UsageError
from anqfs.namespace import ROOT, Namespace, snapshots
from anqfs.namespace.check import check
from anqfs.namespace.schedules import DAILY, EVERY_SO_OFTEN, MONTHLY, Schedule
from anqfs.namespace.snapshots import label
from tests.unit.namespace_volume import make_store, opened, work_off
from tests.unit.signing import new_key

SECOND = 10**9
HOUR = 3600 * SECOND
NIGHTLY = Schedule(DAILY, at=120)


def moment(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * SECOND


class Wall:
    """The time, as the test sets it."""

    def __init__(self, ns: Namespace, text: str) -> None:
        self.now = moment(text)
        ns.core.clock = self.read

    def read(self) -> int:
        return self.now


def act(ns: Namespace) -> list[bytes]:
    """Do what is due and return the names of what was taken."""
    return [label(ns.policies.fire(number)) for number in ns.policies.due()]


def test_snapshots_are_taken_when_they_are_due_and_expire_by_their_policy(ns: Namespace) -> None:
    wall = Wall(ns, "2026-11-24T01:00:00")
    top, _ = ns.mkdir(1, b"studies", 0o755, ROOT)
    number = ns.policies.create(b"nightly", top, NIGHTLY, time_to_live="7days")
    assert ns.policies.next_firing(number) == moment("2026-11-24T02:00:00")
    wall.now = moment("2026-11-24T02:00:00") - 1
    assert act(ns) == []
    wall.now += 1
    assert act(ns) == [b"1_nightly_studies"] and act(ns) == []
    taken = ns.snapshot(1)
    assert (taken.root, taken.policy, taken.created, taken.expires) == (top, number, wall.now, moment("2026-12-01T02:00:00"))
    assert ns.policies.next_firing(number) == ns.policies.next_firing(number) == moment("2026-11-25T02:00:00")


def test_a_year_of_policies_keeps_what_their_times_to_live_say(ns: Namespace) -> None:
    """2028 is a leap year; Berlin's clocks change twice in it."""
    wall = Wall(ns, "2027-12-31T22:59:59")
    end = moment("2028-12-31T23:00:00")
    berlin = "Europe/Berlin"
    ns.policies.create(b"hourly", 1, Schedule(EVERY_SO_OFTEN, berlin, every=12, in_hours=True), time_to_live="2days")
    ns.policies.create(b"daily", 1, Schedule(DAILY, berlin, at=150), time_to_live="2weeks")
    ns.policies.create(b"monthly", 1, Schedule(MONTHLY, berlin, day_of_month=128, at=1439), time_to_live="6months")
    taken: dict[str, int] = {}
    while True:
        events = [when for number, _ in ns.policies.all() if (when := ns.policies.next_firing(number)) is not None]
        wall.now = min([*events, ns.next_expiration() or end])
        if wall.now >= end:
            break
        while ns.snapshot_expire() is not None:
            pass
        for name in act(ns):
            kind = name.partition(b"_")[2].decode()
            taken[kind] = taken.get(kind, 0) + 1
        work_off(ns)
    assert taken == {"hourly": 732, "daily": 366, "monthly": 12}
    left = [one.name for one in ns.snapshots()]
    assert [left.count(name) for name in (b"hourly", b"daily", b"monthly")] == [4, 14, 6]
    # Six months before the year's end: the one of 30 June expires on 30 December.
    assert ns.snapshots_in_deletion() == []


def test_missed_firings_are_made_up_for_by_one_snapshot(tmp_path: Path) -> None:
    make_store(tmp_path / "store")
    with opened(tmp_path / "store") as ns:
        Wall(ns, "2026-11-24T01:00:00")
        number = ns.policies.create(b"often", 1, Schedule(EVERY_SO_OFTEN, every=5))
        ns.volume.commit().wait()
    with opened(tmp_path / "store") as ns:
        wall = Wall(ns, "2026-11-27T12:03:00")
        assert ns.policies.due() == [number]
        assert act(ns) == [b"1_often"]
        assert ns.policies.due() == [] and ns.policies.next_firing(number) == moment("2026-11-27T12:05:00")
        wall.now = moment("2026-11-27T12:05:00")
        assert act(ns) == [b"2_often"]


def test_a_crash_takes_no_firing_twice_and_loses_none(tmp_path: Path) -> None:
    make_store(tmp_path / "store")
    with opened(tmp_path / "store") as ns:
        wall = Wall(ns, "2026-11-24T01:00:00")
        ns.policies.create(b"nightly", 1, NIGHTLY)
        ns.volume.commit().wait()
        wall.now = moment("2026-11-24T02:00:00")
        assert act(ns) == [b"1_nightly"]
        shutil.copytree(tmp_path / "store", tmp_path / "before")
        ns.volume.commit().wait()
        shutil.copytree(tmp_path / "store", tmp_path / "after")
    for place, again in (("before", [b"1_nightly"]), ("after", [])):
        with opened(tmp_path / place) as ns:
            Wall(ns, "2026-11-24T02:00:05")
            assert act(ns) == again
            ns.volume.commit().wait()
            assert check(ns.volume).findings == [] and len(ns.snapshots()) == 1


def test_a_policy_is_changed_disabled_and_enabled(ns: Namespace) -> None:
    wall = Wall(ns, "2026-11-24T01:00:00")
    number = ns.policies.create(b"nightly", 1, NIGHTLY)
    ns.policies.change(number, enabled=False)
    assert ns.policies.next_firing(number) is None
    wall.now = moment("2026-11-24T12:00:00")
    assert act(ns) == []
    changed = ns.policies.change(number, enabled=True, name=b"evening", time_to_live="1months", template=b"{ID}_x")
    assert (changed.name, changed.time_to_live, changed.version) == (b"evening", "1months", 3)
    # What was due while it was disabled is not made up for.
    assert act(ns) == [] and ns.policies.next_firing(number) == moment("2026-11-25T02:00:00")
    ns.policies.change(number, schedule=Schedule(DAILY, at=600))
    assert act(ns) == [] and ns.policies.next_firing(number) == moment("2026-11-25T10:00:00")
    # A change of something else moves nothing.
    wall.now = moment("2026-11-25T11:00:00")
    ns.policies.change(number, time_to_live="never")
    assert act(ns) == [b"1_x"] and ns.snapshot(1).expires == 0


def test_deleting_a_policy_keeps_its_snapshots_which_have_no_policys_name_any_more(ns: Namespace) -> None:
    wall = Wall(ns, "2026-11-24T01:00:00")
    number = ns.policies.create(b"nightly", 1, NIGHTLY)
    wall.now = moment("2026-11-24T02:00:00")
    act(ns)
    assert ns.policies.name_of(ns.snapshot(1).policy) == b"nightly"
    ns.policies.delete(number)
    assert ns.policies.name_of(ns.snapshot(1).policy) is None
    assert [label(one) for one in ns.snapshots()] == [b"1_nightly"]
    with pytest.raises(NotFound):
        ns.policies.delete(number)
    # The number is not used again: the snapshot is not another policy's.
    assert ns.policies.create(b"other", 1, NIGHTLY) == number + 1


def test_snapshots_of_a_policy_with_a_key_are_locked_and_a_new_key_is_for_new_ones(ns: Namespace) -> None:
    wall = Wall(ns, "2026-11-24T01:00:00")
    for name in ("first", "second"):
        key = new_key()
        ns.security_keys.add(name, key.public, key.sign(name))
    number = ns.policies.create(b"nightly", 1, NIGHTLY, lock_key="first")
    wall.now = moment("2026-11-24T02:00:00")
    act(ns)
    ns.policies.change(number, lock_key="second")
    wall.now = moment("2026-11-25T02:00:00")
    act(ns)
    ns.policies.change(number, lock_key=False)
    wall.now = moment("2026-11-26T02:00:00")
    act(ns)
    assert [one.lock_key for one in ns.snapshots()] == [1, 2, 0]


@pytest.mark.parametrize(
    ("template", "name"),
    [
        (b"", b"1_p\xc3\xb6licy_d\xc3\xafr"),
        (b"{ID}_{Year}-{Month}-{Day}T{Hour}.{Minute}", b"1_2026-11-25T00.05"),
        (b"{Policy}@{Directory}", b"1_p\xc3\xb6licy@d\xc3\xafr"),
        (b"{Directory}_{ID}", b"1_d\xc3\xafr_1"),
        (b"{ID}", b"1_1"),
        (b"{ID}_a{b", b"1_a{b"),
    ],
)
def test_names_follow_the_template_in_the_policys_zone(ns: Namespace, template: bytes, name: bytes) -> None:
    wall = Wall(ns, "2026-11-24T20:00:00")
    top, _ = ns.mkdir(1, b"d\xc3\xafr", 0o755, ROOT)
    ns.policies.create("pölicy".encode(), top, Schedule(EVERY_SO_OFTEN, "Europe/Berlin", every=5), template=template)
    wall.now = moment("2026-11-24T23:05:00")
    assert act(ns) == [name]


def test_a_name_that_would_be_too_long_is_cut_between_characters(ns: Namespace) -> None:
    wall = Wall(ns, "2026-11-24T20:00:00")
    top, _ = ns.mkdir(1, "ß".encode() * 127, 0o755, ROOT)
    ns.policies.create(b"n", top, Schedule(EVERY_SO_OFTEN, every=5))
    wall.now += HOUR
    (name,) = act(ns)
    assert name == b"1_n_" + "ß".encode() * 125 and len(name) == 254
    assert ns.lookup(ns.lookup(top, b".snapshot")[0], name)


def test_an_empty_name_is_that_of_the_policy(ns: Namespace) -> None:
    wall = Wall(ns, "2026-11-24T20:00:00")
    ns.policies.create(b"top", 1, Schedule(EVERY_SO_OFTEN, every=5), template=b"{ID}_{Directory}")
    wall.now += HOUR
    assert act(ns) == [b"1_top"]


def test_what_makes_no_sense_is_refused_and_changes_nothing(ns: Namespace) -> None:
    file, _ = ns.create(1, b"file", 0o644, ROOT)
    snapshot = ns.snapshot_create(1)
    for template in (b"{Id}", b"{}", b"a/b", b"{ID}_", b"x" * 256):
        with pytest.raises(UsageError):
            ns.policies.create(b"a", 1, NIGHTLY, template=template)
    for name in (b"", b"a/b", b"x" * 256, b"a\0"):
        with pytest.raises(UsageError):
            ns.policies.create(name, 1, NIGHTLY)
    for node in (file, ns.snapshot_node(snapshot.id), 12345):
        with pytest.raises(FilesystemError):
            ns.policies.create(b"a", node, NIGHTLY)
    with pytest.raises(UsageError):
        ns.policies.create(b"a", 1, NIGHTLY, time_to_live="100days")
    with pytest.raises(NotFound):
        ns.policies.create(b"a", 1, NIGHTLY, lock_key="none")
    assert ns.policies.all() == []
    number = ns.policies.create(b"a", 1, NIGHTLY)
    with pytest.raises(AlreadyThere):
        ns.policies.create(b"a", 1, NIGHTLY)
    with pytest.raises(UsageError):
        ns.policies.change(number, schedule=Schedule(DAILY, "Europe/Nowhere"))
    assert (number, ns.policies.get(number).schedule) == (1, NIGHTLY)


def test_a_policy_whose_directory_is_gone_says_so_and_keeps_nobody_from_going_on(ns: Namespace) -> None:
    wall = Wall(ns, "2026-11-24T01:00:00")
    top, _ = ns.mkdir(1, b"top", 0o755, ROOT)
    gone, other = ns.policies.create(b"gone", top, NIGHTLY), ns.policies.create(b"other", 1, NIGHTLY)
    ns.rmdir(1, b"top")
    wall.now = moment("2026-11-24T02:00:00")
    assert ns.policies.due() == [gone, other]
    with pytest.raises(NotFound, match="the directory of snapshot policy 'gone' is gone"):
        ns.policies.fire(gone)
    assert label(ns.policies.fire(other)) == b"1_other"
    ns.volume.commit().wait()
    assert check(ns.volume).findings == []


def test_policies_count_for_the_limit_of_snapshots(ns: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "SNAPSHOTS_MAX", 2)
    wall = Wall(ns, "2026-11-24T01:00:00")
    number = ns.policies.create(b"nightly", 1, NIGHTLY)
    ns.snapshot_create(1)
    wall.now = moment("2026-11-24T02:00:00")
    act(ns)
    wall.now = moment("2026-11-25T02:00:00")
    with pytest.raises(FilesystemError, match="there are 2 snapshots already"):
        ns.policies.fire(number)
    assert ns.policies.due() == [number]
    ns.snapshot_delete(1)
    work_off(ns)
    assert act(ns) == [b"3_nightly"]


def test_a_clock_that_was_far_ahead_and_is_set_right_stops_no_policy(ns: Namespace) -> None:
    wall = Wall(ns, "2038-01-01T01:00:00")
    number = ns.policies.create(b"nightly", 1, NIGHTLY)
    wall.now = moment("2026-11-24T01:00:00")
    assert ns.policies.next_firing(number) == moment("2026-11-24T02:00:00")
    wall.now = moment("2026-11-24T02:00:00")
    assert act(ns) == [b"1_nightly"] and ns.policies.next_firing(number) == moment("2026-11-25T02:00:00")


def test_a_clock_that_is_set_back_a_little_takes_nothing_twice(ns: Namespace) -> None:
    wall = Wall(ns, "2026-11-24T01:00:00")
    ns.policies.create(b"nightly", 1, NIGHTLY)
    wall.now = moment("2026-11-24T02:00:00")
    assert act(ns) == [b"1_nightly"]
    wall.now -= 20 * SECOND
    assert act(ns) == []
    wall.now += 20 * SECOND
    assert act(ns) == []


def test_check_finds_two_policies_of_one_name_and_a_schedule_without_sense(ns: Namespace) -> None:
    ns.policies.create(b"nightly", 1, NIGHTLY)
    record = ns.policies.get(1)
    ns.volume.put(b"P" + (7).to_bytes(8, "big"), record)
    found = {str(one) for one in check(ns.volume).findings}
    assert found == {"snapshot policy 7: another one has the same name", "volume: the counter policy is 2, but 7 is in use"}
