"""Modes, owners, times, extended attributes and ACLs: as ext4 answers."""

from __future__ import annotations

import errno
import struct
from functools import partial

import pytest

from anqfs.namespace import ROOT, Caller, Namespace
from anqfs.namespace import acl as acls
from anqfs.store.schema import HAS_ACCESS_ACL, HAS_CAPABILITY, HAS_DEFAULT_ACL, HAS_XATTRS
from tests.unit.namespace_volume import answer

USER = Caller(1000, 100, frozenset((7,)), 0o022)
CAPABILITY = b"security.capability"
NO_ID = 0xFFFFFFFF


def a_file(ns: Namespace, mode: int = 0o644, name: bytes = b"f") -> int:
    node, _ = ns.create(1, name, 0o600, USER)
    ns.set_attributes(node, mode=mode, caller=ROOT)
    return node


def mode_of(ns: Namespace, node: int) -> int:
    return ns.attributes(node).mode & 0o7777


def acl(*entries: tuple[int, int, int]) -> bytes:
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def full(owner: int, user: int, group: int, mask: int, other: int) -> bytes:
    return acl((1, owner, NO_ID), (2, user, 1234), (4, group, NO_ID), (16, mask, NO_ID), (32, other, NO_ID))


def minimal(owner: int, group: int, other: int) -> bytes:
    return acl((1, owner, NO_ID), (4, group, NO_ID), (32, other, NO_ID))


class TestModesAndOwners:
    @pytest.mark.parametrize(("before", "after"), [(0o6755, 0o755), (0o6745, 0o2745), (0o4644, 0o644), (0o1777, 0o1777)])
    def test_a_new_owner_takes_privileges_away(self, ns: Namespace, before: int, after: int) -> None:
        node = a_file(ns, before)
        ns.set_attributes(node, uid=5, caller=ROOT)
        assert mode_of(ns, node) == after
        ns.set_attributes(node, mode=before, caller=ROOT)
        ns.set_attributes(node, gid=5, caller=ROOT)
        assert mode_of(ns, node) == after
        assert (ns.attributes(node).uid, ns.attributes(node).gid) == (5, 5)

    def test_a_directory_keeps_its_setgid(self, ns: Namespace) -> None:
        node, _ = ns.mkdir(1, b"d", 0o755, USER)
        ns.set_attributes(node, mode=0o6755, caller=ROOT)
        ns.set_attributes(node, uid=5, gid=6, caller=ROOT)
        assert mode_of(ns, node) == 0o6755

    def test_writing_and_truncating_take_privileges_away_unless_root_does(self, ns: Namespace) -> None:
        node = a_file(ns, 0o6755)
        ns.write(node, 0, b"x")
        ns.set_attributes(node, size=0, caller=ROOT)
        assert mode_of(ns, node) == 0o6755
        ns.write(node, 0, b"x", kill_privileges=True)
        assert mode_of(ns, node) == 0o755
        ns.set_attributes(node, mode=0o6755, caller=ROOT)
        ns.set_attributes(node, size=0, caller=USER)
        assert mode_of(ns, node) == 0o755

    @pytest.mark.parametrize("change", ["write", "truncate", "chown"])
    def test_capabilities_go_with_content_and_owner(self, ns: Namespace, change: str) -> None:
        node = a_file(ns)
        ns.setxattr(node, CAPABILITY, b"caps", 0, ROOT)
        ns.setxattr(node, b"user.a", b"b", 0, ROOT)
        assert ns.attributes(node).flags == HAS_XATTRS | HAS_CAPABILITY
        if change == "write":
            ns.write(node, 0, b"x")
        elif change == "truncate":
            ns.set_attributes(node, size=3, caller=ROOT)
        else:
            ns.set_attributes(node, uid=3, caller=ROOT)
        assert answer(lambda: ns.getxattr(node, CAPABILITY)) == errno.ENODATA
        assert ns.listxattr(node) == [b"user.a"]
        assert ns.attributes(node).flags == HAS_XATTRS

    def test_chmod_by_a_stranger_to_the_group_clears_setgid(self, ns: Namespace) -> None:
        node = a_file(ns)
        ns.set_attributes(node, gid=55, caller=ROOT)
        ns.set_attributes(node, mode=0o2755, caller=USER)
        assert mode_of(ns, node) == 0o755
        ns.set_attributes(node, gid=7, caller=ROOT)
        ns.set_attributes(node, mode=0o2755, caller=USER)
        assert mode_of(ns, node) == 0o2755

    def test_times(self, ns: Namespace) -> None:
        node = a_file(ns)
        before = ns.attributes(node)
        after = ns.set_attributes(node, atime=-5, mtime=1 << 62, caller=USER)
        assert (after.atime, after.mtime, after.btime) == (-5, 1 << 62, before.btime)
        assert after.ctime > before.ctime
        assert ns.set_attributes(node, mtime=7, ctime=9, caller=USER).ctime == 9
        sized = ns.set_attributes(node, size=10, caller=USER)
        assert sized.mtime == sized.ctime > after.ctime

    def test_only_files_have_a_size_to_set(self, ns: Namespace) -> None:
        link, _ = ns.symlink(1, b"l", b"t", USER)
        assert answer(lambda: ns.set_attributes(1, size=0, caller=ROOT)) == errno.EISDIR
        assert answer(lambda: ns.set_attributes(link, size=0, caller=ROOT)) == errno.EINVAL


