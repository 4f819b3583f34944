"""What is durable when, and who syncs."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
from mounted import Mount, until


def test_what_was_fsynced_survives_a_kill(mount: Mount) -> None:
    for number in range(20):
        descriptor = os.open(mount.point / f"f{number}", os.O_WRONLY | os.O_CREAT)
        os.write(descriptor, bytes((number,)) * 10_000)
        os.fsync(descriptor)
        os.close(descriptor)
    (mount.point / "d").mkdir()
    os.rename(mount.point / "f0", mount.point / "d" / "moved")
    directory = os.open(mount.point / "d", os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)
    mount.kill()
    mount.start()
    assert (mount.point / "d" / "moved").read_bytes() == bytes(10_000)
    assert not (mount.point / "f0").exists()
    for number in range(1, 20):
        assert (mount.point / f"f{number}").read_bytes() == bytes((number,)) * 10_000


def test_without_fsync_it_is_durable_soon(mount: Mount) -> None:
    """Nobody asks; the group closes when it is due."""
    before = mount.ask("facts")["last_commit"]
    (mount.point / "f").write_bytes(b"unsynced")
    until(lambda: mount.ask("facts")["last_commit"] > before and mount.ask("facts")["dirty"] == 0, "the group is durable")
    mount.kill()
    mount.start()
    assert (mount.point / "f").read_bytes() == b"unsynced"


def test_many_fsyncs_share_a_commit(mount: Mount) -> None:
    """Sixteen programs wait in fsync while the daemon is stopped: when it goes on, a few commits are enough for all of them."""
    descriptors = []
    for number in range(16):
        (mount.point / f"d{number}").mkdir()
        descriptors.append(os.open(mount.point / f"d{number}", os.O_RDONLY))
    before = _commits(mount.ask("facts"))
    for number in range(16):
        (mount.point / f"d{number}" / "file").touch()
    threads = [threading.Thread(target=os.fsync, args=(descriptor,)) for descriptor in descriptors]
    os.kill(mount.pid, signal.SIGSTOP)
    try:
        for thread in threads:
            thread.start()
        until(lambda: all(_waits_in_fsync(thread) for thread in threads), "all of them wait")
    finally:
        os.kill(mount.pid, signal.SIGCONT)
        for thread in threads:
            thread.join()
        for descriptor in descriptors:
            os.close(descriptor)
    facts = mount.ask("facts")
    assert facts["requests"]["fsyncdir"] == 16
    assert 1 <= _commits(facts) - before <= 4


def _commits(facts: dict[str, Any]) -> int:
    """Return how many groups became durable, in the stores or in the intent log."""
    counters: dict[str, int] = facts["counters"]
    return counters.get("commits", 0) + counters.get("groups_logged", 0)


def _waits_in_fsync(thread: threading.Thread) -> bool:
    """Tell whether the thread is in fsync(2), which returns only when the daemon has answered."""
    text = Path(f"/proc/self/task/{thread.native_id}/syscall").read_text().split()
    return text[0] == "74"


def test_only_the_writer_thread_syncs(stopped: Mount, tmp_path: Path) -> None:
    """strace sees fsync, fdatasync, msync, sync_file_range and syncfs on the writer's thread only, whatever programs do."""
    trace = tmp_path / "trace"
    stopped.start("strace", "-f", "-qq", "-o", str(trace), "-e", "trace=fsync,fdatasync,msync,sync_file_range,syncfs,sync")
    writer = stopped.ask("facts")["counters"]["writer_thread"]
    for number in range(30):
        descriptor = os.open(stopped.point / f"f{number}", os.O_WRONLY | os.O_CREAT)
        os.write(descriptor, b"x" * 100_000)
        os.fsync(descriptor)
        os.close(descriptor)
    os.sync()
    stopped.umount()
    stopped.reap()
    calls = re.findall(r"^(\d+) +(\w+)\(", trace.read_text(), re.MULTILINE)
    assert len(calls) >= 30
    assert {int(thread) for thread, _ in calls} == {writer}


def test_a_full_disk_is_enospc_and_deleting_helps(stopped: Mount, tmp_path: Path) -> None:
    """Writes fail with ENOSPC, at the latest at fsync; nothing that was there is lost; after deleting, writing works again."""
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=220m", "tmpfs", str(small)], check=True, stdin=subprocess.DEVNULL)
    try:
        shutil.move(stopped.store, small / "store")
        stopped.store = small / "store"
        stopped.start()
        stopped.expect("transaction group could not be made durable")
        (stopped.point / "kept").write_bytes(b"kept")
        chunk = os.urandom(1 << 20)
        with pytest.raises(OSError) as caught, open(stopped.point / "big", "wb", buffering=0) as stream:
            for _ in range(400):
                stream.write(chunk)
                os.fsync(stream.fileno())
        assert caught.value.errno == 28
        os.unlink(stopped.point / "big")
        until(lambda: stopped.ask("facts")["namespace"]["reclaim_waiting"] == 0, "the file is reclaimed")
        assert (stopped.point / "kept").read_bytes() == b"kept"

        def writes_again() -> bool:
            try:
                descriptor = os.open(stopped.point / "again", os.O_WRONLY | os.O_CREAT)
                try:
                    os.write(descriptor, chunk)
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
            except OSError as error:
                assert error.errno == 28
                return False
            return True

        until(writes_again, "there is room again")
        stopped.stop()
    finally:
        stopped.clean_up()
        subprocess.run(["umount", "-l", str(small)], check=True, stdin=subprocess.DEVNULL)
