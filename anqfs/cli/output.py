"""What commands print: one-line messages, JSON, tables and progress. Rich is loaded only when something is drawn."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from anqfs.control import wire
from anqfs.errors import AnqfsError, UsageError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.status import Status

_SIZE = re.compile(r"(\d{1,19}(?:\.\d{1,9})?)\s*(?:([KMGTPE])(iB|B)?|B)?", re.ASCII | re.IGNORECASE)
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def fail(message: str) -> None:
    """Print the one line of an error on stderr."""
    line = " ".join(message.split()) or "it failed"
    print(f"anqfs: {line}", file=sys.stderr)


def say(message: str = "") -> None:
    """Print a line on stdout. Raises AnqfsError when it cannot be written."""
    try:
        print(message)
    except OSError as error:
        raise _unwritable(error) from error


def bare(text: str) -> None:
    """Print text on stdout as it is, with a newline only for people: a challenge is signed to the last byte."""
    try:
        print(text, end="\n" if sys.stdout.isatty() else "")
    except OSError as error:
        raise _unwritable(error) from error


def flush() -> None:
    """Make sure that stdout was written. Raises AnqfsError when it cannot be."""
    try:
        sys.stdout.flush()
    except OSError as error:
        raise _unwritable(error) from error


def _unwritable(error: OSError) -> AnqfsError:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is still buffered has nowhere to go: let the interpreter end in peace
    return AnqfsError(f"standard output cannot be written: {error.strerror}")


def json_document(value: Any) -> None:
    """Print JSON on stdout, and nothing else: ASCII, names with surrogateescape (see anqfs.control.wire)."""
    say(wire.dumps(value, indent=2))


def size(number: int) -> str:
    """Return bytes as people read them."""
    value, unit = float(number), 0
    while value >= 1024 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{number} B" if unit == 0 else f"{value:.1f} {_UNITS[unit]}"


def size_of(text: str) -> int:
    """Return the bytes that a size such as 50GB, 1.5TiB or 4096 means: KB, MB, ... are decimal; KiB, MiB, ... and K, M, ... binary.

    Raises UsageError.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise UsageError(f"{text!a} is no size: write bytes, or a number with a unit such as 50GB or 1TiB")
    power = "KMGTPE".find(found[2].upper()) + 1 if found[2] else 0
    base = 1000 if found[2] and found[3] and found[3].upper() == "B" else 1024
    return int(Decimal(found[1]) * base**power)


def _console() -> Console:
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False, soft_wrap=True)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table; cells are printed as they are, never as markup."""
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        grid.add_column(column, overflow="fold", no_wrap=not sys.stdout.isatty())
    for row in rows:
        grid.add_row(*(Text(cell) for cell in row))
    console = _console()
    if not console.is_terminal:
        console.width = 1 << 16
    with console.capture() as drawn:
        console.print(grid)
    say(drawn.get().rstrip("\n"))


def facts(pairs: Iterable[tuple[str, str]]) -> None:
    """Print `name: value` lines with the values aligned."""
    listed = list(pairs)
    width = max((len(name) for name, _ in listed), default=0) + 2
    for name, value in listed:
        say(f"{name + ':':<{width}}{value}")


def servers_line(document: dict[str, Any]) -> str:
    """Return in a line how a volume's file servers are, from their status."""
    if not document["running"]:
        return "do not run"
    if document["fault"]:
        return f"FAULT: {document['fault']}"
    if document["paused"]:
        return "stopped while the volume is unmounted"
    if document["waiting_for_mount"]:
        return "wait for the volume to be mounted"
    return ", ".join(f"{one['server']} {one['state']} on {one['address']} port {one['port']}" for one in document["servers"])


class Progress:
    """One changing line on a terminal's stderr; silent when stderr is no terminal or `quiet`."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet or not sys.stderr.isatty()
        self._status: Status | None = None

    def show(self, line: str) -> None:
        """Replace the line."""
        if self._quiet:
            return
        from rich.text import Text

        if self._status is None:
            from rich.console import Console

            self._status = Console(stderr=True, highlight=False).status(Text(line))
            self._status.start()
        else:
            self._status.update(Text(line))

    def done(self) -> None:
        """Erase the line."""
        if self._status is not None:
            self._status.stop()
            self._status = None
