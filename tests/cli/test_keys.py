"""anqfs key: slots and generations, offline and through the daemon."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.places import secret_file

from .conftest import KEY, Bench


def new_key(bench: Bench, name: str = "second") -> Path:
    return secret_file(bench.top / name, bytes(reversed(KEY)) + name.encode())


@pytest.fixture(params=["offline", "mounted"])
def store(request: pytest.FixtureRequest, bench: Bench) -> Bench:
    """A bench whose store is not mounted, and one whose store is."""
    bench.mkfs()
    if request.param == "mounted":
        bench.mount()
        request.addfinalizer(bench.umount)
    return bench


def test_list(store: Bench) -> None:
    found = store.json("key", "list", store.store)
    (slot,) = found["slots"]
    assert (slot["slot"], slot["kind"], slot["iterations"]) == (0, "key-file", None)
    assert (found["free"], found["generations"]) == (7, 1)
    assert "key-file" in store.ok("key", "list", store.store)


def test_add_and_remove(store: Bench) -> None:
    second = new_key(store)
    assert store.json("key", "add", store.store, "--key-file", store.key, "--new-key-file", second) == {"slot": 1}
    assert [slot["slot"] for slot in store.json("key", "list", store.store)["slots"]] == [0, 1]
    assert "would be removed" in store.ok("key", "remove", store.store, "0", "--key-file", second, "--dry-run")
    assert len(store.json("key", "list", store.store)["slots"]) == 2
    store.ok("key", "remove", store.store, "0", "--key-file", second)
    assert [slot["slot"] for slot in store.json("key", "list", store.store)["slots"]] == [1]
    store.fails(2, "key", "remove", store.store, "1", "--key-file", second)
    store.fails(2, "key", "remove", store.store, "5", "--key-file", second)
    store.fails(2, "key", "remove", store.store, "1", "--key-file", second, "--dry-run")
    store.fails(2, "key", "remove", store.store, "5", "--key-file", second, "--dry-run")
    store.fails(4, "key", "remove", store.store, "1", "--key-file", store.key)


def test_a_removed_key_opens_nothing_and_an_added_one_does(bench: Bench) -> None:
    second = new_key(bench)
    bench.mkfs()
    bench.mount()
    (bench.mountpoint / "file").write_text("kept")
    bench.ok("key", "add", bench.mountpoint, "--new-key-file", second)
    bench.ok("key", "remove", bench.mountpoint, "0")
    bench.umount()
    bench.fails(4, "mount", bench.store, bench.mountpoint, "--key-file", bench.key)
    bench.key = second
    bench.mount()
    assert (bench.mountpoint / "file").read_text() == "kept"
    bench.umount()


def test_a_wrong_present_secret_changes_nothing(store: Bench) -> None:
    wrong = new_key(store, "wrong")
    store.fails(4, "key", "add", store.store, "--key-file", wrong, "--new-key-file", wrong)
    store.fails(4, "key", "rotate", store.store, "--key-file", wrong)
    assert store.json("key", "list", store.store)["generations"] == 1
    assert len(store.json("key", "list", store.store)["slots"]) == 1


def test_bad_new_keys(store: Bench) -> None:
    short = secret_file(store.top / "short", b"short")
    store.fails(2, "key", "add", store.store, "--key-file", store.key, "--new-key-file", short)
    store.fails(2, "key", "add", store.store, "--key-file", store.key, "--new-key-file", store.top / "none")
    store.fails(2, "key", "add", store.store, "--key-file", store.key, "--new-key-file", store.key, "--new-passphrase-file", short)
    assert "terminal" in store.fails(2, "key", "add", store.store, "--key-file", store.key)


def test_eight_slots_and_no_more(store: Bench) -> None:
    for number in range(7):
        store.ok("key", "add", store.store, "--key-file", store.key, "--new-key-file", new_key(store, f"k{number}"))
    store.fails(2, "key", "add", store.store, "--key-file", store.key, "--new-key-file", new_key(store, "ninth"))
    assert store.json("key", "list", store.store)["free"] == 0


def test_a_passphrase_slot(bench: Bench) -> None:
    bench.mkfs()
    passphrase = secret_file(bench.top / "passphrase", "gr\u00fc\u00df dich\n")
    bench.ok("key", "add", bench.store, "--key-file", bench.key, "--new-passphrase-file", passphrase)
    slot = bench.json("key", "list", bench.store)["slots"][1]
    assert slot["kind"] == "passphrase"
    assert slot["iterations"] >= 600_000
    bench.ok("mount", bench.store, bench.mountpoint, "--passphrase-file", passphrase)
    bench.umount()


def test_rotate_leaves_old_data_readable(store: Bench) -> None:
    assert "2" in store.ok("key", "rotate", store.store, "--key-file", store.key)
    assert store.json("key", "list", store.store)["generations"] == 2


def test_data_of_every_generation_stays_readable(bench: Bench) -> None:
    bench.mkfs()
    bench.mount()
    for generation in range(3):
        (bench.mountpoint / f"file{generation}").write_text(str(generation) * 200_000)
        bench.ok("key", "rotate", bench.mountpoint)
    bench.remount()
    bench.umount()
    bench.ok("key", "rotate", bench.store, "--key-file", bench.key)
    bench.mount()
    (bench.mountpoint / "last").write_text("x" * 200_000)
    bench.remount()
    for generation in range(3):
        assert (bench.mountpoint / f"file{generation}").read_text() == str(generation) * 200_000
    assert (bench.mountpoint / "last").read_text() == "x" * 200_000
    bench.umount()
    assert bench.json("check", bench.store, "--key-file", bench.key)["ok"] is True
    assert bench.json("key", "list", bench.store)["generations"] == 5
