"""Builds, once for each machine, what the virtual machine boots: Debian's cloud kernel and an initramfs with its modules, busybox,
Python and git.

Everything is kept in build/kernel-client (ignored by git). The kernel is downloaded as a package and unpacked, never installed.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import py_compile
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from .archive import Archive

CACHE = Path(__file__).resolve().parents[3] / "build" / "kernel-client"
GUEST_PROGRAM = Path(__file__).with_name("guest.py")
ATTEMPTS = 3
META_PACKAGE = "linux-image-cloud-amd64"
MODULES = [
    "fs/nfs",
    "fs/nfs_common",
    "fs/lockd",
    "fs/smb",
    "fs/fscache",
    "fs/netfs",
    "fs/nls",
    "net/sunrpc",
    "net/dns_resolver",
    "net/core/failover.ko",
    "drivers/virtio",
    "drivers/net/virtio_net.ko",
    "drivers/net/net_failover.ko",
    "drivers/char/virtio_console.ko",
    "crypto",
    "lib",
    "arch/x86/crypto",
]
APPLETS = ["sh", "mount", "modprobe", "ip", "poweroff", "dmesg", "hostname", "cat", "ls"]
INIT = """#!/bin/sh
export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/root LC_ALL=C.UTF-8
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in virtio_pci virtio_net virtio_console; do modprobe $module; done
ip link set lo up
ip link set eth0 up
ip address add 10.0.2.15/24 dev eth0
ip route add default via 10.0.2.2
exec PYTHON -I -S -B /guest.py
"""
LIST_MODULES = """
import encodings.ascii, encodings.utf_8, encodings.latin_1, os, runpy, sys
runpy.run_path(sys.argv[1])
print(os.__file__, *(module.__file__ for module in list(sys.modules.values()) if getattr(module, "__file__", None)))
"""


class Image(NamedTuple):
    """A kernel and the initramfs that goes with it."""

    kernel: Path
    initramfs: Path


def build() -> Image:
    """Return the image, made now unless it is there. Raises CalledProcessError; RuntimeError when the package cannot be had."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with _alone():
        root = _kernel()
        initramfs = CACHE / f"initramfs-{_fingerprint(root)}.cpio"
        if not initramfs.exists():
            for old in CACHE.glob("initramfs-*"):
                old.unlink()
            partial = initramfs.with_suffix(".partial")
            partial.write_bytes(_initramfs(root))
            partial.rename(initramfs)
    return Image(next((root / "boot").glob("vmlinuz-*")), initramfs)


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    with open(CACHE / "lock", "w", encoding="ascii") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _kernel() -> Path:
    """Return the directory of the unpacked kernel package; whatever version is there is good."""
    root = CACHE / "kernel"
    if root.is_dir():
        return root
    with tempfile.TemporaryDirectory(dir=CACHE) as place:
        package = _download(Path(place))
        unpacked = Path(place, "unpacked")
        subprocess.run(["dpkg", "-x", package, unpacked], check=True)
        release = next((unpacked / "lib" / "modules").iterdir()).name
        subprocess.run(["depmod", "-b", unpacked, release], check=True)
        shutil.rmtree(unpacked / "usr" / "share", ignore_errors=True)
        unpacked.rename(root)
    return root


def _download(place: Path) -> Path:
    """Fetch the kernel package into a directory; package servers hiccup, and the lists may be missing or old: update, then try again."""
    said = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(2 * attempt)
            subprocess.run(["apt-get", "update", "-q"], stdin=subprocess.DEVNULL, capture_output=True, check=False)
        depends = subprocess.run(["apt-cache", "depends", META_PACKAGE], capture_output=True, text=True, check=False)
        names = [line.split()[1] for line in depends.stdout.splitlines() if line.split()[0] == "Depends:"]
        if not names:
            said = depends.stderr or f"nothing is known of {META_PACKAGE}"
            continue
        command = ["apt-get", "download", "-q", "-o", "APT::Sandbox::User=root", names[0]]
        done = subprocess.run(command, cwd=place, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        found = list(place.glob("*.deb"))
        if done.returncode == 0 and found:
            return found[0]
        said = done.stderr
    raise RuntimeError(f"the kernel package could not be downloaded in {ATTEMPTS} attempts: {said}")


def _python() -> Path:
    """Return the interpreter that the virtual environment of the tests was made from."""
    return Path(os.path.realpath(getattr(sys, "_base_executable", sys.executable)))


def _fingerprint(root: Path) -> str:
    """What the initramfs is made of: kernel, interpreter, git and busybox (by their times) and this recipe."""
    parts = [next((root / "lib" / "modules").iterdir()).name, sys.version, GUEST_PROGRAM.read_text(encoding="utf-8")]
    parts += [Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("image.py", "archive.py")]
    parts += [str(path.stat().st_mtime_ns) for path in (_python(), _program("git"), _program("busybox"))]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _program(name: str) -> Path:
    found = shutil.which(name)
    assert found, f"{name} is not installed: run tools/setup"
    return Path(os.path.realpath(found))


def _initramfs(root: Path) -> bytes:
    archive = Archive()
    for name in ("proc", "sys", "dev", "mnt", "root", "run", "etc", "var"):
        archive.directory(name)
    archive.directory("tmp", 0o1777)
    archive.data("init", INIT.replace("PYTHON", str(_python())), 0o755)
    archive.data("etc/passwd", "root:x:0:0::/root:/bin/sh\n")
    archive.data("etc/group", "root:x:0:\n")
    archive.file(_program("busybox"), "bin/busybox")
    for applet in APPLETS:
        archive.link(f"bin/{applet}", "busybox")
    archive.link("sbin/modprobe", "/bin/busybox")  # the kernel calls it by this path
    _add_modules(archive, root)
    _add_python(archive)
    archive.program(_program("git"), "usr/bin/git")
    archive.link("usr/bin/git-upload-pack", "git")
    return archive.bytes()


def _add_modules(archive: Archive, root: Path) -> None:
    base = next((root / "lib" / "modules").iterdir())
    target = f"lib/modules/{base.name}"
    for name in MODULES:
        source = base / "kernel" / name
        if source.is_dir():
            archive.tree(source, f"{target}/kernel/{name}")
        else:
            archive.file(source, f"{target}/kernel/{name}")
    for index in base.glob("modules.*"):
        archive.file(index, f"{target}/{index.name}")


def _add_python(archive: Archive) -> None:
    """Add the interpreter and the modules that the guest's program loads, compiled: compiling them there would take long."""
    python = _python()
    archive.program(python)
    command = [python, "-I", "-S", "-B", "-c", LIST_MODULES, GUEST_PROGRAM]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    with tempfile.TemporaryDirectory(dir=CACHE) as place:
        for name in sorted(set(listed)):
            path = Path(name)
            if path.suffix == ".py":
                compiled = Path(place, "compiled")
                py_compile.compile(name, cfile=str(compiled), doraise=True)
                archive.file(compiled, str(path.with_suffix(".pyc")))
            elif path != GUEST_PROGRAM:
                archive.program(path)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    archive.directory(str(python.parent.parent / "lib" / version / "lib-dynload"))
    archive.file(GUEST_PROGRAM, "guest.py")
