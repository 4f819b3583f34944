"""Differential cases: modes, owners, special files."""

from __future__ import annotations

import os
import socket
import stat
from typing import Any

from differential import Trace, case
from mounted import NOBODY, in_child


@case()
def modes(t: Trace) -> None:
    for mask in (0, 0o22, 0o77, 0o777):
        os.umask(mask)
        name = f"m{mask:o}"
        os.close(os.open(t.path(name), os.O_CREAT | os.O_WRONLY, 0o7777))
        os.mkdir(t.path(name + "d"), 0o7777)
        os.mkfifo(t.path(name + "p"), 0o666)
        os.symlink(b"x", t.path(name + "s"))
        server = socket.socket(socket.AF_UNIX)
        os.chdir(t.root)
        server.bind(name + "u")
        server.close()
        os.chdir("/")
    os.umask(0o22)
    t.tree()
    path = t.make("file")
    for mode in (0, 0o777, 0o1644, 0o2755, 0o4755, 0o7777, 0o170644):
        t(f"chmod {mode:o}", os.chmod, path, mode)
        t.stat("file")
    t("chmod of a symlink changes the target", os.chmod, t.path("m0s"), 0o600)


@case()
def set_id_bits(t: Trace) -> None:
    for mode in (0o4755, 0o2755, 0o6755, 0o2744, 0o6777):
        path = t.make(f"f{mode:o}", b"data", mode)
        descriptor = os.open(path, os.O_WRONLY)
        os.write(descriptor, b"x")
        os.close(descriptor)
        t.stat(f"f{mode:o}")
        os.chmod(path, mode)
        os.truncate(path, 2)
        t.stat(f"f{mode:o}")
        os.chmod(path, mode)
        os.close(os.open(path, os.O_WRONLY | os.O_TRUNC))
        t.stat(f"f{mode:o}")
        os.chmod(path, mode)
        os.chown(path, -1, t.uid)
        t.stat(f"f{mode:o}")
        os.chmod(path, mode)
        os.chown(path, t.uid, -1)
        t.stat(f"f{mode:o}")


@case()
def set_id_bits_given_after_the_data(t: Trace) -> None:
    """As `install -m 4755` does: the pages are written back after the chmod, and the bits stay."""
    descriptor = os.open(t.path("f"), os.O_WRONLY | os.O_CREAT)
    os.write(descriptor, b"x" * 200_000)
    os.fchmod(descriptor, 0o6755)
    os.close(descriptor)
    t.stat("f")


@case(0)
def set_id_bits_of_others(t: Trace) -> None:
    def by_nobody(path: bytes, action: str) -> None:
        if action == "truncate":
            os.truncate(path, 1)
            return
        descriptor = os.open(path, os.O_RDWR | (os.O_TRUNC if action == "O_TRUNC" else 0))
        if action == "write":
            os.write(descriptor, b"y")
        os.close(descriptor)

    for mode in (0o4777, 0o2777, 0o6777):
        for action in ("write", "truncate", "O_TRUNC"):
            path = t.make(f"{action}{mode:o}", b"data", mode)
            in_child(NOBODY, by_nobody, path, action)
            t.stat(f"{action}{mode:o}")


@case(0)
def set_group_directories(t: Trace) -> None:
    os.mkdir(t.path("d"))
    os.chown(t.path("d"), 0, 100)
    os.chmod(t.path("d"), 0o2777)
    t.make("d/file")
    os.mkdir(t.path("d/sub"))
    os.mkdir(t.path("d/sub/sub"))
    os.symlink(b"x", t.path("d/link"))
    os.mkfifo(t.path("d/fifo"))

    def as_nobody() -> None:
        os.close(os.open(t.path("d/theirs"), os.O_CREAT | os.O_WRONLY, 0o2775))
        os.mkdir(t.path("d/theirdir"))

    in_child(NOBODY, as_nobody)
    t.tree()


@case(0)
def sticky_directories(t: Trace) -> None:
    os.mkdir(t.path("d"))
    os.chmod(t.path("d"), 0o1777)
    t.make("d/roots", b"", 0o666)

    def as_nobody() -> list[Any]:
        inner = Trace(t.path("d"), NOBODY)
        inner.make("own")
        inner("unlink root's", os.unlink, inner.path("roots"))
        inner("rename root's", os.rename, inner.path("roots"), inner.path("x"))
        inner("rename over root's", os.rename, inner.path("own"), inner.path("roots"))
        inner("unlink own", os.unlink, inner.path("own"))
        return inner.lines

    t.note("nobody", in_child(NOBODY, as_nobody))
    t.tree()


