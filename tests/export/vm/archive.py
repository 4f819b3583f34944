"""Writes an initramfs: a cpio archive in the "newc" format (Linux, Documentation/driver-api/early-userspace/buffer-format.rst).

The kernel unpacks several archives behind one another, later ones over earlier ones, so a test can add its files to a base that is kept.
"""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

_TRAILER = "TRAILER!!!"


class Archive:
    """An archive in memory. Directories above a file are made as needed; adding a path twice keeps the first."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._paths: set[str] = set()

    def directory(self, path: str, mode: int = 0o755) -> None:
        """Add a directory and those above it."""
        self._add(path, stat.S_IFDIR | mode, b"")

    def data(self, path: str, content: bytes | str, mode: int = 0o644) -> None:
        """Add a file with this content, owned by root."""
        self._add(path, stat.S_IFREG | mode, content.encode() if isinstance(content, str) else content)

    def link(self, path: str, target: str) -> None:
        """Add a symbolic link."""
        self._add(path, stat.S_IFLNK | 0o777, target.encode())

    def file(self, source: Path, path: str | None = None) -> None:
        """Add a file of this machine, by default under its own path; symbolic links are followed."""
        self.data(path or str(source), source.read_bytes(), stat.S_IMODE(source.stat().st_mode))

    def program(self, source: Path, path: str | None = None) -> None:
        """Add a program (or a shared object) and the libraries it is linked with, as ldd(1) finds them."""
        self.file(source, path)
        for library in libraries(source):
            self.file(library)

    def tree(self, source: Path, path: str) -> None:
        """Add the regular files below a directory."""
        for top, _, names in os.walk(source):
            for name in names:
                found = Path(top, name)
                if found.is_file():
                    self.file(found, str(PurePosixPath(path) / found.relative_to(source)))

    def bytes(self) -> bytes:
        """Return the finished archive."""
        return b"".join((*self._parts, _entry(_TRAILER, 0, b"", 0)))

    def _add(self, path: str, mode: int, content: bytes) -> None:
        name = path.strip("/")
        if name in self._paths:
            return
        above = str(PurePosixPath(name).parent)
        if above != ".":
            self.directory(above)
        self._paths.add(name)
        self._parts.append(_entry(name, mode, content, len(self._paths)))


def _entry(name: str, mode: int, content: bytes, ino: int) -> bytes:
    encoded = name.encode() + b"\0"
    fields = (ino, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(encoded), 0)
    head = b"070701" + b"".join(b"%08x" % field for field in fields) + encoded
    return head + bytes(-len(head) % 4) + content + bytes(-len(content) % 4)


def libraries(program: Path) -> Iterable[Path]:
    """Return the shared libraries of a program, the dynamic loader included; none for a static one."""
    done = subprocess.run(["ldd", program], capture_output=True, text=True, check=False)
    if "not a dynamic executable" in done.stderr or "statically linked" in done.stdout:
        return []
    assert done.returncode == 0 and "not found" not in done.stdout, (program, done.stdout, done.stderr)
    return [Path(word) for line in done.stdout.splitlines() for word in line.split() if word.startswith("/")]
