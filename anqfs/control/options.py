"""Mount options, as `anqfs mount -o` and mount(8) give them. Called by the command line; no threads, no I/O."""

from __future__ import annotations

import re
from typing import NamedTuple

from anqfs.errors import UsageError

_FOR_THE_KERNEL = {"nosuid", "suid", "nodev", "dev", "noexec", "exec", "noatime", "atime", "async", "sync", "dirsync"}
_OPPOSITES = {"suid": "nosuid", "dev": "nodev", "exec": "noexec", "atime": "noatime", "async": "sync"}
_OPPOSITES.update({value: key for key, value in _OPPOSITES.items()})
_FOR_MOUNT_8 = {
    "rw",
    "defaults",
    "auto",
    "noauto",
    "user",
    "nouser",
    "users",
    "owner",
    "group",
    "nofail",
    "_netdev",
    "relatime",
    "norelatime",
    "strictatime",
    "nostrictatime",
    "diratime",
    "nodiratime",
    "lazytime",
    "nolazytime",
    "default_permissions",
    "silent",
    "loud",
}
_IMPLIED = {
    "user": ("nosuid", "nodev", "noexec"),
    "users": ("nosuid", "nodev", "noexec"),
    "owner": ("nosuid", "nodev"),
    "group": ("nosuid", "nodev"),
}
_WITH_VALUE = {"keyfile", "passphrasefile", "expect_root"}
_IGNORED_WITH_VALUE = {"uhelper", "comment"}
_ROOT = re.compile(r"[0-9]+:[0-9a-fA-F]{64}")


class Options(NamedTuple):
    """What the options ask for. `kernel` are flags for the FUSE mount (nosuid, noexec, ...)."""

    read_only: bool = False
    allow_other: bool = False
    kernel: tuple[str, ...] = ()
    key_file: str | None = None
    passphrase_file: str | None = None
    expect_root: str | None = None
    fsid_device: bool = False


def split(text: str) -> list[str]:
    """Split at commas; `\\,` and `\\\\` stand for a comma and a backslash, so that any path can be an option's value."""
    parts, current, escaped = [], "", False
    for letter in text:
        if escaped:
            current, escaped = current + letter, False
        elif letter == "\\":
            escaped = True
        elif letter == ",":
            parts.append(current)
            current = ""
        else:
            current += letter
    parts.append(current + ("\\" if escaped else ""))
    return [part for part in parts if part]


def check_root(root: str) -> str:
    """Return a pinned root digest `N:HEX`. Raises UsageError when it is written otherwise."""
    if not _ROOT.fullmatch(root):
        raise UsageError(f"the expected root {root!a} is not NUMBER:64 HEX DIGITS, as `anqfs status` prints it")
    return root.lower()


def parse(given: list[str]) -> Options:
    """Return what the `-o` arguments ask for; the last of two opposites counts. Raises UsageError naming what is not known."""
    read_only = allow_other = fsid_device = False
    kernel: list[str] = []
    values: dict[str, str] = {}
    for option in (part for text in given for part in split(text)):
        name, equals, value = option.partition("=")
        if option in ("ro", "rw"):
            read_only = option == "ro"
        elif option == "allow_other":
            allow_other = True
        elif option == "fsid_device":
            fsid_device = True
        elif option in _FOR_THE_KERNEL:
            kernel = [flag for flag in kernel if flag not in (option, _OPPOSITES.get(option))] + [option]
        elif name in _IMPLIED and (not equals or name == "user"):
            kernel = [flag for flag in kernel if _OPPOSITES.get(flag) not in _IMPLIED[name]] + list(_IMPLIED[name])
        elif equals and name in _WITH_VALUE:
            if not value:
                raise UsageError(f"the mount option {name} has no value")
            values[name] = value
        elif option not in _FOR_MOUNT_8 and not option.startswith(("x-", "X-")) and name not in _IGNORED_WITH_VALUE:
            raise UsageError(f"the mount option {option!a} is not known: see `anqfs mount --help`")
    return Options(
        read_only,
        allow_other,
        tuple(dict.fromkeys(kernel)),
        values.get("keyfile"),
        values.get("passphrasefile"),
        check_root(values["expect_root"]) if "expect_root" in values else None,
        fsid_device,
    )


def other_users_allowed(configuration: str = "/etc/fuse.conf") -> bool:
    """Tell whether fuse.conf lets ordinary users give allow_other."""
    try:
        with open(configuration, encoding="utf-8", errors="replace") as stream:
            return any(line.strip() == "user_allow_other" for line in stream)
    except OSError:
        return False
