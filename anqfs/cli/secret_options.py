"""Where a secret comes from: a key file, a passphrase file, or the terminal. Never the command line or the environment."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from anqfs.control import wire
from anqfs.errors import UsageError

if TYPE_CHECKING:
    from anqfs.crypto.secrets import Secret

KeyFile = Annotated[str | None, typer.Option("--key-file", metavar="FILE", help="A file of 32 bytes or more that opens the store.")]
PassphraseFile = Annotated[str | None, typer.Option("--passphrase-file", metavar="FILE", help="A file whose first line is the passphrase.")]
NewKeyFile = Annotated[str | None, typer.Option("--new-key-file", metavar="FILE", help="The key file to add.")]
NewPassphraseFile = Annotated[
    str | None, typer.Option("--new-passphrase-file", metavar="FILE", help="The file with the passphrase to add.")
]


def only_one(key_file: str | None, passphrase_file: str | None) -> None:
    """Raise UsageError when both kinds are given."""
    if key_file is not None and passphrase_file is not None:
        raise UsageError("give a key file or a passphrase file, not both")


def from_files(key_file: str | None, passphrase_file: str | None) -> Secret | None:
    """Return the secret of the file that is named, None when none is. Raises UsageError when it cannot be read or is no secret."""
    from anqfs.crypto.secrets import Secret

    only_one(key_file, passphrase_file)
    path = key_file if key_file is not None else passphrase_file
    if path is None:
        return None
    try:
        return Secret.from_key_file(path) if key_file is not None else Secret.from_passphrase_file(path)
    except OSError as error:
        raise UsageError(f"{wire.shown(path)}: {error.strerror or error}: name a file that can be read") from error


def obtain(key_file: str | None, passphrase_file: str | None, what: str, *, twice: bool = False) -> Secret:
    """Return the secret of a file, or ask for a passphrase on the terminal. `what` names it in the prompt."""
    found = from_files(key_file, passphrase_file)
    return found if found is not None else ask(what, twice=twice)


def ask(what: str, *, twice: bool) -> Secret:
    """Ask for a passphrase on /dev/tty, without echo. Raises UsageError without a terminal, or when the two differ."""
    from anqfs.crypto.secrets import Secret

    _must_have_terminal()
    first = _prompt(f"{what}: ")
    if not first:
        raise UsageError("the passphrase is empty: nothing was done")
    if twice and _prompt(f"{what}, again: ") != first:
        raise UsageError("the two passphrases differ: nothing was done")
    return Secret.from_passphrase(first)


def _must_have_terminal() -> None:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError as error:
        raise UsageError("there is no terminal to ask for the passphrase: give --key-file or --passphrase-file") from error


def _prompt(text: str) -> bytes:
    import getpass

    try:
        return getpass.getpass(text).encode("utf-8", "surrogateescape")
    except EOFError as error:
        raise UsageError("no passphrase was given: nothing was done") from error
    except UnicodeDecodeError as error:
        raise UsageError("the passphrase is not UTF-8: put it in a file and give --passphrase-file") from error
    finally:
        sys.stderr.flush()
