"""A restore is made whole or not at all: locked files and full quotas are found before anything changes."""

from __future__ import annotations

import errno
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from stat import S_ISREG
from typing import Any

import pytest

from anqfs.errors import FilesystemError, NotFound
from anqfs.namespace import ROOT, Namespace
from anqfs.namespace.core import ROOT_CALLER
from anqfs.namespace.restore import Restore
from anqfs.namespace.restore_obstacles import Obstacles
from tests.unit.namespace_volume import answer, make_store, opened
from tests.unit.test_quotas import History
from tests.unit.test_restore import directory, find, make, run, seen, sound


def left_alone(ns: Namespace, restore: Callable[[], Restore], number: int, words: str) -> None:
    """See that a restore is refused with an errno and words, and that it left no trace."""
    before, snapshots = seen(ns, 1), [one.id for one in ns.snapshots()]
    with pytest.raises(FilesystemError, match=f"nothing was changed: .*{words}") as caught:
        run(restore(), 1)
    assert caught.value.errno == number
    assert (seen(ns, 1), [one.id for one in ns.snapshots()]) == (before, snapshots)


def scene(ns: Namespace) -> tuple[int, int]:
    """Make /d/sub with two files, and a snapshot of /d; returns (d, snapshot)."""
    d = directory(ns, 1, b"d")
    sub = directory(ns, d, b"sub")
    make(ns, d, b"a", b"a" * 10_000)
    make(ns, sub, b"b", b"b" * 10_000)
    return d, ns.snapshot_create(d, b"s").id


def change(ns: Namespace, what: str) -> int:
    """Do something to a file that a restore has to take back, and return the file."""
    a, sub = find(ns, b"d/a"), find(ns, b"d/sub")
    if what == "content":
        ns.write(a, 0, b"changed")
    elif what == "attribute":
        ns.setxattr(a, b"user.x", b"1", 0, ROOT)
    elif what == "name":
        ns.rename(find(ns, b"d"), b"a", sub, b"a", 0)
    elif what == "another name":
        ns.link(a, sub, b"second")
    elif what == "a name fewer":
        ns.link(a, 1, b"outside")
        ns.unlink(find(ns, b"d"), b"a")
        ns.link(a, sub, b"a")
    elif what == "new":
        return make(ns, directory(ns, sub, b"later"), b"new", b"n")
    elif what == "in the way":
        ns.unlink(sub, b"b")
        return make(ns, directory(ns, sub, b"b"), b"below", b"n")
    else:
        raise AssertionError(what)
    return a


@pytest.mark.parametrize("what", ["content", "attribute", "name", "another name", "a name fewer", "new", "in the way"])
def test_a_restore_that_would_change_a_locked_file_changes_nothing(ns: Namespace, what: str) -> None:
    d, snapshot = scene(ns)
    then = seen(ns, ns.snapshot_node(snapshot))
    file = change(ns, what)
    make(ns, d, b"other")
    ns.file_locks.change(file, legal_hold=True)
    path = ns.path_of(file)
    assert path is not None
    left_alone(ns, lambda: Restore(ns, snapshot), errno.EPERM, f"{path.decode()} is locked")
    ns.file_locks.change(file, legal_hold=False)
    run(Restore(ns, snapshot))
    assert sorted(seen(ns, d)) == sorted(then)
    sound(ns)


def test_a_locked_file_that_is_what_it_was_is_in_nobodys_way(ns: Namespace) -> None:
    d, snapshot = scene(ns)
    then = seen(ns, ns.snapshot_node(snapshot))
    for path in (b"d/a", b"d/sub/b"):
        ns.file_locks.change(find(ns, path), legal_hold=True)
    ns.rename(d, b"sub", d, b"renamed", 0)
    make(ns, d, b"later")
    run(Restore(ns, snapshot))
    assert sorted(seen(ns, d)) == sorted(then)
    run(Restore(ns, snapshot, b"a"))
    run(Restore(ns, snapshot, b"sub"))
    sound(ns)


def test_a_single_file_that_is_locked_is_found_and_others_do_not_matter(ns: Namespace) -> None:
    _, snapshot = scene(ns)
    locked = change(ns, "content")
    ns.file_locks.change(locked, legal_hold=True)
    ns.write(find(ns, b"d/sub/b"), 0, b"changed")
    left_alone(ns, lambda: Restore(ns, snapshot, b"a"), errno.EPERM, "/d/a is locked")
    run(Restore(ns, snapshot, b"sub"))
    assert ns.read(find(ns, b"d/sub/b"), 0, 7) == b"b" * 7
    run(Restore(ns, snapshot, b"", (1, b"beside")))
    assert ns.read(find(ns, b"beside/a"), 0, 7) == b"a" * 7
    assert ns.read(locked, 0, 7) == b"changed"


