"""SMB users: accounts of Samba's own database, each for a Unix user of the same name. Called by the command line; blocking.

Passwords reach pdbedit through a pipe: never through arguments or the environment. Source: pdbedit(8).
"""

from __future__ import annotations

import pwd
import shutil
import subprocess

from anqfs.errors import ExportFailed, NotFound, UsageError
from anqfs.export.description import check_user
from anqfs.export.layout import Layout

_SECONDS = 60
MAX_PASSWORD = 127


def _pdbedit(layout: Layout, *arguments: str, answers: bytes = b"") -> str:
    program = shutil.which("pdbedit", path="/usr/local/bin:/usr/bin:/bin")
    if program is None:
        raise ExportFailed("pdbedit is not installed: install the package samba")
    done = subprocess.run(
        [program, "-s", str(layout.smb_conf), "--debuglevel=0", *arguments],
        input=answers,
        capture_output=True,
        timeout=_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        lines = (done.stderr + done.stdout).decode("utf-8", "replace").split("\n")
        said = [line.strip() for line in lines if line.strip() and "Weak crypto" not in line]
        raise ExportFailed(f"pdbedit failed: {said[-1] if said else f'status {done.returncode}'}")
    return done.stdout.decode("utf-8", "replace")


def add(layout: Layout, user: str, password: bytes) -> None:
    """Add a user, or give one a new password. Raises UsageError for one that is no Unix user, ExportFailed."""
    check_user("the user", user)
    try:
        pwd.getpwnam(user)
    except KeyError:
        raise UsageError(f"{user}: is no Unix user: make one first, as with `useradd -M -s /usr/sbin/nologin {user}`") from None
    if not password or len(password) > MAX_PASSWORD or any(byte < 32 for byte in password):
        raise UsageError(f"the password is empty, longer than {MAX_PASSWORD} bytes, or holds control characters: nothing was done")
    layout.make()
    _pdbedit(layout, "--create", "--password-from-stdin", "--user", user, answers=password + b"\n" + password + b"\n")


def remove(layout: Layout, user: str) -> None:
    """Remove a user; sessions that are open go on until they end. Raises NotFound, ExportFailed."""
    check_user("the user", user)
    if user not in names(layout):
        raise NotFound(f"{user}: is no SMB user: see `anqfs export user list`")
    _pdbedit(layout, "--delete", "--user", user)


def names(layout: Layout) -> list[str]:
    """Return the SMB users, sorted. Raises ExportFailed."""
    layout.make()
    return sorted(line.partition(":")[0] for line in _pdbedit(layout, "--list").splitlines() if line.count(":") >= 2)
