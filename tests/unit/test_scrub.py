"""`scrub` finds what is damaged on the disk while the volume is in use, goes on where it stopped, and never cries wolf."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import pytest
from msgspec.structs import replace

from anqfs.namespace import Caller, Namespace
from anqfs.namespace import scrub as scrub_module
from anqfs.namespace.scrub import Scrub
from anqfs.store.schema import SCRUB, WINDOW, Dirent, Inode, ScrubState, Window, inode_key, window_key
from tests.unit.damaged_volume import SNAPSHOT, Damage
from tests.unit.namespace_volume import opened, work_off

USER = Caller(0, 0, frozenset(), 0o022)


def whole_pass(ns: Namespace, budget: int = 256) -> Scrub:
    scrub = Scrub(ns)
    for _ in range(10_000):
        if not scrub.step(budget):
            return scrub
    raise AssertionError("the scrub does not end")


@contextmanager
def scrubbed(damage: Damage) -> Iterator[Scrub]:
    with opened(damage.store) as ns:
        yield whole_pass(ns)


def paths(scrub: Scrub) -> list[bytes]:
    return sorted(finding.path for finding in scrub.findings)


def test_a_sound_volume_has_no_findings(damage: Damage) -> None:
    with scrubbed(damage) as scrub:
        assert scrub.findings == []
        state = scrub.state
        assert (state.passes, state.position, state.damaged) == (1, b"", ())
        assert state.records > 50 and state.extents >= 6 and state.size > 3 * WINDOW
        assert 0 < state.started < state.finished


@pytest.mark.parametrize("budget", [1, 7, 10_000])
def test_every_budget_sees_all(damage: Damage, budget: int) -> None:
    with opened(damage.store) as ns:
        first = whole_pass(ns, budget).state
    damage.flip_extent(damage.window_of(b"/d/plain").pieces[0][2])
    with opened(damage.store) as ns:
        second = whole_pass(ns, budget)
    assert paths(second) == [b"/copy/plain", b"/d/plain"]
    assert second.state.passes == first.passes + 1


def test_a_step_is_bounded_by_bytes_too(damage: Damage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrub_module, "STEP_BYTES", WINDOW // 2)
    with opened(damage.store) as ns:
        scrub = Scrub(ns)
        sizes = [0]
        while scrub.step(10_000):
            sizes.append(scrub.state.size)
        assert max(after - before for before, after in pairwise(sizes)) < WINDOW + WINDOW // 2
        assert scrub.findings == []


def test_damaged_records_and_extents_are_named(damage: Damage) -> None:
    damage.flip_record(damage.key_of(b"/d/link"))
    damage.drop_extent(damage.window_of(b"/d/file").pieces[0][2])
    past = damage.keys(b"w" + damage.key_of(b"/d/gone")[1:])[0]
    record = damage.get(past)
    assert isinstance(record, Window)
    damage.flip_extent(record.pieces[0][2])
    with scrubbed(damage) as scrub:
        assert paths(scrub) == sorted([b"/d/link", b"/d/file", SNAPSHOT + b"/gone", b"/copy/gone"])
        assert sorted(scrub.state.damaged) == paths(scrub)
        assert scrub.volume.get(SCRUB) == scrub.state


def test_an_extent_that_is_too_short(damage: Damage) -> None:
    at, _, extent, start, number = damage.window_of(b"/d/plain").pieces[0]
    damage.edit(
        lambda volume: volume.put(window_key(damage.facts.ino[b"/d/plain"], 0), Window(9, b"", ((at, 60_000, extent, start, number),)))
    )
    with scrubbed(damage) as scrub:
        assert [(finding.path, finding.what) for finding in scrub.findings] == [
            (b"/d/plain", f"it uses bytes beyond the end of extent {extent}")
        ]


def test_names_and_inodes_that_do_not_agree(damage: Damage) -> None:
    damage.edit(lambda volume: volume.delete(inode_key(damage.facts.ino[b"/d/sub"])))
    with scrubbed(damage) as scrub:
        assert [finding.path for finding in scrub.findings] == [b"/d"]
        assert "the name sub leads to inode" in scrub.findings[0].what


def test_a_link_that_is_not_there(damage: Damage) -> None:
    key = damage.name_key(b"/d", b"two")
    damage.edit(lambda volume: volume.delete(key))
    with scrubbed(damage) as scrub:
        assert paths(scrub) == [b"/d/one"]
        assert "lists a name" in scrub.findings[0].what


def test_a_name_under_another_hash_or_of_another_type(damage: Damage) -> None:
    hashed, typed = damage.name_key(b"/d", b"small"), damage.name_key(b"/d", b"plain")

    def plant(volume: object) -> None:
        for key, change in ((hashed, {"name": b"smell"}), (typed, {"kind": 0o040000})):
            old = volume.get(key)  # type: ignore[attr-defined]
            assert isinstance(old, Dirent)
            volume.put(key, replace(old, **change))  # type: ignore[attr-defined]

    damage.edit(plant)
    with scrubbed(damage) as scrub:
        assert sorted(finding.what for finding in scrub.findings) == [
            f"the name plain and inode {damage.facts.ino[b'/d/plain']} do not agree",
            "the name smell is kept under another name's hash",
        ]


def test_a_dead_list_entry_that_names_nothing(damage: Damage) -> None:
    past = damage.keys(b"i" + damage.key_of(b"/d/small")[1:])[0]
    damage.edit(lambda volume: volume.delete(past))
    with scrubbed(damage) as scrub:
        assert [(finding.path, finding.what) for finding in scrub.findings] == [
            (b"snapshot 1", "its dead list names a past record that does not exist")
        ]


def test_it_goes_on_where_it_stopped(damage: Damage) -> None:
    with opened(damage.store) as ns:
        scrub = Scrub(ns)
        for _ in range(5):
            assert scrub.step(4)
        position, records = scrub.state.position, scrub.state.records
        assert position and records == 20
    with opened(damage.store) as ns:
        scrub = Scrub(ns)
        assert (scrub.state.position, scrub.state.records) == (position, records)
        while scrub.step(4):
            pass
        assert scrub.state.passes == 1 and scrub.findings == []
        with_one_step = whole_pass(ns).state
        assert abs(with_one_step.records - scrub.state.records) <= 1  # its own record came meanwhile
        assert with_one_step.passes == 2


def test_what_changes_while_it_is_looked_at_is_no_fault(damage: Damage) -> None:
    """Between reading and judging, files are rewritten and removed, and their extents go."""
    with opened(damage.store) as ns:
        scrub = Scrub(ns)
        batch = scrub.take(10_000)
        for name in (b"file", b"plain", b"one", b"two"):
            ns.unlink(damage.facts.ino[b"/d"], name)
        ns.write(damage.facts.ino[b"/d/small"], 0, b"x" * 9000)
        copy = damage.facts.ino[b"/copy"]
        for name, _, inode, _ in list(ns.readdir(copy, 0)):
            if inode is not None and inode.mode & 0o040000:
                ns.rmdir(copy, name)
            else:
                ns.unlink(copy, name)
        ns.snapshot_delete(1)
        work_off(ns)
        for _ in range(3):  # frees are carried out one commit later
            ns.setxattr(1, b"user.tick", b"", 0, USER)
            ns.volume.commit().wait()
        before = set(range(1, 30)) - set(ns.volume.raw_extent_ids(0, 1000))
        assert len(before) > 5
        while batch is not None:
            scrub.verify(batch)
            if not scrub.settle(batch):
                break
            batch = scrub.take(10_000)
        assert scrub.findings == []


def test_a_busy_volume_raises_no_alarm(damage: Damage) -> None:
    with opened(damage.store) as ns:
        d = damage.facts.ino[b"/d"]
        scrub = Scrub(ns)
        for number in range(400):
            name = b"busy%d" % (number % 7)
            if number % 3 == 0:
                node = ns.create(d, name + b"_%d" % number, 0o600, USER)[0]
                ns.write(node, 0, bytes([number % 256]) * 20_000)
            if number % 5 == 0 and number:
                ns.rename(d, b"%s_%d" % (b"busy%d" % ((number - number % 3) % 7), number - number % 3), d, b"moved%d" % number, 0)
            if number % 20 == 0:
                ns.snapshot_create(d, b"busy")
            if number % 20 == 10:
                ns.snapshot_delete(ns.snapshots()[-1].id)
            ns.work(5)
            if number % 4 == 0:
                ns.volume.commit().wait()
            scrub.step(3)
        while scrub.step(50):
            pass
        assert scrub.findings == []


def test_the_list_of_damage_is_bounded(damage: Damage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrub_module, "DAMAGED_MAX", 2)
    for path in (b"/d/link", b"/d/sub", b"/d/plain"):
        damage.flip_record(damage.key_of(path))
    with scrubbed(damage) as scrub:
        assert len(scrub.findings) == len(scrub.state.damaged) == 2


def test_its_own_damaged_record_only_loses_the_position(damage: Damage) -> None:
    with opened(damage.store) as ns:
        Scrub(ns).step(3)
    damage.flip_record(SCRUB)
    with opened(damage.store) as ns:
        scrub = Scrub(ns)
        assert scrub.state.position == b""
        assert isinstance(scrub.state, ScrubState)
        while scrub.step():
            pass
        assert scrub.findings == [] or paths(scrub) == [b"volume"]


def test_it_reads_on_when_nothing_can_be_written(damage: Damage) -> None:
    damage.flip_record(damage.key_of(b"/d/link"))
    with opened(damage.store, read_only=True) as ns:
        assert isinstance(ns.volume.get(inode_key(1)), Inode)
        assert paths(whole_pass(ns)) == [b"/d/link"]
