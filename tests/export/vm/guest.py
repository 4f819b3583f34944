"""What a test has done inside the virtual machine; tests call the same functions on this machine to compare.

In the virtual machine this file is the first and only program: it answers calls that come through a virtio serial port, one a line, until
the port is closed. It uses the standard library only and is loaded by no one but the tests.
"""

from __future__ import annotations

import ast
import ctypes
import errno
import fcntl
import hashlib
import mmap
import os
import random
import signal
import sqlite3
import stat
import subprocess
import time
import traceback
from collections.abc import Callable
from typing import Any

ENVIRONMENT = {
    "PATH": "/bin:/sbin:/usr/bin:/usr/sbin",
    "HOME": "/root",
    "LC_ALL": "C.UTF-8",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "a",
    "GIT_AUTHOR_EMAIL": "a@example.org",
    "GIT_COMMITTER_NAME": "a",
    "GIT_COMMITTER_EMAIL": "a@example.org",
    "GIT_AUTHOR_DATE": "1700000000 +0000",
    "GIT_COMMITTER_DATE": "1700000000 +0000",
    "GIT_CONFIG_COUNT": "3",
    "GIT_CONFIG_KEY_0": "safe.directory",
    "GIT_CONFIG_VALUE_0": "*",
    "GIT_CONFIG_KEY_1": "init.defaultBranch",
    "GIT_CONFIG_VALUE_1": "main",
    "GIT_CONFIG_KEY_2": "gc.auto",
    "GIT_CONFIG_VALUE_2": "0",
}
_MS_NOTHING = 0
_MNT_DETACH = 2
_held: dict[str, int] = {}
_background: dict[str, subprocess.Popen[bytes]] = {}


# --- the machine


def mount(source: str, target: str, kind: str, options: str) -> None:
    """mount(2). Raises OSError with the kernel's errno."""
    os.makedirs(target, exist_ok=True)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(_MS_NOTHING), options.encode()):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), target)


