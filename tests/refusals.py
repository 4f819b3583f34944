"""What a system call answers when it is refused."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import pytest


def refusal(call: Callable[..., Any], *arguments: Any) -> str:
    """Make a call that must fail, and return the name of its errno."""
    with pytest.raises(OSError) as caught:
        call(*arguments)
    return errno.errorcode[caught.value.errno or 0]
