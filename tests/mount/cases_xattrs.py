"""Differential cases: extended attributes and ACLs."""

from __future__ import annotations

import os
import subprocess
from typing import Any

from differential import Trace, case
from mounted import NOBODY, in_child, libc


@case()
def extended_attributes(t: Trace) -> None:
    path = t.make("f")
    os.mkdir(t.path("d"))
    os.symlink(b"f", t.path("l"))
    os.mkfifo(t.path("p"))
    t("absent", os.getxattr, path, b"user.a")
    t("empty list", os.listxattr, path)
    for name in (
        b"user.a",
        b"user." + b"n" * 250,
        b"user.\xff\n",
        b"trusted.t",
        b"security.s",
        b"system.nonsense",
        b"bare",
        b"other.x",
    ):
        t(f"set {name!r}", os.setxattr, path, name, b"value of " + name)
        t(f"get {name!r}", os.getxattr, path, name)
    t("name too long", os.setxattr, path, b"user." + b"n" * 251, b"")
    t("empty value", os.setxattr, path, b"user.empty", b"")
    t("empty value", os.getxattr, path, b"user.empty")
    t("create", os.setxattr, path, b"user.c", b"1", os.XATTR_CREATE)
    t("create again", os.setxattr, path, b"user.c", b"2", os.XATTR_CREATE)
    t("replace", os.setxattr, path, b"user.c", b"3", os.XATTR_REPLACE)
    t("replace nothing", os.setxattr, path, b"user.no", b"3", os.XATTR_REPLACE)
    t("value", os.getxattr, path, b"user.c")
    t("remove", os.removexattr, path, b"user.c")
    t("remove again", os.removexattr, path, b"user.c")
    t("list", os.listxattr, path)
    t("too small a buffer", libc, "getxattr", path, b"user.a", bytes(100), 3)
    t("the size", libc, "getxattr", path, b"user.a", None, 0)
    t("too small for the list", libc, "listxattr", path, bytes(100), 3)
    t("of a directory", os.setxattr, t.path("d"), b"user.x", b"y")
    t("of a symlink", os.setxattr, t.path("l"), b"user.x", b"y", follow_symlinks=False)
    t("trusted of a symlink", os.setxattr, t.path("l"), b"trusted.x", b"y", follow_symlinks=False)
    t("of a fifo", os.setxattr, t.path("p"), b"user.x", b"y")
    t("a long value", os.setxattr, path, b"user.long", b"v" * 2000)
    t("a long value", os.getxattr, path, b"user.long")
    os.rename(path, t.path("g"))
    t("kept", os.listxattr, t.path("g"))
    os.link(t.path("g"), t.path("h"))
    t("shared", os.getxattr, t.path("h"), b"user.a")


@case()
def attributes_without_a_name(t: Trace) -> None:
    path = t.make("f")
    os.symlink(b"f", t.path("l"))
    os.setxattr(path, b"user.other", b"")
    for name in (b"user.", b"trusted.", b"security.", b"system.", b"user", b"system.posix_acl_access.", b".", b""):
        for follow, target in ((True, path), (False, t.path("l"))):
            t(f"set {name!r}", os.setxattr, target, name, b"v", follow_symlinks=follow)
            t(f"get {name!r}", os.getxattr, target, name, follow_symlinks=follow)
            t(f"remove {name!r}", os.removexattr, target, name, follow_symlinks=follow)
    t("list", os.listxattr, path)


@case(0)
def only_root_sees_trusted_attributes(t: Trace) -> None:
    path = t.make("f", b"", 0o666)
    for name in (b"trusted.t", b"user.u", b"security.s"):
        os.setxattr(path, name, b"v")
    t("list", os.listxattr, path)

    def as_nobody() -> list[Any]:
        inner = Trace(t.root, NOBODY)
        inner("list", os.listxattr, path)
        inner("get", os.getxattr, path, b"trusted.t")
        inner("set", os.setxattr, path, b"trusted.t", b"w")
        inner("remove", os.removexattr, path, b"trusted.t")
        return inner.lines

    t.note("nobody", in_child(NOBODY, as_nobody))


