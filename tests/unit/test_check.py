"""`check` finds every kind of damage that it claims to find, names the file that it strikes, and finds nothing else."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from anqfs.namespace.check import Report, check
from anqfs.store.administration import Quota, TreeDelete, quota_key, tree_delete_key
from anqfs.store.schema import (
    COUNTER_EPOCH,
    COUNTER_EXTENT,
    COUNTER_INO,
    COUNTER_SNAPSHOT,
    ROOT_DIGEST,
    WINDOW,
    Counter,
    Dead,
    Orphan,
    References,
    Usage,
    Window,
    dead_key,
    inode_key,
    live_key,
    mark_key,
    orphan_key,
    past_key,
    references_key,
    snapshot_key,
    usage_key,
    view_key,
    window_key,
    xattr_key,
)
from anqfs.store.volume import Volume
from tests.unit.damaged_volume import SNAPSHOT, Damage, Facts
from tests.unit.namespace_volume import SECRET


def checked(store: Path, progress: Callable[[int, int], None] | None = None) -> Report:
    volume = Volume.open(store, SECRET, read_only=True)
    try:
        return check(volume, progress)
    finally:
        volume.close()


def found(damage: Damage) -> list[tuple[bytes, str]]:
    return sorted((finding.path, finding.what) for finding in checked(damage.store).findings)


def expect(damage: Damage, *expected: tuple[bytes, str]) -> None:
    """Check the volume: these findings, each (path, part of the text), and no others."""
    findings = found(damage)
    assert [path for path, _ in findings] == sorted(path for path, _ in expected), findings
    for path, part in expected:
        assert any(where == path and part in what for where, what in findings), findings


# ------------------------------------------------------------------ nothing


def test_a_sound_volume_is_clean(damage: Damage) -> None:
    calls: list[tuple[int, int]] = []
    report = checked(damage.store, lambda done, total: calls.append((done, total)))
    assert report.clean and report.findings == [], report.findings
    assert (report.files, report.directories, report.snapshots) == (12, 5, 1)
    assert report.records > 50 and report.extents > 5 and report.size > 3 * WINDOW
    assert report.root.partition(":")[2]
    assert all(0 < done <= total for done, total in calls)


def test_check_changes_nothing(damage: Damage) -> None:
    before = {path: path.read_bytes() for path in damage.store.rglob("data.mdb")}
    checked(damage.store)
    assert {path: path.read_bytes() for path in damage.store.rglob("data.mdb")} == before


def test_an_open_volume_is_checked_with_what_it_has_not_committed(damage: Damage) -> None:
    volume = Volume.open(damage.store, SECRET)
    try:
        volume.put(orphan_key(999), Orphan())
        assert [finding.path for finding in check(volume).findings] == [b"inode 999"]
    finally:
        volume.close()


# ------------------------------------------------- records that do not open

RECORDS: dict[str, tuple[Callable[[Damage], bytes], bytes, str]] = {
    "inode": (lambda d: d.key_of(b"/d/small"), b"/d/small", "inode record"),
    "inode of a directory": (lambda d: d.key_of(b"/d/sub"), b"/d/sub", "inode record"),
    "name": (lambda d: d.name_key(b"/d", b"small"), b"/d", "name record"),
    "map": (lambda d: window_key(d.facts.ino[b"/d/file"], 1), b"/d/file", "map record"),
    "attribute": (lambda d: d.keys(xattr_key(d.facts.ino[b"/d/small"], b"")[:9])[0], b"/d/small", "extended attribute record"),
    "totals": (lambda d: usage_key(d.facts.ino[b"/d"]), b"/d", "usage record"),
    "snapshot": (lambda d: snapshot_key(1), b"snapshot 1", "snapshot record"),
    "mark": (lambda d: mark_key(d.facts.ino[b"/d"], 1), b"snapshot 1", "record"),
    "past inode": (lambda d: d.keys(b"i" + d.key_of(b"/d/small")[1:])[0], SNAPSHOT + b"/small", "past inode record"),
    "past map": (lambda d: d.keys(b"w" + d.key_of(b"/d/file")[1:])[0], SNAPSHOT + b"/file", "past map record"),
    "past name": (lambda d: d.keys(b"d" + d.key_of(b"/d")[1:])[0], SNAPSHOT, "past name record"),
    "dead list": (lambda d: d.keys(b"L")[0], b"snapshot 1", "dead list record"),
    "count": (lambda d: d.keys(b"R")[0], b"extent", "count record"),
    "orphan": (lambda d: d.keys(b"O")[0], b"inode", "record"),
    "counter": (lambda d: COUNTER_SNAPSHOT, b"volume", "record"),
}


@pytest.mark.parametrize("kind", RECORDS)
def test_a_record_that_does_not_open_is_one_finding(damage: Damage, kind: str) -> None:
    key_of, path, what = RECORDS[kind]
    damage.flip_record(key_of(damage))
    findings = found(damage)
    assert len(findings) == 1, findings
    assert findings[0][0].startswith(path) and what in findings[0][1]


def test_each_of_all_records_damaged_at_once_ends_in_findings(damage: Damage) -> None:
    keys = [key for letter in b"IDWXUSLRVOidwxusv" for key in damage.keys(bytes((letter,)))]
    for key in keys:
        damage.flip_record(key)
    assert len(found(damage)) >= 10


@pytest.mark.parametrize("kind", RECORDS)
def test_a_record_that_was_taken_away_is_noticed(damage: Damage, kind: str) -> None:
    damage.drop_record(RECORDS[kind][0](damage))
    findings = found(damage)
    assert (b"volume", True) in [(path, "root digest" in what) for path, what in findings], findings


@pytest.mark.parametrize("seed", range(5))
def test_random_damage_to_the_databases_never_raises(damage: Damage, seed: int) -> None:
    pick = random.Random(seed)
    keys = [key for letter in b"IDWXUSLRVOidwxusv" for key in damage.keys(bytes((letter,)))]
    for key in pick.sample(keys, 8):
        pick.choice((damage.flip_record, damage.drop_record))(key)
    volume = Volume.open(damage.store, SECRET)
    extents = volume.raw_extent_ids(0, 1000)
    volume.close()
    for extent in pick.sample(extents, 2):
        pick.choice((damage.flip_extent, damage.drop_extent))(extent)
    assert found(damage)


# ------------------------------------------------------------------ extents


def test_a_flipped_bit_of_an_extent_names_the_file(damage: Damage) -> None:
    damage.flip_extent(damage.window_of(b"/d/plain").pieces[0][2])
    expect(damage, (b"/d/plain", "is damaged"), (b"/copy/plain", "is damaged"))


def test_damage_in_any_chunk_is_seen(damage: Damage) -> None:
    damage.flip_extent(damage.window_of(b"/d/file").pieces[0][2], WINDOW - 100)
    expect(damage, (b"/d/file", "is damaged"))


def test_damage_that_only_snapshots_see_names_the_path_in_the_snapshot(damage: Damage) -> None:
    key = damage.keys(b"w" + damage.key_of(b"/d/gone")[1:])[0]
    record = damage.get(key)
    assert isinstance(record, Window)
    damage.flip_extent(record.pieces[0][2])
    expect(damage, (SNAPSHOT + b"/gone", "is damaged"), (b"/copy/gone", "is damaged"))


def test_a_missing_extent_names_the_file(damage: Damage) -> None:
    damage.drop_extent(damage.window_of(b"/d/file").pieces[0][2])
    expect(damage, (b"/d/file", "is missing"))


def test_an_extent_that_nothing_uses(damage: Damage) -> None:
    written: list[int] = []
    damage.edit(lambda volume: written.append(volume.write_extent(b"stray" * 100)[0]))
    expect(damage, (b"extent %d" % written[0], "used by no file"))


def test_an_extent_that_is_too_short(damage: Damage) -> None:
    def lengthen(record: Window) -> Window:
        at, _, extent, start, key = record.pieces[0]
        return replace(record, pieces=((at, 60_000, extent, start, key),))

    damage.replace(window_key(damage.facts.ino[b"/d/plain"], 0), lengthen)  # type: ignore[arg-type]
    findings = found(damage)
    assert any(path == b"/d/plain" and "beyond the end of extent" in what for path, what in findings)


def test_a_count_that_is_wrong(damage: Damage) -> None:
    extent = damage.window_of(b"/d/plain").pieces[0][2]
    damage.replace(references_key(extent), lambda old: References(5))
    expect(damage, (b"/d/plain", "is used 2 times, but 5 are counted"))


def test_a_count_that_is_missing(damage: Damage) -> None:
    extent = damage.window_of(b"/d/plain").pieces[0][2]
    damage.edit(lambda volume: volume.delete(references_key(extent)))
    expect(damage, (b"/d/plain", "is used 2 times, but 1 are counted"))


def test_a_count_of_an_extent_that_nothing_uses(damage: Damage) -> None:
    damage.edit(lambda volume: volume.put(references_key(77_777), References(2)))
    expect(damage, (b"extent 77777", "no file uses it"))


# -------------------------------------------------------------------- names


def test_a_name_that_leads_nowhere(damage: Damage) -> None:
    key = damage.key_of(b"/d/link")
    damage.edit(lambda volume: volume.delete(key))
    findings = found(damage)
    assert any(path == b"/d/link" and "does not exist" in what for path, what in findings), findings


def test_a_name_of_another_type(damage: Damage) -> None:
    damage.replace(damage.name_key(b"/d", b"small"), lambda old: replace(old, kind=0o040000))  # type: ignore[type-var]
    findings = found(damage)
    assert any(path == b"/d/small" and "another type" in what for path, what in findings), findings


def test_a_name_under_another_hash(damage: Damage) -> None:
    damage.replace(damage.name_key(b"/d", b"small"), lambda old: replace(old, name=b"smell"))  # type: ignore[type-var]
    expect(damage, (b"/d/smell", "another name's hash"))


def test_a_link_that_is_not_there(damage: Damage) -> None:
    key = damage.name_key(b"/d", b"two")
    damage.edit(lambda volume: volume.delete(key))
    findings = found(damage)
    assert any(path == b"/d/one" and "lists a name in /d" in what for path, what in findings), findings
    assert any(path == b"/d" and "entries" in what for path, what in findings)


def test_a_link_that_the_inode_does_not_list(damage: Damage) -> None:
    damage.replace(damage.key_of(b"/d/one"), lambda old: replace(old, links=old.links[:1], nlink=1))  # type: ignore[attr-defined,type-var]
    findings = found(damage)
    assert [what for _, what in findings] == [f"names inode {damage.facts.ino[b'/d/one']}, which does not list this name"], findings


def test_a_wrong_link_count(damage: Damage) -> None:
    damage.replace(damage.key_of(b"/d/one"), lambda old: replace(old, nlink=3))  # type: ignore[type-var]
    expect(damage, (b"/d/one", "its link count is 3, but it has 2 names"))


def test_a_wrong_link_count_of_a_directory(damage: Damage) -> None:
    damage.replace(damage.key_of(b"/d"), lambda old: replace(old, nlink=9))  # type: ignore[type-var]
    expect(damage, (b"/d", "its link count is 9, but it has 1 subdirectories"))


def test_a_wrong_number_of_entries(damage: Damage) -> None:
    damage.replace(damage.key_of(b"/d"), lambda old: replace(old, size=99))  # type: ignore[type-var]
    expect(damage, (b"/d", "it says that it has 99 entries"))


def test_directories_that_hold_each_other(damage: Damage) -> None:
    sub, d = damage.facts.ino[b"/d/sub"], damage.facts.ino[b"/d"]
    sub_link = damage.inode_of(b"/d/sub").links[0]

    def run(volume: Volume) -> None:
        inode = damage_inode
        volume.put(inode_key(sub), replace(inode, links=((sub, sub_link[1]),)))
        volume.delete(sub_key)
        volume.put(b"D" + sub.to_bytes(8, "big") + sub_link[1], replace(name, ino=sub))  # type: ignore[type-var]

    damage_inode, sub_key = damage.inode_of(b"/d/sub"), damage.name_key(b"/d", b"sub")
    name = damage.get(sub_key)
    damage.edit(run)
    findings = found(damage)
    assert any(path == b"inode %d" % sub and "cannot be reached" in what for path, what in findings), (d, findings)


def test_an_inode_without_a_name_that_is_no_orphan(damage: Damage) -> None:
    held = damage.facts.ino[b"/held"]
    damage.edit(lambda volume: volume.delete(orphan_key(held)))
    expect(damage, (b"inode %d" % held, "not listed as an orphan"))


def test_an_orphan_that_has_a_name_or_does_not_exist(damage: Damage) -> None:
    ino = damage.facts.ino[b"/d/small"]
    damage.edit(lambda volume: (volume.put(orphan_key(ino), Orphan()), volume.put(orphan_key(12_345_678), Orphan())))
    expect(damage, (b"inode %d" % ino, "has a name"), (b"inode 12345678", "does not exist"))


def test_quotas_and_deletions_of_what_is_no_directory(damage: Damage) -> None:
    ino = damage.facts.ino[b"/d/small"]
    damage.edit(lambda volume: (volume.put(quota_key(ino), Quota(5)), volume.put(quota_key(12_345_678), Quota(5))))
    damage.edit(
        lambda volume: (volume.put(tree_delete_key(ino), TreeDelete(5, b"/d")), volume.put(tree_delete_key(99_999), TreeDelete(5, b"/")))
    )
    expect(
        damage,
        (b"/d/small", "has a quota but is no directory"),
        (b"/d/small", "has a tree deletion but is no directory"),
        (b"inode 12345678", "has a quota but does not exist"),
        (b"inode 99999", "has a tree deletion but does not exist"),
    )


def test_a_file_lock_on_what_is_no_file(damage: Damage) -> None:
    damage.replace(damage.key_of(b"/d/sub"), lambda old: replace(old, legal_hold=True))  # type: ignore[type-var]
    expect(damage, (b"/d/sub", "has a file lock but is no regular file"))


# --------------------------------------------------------------------- maps


def window_case(pieces: tuple[tuple[int, int, int, int, int], ...], inline: bytes = b"") -> Callable[[Damage], None]:
    def plant(damage: Damage) -> None:
        extent, _, key = damage.window_of(b"/d/file").pieces[0][2:]
        real = tuple((at, length, extent, start, key) for at, length, _, start, _ in pieces)
        damage.replace(window_key(damage.facts.ino[b"/d/file"], 0), lambda old: replace(old, pieces=real, inline=inline))  # type: ignore[type-var]

    return plant


@pytest.mark.parametrize(
    ("plant", "what"),
    [
        (window_case(((0, 1000, 0, 0, 0), (500, WINDOW - 500, 0, 0, 0))), "overlap"),
        (window_case(((WINDOW // 2, WINDOW // 2, 0, 0, 0), (0, WINDOW // 2, 0, 0, 0))), "out of order"),
        (window_case(((0, WINDOW + 1, 0, 0, 0),)), "out of bounds"),
        (window_case(((0, WINDOW, 0, 0, 0),), b"both"), "both pieces and data"),
        (window_case(()), "is empty"),
        (window_case(((0, 1000, 0, 0, 0),)), "but its map holds"),
    ],
)
def test_a_map_that_makes_no_sense(damage: Damage, plant: Callable[[Damage], None], what: str) -> None:
    plant(damage)
    findings = found(damage)
    assert any(path == b"/d/file" and what in text for path, text in findings), findings
    assert all(path == b"/d/file" or path.startswith(b"extent") for path, _ in findings), findings


def test_data_beyond_the_end_of_a_file(damage: Damage) -> None:
    damage.replace(damage.key_of(b"/d/plain"), lambda old: replace(old, size=10))  # type: ignore[type-var]
    findings = found(damage)
    assert (b"/d/plain", "window 0 holds data beyond the end of the file") in findings


def test_a_map_of_no_file(damage: Damage) -> None:
    damage.edit(lambda volume: volume.put(window_key(9_999_999, 0), Window(1, b"stray")))
    findings = found(damage)
    assert findings == [(b"inode 9999999", "a live W record belongs to it, but it does not exist")]


def test_a_lost_part_of_a_map(damage: Damage) -> None:
    key = window_key(damage.facts.ino[b"/d/small"], 0)
    damage.edit(lambda volume: volume.delete(key))
    expect(damage, (b"/d/small", "it says that it holds 100 bytes, but its map holds 0"))


# ------------------------------------------------------ attributes, totals


def test_attributes_and_flags_that_differ(damage: Damage) -> None:
    damage.replace(damage.key_of(b"/d/small"), lambda old: replace(old, flags=0))  # type: ignore[type-var]
    expect(damage, (b"/d/small", "its flags and its extended attributes differ"))


def test_wrong_totals_are_found_where_they_are_wrong(damage: Damage) -> None:
    damage.replace(usage_key(damage.facts.ino[b"/copy"]), lambda old: replace(old, files=77))  # type: ignore[type-var]
    findings = found(damage)
    assert any(path == b"/copy" and "its totals are" in what for path, what in findings), findings


def test_missing_totals(damage: Damage) -> None:
    damage.edit(lambda volume: volume.put(usage_key(damage.facts.ino[b"/d/sub"]), Usage(1, files=1)))
    findings = found(damage)
    assert any(path == b"/d/sub" and "adds up to" in what for path, what in findings), findings


# ---------------------------------------------------------------- snapshots


def test_a_past_record_on_no_dead_list(damage: Damage) -> None:
    entry = damage.keys(b"L")[0]
    damage.edit(lambda volume: volume.delete(entry))
    findings = found(damage)
    assert len(findings) == 1 and "is on no dead list" in findings[0][1], findings


def test_a_dead_list_that_names_nothing(damage: Damage) -> None:
    epoch = damage.get(snapshot_key(1)).epoch  # type: ignore[attr-defined]
    lost = past_key(inode_key(4_444_444), epoch)
    damage.edit(lambda volume: volume.put(dead_key(1, 500), Dead(lost, 4_444_444)))
    findings = found(damage)
    assert (b"snapshot 1", "its dead list names a past i record that does not exist") in findings, findings


def test_a_dead_list_of_no_snapshot(damage: Damage) -> None:
    entry = damage.get(damage.keys(b"L")[0])
    damage.edit(lambda volume: volume.put(dead_key(9, 1), entry))
    findings = found(damage)
    assert any(path == b"snapshot 9" and "does not exist" in what for path, what in findings), findings


def test_a_past_version_of_an_epoch_without_a_snapshot(damage: Damage) -> None:
    key = damage.keys(b"i" + damage.key_of(b"/d/small")[1:])[0]
    record = damage.get(key)
    live = live_key(key)[0]
    damage.edit(lambda volume: (volume.put(past_key(live, 0), replace(record, birth=0)), None))  # type: ignore[type-var]
    findings = found(damage)
    assert any("of which there is no snapshot" in what for _, what in findings), findings


def test_versions_that_overlap(damage: Damage) -> None:
    damage.replace(damage.key_of(b"/d/small"), lambda old: replace(old, birth=1))  # type: ignore[type-var]
    findings = found(damage)
    assert (b"/d/small", "two versions of one I record are valid in epoch 1") in findings, findings


def test_a_lost_version_is_missing_from_the_snapshot(damage: Damage) -> None:
    key = damage.keys(b"i" + damage.key_of(b"/d/gone")[1:])[0]
    damage.edit(lambda volume: volume.delete(key))
    findings = found(damage)
    assert any(path == SNAPSHOT + b"/gone" and "missing from snapshot 1" in what for path, what in findings), findings


def test_a_lost_version_of_a_live_file_is_missing_from_the_snapshot(damage: Damage) -> None:
    key = damage.keys(b"i" + damage.key_of(b"/d/small")[1:])[0]
    damage.edit(lambda volume: volume.delete(key))
    findings = found(damage)
    assert any(path == b"/d/small" and "missing from snapshot 1" in what for path, what in findings), findings


def test_a_lost_map_of_a_snapshot(damage: Damage) -> None:
    key = damage.keys(b"w" + damage.key_of(b"/d/small")[1:])[0]
    damage.edit(lambda volume: volume.delete(key))
    findings = found(damage)
    assert (SNAPSHOT + b"/small", "it says that it holds 100 bytes, but 0 are kept") in findings, findings


def test_a_lost_name_of_a_snapshot(damage: Damage) -> None:
    key = damage.keys(b"d" + damage.key_of(b"/d")[1:])[0]
    damage.edit(lambda volume: volume.delete(key))
    findings = found(damage)
    assert any(path == SNAPSHOT and "entries, but" in what for path, what in findings), findings


def test_a_snapshot_without_its_mark(damage: Damage) -> None:
    key = mark_key(damage.facts.ino[b"/d"], 1)
    damage.edit(lambda volume: volume.delete(key))
    expect(damage, (b"snapshot 1", "missing from the index"))


def test_a_mark_without_its_snapshot(damage: Damage) -> None:
    mark = damage.get(mark_key(damage.facts.ino[b"/d"], 1))
    damage.edit(lambda volume: volume.put(mark_key(damage.facts.ino[b"/d"], 8), mark))
    expect(damage, (b"snapshot 8", "the index names it, but it does not exist"))


def test_a_view_that_the_index_does_not_know(damage: Damage) -> None:
    key = damage.keys(b"v")[0]
    damage.edit(lambda volume: volume.delete(key))
    expect(damage, (b"snapshot 1", "is not what the index says"))


def test_an_index_that_names_a_lost_view(damage: Damage) -> None:
    damage.edit(lambda volume: volume.delete(view_key(1)))
    expect(damage, (b"snapshot 1", "which is not its view"))


# -------------------------------------------------------- counters, digest


@pytest.mark.parametrize("name", [COUNTER_INO, COUNTER_EPOCH, COUNTER_SNAPSHOT, COUNTER_EXTENT])
def test_a_counter_that_would_hand_out_a_number_twice(damage: Damage, name: bytes) -> None:
    if name == COUNTER_EXTENT:  # opening for writing would take what it does not know for garbage
        damage.replace(name, lambda old: Counter(1))
        report = checked(damage.store)
        assert any("the counter extent is 1" in finding.what for finding in report.findings), report.findings
        return
    damage.replace(name, lambda old: Counter(1))
    expect(damage, (b"volume", f"the counter {name[1:].decode()} is 1"))


def test_a_record_put_back_from_an_older_copy(damage: Damage, original: tuple[Path, Facts], tmp_path: Path) -> None:
    key = damage.key_of(b"/d/small")
    kept: list[bytes] = []
    damage.raw("records", lambda txn: kept.append(txn.get(key)))
    damage.replace(key, lambda old: replace(old, uid=5))  # type: ignore[type-var]
    damage.raw("records", lambda txn: txn.put(key, kept[0]))
    expect(damage, (b"volume", "the root digest is not that of the records"))


def test_a_wrong_root_digest(damage: Damage) -> None:
    older: list[bytes] = []
    damage.raw("records", lambda txn: older.append(txn.get(ROOT_DIGEST)))
    damage.edit(lambda volume: volume.put(orphan_key(1), Orphan()))
    damage.edit(lambda volume: volume.delete(orphan_key(1)))
    damage.raw("records", lambda txn: txn.put(ROOT_DIGEST, older[0]))
    report = checked(damage.store)
    assert all("root digest" in finding.what for finding in report.findings), report.findings


def test_a_key_of_no_kind(damage: Damage) -> None:
    damage.raw("records", lambda txn: txn.put(b"Zunknown", b"junk"))
    findings = found(damage)
    assert any(path == b"volume" and "unknown key" in what for path, what in findings), findings


def test_findings_are_bounded(damage: Damage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anqfs.namespace.check.FINDINGS_MAX", 3)
    damage.edit(lambda volume: [volume.put(orphan_key(10_000 + n), Orphan()) for n in range(10)])
    report = checked(damage.store)
    assert (len(report.findings), report.unlisted) == (3, 7)
