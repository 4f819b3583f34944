"""A promise that a transaction group will be durable. Made by the owner's thread, settled by the writer thread, waited for anywhere."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from anqfs.errors import AnqfsError

_log = logging.getLogger(__name__)


class Ticket:
    """Settled once: durable (`error` is None) or failed."""

    __slots__ = ("_callbacks", "_lock", "_settled", "error")

    def __init__(self) -> None:
        self._settled = threading.Event()
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[Ticket], None]] = []
        self.error: AnqfsError | None = None

    @classmethod
    def settled(cls, error: AnqfsError | None = None) -> Ticket:
        """Return a ticket that is settled already."""
        ticket = cls()
        ticket.settle(error)
        return ticket

    @property
    def done(self) -> bool:
        """Whether the outcome is known."""
        return self._settled.is_set()

    def settle(self, error: AnqfsError | None) -> None:
        """Wake all who wait and run the callbacks. Called once, by whoever knows the outcome."""
        with self._lock:
            self.error = error
            self._settled.set()
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            self._call(callback)

    def wait(self, timeout: float | None = None) -> bool:
        """Block this thread until settled, at most `timeout` seconds; returns whether it is. Raises CommitFailed or NoSpace."""
        if not self._settled.wait(timeout):
            return False
        if self.error is not None:
            raise self.error
        return True

    def add_done_callback(self, callback: Callable[[Ticket], None]) -> None:
        """Call `callback(ticket)` when settled, on the writer thread, or here and now when it is settled already."""
        with self._lock:
            if not self._settled.is_set():
                self._callbacks.append(callback)
                return
        self._call(callback)

    def _call(self, callback: Callable[[Ticket], None]) -> None:
        try:
            callback(self)
        except Exception:
            _log.exception("a callback of a transaction group failed")
