"""The one hierarchy of errors.

Raise one of these where the fault is known. The errno is what a system call answers (`mount/` turns it into the reply), the exit
code is what the command line answers; both are turned into numbers only at those two edges. The message is one line for a person:
what happened, to which thing, and what to do about it. No message carries a secret.
"""

from __future__ import annotations

import errno as _errno


class AnqfsError(Exception):
    """Any fault that anqfs foresees. Subclasses say which errno and which exit code it becomes."""

    errno: int = _errno.EIO
    exit_code: int = 1


class FilesystemError(AnqfsError):
    """A namespace operation answers an errno, as a system call would.

    Arguments: `number` is the errno; `message` is for logs and for offline tools.
    """

    def __init__(self, number: int, message: str = "") -> None:
        self.errno = number
        self._message = message

    def __str__(self) -> str:
        return self._message or _errno.errorcode.get(self.errno, str(self.errno))


class UsageError(AnqfsError):
    """The command line or an argument makes no sense."""

    errno = _errno.EINVAL
    exit_code = 2


class StoreMissing(AnqfsError):
    """There is no anqfs store at the given path, or it is something else."""

    errno = _errno.ENOENT
    exit_code = 3


class StoreExists(AnqfsError):
    """mkfs was asked to make a store where something already is."""

    errno = _errno.EEXIST
    exit_code = 3


class WrongKey(AnqfsError):
    """No key slot of the store opens with the given secret."""

    errno = _errno.EACCES
    exit_code = 4


class KeySlotError(AnqfsError):
    """A key slot cannot be added or removed as asked (unknown slot, the last slot, no free slot)."""

    errno = _errno.EINVAL
    exit_code = 2


class StoreInUse(AnqfsError):
    """Another process holds the store; the message names its pid."""

    errno = _errno.EBUSY
    exit_code = 5


class MountFailed(AnqfsError):
    """The mount point is busy, missing or not empty, or FUSE is not to be had."""

    errno = _errno.EBUSY
    exit_code = 6


class NotMounted(AnqfsError):
    """The path is in no anqfs mount, or its daemon is gone."""

    errno = _errno.ENOENT
    exit_code = 7


class NotFound(AnqfsError):
    """A snapshot or another thing that was named does not exist."""

    errno = _errno.ENOENT
    exit_code = 8


class QuotaMissing(NotFound):
    """A directory has no quota of its own."""


class QuotaExists(AnqfsError):
    """A directory has a quota already."""

    errno = _errno.EEXIST
    exit_code = 2


class SnapshotLocked(AnqfsError):
    """A snapshot is locked by a security key: it can be neither deleted nor expire earlier before it is unlocked."""

    errno = _errno.EPERM
    exit_code = 13


class SnapshotHeld(AnqfsError):
    """Somebody needs a snapshot, such as a replication: it can be neither deleted nor changed meanwhile."""

    errno = _errno.EBUSY
    exit_code = 13


class SecurityKeyInUse(AnqfsError):
    """A security key locks snapshots, or those of a policy: it can not be deleted (or disabled, for a policy) meanwhile."""

    errno = _errno.EBUSY
    exit_code = 13


class BadSignature(AnqfsError):
    """A signature is not that of the security key over what was to be signed."""

    errno = _errno.EACCES
    exit_code = 4


class AlreadyThere(AnqfsError):
    """A policy or a security key of this name is there already, or a snapshot is locked already."""

    errno = _errno.EEXIST
    exit_code = 2


class Damaged(AnqfsError):
    """A record or extent is missing, cut, altered or in another's place: its tag does not hold."""

    errno = _errno.EIO
    exit_code = 9


class UnsupportedFormat(AnqfsError):
    """The store was written by a newer format than this program knows."""

    errno = _errno.EIO
    exit_code = 9


class RolledBack(AnqfsError):
    """The store's root digest is not the one that was pinned: an older copy, or tampering."""

    errno = _errno.EIO
    exit_code = 9


class NoSpace(AnqfsError):
    """The disk or the store's map is full."""

    errno = _errno.ENOSPC
    exit_code = 10


class ReadOnlyVolume(AnqfsError):
    """The volume was opened read-only, or went read-only after a failed commit."""

    errno = _errno.EROFS
    exit_code = 11


class CommitFailed(AnqfsError):
    """A transaction group could not be made durable; nothing of it is acknowledged."""

    errno = _errno.EIO
    exit_code = 11


class ExportFailed(AnqfsError):
    """A file server that exports a volume cannot be started, changed or stopped."""

    errno = _errno.EIO
    exit_code = 12
