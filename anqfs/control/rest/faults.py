"""Errors on the wire: ANQ's envelope, its error names, and the HTTP status. Pure.

The envelope is what the vendor's client parses (`error_class`, `description`, `module`, `user_visible`, `stack`, `inner`), and besides it
`error`, `message`, `exit_code` and `errno`, from which anqfs's own command line gets its error back (`wire`).
"""

from __future__ import annotations

import errno
from typing import Any

from anqfs import errors
from anqfs.control import wire

_BY_ERRNO: dict[int, tuple[int, str]] = {
    errno.ENOENT: (404, "fs_no_such_entry_error"),
    errno.ESTALE: (404, "fs_no_such_inode_error"),
    errno.ENODATA: (404, "fs_user_metadata_not_found_error"),
    errno.EEXIST: (409, "fs_entry_exists_error"),
    errno.ENOTEMPTY: (409, "fs_directory_not_empty_error"),
    errno.EMLINK: (409, "fs_file_too_many_links_error"),
    errno.EALREADY: (409, "tree_delete_already_started_error"),
    errno.EBUSY: (409, "fs_sharing_violation_error"),
    errno.ENOTDIR: (400, "fs_not_a_directory_error"),
    errno.EISDIR: (400, "fs_not_a_file_error"),
    errno.ENAMETOOLONG: (400, "fs_name_size_error"),
    errno.EFBIG: (400, "fs_file_size_error"),
    errno.ELOOP: (400, "fs_symlink_loop_error"),
    errno.EINVAL: (400, "fs_invalid_attrs_error"),
    errno.E2BIG: (400, "fs_user_metadata_too_large_error"),
    errno.ERANGE: (400, "fs_invalid_size_error"),
    errno.EXDEV: (400, "fs_entry_not_in_subtree_error"),
    errno.EOPNOTSUPP: (400, "fs_invalid_attrs_error"),
    errno.EACCES: (403, "fs_access_denied_error"),
    errno.EPERM: (403, "fs_access_perm_not_owner_error"),
    errno.EROFS: (403, "fs_read_only_error"),
    errno.ENOSPC: (507, "fs_no_space_error"),
    errno.EDQUOT: (507, "fs_quota_no_space_error"),
}
"""ANQ's names, and the errno that each stands for."""
_BY_CLASS: dict[type[errors.AnqfsError], tuple[int, str]] = {
    errors.UsageError: (400, "http_bad_request_error"),
    errors.KeySlotError: (400, "encryption_key_slot_error"),
    errors.WrongKey: (403, "encryption_wrong_key_error"),
    errors.QuotaMissing: (404, "fs_quota_limit_does_not_exist_error"),
    errors.QuotaExists: (409, "fs_quota_limit_already_set_error"),
    errors.NotFound: (404, "http_not_found_error"),
    errors.SnapshotLocked: (409, "snapshot_locked_error"),
    errors.SnapshotHeld: (409, "snapshot_has_owners_error"),
    errors.SecurityKeyInUse: (409, "fs_security_key_in_use_error"),
    errors.AlreadyThere: (409, "already_exists_error"),
    errors.BadSignature: (403, "fs_security_bad_signature_error"),
    errors.NotMounted: (404, "http_not_found_error"),
    errors.StoreInUse: (409, "conflict_error"),
    errors.MountFailed: (409, "conflict_error"),
    errors.StoreExists: (409, "conflict_error"),
    errors.ReadOnlyVolume: (409, "fs_read_only_error"),
    errors.NoSpace: (507, "fs_no_space_error"),
}
_UNFORESEEN = (500, "internal_error")


class Refused(errors.AnqfsError):
    """A request that is refused with a status and one of ANQ's error names. The command line takes it for a usage error."""

    exit_code = 2

    def __init__(self, status: int, error_class: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.error_class = error_class


def named(error: errors.AnqfsError) -> tuple[int, str]:
    """Return the HTTP status and ANQ's name of an error."""
    if isinstance(error, Refused):
        return error.status, error.error_class
    if isinstance(error, errors.FilesystemError):
        return _BY_ERRNO.get(error.errno, _UNFORESEEN if error.errno == errno.EIO else (400, "fs_invalid_attrs_error"))
    return next((found for kind, found in _BY_CLASS.items() if isinstance(error, kind)), _UNFORESEEN)


def envelope(error: errors.AnqfsError) -> dict[str, Any]:
    """Return the JSON body that tells of an error."""
    fault = wire.to_fault(error)
    if isinstance(error, Refused):
        fault["error"] = "UsageError"
    return {
        "error_class": named(error)[1],
        "description": fault["message"],
        "module": "anqfs",
        "user_visible": True,
        "stack": [],
        "inner": None,
        **fault,
    }
