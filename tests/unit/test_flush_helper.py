"""The process that flushes the mount asks the daemon for nothing but what brings a file's pages in."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from anqfs.mount import flush_helper


def test_a_touched_file_is_known_by_its_inode_without_asking_for_attributes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A question for attributes that meets an unlink left the kernel with a link too few: link(2) of a file with a name said ENOENT."""
    file = tmp_path / "file"
    file.write_bytes(b"content")
    inode = file.stat().st_ino

    def asked(*_: object) -> os.stat_result:
        raise AssertionError("the daemon would be asked for attributes")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fstat", asked)
        patched.setattr(os, "stat", asked)
        told = flush_helper.touch(bytes(file)), flush_helper.touch(bytes(tmp_path / "none"))
    assert told == ((inode, 0, 0), (0, 2, 0))
