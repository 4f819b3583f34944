"""What a person brings to open a volume: a passphrase or a key file.

Called by `cli/` and `control/` (which read it) and by `store/` (which opens key slots with it), on any thread.
"""

from __future__ import annotations

import os
import stat
import unicodedata
from dataclasses import dataclass, field
from typing import Literal

from anqfs.errors import UsageError

Kind = Literal["passphrase", "key-file"]
KEY_FILE_MIN = 32
KEY_FILE_MAX = 1 << 20
PASSPHRASE_MAX = 4096
"""Bytes. Longer ones are refused, so that a wrong file given as a passphrase file is noticed."""


@dataclass(frozen=True, slots=True)
class Secret:
    """A passphrase or the content of a key file. Its repr shows the kind only."""

    kind: Kind
    material: bytes = field(repr=False)

    @staticmethod
    def from_passphrase(passphrase: bytes | str) -> Secret:
        """Return the secret of a passphrase; text becomes UTF-8 in normal form C, so that every keyboard types the same bytes.

        Raises UsageError when it is empty or longer than PASSPHRASE_MAX bytes.
        """
        material = (
            unicodedata.normalize("NFC", passphrase).encode("utf-8", "surrogateescape") if isinstance(passphrase, str) else passphrase
        )
        if not material:
            raise UsageError("the passphrase is empty")
        if len(material) > PASSPHRASE_MAX:
            raise UsageError(f"the passphrase is longer than {PASSPHRASE_MAX} bytes")
        return Secret("passphrase", bytes(material))

    @staticmethod
    def from_key_file(path: str | bytes | os.PathLike[str]) -> Secret:
        """Return the secret that is the whole content of the file at `path`.

        Raises UsageError when it cannot be read, is not private, has fewer than KEY_FILE_MIN bytes or more than KEY_FILE_MAX.
        """
        content = _read(path, KEY_FILE_MAX, "key file")
        if len(content) < KEY_FILE_MIN:
            raise UsageError(f"key file {_shown(path)} holds {len(content)} bytes; it needs at least {KEY_FILE_MIN} random ones")
        return Secret("key-file", content)

    @staticmethod
    def from_passphrase_file(path: str | bytes | os.PathLike[str]) -> Secret:
        """Return the passphrase on the first line of the file at `path`, without its line end.

        Raises UsageError when the file cannot be read, is not private, or the line is empty.
        """
        line = _read(path, KEY_FILE_MAX, "passphrase file").split(b"\n", 1)[0].removesuffix(b"\r")
        if not line:
            raise UsageError(f"passphrase file {_shown(path)} has an empty first line")
        try:
            return Secret.from_passphrase(line.decode("utf-8"))
        except UnicodeDecodeError:
            return Secret.from_passphrase(line)


def check_private(path: str | bytes | os.PathLike[str], facts: os.stat_result) -> None:
    """Raise UsageError for a file with a secret that is everybody's, or a group's to change. That a group may read it is common practice.

    `facts` is the fstat of what was opened. Pipes and terminals have no reader but this one, whatever their mode.
    """
    mode = stat.S_IMODE(facts.st_mode)
    if stat.S_ISREG(facts.st_mode) and mode & 0o027:
        raise UsageError(f"{_shown(path)}: its mode is {mode:04o}, but a secret is for its owner alone: chmod 600 {_shown(path)}")


def _shown(path: str | bytes | os.PathLike[str]) -> str:
    return repr(os.fsdecode(path))


def _read(path: str | bytes | os.PathLike[str], most: int, what: str) -> bytes:
    try:
        with open(path, "rb") as file:
            check_private(path, os.fstat(file.fileno()))
            content = file.read(most + 1)
    except OSError as error:
        raise UsageError(f"{what} {_shown(path)} cannot be read: {error.strerror}") from error
    if len(content) > most:
        raise UsageError(f"{what} {_shown(path)} is larger than {most} bytes")
    return content