class TestXattrs:
    def test_set_list_get_remove(self, ns: Namespace) -> None:
        node = a_file(ns)
        before = ns.attributes(node)
        ns.setxattr(node, b"user.a", b"1", 0, USER)
        ns.setxattr(node, b"user.A", b"2", 0, USER)
        ns.setxattr(node, b"trusted.b", b"", 0, USER)
        assert sorted(ns.listxattr(node)) == [b"trusted.b", b"user.A", b"user.a"]
        assert [ns.getxattr(node, name) for name in (b"user.a", b"user.A", b"trusted.b")] == [b"1", b"2", b""]
        assert ns.attributes(node).ctime > before.ctime
        assert ns.attributes(node).mtime == before.mtime
        for name in (b"user.a", b"user.A", b"trusted.b"):
            ns.removexattr(node, name, USER)
        assert ns.listxattr(node) == []
        assert ns.attributes(node).flags == 0
        assert answer(lambda: ns.removexattr(node, b"user.a", USER)) == errno.ENODATA

    def test_a_file_without_any_is_answered_without_a_look_up(self, ns: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
        node = a_file(ns)
        monkeypatch.setattr(ns.xattrs, "_find", None)
        for name in (CAPABILITY, b"user.a", acls.ACCESS):
            assert answer(lambda name=name: ns.getxattr(node, name)) == errno.ENODATA  # type: ignore[misc]

    def test_flags(self, ns: Namespace) -> None:
        node = a_file(ns)
        assert answer(lambda: ns.setxattr(node, b"user.a", b"1", 2, USER)) == errno.ENODATA
        ns.setxattr(node, b"user.a", b"1", 1, USER)
        assert answer(lambda: ns.setxattr(node, b"user.a", b"2", 1, USER)) == errno.EEXIST
        ns.setxattr(node, b"user.a", b"3", 2, USER)
        assert ns.getxattr(node, b"user.a") == b"3"

    def test_limits(self, ns: Namespace) -> None:
        node = a_file(ns)
        ns.setxattr(node, b"user.big", b"x" * 65536, 0, USER)
        assert len(ns.getxattr(node, b"user.big")) == 65536
        assert answer(lambda: ns.setxattr(node, b"user.a", b"x" * 65537, 0, USER)) == errno.E2BIG
        assert answer(lambda: ns.setxattr(node, b"user." + b"n" * 251, b"", 0, USER)) == errno.ERANGE
        ns.setxattr(node, b"user." + b"n" * 250, b"", 0, USER)
        answers = [answer(partial(ns.setxattr, node, b"user.%0240d" % number, b"", 0, USER)) for number in range(300)]
        assert sum(len(name) + 1 for name in ns.listxattr(node)) <= 65536
        assert answers == sorted(answers)
        assert answers[200] == 0
        assert answers[-1] == errno.ENOSPC

    def test_names_that_cannot_be(self, ns: Namespace) -> None:
        node = a_file(ns)
        link, _ = ns.symlink(1, b"l", b"t", USER)
        for name in (b"system.other", b"nothing", b"user", b"os2.x"):
            assert answer(lambda name=name: ns.setxattr(node, name, b"", 0, USER)) == errno.EOPNOTSUPP  # type: ignore[misc]
            assert answer(lambda name=name: ns.getxattr(node, name)) == errno.EOPNOTSUPP  # type: ignore[misc]
        assert answer(lambda: ns.setxattr(node, b"user.", b"", 0, USER)) == errno.EINVAL
        assert answer(lambda: ns.setxattr(link, b"user.a", b"", 0, USER)) == errno.EPERM
        ns.setxattr(link, b"trusted.a", b"x", 0, ROOT)
        assert ns.getxattr(link, b"trusted.a") == b"x"


class TestAcls:
    def test_an_acl_sets_the_mode(self, ns: Namespace) -> None:
        node = a_file(ns)
        ns.setxattr(node, acls.ACCESS, full(7, 6, 5, 4, 1), 0, USER)
        assert mode_of(ns, node) == 0o741
        assert ns.attributes(node).flags == HAS_XATTRS | HAS_ACCESS_ACL
        assert ns.getxattr(node, acls.ACCESS) == full(7, 6, 5, 4, 1)
        assert ns.listxattr(node) == [acls.ACCESS]

    def test_chmod_changes_the_mask(self, ns: Namespace) -> None:
        node = a_file(ns)
        ns.setxattr(node, acls.ACCESS, full(7, 6, 5, 4, 1), 0, USER)
        ns.set_attributes(node, mode=0o620, caller=USER)
        assert ns.getxattr(node, acls.ACCESS) == full(6, 6, 5, 2, 0)

    def test_an_acl_that_says_what_a_mode_can_is_not_kept(self, ns: Namespace) -> None:
        node = a_file(ns)
        ns.setxattr(node, acls.ACCESS, full(7, 6, 5, 4, 1), 0, USER)
        ns.setxattr(node, acls.ACCESS, minimal(6, 4, 0), 0, USER)
        assert (mode_of(ns, node), ns.listxattr(node), ns.attributes(node).flags) == (0o640, [], 0)

    def test_an_empty_acl_is_none(self, ns: Namespace) -> None:
        node, _ = ns.mkdir(1, b"d", 0o755, USER)
        ns.setxattr(node, acls.DEFAULT, minimal(7, 5, 5), 0, USER)
        ns.setxattr(node, acls.DEFAULT, acl(), 0, USER)
        ns.setxattr(node, acls.ACCESS, acl(), 0, USER)
        assert (ns.listxattr(node), ns.attributes(node).flags) == ([], 0)

    def test_setgid_goes_when_a_stranger_sets_an_acl(self, ns: Namespace) -> None:
        node = a_file(ns, 0o2755)
        ns.set_attributes(node, gid=55, mode=0o2755, caller=ROOT)
        ns.setxattr(node, acls.ACCESS, full(7, 6, 5, 5, 5), 0, ROOT)
        assert mode_of(ns, node) == 0o2755
        ns.setxattr(node, acls.ACCESS, full(7, 6, 5, 5, 5), 0, USER)
        assert mode_of(ns, node) == 0o755

    @pytest.mark.parametrize(
        "value",
        [
            b"",
            b"\2\0\0\0\1",
            minimal(7, 5, 5)[:-8],
            acl((1, 7, NO_ID), (2, 6, 5), (4, 5, NO_ID), (32, 5, NO_ID)),
            acl((4, 5, NO_ID), (1, 7, NO_ID), (32, 5, NO_ID)),
            acl((1, 8, NO_ID), (4, 5, NO_ID), (32, 5, NO_ID)),
            acl((1, 7, NO_ID), (2, 6, 5), (2, 6, 5), (4, 5, NO_ID), (16, 7, NO_ID), (32, 5, NO_ID)),
            acl((1, 7, NO_ID), (4, 5, NO_ID), (32, 5, NO_ID), (64, 5, NO_ID)),
        ],
    )
    def test_malformed(self, ns: Namespace, value: bytes) -> None:
        assert answer(lambda: ns.setxattr(a_file(ns), acls.ACCESS, value, 0, USER)) == errno.EINVAL

    def test_where_an_acl_cannot_be(self, ns: Namespace) -> None:
        link, _ = ns.symlink(1, b"l", b"t", USER)
        assert answer(lambda: ns.setxattr(a_file(ns), acls.DEFAULT, minimal(7, 5, 5), 0, USER)) == errno.EACCES
        assert answer(lambda: ns.setxattr(link, acls.ACCESS, minimal(7, 5, 5), 0, USER)) == errno.EOPNOTSUPP

    def test_a_default_acl_counts_in_place_of_the_umask(self, ns: Namespace) -> None:
        node, _ = ns.mkdir(1, b"d", 0o755, USER)
        default = full(7, 7, 5, 7, 5)
        ns.setxattr(node, acls.DEFAULT, default, 0, USER)
        assert ns.attributes(node).flags == HAS_XATTRS | HAS_DEFAULT_ACL
        child, inode = ns.create(node, b"f", 0o666, USER)
        assert inode.mode & 0o777 == 0o664
        assert ns.getxattr(child, acls.ACCESS) == full(6, 7, 5, 6, 4)
        below, inode = ns.mkdir(node, b"e", 0o770, USER)
        assert inode.mode & 0o777 == 0o770
        assert ns.getxattr(below, acls.DEFAULT) == default
        assert ns.getxattr(below, acls.ACCESS) == full(7, 7, 5, 7, 0)
        assert ns.symlink(node, b"l", b"t", USER)[1].mode & 0o777 == 0o777

    def test_a_minimal_default_acl_only_sets_the_mode(self, ns: Namespace) -> None:
        node, _ = ns.mkdir(1, b"d", 0o755, USER)
        ns.setxattr(node, acls.DEFAULT, minimal(7, 7, 0), 0, USER)
        child, inode = ns.create(node, b"f", 0o666, USER)
        assert (inode.mode & 0o777, ns.listxattr(child)) == (0o660, [])
