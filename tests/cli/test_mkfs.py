"""anqfs mkfs, and secrets from files and the terminal."""

from __future__ import annotations

import os
import stat

from tests.places import secret_file

from .conftest import Bench, on_terminal


def test_mkfs_makes_a_private_directory(bench: Bench) -> None:
    said = bench.ok("mkfs", bench.store, "--key-file", bench.key)
    assert "uuid" in said
    assert stat.S_IMODE(bench.store.stat().st_mode) == 0o700
    assert all(stat.S_IMODE(path.stat().st_mode) & 0o077 == 0 for path in bench.store.rglob("*"))


def test_mkfs_into_an_empty_directory(bench: Bench) -> None:
    bench.store.mkdir(mode=0o755)
    bench.mkfs()
    assert stat.S_IMODE(bench.store.stat().st_mode) == 0o700


def test_mkfs_refuses_what_is_there(bench: Bench) -> None:
    bench.mkfs()
    before = sorted(os.listdir(bench.store))
    assert "not empty" in bench.fails(3, "mkfs", bench.store, "--key-file", bench.key)
    assert sorted(os.listdir(bench.store)) == before
    file = bench.top / "file"
    file.write_text("mine")
    assert "directory" in bench.fails(3, "mkfs", file, "--key-file", bench.key)
    assert file.read_text() == "mine"
    assert "does not exist" in bench.fails(3, "mkfs", bench.top / "no" / "store", "--key-file", bench.key)


def test_mkfs_wants_a_good_key_file_and_leaves_nothing_behind(bench: Bench) -> None:
    short = secret_file(bench.top / "short", b"x" * 31)
    assert "32" in bench.fails(2, "mkfs", bench.store, "--key-file", short)
    assert "No such file" in bench.fails(2, "mkfs", bench.store, "--key-file", bench.top / "none")
    assert "not both" in bench.fails(2, "mkfs", bench.store, "--key-file", bench.key, "--passphrase-file", short)
    assert not bench.store.exists()


def test_without_a_terminal_a_passphrase_is_not_waited_for(bench: Bench) -> None:
    assert "terminal" in bench.fails(2, "mkfs", bench.store)
    assert not bench.store.exists()
    bench.mkfs()
    assert "terminal" in bench.fails(2, "mount", bench.store, bench.mountpoint)


def test_a_passphrase_from_the_terminal(bench: Bench) -> None:
    code, shown = on_terminal(bench, [b"s3cret words", b"s3cret words"], "mkfs", bench.store)
    assert code == 0, shown
    assert b"s3cret" not in shown
    code, shown = on_terminal(bench, [b"s3cret words"], "mount", bench.store, bench.mountpoint)
    assert code == 0, shown
    assert b"s3cret" not in shown
    bench.umount()
    code, shown = on_terminal(bench, [b"wrong words"], "mount", bench.store, bench.mountpoint)
    assert code == 4, shown
    file = secret_file(bench.top / "passphrase", b"s3cret words\nsecond line\n")
    bench.ok("mount", bench.store, bench.mountpoint, "--passphrase-file", file)
    bench.umount()


def test_two_passphrases_that_differ_make_nothing(bench: Bench) -> None:
    code, shown = on_terminal(bench, [b"one", b"other"], "mkfs", bench.store)
    assert code == 2
    assert b"differ" in shown
    assert not bench.store.exists()


def test_ctrl_c_at_the_prompt_ends_quietly(bench: Bench) -> None:
    code, shown = on_terminal(bench, [b"\x03"], "mkfs", bench.store)
    assert code == 130
    assert b"Traceback" not in shown
    assert not bench.store.exists()
