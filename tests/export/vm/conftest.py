"""One site for all tests of this directory: it takes ten seconds to make. What a test mounts it unmounts.

When a test fails, the end of the virtual machine's console and of the servers' logs is shown with it.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .site import Site

_open_sites: list[Site] = []


@pytest.fixture(scope="package")
def site() -> Iterator[Site]:
    """The site; what it leaves running or mounted fails the last test."""
    made = Site()
    _open_sites.append(made)
    try:
        made.open()
        yield made
    finally:
        _open_sites.remove(made)
        left = made.close()
    assert left == []


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    if report.failed:
        for one in _open_sites:
            if hasattr(one, "machine"):
                report.sections.append(("console of the virtual machine", one.machine.console()[-4000:]))
            report.sections.append(("logs of the servers", one.logs()))
    return report
