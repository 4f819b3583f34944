"""A real mount for each test that asks for one, in a process of its own, gone again whatever happens.

A line of WARNING or worse, or a traceback, in the daemon's log fails the test that caused it, unless the test says `expect`.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from mounted import Mount, loop_ext4

from tests.places import open_temporary


def _lived(mount: Mount) -> Iterator[Mount]:
    try:
        yield mount
        code = mount.process.poll() if mount.process is not None else 0
        assert code in (None, 0), f"the daemon died with {code}:\n{mount.log_text()}"
    finally:
        mount.clean_up()
    assert mount.complaints() == [], mount.log_text()


@pytest.fixture(scope="module")
def open_directory() -> Iterator[Path]:
    """A temporary directory that every user may enter, which pytest's own are not."""
    path = open_temporary("anqfs-test-")
    try:
        yield path
    finally:
        shutil.rmtree(path)


@pytest.fixture
def stopped(open_directory: Path) -> Iterator[Mount]:
    """A fresh store that is not mounted yet."""
    base = Path(tempfile.mkdtemp(dir=open_directory))
    base.chmod(0o755)
    mount = Mount(base)
    mount.make_store()
    yield from _lived(mount)
    shutil.rmtree(base)


@pytest.fixture
def mount(stopped: Mount) -> Mount:
    """A fresh mount."""
    return stopped.start()


@pytest.fixture(scope="module")
def shared_mount(open_directory: Path) -> Iterator[Mount]:
    """One mount for all tests of a module that leave it as they found it."""
    base = open_directory / "shared"
    base.mkdir()
    mount = Mount(base)
    mount.make_store()
    mount.start()
    os.chmod(mount.point, 0o1777)
    yield from _lived(mount)


@pytest.fixture
def place(shared_mount: Mount, request: pytest.FixtureRequest) -> Path:
    """A directory in the shared mount for one test."""
    path = shared_mount.point / request.node.name
    path.mkdir()
    return path


@pytest.fixture(scope="module")
def ext4(open_directory: Path) -> Iterator[Path]:
    """A directory on ext4."""
    with loop_ext4(open_directory) as point:
        yield point