def unmount(target: str, *, lazily: bool = False) -> None:
    """umount2(2). Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.umount2(target.encode(), _MNT_DETACH if lazily else 0):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), target)


def mount_options(target: str) -> str:
    """Return what /proc/mounts says of a mount point: its type and options."""
    with open("/proc/mounts", encoding="utf-8") as stream:
        found = [line.split() for line in stream if line.split()[1] == target]
    return " ".join(found[-1][2:4]) if found else ""


def drop_caches() -> None:
    """Forget clean pages, dentries and inodes."""
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as stream:
        stream.write("3")


def run(*command: str, directory: str | None = None) -> str:
    """Run a program and return what it printed. Raises RuntimeError with its output when it fails."""
    done = subprocess.run(
        command, cwd=directory, env=ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    text = done.stdout.decode("utf-8", "replace")
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {text}")
    return text


def start(name: str, *command: str) -> None:
    """Start a program that stays; its output goes to /tmp/NAME.log."""
    with open(f"/tmp/{name}.log", "wb") as log:
        _background[name] = subprocess.Popen(command, env=ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def get_ticket(principal: str, password: str) -> None:
    """Get a Kerberos ticket for this process's user, where gssd looks for it. Raises RuntimeError with what kinit said."""
    command = ["kinit", "-c", f"FILE:/tmp/krb5cc_{os.getuid()}", principal]
    done = subprocess.run(command, env=ENVIRONMENT, input=f"{password}\n".encode(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        raise RuntimeError(f"kinit: {done.stdout!r}")


def read_text(path: str) -> str:
    """Return a file's content."""
    with open(path, encoding="utf-8", errors="replace") as stream:
        return stream.read()


def as_user(uid: int, gid: int, function: str, *arguments: Any) -> Any:
    """Call one of these functions in a process with this uid and gid and no other groups."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            os.setgroups([])
            os.setgid(gid)
            os.setuid(uid)
            os.umask(0o022)
            answer = _answer(repr((function, arguments, {})))
            with os.fdopen(writing, "wb") as stream:
                stream.write(answer)
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        answer = stream.read()
    os.waitpid(child, 0)
    outcome = ast.literal_eval(answer.decode("utf-8", "surrogateescape"))
    if outcome[0] == "value":
        return outcome[1]
    if outcome[2]:
        raise OSError(outcome[2], outcome[3])
    raise RuntimeError(outcome[3])


# --- files


def describe(top: str) -> dict[str, tuple[object, ...]]:
    """Return each entry below a directory by its relative path: type, size, links, and the content's SHA-256 or the target."""
    found: dict[str, tuple[object, ...]] = {}
    for place, directories, files in os.walk(top):
        for name in sorted(directories + files):
            path = os.path.join(place, name)
            found[os.path.relpath(path, top)] = _describe(path)
    return found


def _describe(path: str) -> tuple[object, ...]:
    status = os.lstat(path)
    if stat.S_ISLNK(status.st_mode):
        return ("link", os.readlink(path))
    if stat.S_ISDIR(status.st_mode):
        return ("directory",)
    return ("file", status.st_size, status.st_nlink, digest(path))


def digest(path: str) -> str:
    """Return the SHA-256 of a file's content."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write(path: str, content: bytes) -> None:
    """Make or replace a file and fsync it."""
    with open(path, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def read(path: str) -> bytes:
    """Return a file's content."""
    with open(path, "rb") as stream:
        return stream.read()


def listing(path: str) -> list[str]:
    """Return a directory's names in order."""
    return sorted(os.listdir(path))


def owner(path: str) -> tuple[int, int, int]:
    """Return the mode's permission bits, the uid and the gid."""
    status = os.lstat(path)
    return stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid


def change_mode(path: str, mode: int) -> None:
    """chmod(2)."""
    os.chmod(path, mode)


def make_directory(path: str) -> None:
    """mkdir(2)."""
    os.mkdir(path)


def remove(path: str) -> None:
    """unlink(2)."""
    os.unlink(path)


def make_tree(top: str, *, links: bool) -> dict[str, str]:
    """Make files in every way that programs do; return what each content must hash to. Without `links` no hard or symbolic ones."""
    os.makedirs(f"{top}/deep/er/and/deeper")
    chooser = random.Random(top)
    expected = {}
    for name, size in (("empty", 0), ("small", 100), ("page", 4096), ("odd", 65537), ("large", 2_000_001)):
        content = chooser.randbytes(size)
        write(f"{top}/{name}", content)
        expected[name] = hashlib.sha256(content).hexdigest()
    expected["patched"] = _patch(f"{top}/patched", chooser)
    for number in range(20):
        write(f"{top}/deep/er/and/deeper/file {number} \u00e9", b"%d" % number)
    os.rename(f"{top}/odd", f"{top}/deep/moved")
    expected["deep/moved"] = expected.pop("odd")
    write(f"{top}/replacement", b"new")
    os.replace(f"{top}/replacement", f"{top}/small")
    expected["small"] = hashlib.sha256(b"new").hexdigest()
    os.truncate(f"{top}/page", 10)
    os.truncate(f"{top}/page", 5000)
    expected["page"] = hashlib.sha256(read(f"{top}/page")[:10] + bytes(4990)).hexdigest()
    os.mkdir(f"{top}/gone")
    write(f"{top}/gone/file", b"x")
    os.unlink(f"{top}/gone/file")
    os.rmdir(f"{top}/gone")
    if links:
        os.link(f"{top}/large", f"{top}/deep/another name")
        os.symlink("../small", f"{top}/deep/pointer")
    return expected


def _patch(path: str, chooser: random.Random) -> str:
    """Write pieces of a file at random places, a hole between them, and append; return what it must hash to."""
    image = bytearray(300_000)
    with open(path, "wb", buffering=0) as stream:
        for _ in range(40):
            offset = chooser.randrange(200_000)
            piece = chooser.randbytes(chooser.randrange(1, 5000))
            os.pwrite(stream.fileno(), piece, offset)
            image[offset : offset + len(piece)] = piece
        os.pwrite(stream.fileno(), b"end", 300_000)
        os.fsync(stream.fileno())
    with open(path, "ab") as stream:
        stream.write(b"appended")
    return hashlib.sha256(bytes(image) + b"endappended").hexdigest()


def change_through_mapping(path: str) -> str:
    """Write into a shared mapping of a file, msync it, and return what the file must hash to."""
    size = 300_000
    write(path, b"-" * size)
    expected = bytearray(b"-" * size)
    with open(path, "r+b") as stream, mmap.mmap(stream.fileno(), size) as mapped:
        for offset in (0, 4095, 65536, 131071, 299_990):
            mapped[offset : offset + 6] = b"mapped"
            expected[offset : offset + 6] = b"mapped"
        mapped.flush()
    return hashlib.sha256(expected).hexdigest()


def read_through_mapping(path: str) -> str:
    """Return the SHA-256 of what a private mapping of a file shows."""
    with open(path, "rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        return hashlib.sha256(mapped).hexdigest()


def keep_unlinked_file(path: str) -> bool:
    """Tell whether a file that is open can still be read and written after it was unlinked."""
    with open(path, "w+b", buffering=0) as stream:
        stream.write(b"still here")
        os.unlink(path)
        stream.write(b" and written")
        stream.seek(0)
        return stream.read() == b"still here and written"


# --- programs


def use_git(top: str) -> str:
    """Make a repository with two commits, clone it, and check the clone; return the id of the last tree."""
    repository = f"{top}/repository"
    run("git", "init", "-q", repository)
    for name in ("one", "two", "three"):
        write(f"{repository}/{name}", name.encode() * 1000)
    run("git", "add", ".", directory=repository)
    run("git", "commit", "-q", "-m", "first", directory=repository)
    write(f"{repository}/two", b"2" * 50_000)
    run("git", "commit", "-q", "-a", "-m", "second", directory=repository)
    run("git", "clone", "-q", repository, f"{top}/clone")
    run("git", "fsck", "--strict", directory=f"{top}/clone")
    assert run("git", "status", "--porcelain", directory=f"{top}/clone") == ""
    return run("git", "rev-parse", "HEAD^{tree}", directory=f"{top}/clone").strip()


def use_sqlite(path: str) -> list[int]:
    """Fill a database in transactions, roll one back, and check it; return the rows' count and sum."""
    with sqlite3.connect(path) as connection:
        connection.execute("create table numbers (number integer primary key, padding blob)")
        connection.executemany("insert into numbers values (?, ?)", ((number, bytes(200)) for number in range(500)))
        connection.commit()
        connection.execute("delete from numbers where number % 3 = 0")
        connection.commit()
        connection.execute("delete from numbers")
        connection.rollback()
    connection.close()
    return check_sqlite(path)


def check_sqlite(path: str) -> list[int]:
    """Check a database's integrity and return its rows' count and sum."""
    connection = sqlite3.connect(path)
    try:
        assert connection.execute("pragma integrity_check").fetchone() == ("ok",)
        return list(connection.execute("select count(*), sum(number) from numbers").fetchone())
    finally:
        connection.close()


# --- locks


def lock(path: str, start: int = 0, length: int = 0) -> bool:
    """Take an exclusive fcntl lock of a range (length 0: to the end) on a file that stays open until `unlock`.

    Tell whether it was granted.
    """
    opened = _held.get(path)
    if opened is None:
        opened = _held[path] = os.open(path, os.O_RDWR)
    try:
        fcntl.lockf(opened, fcntl.LOCK_EX | fcntl.LOCK_NB, length, start)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            raise
        return False
    return True


def unlock(path: str) -> None:
    """Close a file that `lock` opened, which gives up its locks."""
    os.close(_held.pop(path))


def can_lock(path: str, start: int = 0, length: int = 0) -> bool:
    """Tell whether someone who opens the file now would get an exclusive lock of this range."""
    opened = os.open(path, os.O_RDWR)
    try:
        fcntl.lockf(opened, fcntl.LOCK_EX | fcntl.LOCK_NB, length, start)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            raise
        return False
    finally:
        os.close(opened)
    return True


def write_held(path: str, content: bytes, offset: int) -> None:
    """Write into a file that `lock` opened, and fsync it."""
    os.pwrite(_held[path], content, offset)
    os.fsync(_held[path])


def read_held(path: str, size: int, offset: int) -> bytes:
    """Read from a file that `lock` opened."""
    return os.pread(_held[path], size, offset)


# --- answering calls


def _answer(request: str) -> bytes:
    name, arguments, named = ast.literal_eval(request)
    function: Callable[..., Any] = globals()[name]
    try:
        outcome: tuple[Any, ...] = ("value", function(*arguments, **named))
    except Exception as error:  # whatever it is, the caller is told and raises it again
        text = error.strerror if isinstance(error, OSError) and error.strerror else traceback.format_exc()
        outcome = ("error", type(error).__name__, getattr(error, "errno", None) or 0, text)
    return ascii(outcome).encode("ascii")


def _send(port: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:  # a port takes as much as fits
        rest = rest[os.write(port, rest) :]


def serve() -> None:
    """Answer calls, one a line, until the port is closed; then switch the machine off."""
    while not (ports := [name for name in os.listdir("/dev") if name.startswith("vport")]):
        time.sleep(0.02)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    port = os.open(f"/dev/{ports[0]}", os.O_RDWR)
    _send(port, b"ready\n")
    pending = b""
    while piece := os.read(port, 65536):
        pending += piece
        *lines, pending = pending.split(b"\n")
        for line in lines:
            answer = _answer(line.decode("ascii"))
            print(f"guest: {line[:160].decode()} -> {answer[:160].decode()}", flush=True)
            _send(port, answer + b"\n")
    os.sync()
    run("poweroff", "-f")


if __name__ == "__main__":
    serve()
