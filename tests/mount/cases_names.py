"""Differential cases: names, directories, rename, links."""

from __future__ import annotations

import os
from pathlib import Path

from differential import AT_FDCWD, Trace, case
from mounted import libc


@case()
def names(t: Trace) -> None:
    hostile = [
        b"a\nb",
        b"quote'\"`$(x)",
        b"\xff\xfe\x80",
        b" ",
        b"-rf",
        b"\\",
        b"...",
        b"\x01\x7f",
        "\u00e9".encode(),
        "e\u0301".encode(),
        b"A",
        b"a",
    ]
    hostile += [b"x" * 255, "\U0001f4a9".encode() * 63]
    for name in hostile:
        t.make(name, name)
        t("read", Path(os.fsdecode(t.path(name))).read_bytes)
    t("list", os.listdir, t.root)
    t("too long", os.mkdir, t.path(b"x" * 256))
    t("too long to look up", os.lstat, t.path(b"x" * 256))
    t("empty", os.mkdir, t.root + b"/")
    t("dot", os.mkdir, t.path("."))
    t("dot dot", os.mkdir, t.path(".."))
    t("slash at the end of a file", os.lstat, t.path(b"a/"))
    t("below a file", os.lstat, t.path(b"a/b"))
    t("slash at the end of a new directory", os.mkdir, t.path(b"new/"))
    t("slash at the end of a new file", os.open, t.path(b"newfile/"), os.O_CREAT | os.O_WRONLY)
    t("path too long", os.lstat, t.root + b"/." * 2100)
    t.tree()


@case()
def creating(t: Trace) -> None:
    t.make("file", b"12345")
    os.mkdir(t.path("dir"))
    os.symlink(b"nowhere", t.path("dangling"))
    os.symlink(b"file", t.path("link"))
    os.symlink(b"loop", t.path("loop"))
    made = os.O_CREAT | os.O_RDWR
    for name in ("new", "file", "dir", "dangling", "link", "loop", "missing/x", "file/x"):
        for flags in (
            made | os.O_EXCL,
            made | os.O_NOFOLLOW,
            made,
            made | os.O_TRUNC,
            os.O_RDONLY | os.O_DIRECTORY,
            os.O_WRONLY,
            os.O_RDONLY | os.O_TRUNC,
        ):
            descriptor = t.open(name, flags)
            if descriptor is not None:
                t("fstat", os.fstat, descriptor)
                os.close(descriptor)
    t.tree()


@case()
def truncating_on_open(t: Trace) -> None:
    """O_TRUNC leaves no tail of the old data."""
    t.make("file", b"x" * 100_000)
    descriptor = os.open(t.path("file"), os.O_WRONLY | os.O_TRUNC)
    t("fstat", os.fstat, descriptor)
    os.write(descriptor, b"new")
    os.close(descriptor)
    t("content", Path(os.fsdecode(t.path("file"))).read_bytes)
    os.truncate(t.path("file"), 50_000)
    t("no tail", Path(os.fsdecode(t.path("file"))).read_bytes)


@case()
def directories(t: Trace) -> None:
    os.makedirs(t.path("a/b/c"))
    t.make("a/file")
    t("not empty", os.rmdir, t.path("a"))
    t("exists", os.mkdir, t.path("a"))
    t("exists as a file", os.mkdir, t.path("a/file"))
    t("no parent", os.mkdir, t.path("x/y"))
    t("parent is a file", os.mkdir, t.path("a/file/y"))
    t("rmdir of a file", os.rmdir, t.path("a/file"))
    t("unlink of a directory", os.unlink, t.path("a/b"))
    t("rmdir of nothing", os.rmdir, t.path("nothing"))
    t("rmdir of dot", os.rmdir, t.path("a/b/."))
    t("rmdir of dot dot", os.rmdir, t.path("a/b/.."))
    t.tree()
    t("rmdir", os.rmdir, t.path("a/b/c"))
    t("rmdir", os.rmdir, t.path("a/b"))
    t.stat("a")


@case()
def deleted_directory(t: Trace) -> None:
    os.mkdir(t.path("d"))
    descriptor = os.open(t.path("d"), os.O_RDONLY)
    os.rmdir(t.path("d"))
    t("fstat", lambda: os.fstat(descriptor).st_nlink)
    t("create in it", os.open, b"x", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor)
    t("mkdir in it", os.mkdir, b"x", dir_fd=descriptor)
    t("list it", os.listdir, descriptor)
    t("its parent", os.stat, b"..", dir_fd=descriptor)
    os.close(descriptor)


@case()
def working_directory(t: Trace) -> None:
    os.makedirs(t.path("a/b"))
    os.chdir(t.path("a/b"))
    t("cwd", os.getcwdb)
    os.rename(t.path("a"), t.path("z"))
    t("cwd after the parent moved", os.getcwdb)
    t("relative", os.mkdir, b"c")
    t("up", os.listdir, b"..")
    os.rmdir(b"c")
    os.rmdir(t.path("z/b"))
    t("cwd is gone", os.getcwdb)
    t("create there", os.open, b"x", os.O_CREAT | os.O_WRONLY)
    os.chdir(b"/")


