"""A block device that gives a mount an identity of its own, so that NFS handles outlast the mount. Called by `session` before it mounts.

A handle that nfs-ganesha gives out names the filesystem. For an ordinary FUSE mount that is the mount's device number, which is
whatever was free, so after a remount old handles are lost, or worse, name another mount. A FUSE mount on a block device (`fuseblk`) is
known by the UUID that libblkid reads from that device. So the volume's UUID is put on a small loop device, in an ext2 filesystem
that nobody ever mounts, in memory.

Each mount takes a loop device of its own: one whose last mount is dead but still in use by someone would lead back to that dead mount.
The device goes away by itself with the mount, however the daemon ends. The price: close(2) waits until the daemon has heard of it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import MountFailed

_CONTROL = "/dev/loop-control"
_GET_FREE = 0x4C82
_CONFIGURE = 0x4C0A
_AUTOCLEAR = 4
_CONFIG = "II5Q4I64s64s32s2Q8Q"
"""struct loop_config of linux/loop.h: descriptor, block size, struct loop_info64, reserved."""
_IMAGE_BYTES = 4 << 20
_ATTEMPTS = 16
_MKFS_SECONDS = 60


@contextmanager
def identity_device(identity: uuid.UUID) -> Iterator[str]:
    """Make a loop device that carries `identity` and give its path. After the block it lives as long as a mount uses it.

    Raises MountFailed: without root, without loop devices, without mkfs.ext2.
    """
    if os.geteuid() != 0:
        raise MountFailed("fsid_device needs root: an ordinary user cannot attach a block device")
    image = os.memfd_create("anqfs-identity", os.MFD_CLOEXEC)
    try:
        os.truncate(image, _IMAGE_BYTES)
        _label(image, identity)
        path, device = _attach(image)
    finally:
        os.close(image)
    try:
        yield path
    finally:
        os.close(device)


def _label(image: int, identity: uuid.UUID) -> None:
    command = ["mkfs.ext2", "-q", "-F", "-m", "0", "-U", str(identity), "-L", "anqfs", f"/proc/self/fd/{image}"]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            pass_fds=(image,),
            timeout=_MKFS_SECONDS,
            env={"PATH": "/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"},
            check=False,
        )
    except FileNotFoundError:
        raise MountFailed("fsid_device needs mkfs.ext2: install the package e2fsprogs") from None
    if done.returncode != 0:
        raise MountFailed(f"the identity device cannot be labelled: {done.stderr.decode('utf-8', 'replace').strip()}")


def _attach(image: int) -> tuple[str, int]:
    """Return the path and an open descriptor of a loop device on `image`. Somebody else may take a free one first: then the next."""
    try:
        control = os.open(_CONTROL, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise MountFailed(f"fsid_device needs loop devices: {_CONTROL}: {error.strerror}") from error
    try:
        for _ in range(_ATTEMPTS):
            path = f"/dev/loop{fcntl.ioctl(control, _GET_FREE)}"
            device = _configure(path, image)
            if device is not None:
                return path, device
    except OSError as error:
        raise MountFailed(f"fsid_device needs a loop device: {error.strerror}") from error
    finally:
        os.close(control)
    raise MountFailed(f"fsid_device: {_ATTEMPTS} loop devices were taken by others: try again")


def _configure(path: str, image: int) -> int | None:
    try:
        device = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        raise MountFailed(f"fsid_device needs {path}, which is missing: in a container, give it the loop devices") from None
    info = struct.pack(_CONFIG, image, 0, *([0] * 5), 0, 0, 0, _AUTOCLEAR, b"anqfs identity", b"", b"", 0, 0, *([0] * 8))
    try:
        fcntl.ioctl(device, _CONFIGURE, info)
    except OSError as error:
        os.close(device)
        if error.errno == errno.EBUSY:
            return None
        raise
    os.utime(path)  # libblkid looks again at a device that is newer than what it noted of it
    return device
