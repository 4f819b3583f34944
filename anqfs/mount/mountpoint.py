"""The place in the tree: check it before the mount, find it again afterwards, take the mount away.

Called by `session` (on threads: a statvfs or umount of our own mount is answered by our own loop), and by whoever wants to know
whether a path is a live mount. Paths are bytes of any kind: spaces, newlines, quotes, not UTF-8.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import re
import stat
import subprocess
from pathlib import Path
from typing import NamedTuple

from ..errors import MountFailed

log = logging.getLogger(__name__)

FUSE_DEVICE = "/dev/fuse"
_MNT_DETACH = 2
_UMOUNT_NOFOLLOW = 8
_OWNER = re.compile(rb"(?:^|,)user_id=([0-9]+)")
_ESCAPE = re.compile(rb"\\([0-7]{3})")
_libc = ctypes.CDLL(None, use_errno=True)


class Mount(NamedTuple):
    """A line of /proc/self/mountinfo. `device` is st_dev; `kind` the filesystem type, as `fuse.anqfs`; `owner` who mounted, of FUSE."""

    point: bytes
    device: int
    kind: bytes
    source: bytes
    owner: int | None = None


def unescape(field: bytes) -> bytes:
    """Return a field of mountinfo with its octal escapes (space, tab, newline, backslash, hash) undone."""
    return _ESCAPE.sub(lambda match: bytes((int(match[1], 8),)), field)


def parse_mountinfo(text: bytes) -> list[Mount]:
    """Return the mounts that the content of a mountinfo file names, in its order. Source: proc(5)."""
    mounts = []
    for line in text.split(b"\n"):
        left, separator, right = line.partition(b" - ")
        fields, after = left.split(b" "), right.split(b" ")
        if not separator or len(fields) < 6 or len(after) < 2:
            continue
        major, _, minor = fields[2].partition(b":")
        owner = _OWNER.search(after[2]) if len(after) > 2 else None
        mounts.append(
            Mount(
                unescape(fields[4]),
                os.makedev(int(major), int(minor)),
                after[0],
                unescape(after[1]),
                int(owner[1]) if owner is not None else None,
            )
        )
    return mounts


def mounts() -> list[Mount]:
    """Return what is mounted in this mount namespace."""
    return parse_mountinfo(Path("/proc/self/mountinfo").read_bytes())


def absolute(path: str | bytes | os.PathLike[str] | os.PathLike[bytes]) -> bytes:
    """Return `path` made absolute with its links resolved, as the kernel names a mount there. A dead mount point stays as it is."""
    return os.path.realpath(os.fsencode(path))


def mounted_at(point: bytes) -> Mount | None:
    """Return the topmost mount on exactly this absolute path, or None. Does not touch the mount itself."""
    return next((mount for mount in reversed(mounts()) if mount.point == point), None)


def alive(point: bytes) -> bool:
    """Tell whether the mount at `point` answers. Asks with statvfs: a stat may come from the kernel's cache. Never on the trio thread."""
    try:
        os.statvfs(point)
    except OSError:
        return False
    return True


def prepare(point: bytes) -> None:
    """Make sure that a mount can go to the absolute path `point`; take away what a killed daemon left. Raises MountFailed."""
    if not os.path.exists(FUSE_DEVICE):
        raise MountFailed(f"{FUSE_DEVICE} is missing: load the fuse module, or give the container the device")
    _remove_leftover(point)
    try:
        facts = os.stat(point)
    except OSError as error:
        raise MountFailed(f"mount point {_shown(point)}: {os.strerror(error.errno or 0)}") from None
    if not stat.S_ISDIR(facts.st_mode):
        raise MountFailed(f"mount point {_shown(point)} is not a directory")
    if mounted_at(point) is not None:
        raise MountFailed(f"something is mounted on {_shown(point)} already")
    try:
        with os.scandir(point) as entries:
            occupied = next(entries, None) is not None
    except OSError as error:
        raise MountFailed(f"mount point {_shown(point)}: {os.strerror(error.errno or 0)}") from None
    if occupied:
        raise MountFailed(f"mount point {_shown(point)} is not empty")


def _remove_leftover(point: bytes) -> None:
    mount = mounted_at(point)
    if mount is None or not mount.kind.startswith(b"fuse"):
        return
    try:
        os.statvfs(point)
    except OSError as error:
        if error.errno != errno.ENOTCONN:
            return
        log.info("%s is the mount of a daemon that was killed: it is taken away", _shown(point))
        detach(point)


def _shown(point: bytes) -> str:
    return repr(os.fsdecode(point))


def unmount(point: bytes) -> None:
    """Take the mount at `point` away. Raises OSError EBUSY while it is in use. Never on the trio thread."""
    _unmount(point, flags=_UMOUNT_NOFOLLOW, lazy=False)


def detach(point: bytes) -> None:
    """Take the mount at `point` out of the tree even while it is in use. Raises OSError."""
    _unmount(point, flags=_UMOUNT_NOFOLLOW | _MNT_DETACH, lazy=True)


def _unmount(point: bytes, *, flags: int, lazy: bool) -> None:
    if _libc.umount2(ctypes.c_char_p(point), ctypes.c_int(flags)) == 0:
        return
    number = ctypes.get_errno()
    if number != errno.EPERM:
        raise OSError(number, os.strerror(number), point)
    command = ["fusermount3", "-u", *(["-z"] if lazy else []), "--", os.fsdecode(point)]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False)
    except FileNotFoundError:
        raise OSError(errno.EPERM, "unmounting needs root or fusermount3", point) from None
    if done.returncode != 0:
        number = errno.EBUSY if "busy" in done.stderr.lower() else errno.EPERM
        raise OSError(number, done.stderr.strip() or os.strerror(number), point)


def set_readahead(point: bytes, kilobytes: int) -> bool:
    """Raise the kernel's read-ahead of the mount at `point`. Return False when the setting is not ours to write."""
    mount = mounted_at(point)
    if mount is None:
        return False
    kind = "-fuseblk" if mount.kind.startswith(b"fuseblk") else ""  # else it would be the setting of the block device itself
    setting = Path(f"/sys/class/bdi/{os.major(mount.device)}:{os.minor(mount.device)}{kind}/read_ahead_kb")
    try:
        setting.write_text(str(kilobytes))
    except OSError as error:
        log.debug("read-ahead stays as it is: %s", error)
        return False
    return True