@case()
def removing_acls_that_are_not_there(t: Trace) -> None:
    path = t.make("f")
    os.mkdir(t.path("d"))
    os.symlink(b"f", t.path("l"))
    for name in (b"system.posix_acl_access", b"system.posix_acl_default"):
        for target in (path, t.path("d"), t.path("l")):
            t(f"remove {name!r}", os.removexattr, target, name, follow_symlinks=False)
            t(f"empty {name!r}", os.setxattr, target, name, b"\2\0\0\0", follow_symlinks=False)
            t("list", os.listxattr, target, follow_symlinks=False)


@case(0)
def capabilities_are_dropped(t: Trace) -> None:
    value = bytes.fromhex("0100000200200000000000000000000000000000")
    for action in ("write", "truncate", "chown", "chmod"):
        path = t.make(action, b"data", 0o755)
        t("set", os.setxattr, path, b"security.capability", value)
        if action == "write":
            descriptor = os.open(path, os.O_WRONLY)
            os.write(descriptor, b"x")
            os.close(descriptor)
        elif action == "truncate":
            os.truncate(path, 1)
        elif action == "chown":
            os.chown(path, 1, 1)
        else:
            os.chmod(path, 0o700)
        t(action, os.listxattr, path)


def _acl(t: Trace, *arguments: str) -> None:
    done = subprocess.run(
        [arguments[0], *arguments[1:-1], os.fsdecode(t.path(arguments[-1]))],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    t.note(
        " ".join(arguments),
        (done.returncode, done.stdout.replace(os.fsdecode(t.root), "ROOT"), done.stderr.replace(os.fsdecode(t.root), "ROOT")),
    )


@case()
def acls(t: Trace) -> None:
    get = ("getfacl", "--absolute-names", "--numeric")
    t.make("f", b"", 0o640)
    os.mkdir(t.path("d"))
    _acl(t, *get, "f")
    _acl(t, "setfacl", "-m", "u:7:rw,g:8:r", "f")
    _acl(t, *get, "f")
    t.stat("f")
    t("chmod sets the mask", os.chmod, t.path("f"), 0o600)
    _acl(t, *get, "f")
    _acl(t, "setfacl", "-m", "m::rwx", "f")
    t.stat("f")
    _acl(t, "setfacl", "-b", "f")
    _acl(t, *get, "f")
    t("list", os.listxattr, t.path("f"))
    _acl(t, "setfacl", "-d", "-m", "u:7:rwx,g::rx,o::-", "d")
    _acl(t, *get, "d")
    os.umask(0o77)
    t.make("d/file", b"")
    os.close(os.open(t.path("d/made"), os.O_CREAT | os.O_WRONLY, 0o666))
    os.close(os.open(t.path("d/made700"), os.O_CREAT | os.O_WRONLY, 0o700))
    os.mkdir(t.path("d/sub"))
    os.mkfifo(t.path("d/fifo"))
    os.symlink(b"x", t.path("d/link"))
    os.umask(0o22)
    for name in ("d/file", "d/made", "d/made700", "d/sub", "d/fifo"):
        _acl(t, *get, name)
        t.stat(name)
    t.stat("d/link")
    os.mkdir(t.path("d/sub/deep"))
    _acl(t, *get, "d/sub/deep")
    _acl(t, "setfacl", "-k", "d")
    _acl(t, *get, "d")
    _acl(t, "setfacl", "-d", "-m", "u:7:rwx", "f")
    t("garbage", os.setxattr, t.path("f"), b"system.posix_acl_access", b"nonsense")


@case(0)
def acls_decide(t: Trace) -> None:
    t.make("f", b"secret", 0o600)
    os.mkdir(t.path("d"))
    os.chmod(t.path("d"), 0o700)
    _acl(t, "setfacl", "-m", f"u:{NOBODY}:r", "f")
    _acl(t, "setfacl", "-m", f"u:{NOBODY}:rx", "d")

    def as_nobody() -> list[Any]:
        inner = Trace(t.root, NOBODY)
        inner.open("f")
        inner.open("f", os.O_WRONLY)
        inner("list", os.listdir, inner.path("d"))
        inner("mkdir", os.mkdir, inner.path("d/x"))
        return inner.lines

    t.note("nobody", in_child(NOBODY, as_nobody))
    _acl(t, "setfacl", "-m", f"u:{NOBODY}:-", "f")
    t.note("nobody after", in_child(NOBODY, as_nobody))
