"""Runs a function in a forked child, so that a crash in it (LMDB on a hostile file) is a result and not the end of the test."""

from __future__ import annotations

import faulthandler
import json
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any


class ChildCrashed(Exception):
    """The child died of a signal, or hung; the message says which."""


def in_child(function: Callable[..., Any], *arguments: Any, seconds: float = 120.0) -> Any:
    """Return what `function` returns (anything JSON can carry); raises ChildCrashed when its process dies, RuntimeError when it raises."""
    reader, writer = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        faulthandler.disable()
        os._exit(_answer(writer, function, arguments))
    os.close(writer)
    try:
        text = _read_all(reader, pid, seconds)
    finally:
        os.close(reader)
        _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        raise ChildCrashed("it hung" if number == signal.SIGKILL else signal.Signals(number).name)
    kind, value = json.loads(text)
    if kind == "error":
        raise RuntimeError(value)
    return value


def _answer(writer: int, function: Callable[..., Any], arguments: tuple[Any, ...]) -> int:
    try:
        answer = ["value", function(*arguments)]
        text = json.dumps(answer)
    except BaseException:
        text = json.dumps(["error", traceback.format_exc()])
    with os.fdopen(writer, "w") as file:
        file.write(text)
    return 0


def _read_all(reader: int, pid: int, seconds: float) -> str:
    parts = []
    while True:
        ready, _, _ = select.select([reader], [], [], seconds)
        if not ready:
            os.kill(pid, signal.SIGKILL)
            return ""
        part = os.read(reader, 1 << 20)
        if not part:
            return b"".join(parts).decode()
        parts.append(part)
