"""What every FUSE handler has around it: errors become errnos, nothing else gets out, and its time is counted.

pyfuse3 ends the whole mount when a handler raises anything but FUSEError (or anything at all in `forget`), so this decorator is the
only place that decides what a fault becomes. Trio thread.
"""

from __future__ import annotations

import errno
import inspect
import logging
from collections.abc import Callable, Coroutine
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar, cast, overload

import pyfuse3

from ..errors import AnqfsError, Damaged, FilesystemError

if TYPE_CHECKING:
    from .operations import AnqfsOperations

log = logging.getLogger(__name__)

_NAME_MAX = 255

BUCKETS = 40
"""Bucket b counts the requests that took 2**(b-1) up to 2**b ns; the last one those beyond 9 minutes as well."""


class Latency:
    """How long requests took, by operation."""

    def __init__(self) -> None:
        self._counts: dict[str, list[int]] = {}

    def of(self, operation: str) -> list[int]:
        """Return the counts of `operation`, to be added to in place."""
        counts = self._counts.get(operation)
        if counts is None:
            counts = self._counts[operation] = [0] * BUCKETS
        return counts

    def snapshot(self) -> dict[str, list[tuple[int, int]]]:
        """Return (upper bound in ns, requests) of each bucket in use, by operation."""
        return {
            operation: [(1 << bucket, count) for bucket, count in enumerate(counts) if count]
            for operation, counts in self._counts.items()
            if any(counts)
        }

    def requests(self, operation: str) -> int:
        """Return how many requests of this operation were answered."""
        return sum(self._counts.get(operation, ()))


def _describe(arguments: tuple[Any, ...]) -> str:
    """Return the numbers and names of a request, never its data."""
    shown = (one for one in arguments if isinstance(one, int) or (type(one) is bytes and len(one) <= _NAME_MAX))
    return ", ".join(map(repr, shown))


def errno_of(operation: str, arguments: tuple[Any, ...], error: Exception) -> int:
    """Return the errno that `error` becomes, and log what a person should hear of."""
    if isinstance(error, pyfuse3.FUSEError):
        return error.errno
    if isinstance(error, Damaged):
        log.error("%s(%s): %s", operation, _describe(arguments), error)
        return error.errno
    if isinstance(error, AnqfsError):
        return error.errno
    log.error("%s(%s) failed in a way that nobody foresaw; it answers EIO", operation, _describe(arguments), exc_info=error)
    return errno.EIO


S = TypeVar("S", bound="AnqfsOperations")
P = ParamSpec("P")
R = TypeVar("R")


class _Decorator(Protocol):
    """Makes an asynchronous handler of either kind of method."""

    @overload
    def __call__(
        self, function: Callable[Concatenate[S, P], Coroutine[Any, Any, R]]
    ) -> Callable[Concatenate[S, P], Coroutine[Any, Any, R]]: ...

    @overload
    def __call__(self, function: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], Coroutine[Any, Any, R]]: ...


def handler(*, changes: bool = False, silent: bool = False) -> _Decorator:
    """Make a FUSE handler of a method of AnqfsOperations, synchronous or not.

    `changes`: it may dirty the open group, so it waits for room first and starts the group's clock afterwards.
    `silent`: FUSE has no reply to carry an errno; faults are only logged.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Coroutine[Any, Any, Any]]:
        operation = function.__name__
        asynchronous = inspect.iscoroutinefunction(function)

        async def run(self: AnqfsOperations, *arguments: Any) -> Any:
            begin = perf_counter_ns()
            try:
                if changes and self.volume.must_wait():
                    await self.durability.room()
                result = function(self, *arguments)
                if asynchronous:
                    result = await result
                if changes:
                    self.durability.changed()
                return result
            except FilesystemError as error:
                if silent:
                    return None
                raise pyfuse3.FUSEError(error.errno) from None
            except Exception as error:
                number = errno_of(operation, arguments, error)
                if silent:
                    return None
                raise pyfuse3.FUSEError(number) from None
            finally:
                spent = (perf_counter_ns() - begin).bit_length()
                self.latency.of(operation)[spent if spent < BUCKETS else BUCKETS - 1] += 1

        run.__name__ = operation
        run.__doc__ = function.__doc__
        return run

    return cast(_Decorator, decorate)
