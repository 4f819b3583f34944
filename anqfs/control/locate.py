"""Which mount and which daemon is meant: by a path inside a mount, by a mount point, or by a store. Called by the command line.

A killed daemon leaves a dead mount point. Its root may still have cached attributes, so `os.stat` may answer as if all were well, and
`realpath` builds on that; `statvfs` always asks the daemon, so it tells the truth: ENOTCONN at once when nobody is there. Hence a
mount is found by its name in mountinfo first, and entered only when it is alive.
"""

from __future__ import annotations

import errno
import os
import pwd

from anqfs.control import registry, wire
from anqfs.control.registry import Entry
from anqfs.errors import NotMounted, UsageError
from anqfs.mount.mountpoint import Mount, mounted_at, mounts

KINDS = (b"fuse.anqfs", b"fuseblk.anqfs")


def absolute(path: str | bytes) -> bytes:
    """Return an absolute path without touching the path itself; symbolic links are not followed."""
    return os.path.abspath(os.fsencode(path))


def is_dead(point: bytes) -> bool:
    """Tell whether a FUSE mount's daemon is gone. Never answered from a cache."""
    try:
        os.statvfs(point)
    except OSError as error:
        return error.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    return False


def above(path: str | bytes) -> Mount | None:
    """Return the anqfs mount that holds `path` by its name, symbolic links not followed; None when it is in no anqfs mount."""
    wanted = absolute(path)
    best: Mount | None = None
    for mount in mounts():
        inside = wanted == mount.point or wanted.startswith(mount.point.rstrip(b"/") + b"/")
        if inside and (best is None or len(mount.point) >= len(best.point)):
            best = mount
    return best if best is not None and best.kind in KINDS else None


def holding(path: str | bytes) -> Mount | None:
    """Return the anqfs mount that holds `path`, following symbolic links; a dead mount is found by name, never entered.

    `.snapshot` paths have the mount's own st_dev, so they are found like any other, and so are bind mounts.
    """
    named = above(path)
    if named is not None and is_dead(named.point):
        return named
    try:
        device = os.stat(os.fsencode(path)).st_dev
    except OSError:
        return named
    if named is not None and named.device == device:
        return named
    return next((mount for mount in mounts() if mount.device == device and mount.kind in KINDS), None)


def mount_point(path: str | bytes) -> bytes:
    """Return the absolute mount point that `path` names, following links of its parents, and its own unless it is a mount point."""
    lexical = absolute(path)
    resolved = os.path.normpath(os.path.join(os.path.realpath(os.path.dirname(lexical)), os.path.basename(lexical)))
    if mounted_at(resolved) is None and os.path.islink(resolved):
        return os.path.realpath(resolved)
    return resolved


def _of_mount(mount: Mount) -> Entry:
    shown = wire.shown(mount.point)
    if is_dead(mount.point):
        raise NotMounted(f"{shown}: its daemon is gone: clear it with `anqfs umount {shown}`, then mount again")
    for entry in registry.entries():
        if entry.device == mount.device:
            return entry
    if mount.owner is None or mount.owner == os.geteuid():
        raise NotMounted(f"{shown}: its daemon is not registered here: is another ANQFS_RUNTIME_DIR set than when it was mounted?")
    user = _name_of(mount.owner)
    raise NotMounted(f"{shown}: it was mounted by {user}: run this as that user (runuser -u {user} -- anqfs ...)")


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def by_path(path: str | bytes) -> Entry:
    """Return the daemon whose mount holds `path`. Raises NotMounted."""
    mount = holding(path)
    if mount is None:
        missing = not os.path.lexists(os.fsencode(path))
        raise NotMounted(f"{wire.shown(os.fsencode(path))}: {'does not exist' if missing else 'is in no anqfs mount'}")
    return _of_mount(mount)


def by_mount_point(path: str | bytes) -> Entry | None:
    """Return the running daemon whose mount point is `path`; None when it is no live anqfs mount point."""
    point = mount_point(path)
    return next((entry for entry in registry.entries() if os.fsencode(entry.mountpoint) == point), None)


def by_store(path: str | bytes) -> Entry | None:
    """Return the running daemon that serves the store at `path`, or None."""
    wanted = absolute(path)
    running = registry.entries()
    for entry in running:
        if os.fsencode(entry.store) == wanted:
            return entry
    if above(wanted) is not None:
        return None
    for entry in running:
        try:
            if os.path.samefile(wanted, os.fsencode(entry.store)):
                return entry
        except OSError:
            continue
    return None


def the_only(mountpoint: str | None) -> Entry:
    """Return the daemon named by `mountpoint`, or by the working directory, or the only one there is. Raises NotMounted, UsageError."""
    if mountpoint is not None:
        return by_path(mountpoint)
    running = registry.entries()
    if not running:
        raise NotMounted("no anqfs volume is mounted")
    if len(running) == 1:
        return running[0]
    try:
        device = os.stat(".").st_dev
    except OSError:
        device = 0
    for entry in running:
        if entry.device == device:
            return entry
    raise UsageError(f"{len(running)} volumes are mounted: say which with --mountpoint")
