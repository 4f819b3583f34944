"""Who sees `.snapshot` in a listing: Samba in the root of a share, as its clients expect it (visible mode), and nobody else.

A client's smbd has the share's root as its working directory, so nothing has to be told to the daemon. The listing is the only difference:
everybody finds `.snapshot` by name, so nothing is lost or gained by who pretends to be smbd. Trio thread; /proc is asked only, no file.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from time import monotonic

LISTED = 1 << 63
"""Added to a directory handle whose listing shows `.snapshot`. Node ids are below it."""
COOKIE = 3
"""Where `.snapshot` is in such a listing: behind "." and ".."."""
_SERVER = b"smbd\n"


def is_smbd(pid: int) -> bool:
    """Tell whether a process or thread is Samba's file server; /proc is asked once a second for each."""
    return _is_smbd(pid, int(monotonic()))


@lru_cache(maxsize=256)
def _is_smbd(pid: int, _second: int) -> bool:
    try:
        return Path(f"/proc/{pid}/comm").read_bytes() == _SERVER
    except OSError:
        return False


def working_directory(pid: int) -> bytes | None:
    """Return a process's working directory as this one would call it, None when it is gone or in another mount namespace."""
    try:
        return os.readlink(b"/proc/%d/cwd" % pid)
    except OSError:
        return None