def test_how_many_more_are_locked_is_told(ns: Namespace) -> None:
    d, snapshot = scene(ns)
    for number in range(3):
        ns.file_locks.change(make(ns, d, b"%d" % number), legal_hold=True)
    left_alone(ns, lambda: Restore(ns, snapshot), errno.EPERM, "is locked .*, and 2 more such files")


def used(ns: Namespace, node: int) -> int:
    return next(one.used for one in ns.quotas.listing() if one.ino == node)


@pytest.mark.parametrize("limited", [b"", b"d", b"d/sub"])
def test_a_restore_that_a_quota_has_no_room_for_changes_nothing(ns: Namespace, limited: bytes) -> None:
    _, snapshot = scene(ns)
    ns.unlink(find(ns, b"d/sub"), b"b")
    ns.rename(find(ns, b"d"), b"a", 1, b"a", 0)
    top = find(ns, limited)
    ns.quotas.set(top, 1 << 40)
    ns.quotas.set(top, used(ns, top) + 10_000)  # the 10,000 bytes of `b`, but not its name
    left_alone(ns, lambda: Restore(ns, snapshot), errno.EDQUOT, "the quota of .* has 10000 left")
    ns.quotas.set(top, used(ns, top) + 2 * (10_000 + 4096))
    run(Restore(ns, snapshot))
    sound(ns)


def test_what_comes_later_must_not_be_needed_as_room(ns: Namespace) -> None:
    d, snapshot = scene(ns)
    ns.unlink(d, b"a")
    make(ns, d, b"later", b"l" * 10_000)
    ns.quotas.set(d, 1 << 40)
    ns.quotas.set(d, used(ns, d))
    left_alone(ns, lambda: Restore(ns, snapshot), errno.EDQUOT, "needs 14096 bytes before anything that came later is removed")


def test_a_file_that_grows_back_counts_at_each_name_that_it_has_meanwhile(ns: Namespace) -> None:
    d, snapshot = scene(ns)
    ns.set_attributes(find(ns, b"d/a"), size=0, caller=ROOT_CALLER)
    ns.link(find(ns, b"d/a"), d, b"second")
    ns.quotas.set(d, 1 << 40)
    ns.quotas.set(d, used(ns, d) + 19_999)
    left_alone(ns, lambda: Restore(ns, snapshot), errno.EDQUOT, "needs 20000 bytes")
    ns.quotas.set(d, used(ns, d) + 20_000)
    run(Restore(ns, snapshot))
    assert ns.read(find(ns, b"d/a"), 0, 20_000) == b"a" * 10_000


def test_what_is_moved_back_counts_as_it_is_now(ns: Namespace) -> None:
    d = directory(ns, 1, b"d")
    sub = directory(ns, d, b"sub")
    small = make(ns, sub, b"small")
    snapshot = ns.snapshot_create(d, b"s").id
    ns.rename(sub, b"small", d, b"large", 0)
    ns.write(small, 0, b"l" * 50_000)
    ns.quotas.set(sub, 50_000)
    left_alone(ns, lambda: Restore(ns, snapshot), errno.EDQUOT, "the quota of /d/sub has 50000 left")
    ns.quotas.set(sub, 50_000 + 4096)
    run(Restore(ns, snapshot))
    assert ns.attributes(small).size == 0


def test_moving_back_and_overwriting_need_no_room(ns: Namespace) -> None:
    d, snapshot = scene(ns)
    then = seen(ns, ns.snapshot_node(snapshot))
    ns.quotas.set(d, 1 << 40)
    ns.rename(d, b"sub", d, b"renamed", 0)
    ns.rename(d, b"a", find(ns, b"d/renamed"), b"a", 0)
    ns.write(find(ns, b"d/renamed/b"), 0, b"x" * 10_000)
    ns.quotas.set(d, used(ns, d))
    run(Restore(ns, snapshot))
    assert sorted(seen(ns, d)) == sorted(then)
    ns.quotas.set(d, 0)
    run(Restore(ns, snapshot, b"a"))


