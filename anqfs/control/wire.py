"""What travels between the command line and the daemon: JSON, names and errors. Imported by both ends, on any thread.

Names are bytes on disk and need not be UTF-8. In JSON every name is a string made with Python's `surrogateescape`: a byte 0xNN that
is not part of valid UTF-8 becomes the lone surrogate U+DCNN, written as the escape `\\udcNN`. All JSON is ASCII, so it can be stored
and piped anywhere, and `os.fsencode` (or `.encode("utf-8", "surrogateescape")`) gives back the exact bytes.

An error is `{"error": class, "message": one line, "exit_code": number}`, where class is one of `anqfs.errors`.
"""

from __future__ import annotations

import errno
import json
import os
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from anqfs import errors

BODY_LIMIT = 2 << 20
"""Most bytes of one request's body: a key file of 1 MiB in base64 fits."""


def text(name: bytes) -> str:
    """Return the JSON string of a name."""
    return name.decode("utf-8", "surrogateescape")


def raw(name: str) -> bytes:
    """Return the bytes of a JSON string that names something. Raises UsageError when no bytes are written so."""
    try:
        data = name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise errors.UsageError(f"the name {name!a} is not a file name") from error
    if b"\0" in data:
        raise errors.UsageError(f"the name {name!a} holds a NUL byte, which no file name can")
    return data


def dumps(value: Any, *, indent: int | None = None) -> str:
    """Return `value` as ASCII JSON."""
    return json.dumps(value, ensure_ascii=True, allow_nan=False, indent=indent)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def loads(data: bytes) -> Any:
    """Return the value of a JSON document. Raises UsageError when it is none."""
    try:
        return json.loads(data.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise errors.UsageError("the request's body is not JSON") from error


def shown(name: str | bytes) -> str:
    """Return a name as one printable line: newlines, quotes, controls and bytes that are not UTF-8 are escaped."""
    if isinstance(name, bytes):
        name = text(name)
    if name and name.isprintable() and not set(name) & set("'\"\\ "):
        return name
    return ascii(name) if not name.isprintable() else repr(name)


def component(name: str) -> str:
    """Return a name as one component of a request's path."""
    return quote(name, safe="", errors="surrogateescape")


def moment(nanoseconds: int) -> str | None:
    """Return ns since 1970 as RFC 3339 UTC with nanoseconds; None for 0, which means never."""
    if nanoseconds == 0:
        return None
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    try:
        whole = datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, ValueError, OSError):
        return f"{nanoseconds} ns"
    return f"{whole:%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"


def to_fault(error: errors.AnqfsError) -> dict[str, Any]:
    """Return the JSON form of an error."""
    message = str(error)
    if isinstance(error, errors.FilesystemError) and message == errno.errorcode.get(error.errno):
        message = os.strerror(error.errno)
    return {"error": type(error).__name__, "message": message, "exit_code": error.exit_code, "errno": error.errno}


def from_fault(fault: Any) -> errors.AnqfsError:
    """Return the error that `to_fault` described; an AnqfsError with its own exit code when the class is not known here."""
    if not isinstance(fault, dict):
        return errors.AnqfsError("the daemon's answer makes no sense; is it another version?")
    kind = getattr(errors, str(fault.get("error")), errors.AnqfsError)
    message = str(fault.get("message", ""))
    if not (isinstance(kind, type) and issubclass(kind, errors.AnqfsError)):
        kind = errors.AnqfsError
    if issubclass(kind, errors.FilesystemError):
        number = fault.get("errno")
        return errors.FilesystemError(number if isinstance(number, int) else 5, message)
    error = kind(message)
    code = fault.get("exit_code")
    if isinstance(code, int):
        error.exit_code = code
    return error