@case(0)
def permissions(t: Trace) -> None:
    for mode in (0, 0o400, 0o040, 0o004, 0o006, 0o007, 0o640):
        t.make(f"f{mode:o}", b"secret", mode)
        os.mkdir(t.path(f"d{mode:o}"))
        t.make(f"d{mode:o}/x", b"", 0o666)
        os.chmod(t.path(f"d{mode:o}"), mode)

    def as_nobody() -> list[Any]:
        inner = Trace(t.root, NOBODY)
        for name in sorted(os.listdir(t.root)):
            path = inner.path(name)
            label = os.fsdecode(name)
            for flag in (os.R_OK, os.W_OK, os.X_OK):
                inner(f"access {label} {flag}", os.access, path, flag)
            inner.open(name)
            inner.open(name, os.O_WRONLY)
            inner(f"chmod {label}", os.chmod, path, 0o777)
            inner(f"chown {label}", os.chown, path, NOBODY, NOBODY)
            inner(f"utime {label}", os.utime, path)
            inner(f"utime {label} to", os.utime, path, ns=(1, 1))
            inner(f"truncate {label}", os.truncate, path, 0)
            inner(f"setxattr {label}", os.setxattr, path, b"user.x", b"y")
            inner(f"unlink {label}", os.unlink, path)
            inner(f"inside {label}", os.lstat, path + b"/x")
            inner(f"create in {label}", os.mkdir, path + b"/new")
            inner(f"unlink in {label}", os.unlink, path + b"/x")
            inner(f"list {label}", os.listdir, path)
        inner("mkdir", os.mkdir, inner.path("new"))
        return inner.lines

    t.note("nobody", in_child(NOBODY, as_nobody))
    t.tree()


@case(0)
def owners(t: Trace) -> None:
    path = t.make("f", b"", 0o644)
    t("chown", os.chown, path, 12, 34)
    t.stat("f")
    t("chown group", os.chown, path, -1, 35)
    t.stat("f")
    os.chown(path, NOBODY, NOBODY)

    def as_nobody() -> list[Any]:
        inner = Trace(t.root, NOBODY)
        inner("chown away", os.chown, inner.path("f"), 0, -1)
        inner("chgrp to a group not theirs", os.chown, inner.path("f"), -1, 0)
        inner("chgrp to their own", os.chown, inner.path("f"), -1, NOBODY)
        inner("setgid", os.chmod, inner.path("f"), 0o2755)
        inner.stat("f")
        return inner.lines

    t.note("nobody", in_child(NOBODY, as_nobody))
    os.chown(path, NOBODY, 0)
    t.note("setgid of a foreign group", in_child(NOBODY, lambda: os.chmod(path, 0o2755)))
    t.stat("f")


@case(0)
def special_files(t: Trace) -> None:
    t("character device", os.mknod, t.path("null"), stat.S_IFCHR | 0o666, os.makedev(1, 3))
    t("block device", os.mknod, t.path("block"), stat.S_IFBLK | 0o600, os.makedev(259, 70000))
    t("regular", os.mknod, t.path("regular"), stat.S_IFREG | 0o640)
    t("fifo", os.mknod, t.path("fifo"), stat.S_IFIFO | 0o600)
    t("socket", os.mknod, t.path("socket"), stat.S_IFSOCK | 0o600)
    t("exists", os.mknod, t.path("fifo"), stat.S_IFIFO | 0o600)
    t.tree()
    descriptor = t.open("null", os.O_RDWR)
    if descriptor is not None:
        t("write to it", os.write, descriptor, b"gone")
        t("read from it", os.read, descriptor, 10)
        os.close(descriptor)
    t.open("fifo", os.O_WRONLY | os.O_NONBLOCK)
    t.open("socket")


@case()
def sockets_and_fifos(t: Trace) -> None:
    os.chdir(t.root)
    server = socket.socket(socket.AF_UNIX)
    t("bind", server.bind, "s")
    server.listen(1)
    client = socket.socket(socket.AF_UNIX)
    t("connect", client.connect, "s")
    client.close()
    server.close()
    os.mkfifo("p")
    reading = os.open("p", os.O_RDONLY | os.O_NONBLOCK)
    writing = os.open("p", os.O_WRONLY)
    os.write(writing, b"through the fifo")
    t("fifo", os.read, reading, 100)
    os.close(reading)
    os.close(writing)
    os.chdir("/")
    t.tree()


@case(NOBODY)
def special_files_as_a_user(t: Trace) -> None:
    t("device", os.mknod, t.path("null"), stat.S_IFCHR | 0o666, os.makedev(1, 3))
    t("regular", os.mknod, t.path("regular"), stat.S_IFREG | 0o640)
    t("fifo", os.mknod, t.path("fifo"), stat.S_IFIFO | 0o600)
    t.tree()