def test_a_restore_beside_is_refused_before_it_makes_anything(ns: Namespace) -> None:
    _, snapshot = scene(ns)
    full = directory(ns, 1, b"full")
    ns.quotas.set(full, 4 * 4096 + 19_999)
    left_alone(ns, lambda: Restore(ns, snapshot, b"", (full, b"copy")), errno.EDQUOT, "has 36383 left")
    ns.quotas.set(full, 4 * 4096 + 20_000)
    run(Restore(ns, snapshot, b"", (full, b"copy")))
    assert used(ns, full) == 4 * 4096 + 20_000


def test_only_looking_whether_it_can_be_made_changes_nothing(ns: Namespace) -> None:
    _, snapshot = scene(ns)
    file = change(ns, "content")
    before = seen(ns, 1), [one.id for one in ns.snapshots()]
    run(Restore(ns, snapshot, check_only=True))
    ns.file_locks.change(file, legal_hold=True)
    left_alone(ns, lambda: Restore(ns, snapshot, check_only=True), errno.EPERM, "locked")
    assert (seen(ns, 1), [one.id for one in ns.snapshots()]) == before


def test_a_lock_that_comes_while_it_runs_still_stops_it_and_that_can_be_undone(ns: Namespace) -> None:
    d, snapshot = scene(ns)
    for name in (b"1", b"2", b"3"):
        make(ns, d, name)
    changed = seen(ns, d)
    restore = Restore(ns, snapshot)
    while restore.progress.files < 2:
        assert restore.step(1)
    late = find(ns, b"d/3")
    ns.file_locks.change(late, legal_hold=True)
    with pytest.raises(FilesystemError, match=r"part-way: .* locked.*; restore snapshot \d+_before_restore to undo"):
        run(restore)
    ns.file_locks.change(late, legal_hold=False)
    assert restore.before is not None
    run(Restore(ns, restore.before.id))
    assert sorted(seen(ns, d)) == sorted(changed)


# ---------------------------------------------------------- random histories


def limit_and_lock(ns: Namespace, draw: random.Random, history: History) -> None:
    directories, names = history.nodes()
    for node in draw.sample(directories, min(len(directories), draw.randrange(3))):
        ns.quotas.set(node, 1 << 60)
        ns.quotas.set(node, used(ns, node) + draw.choice([0, 5000, 100_000, 3_000_000]))
    files = [node for _, _, node in names if S_ISREG(ns.attributes(node).mode)]
    for node in draw.sample(files, min(len(files), draw.choice([0, 0, 1]))):
        ns.file_locks.change(node, legal_hold=True)


def one_history(ns: Namespace, seed: int, monkeypatch: pytest.MonkeyPatch) -> str:
    """Restore a part of a random tree after a random history among random quotas and locks; returns how it went."""
    draw, history = random.Random(seed), History(ns, seed)
    for _ in range(40):
        answer(history.operation())
    snapshot = ns.snapshot_create(1).id
    _, names = history.nodes()
    path = (ns.path_of(draw.choice([node for _, _, node in names])) or b"").strip(b"/") if names and draw.random() < 0.4 else b""
    for _ in range(25):
        answer(history.operation())
    limit_and_lock(ns, draw, history)
    before: Any = seen(ns, 1), [one.id for one in ns.snapshots()]
    try:
        run(Restore(ns, snapshot, path), draw.choice([1, 7, 100]))
        return "made"
    except NotFound:
        return "gone"
    except FilesystemError as error:
        if error.errno not in (errno.EPERM, errno.EDQUOT):
            return "something else"
        assert "nothing was changed" in str(error), (seed, error)
        assert (seen(ns, 1), [one.id for one in ns.snapshots()]) == before, seed
        monkeypatch.setattr(Obstacles, "look", nothing_is_found)
        number = answer(lambda: run(Restore(ns, snapshot, path)))
        monkeypatch.undo()
        assert error.errno == errno.EDQUOT or number, f"{seed}: {error}, but it can be made"
        return f"refused for {errno.errorcode[error.errno]}, {'rightly' if number else 'in caution'}"


def nothing_is_found(*arguments: object) -> Iterator[None]:
    return iter(())


def test_random_restores_are_made_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes: Counter[str] = Counter()
    for seed in range(120):
        make_store(tmp_path / str(seed))
        with opened(tmp_path / str(seed)) as ns:
            outcomes[one_history(ns, seed, monkeypatch)] += 1
    assert outcomes["made"] >= 20, outcomes
    assert outcomes["refused for EPERM, rightly"] >= 5
    assert outcomes["refused for EDQUOT, rightly"] >= 5
    assert outcomes["refused for EDQUOT, in caution"] <= outcomes["refused for EDQUOT, rightly"]
