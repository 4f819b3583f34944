"""File locks: a retention only grows, a hold can be taken off, and until then no way leads to a change of the file."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from anqfs.errors import FilesystemError, UsageError
from anqfs.namespace import ROOT, Namespace
from anqfs.namespace.check import check
from anqfs.namespace.restore import Restore
from tests.unit.namespace_volume import Clock, work_off

HOUR = 3600 * 10**9


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(FilesystemError) as caught:
        call()
    return errno.errorcode[caught.value.errno]


def clock_of(ns: Namespace) -> Clock:
    clock = ns.core.clock
    assert isinstance(clock, Clock)
    return clock


@pytest.fixture
def file(ns: Namespace) -> int:
    """A file with content, an attribute and a second name, in a directory."""
    directory, _ = ns.mkdir(1, b"d", 0o755, ROOT)
    node, _ = ns.create(directory, b"f", 0o644, ROOT)
    ns.write(node, 0, b"the original content")
    ns.setxattr(node, b"user.x", b"1", 0, ROOT)
    ns.link(node, 1, b"second")
    return node


def state(ns: Namespace, node: int) -> tuple[object, ...]:
    inode = ns.attributes(node)
    shown = (inode.mode, inode.uid, inode.gid, inode.nlink, inode.size, inode.atime, inode.mtime, inode.ctime, inode.links)
    return (*shown, ns.read(node, 0, 1 << 20), [(name, ns.getxattr(node, name)) for name in ns.listxattr(node)])


@pytest.mark.parametrize("lock", ["retention", "hold"])
def test_nothing_about_a_locked_file_changes_through_any_way(ns: Namespace, file: int, lock: str) -> None:
    directory, _ = ns.lookup(1, b"d")
    other, _ = ns.create(directory, b"other", 0o644, ROOT)
    snapshot = ns.snapshot_create(1)
    ns.write(file, 4, b"CHANGED!")
    if lock == "hold":
        ns.file_locks.change(file, legal_hold=True)
    else:
        ns.file_locks.change(file, retained=clock_of(ns).now + HOUR)
    before = state(ns, file)
    changes: list[Callable[[], object]] = [
        lambda: ns.write(file, 0, b"x"),
        lambda: ns.write(file, 100_000, b"x" * 100_000),
        lambda: ns.set_attributes(file, size=0, caller=ROOT),
        lambda: ns.set_attributes(file, size=1 << 30, caller=ROOT),
        lambda: ns.set_attributes(file, mode=0o777, caller=ROOT),
        lambda: ns.set_attributes(file, uid=5, gid=5, caller=ROOT),
        lambda: ns.set_attributes(file, atime=1, caller=ROOT),
        lambda: ns.set_attributes(file, mtime=1, ctime=1, caller=ROOT),
        lambda: ns.setxattr(file, b"user.x", b"2", 0, ROOT),
        lambda: ns.setxattr(file, b"user.new", b"2", 0, ROOT),
        lambda: ns.removexattr(file, b"user.x", ROOT),
        lambda: ns.link(file, directory, b"third"),
        lambda: ns.unlink(directory, b"f"),
        lambda: ns.unlink(1, b"second"),
        lambda: ns.rename(directory, b"f", directory, b"renamed", 0),
        lambda: ns.rename(directory, b"f", 1, b"moved", 0),
        lambda: ns.rename(directory, b"other", directory, b"f", 0),
        lambda: ns.rename(directory, b"other", 1, b"second", 2),
        lambda: ns.rename(1, b"second", directory, b"other", 2),
        lambda: ns.file_locks.check(file),
    ]
    for number, change in enumerate(changes):
        assert refused(change) == "EPERM", number
        assert state(ns, file) == before, number
    assert refused(lambda: ns.rmdir(1, b"d")) == "ENOTEMPTY"
    restore = Restore(ns, snapshot.id, b"d/f")
    with pytest.raises(FilesystemError, match="locked") as caught:
        while restore.step():
            pass
    assert caught.value.errno == errno.EPERM
    whole = Restore(ns, snapshot.id)
    with pytest.raises(FilesystemError, match="locked"):
        while whole.step():
            pass
    work_off(ns)
    assert state(ns, file) == before
    ns.volume.commit().wait()
    assert check(ns.volume).findings == []
    assert ns.attributes(other).nlink == 1


def test_reading_snapshots_and_renaming_what_is_above_go_on(ns: Namespace, file: int) -> None:
    ns.file_locks.change(file, legal_hold=True)
    ns.rename(1, b"d", 1, b"renamed", 0)
    assert ns.read(file, 4, 8) == b"original"
    snapshot = ns.snapshot_create(1)
    made = Restore(ns, snapshot.id, b"renamed", (1, b"copy"))
    while made.step():
        pass
    copy, _ = ns.lookup(ns.lookup(1, b"copy")[0], b"f")
    assert ns.read(copy, 0, 100) == b"the original content"
    assert ns.write(copy, 0, b"a copy is not locked") == 20
    ns.snapshot_delete(snapshot.id)
    work_off(ns)
    assert ns.read(file, 0, 100) == b"the original content"


def test_a_retention_only_grows_and_ends_when_its_time_comes(ns: Namespace, file: int) -> None:
    clock = clock_of(ns)
    end = clock.now + HOUR
    ns.file_locks.change(file, retained=end)
    assert refused(lambda: ns.file_locks.change(file, retained=end - 1)) == "EPERM"
    ns.file_locks.change(file, legal_hold=True)
    ns.file_locks.change(file, retained=end + HOUR)
    ns.file_locks.change(file, legal_hold=False)
    assert ns.attributes(file).retained == end + HOUR
    clock.now = end + 1
    assert refused(lambda: ns.write(file, 0, b"x")) == "EPERM"
    clock.now = end + HOUR + 1
    assert ns.write(file, 0, b"x") == 1
    with pytest.raises(UsageError, match="over already"):
        ns.file_locks.change(file, retained=clock.now - 1)
    ns.unlink(1, b"second")


def test_only_regular_live_files_are_locked(ns: Namespace, file: int) -> None:
    link, _ = ns.symlink(1, b"link", b"d/f", ROOT)
    for node in (1, link):
        with pytest.raises(UsageError, match="regular"):
            ns.file_locks.change(node, legal_hold=True)
    snapshot = ns.snapshot_create(1)
    view = ns.snapshot_node(snapshot.id)
    seen, _ = ns.lookup(view, b"second")
    assert refused(lambda: ns.file_locks.change(seen, legal_hold=True)) == "EROFS"


def test_a_lock_is_kept_with_the_volume_and_merging_goes_on_below_it(ns: Namespace) -> None:
    node, _ = ns.create(1, b"f", 0o644, ROOT)
    for number in range(60):
        ns.write(node, number * 10_000, b"%05d" % number * 1_000)
        ns.volume.commit().wait()
    ns.file_locks.change(node, legal_hold=True)
    before = state(ns, node)
    assert ns.files.merges
    work_off(ns)
    assert not ns.files.merges
    assert state(ns, node) == before
    ns.volume.commit().wait()
    assert check(ns.volume).findings == []