_KINDS = ("file", "dir", "full", "symlink", "fifo", "hardlink", "missing")


def _thing(t: Trace, kind: str, name: str) -> None:
    path = t.path(name)
    if kind == "file":
        t.make(name, name.encode())
    elif kind == "dir":
        os.mkdir(path)
    elif kind == "full":
        os.mkdir(path)
        t.make(name + "/inside")
    elif kind == "symlink":
        os.symlink(b"target", path)
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "hardlink":
        if not os.path.lexists(t.path("anchor")):
            t.make("anchor", b"anchor")
        os.link(t.path("anchor"), path)


def renameat2(old: bytes, new: bytes, flags: int) -> None:
    libc("renameat2", AT_FDCWD, old, AT_FDCWD, new, flags)


@case()
def rename_matrix(t: Trace) -> None:
    for flags in (0, 1, 2, 3, 8):
        for source in _KINDS:
            for target in _KINDS:
                where = f"{flags}{source}{target}"
                os.mkdir(t.path(where))
                inner = Trace(t.path(where), t.uid)
                _thing(inner, source, "s")
                _thing(inner, target, "t")
                inner("rename", renameat2, inner.path("s"), inner.path("t"), flags)
                inner.tree()
                t.note(where, inner.lines)


@case()
def rename_places(t: Trace) -> None:
    os.makedirs(t.path("a/b/c"))
    t.make("a/file")
    t("into itself", os.rename, t.path("a"), t.path("a/b/x"))
    t("over its parent", os.rename, t.path("a/b/c"), t.path("a"))
    t("over an ancestor's file", os.rename, t.path("a/b"), t.path("a/file"))
    t("to itself", os.rename, t.path("a"), t.path("a"))
    t("dot", os.rename, t.path("a/."), t.path("x"))
    t("dot dot", os.rename, t.path("a/b/.."), t.path("x"))
    t("a file with a slash", os.rename, t.path("a/file"), t.path("x/"))
    t("a directory with a slash", os.rename, t.path("a/b/"), t.path("moved/"))
    t("exchange with a descendant", renameat2, t.path("moved"), t.path("moved/c"), 2)
    t("exchange across directories", renameat2, t.path("moved/c"), t.path("a/file"), 2)
    t("too long", os.rename, t.path("a"), t.path("x" * 256))
    t("below a file", os.rename, t.path("a"), t.path("moved/c/x"))
    t.tree()


@case()
def links(t: Trace) -> None:
    t.make("file", b"content")
    os.mkdir(t.path("dir"))
    os.symlink(b"file", t.path("sym"))
    t("link", os.link, t.path("file"), t.path("second"))
    t("link exists", os.link, t.path("file"), t.path("second"))
    t("link a directory", os.link, t.path("dir"), t.path("dir2"))
    t("link a symlink", os.link, t.path("sym"), t.path("sym2"), follow_symlinks=False)
    t("link into nothing", os.link, t.path("file"), t.path("no/x"))
    t.tree()
    t("same inode", lambda: os.stat(t.path("file")).st_ino == os.stat(t.path("second")).st_ino)
    os.unlink(t.path("file"))
    t.stat("second")
    for length in (1, 59, 60, 100, 4000, 4095):
        t(f"symlink of {length}", os.symlink, b"y" * length, t.path(f"s{length}"))
        t("readlink", os.readlink, t.path(f"s{length}"))
        t.stat(f"s{length}")
    t("symlink of 4096", os.symlink, b"y" * 4096, t.path("s4096"))
    t("empty symlink", os.symlink, b"", t.path("s0"))
    t("readlink of a file", os.readlink, t.path("second"))
    t("odd target", os.symlink, b"\xff\n'", t.path("odd"))
    t("odd target", os.readlink, t.path("odd"))


@case()
def open_but_unlinked(t: Trace) -> None:
    t.make("file", b"0123456789" * 1000)
    descriptor = os.open(t.path("file"), os.O_RDWR)
    os.unlink(t.path("file"))
    t("fstat", os.fstat, descriptor)
    t("read", os.pread, descriptor, 20, 9990)
    t("write", os.pwrite, descriptor, b"tail", 2_000_000)
    t("read back", os.pread, descriptor, 10, 1_999_998)
    t("truncate", os.ftruncate, descriptor, 5)
    t("fsync", os.fsync, descriptor)
    t("fchmod", os.fchmod, descriptor, 0o600)
    t("fstat", os.fstat, descriptor)
    t("link it back", os.link, f"/proc/self/fd/{descriptor}".encode(), t.path("back"), follow_symlinks=True)
    os.close(descriptor)
    t("list", os.listdir, t.root)
    t.make("over", b"old")
    descriptor = os.open(t.path("over"), os.O_RDONLY)
    t.make("new", b"new")
    os.rename(t.path("new"), t.path("over"))
    t("replaced while open", os.read, descriptor, 10)
    t("fstat", os.fstat, descriptor)
    os.close(descriptor)
