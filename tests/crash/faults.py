"""Failing disks: a full or failing disk at any point costs nothing that was acknowledged, and the volume comes back without help.

`python -m tests.crash.faults --seconds S --seed N`. Four kinds: errors raised at each step of a commit without a mount; errors of the
real calls (write, sync) below a real daemon, through the preload library; a small tmpfs that is really full; a database map that is.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import errno
import json
import logging
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from anqfs.crypto.secrets import Secret
from anqfs.errors import AnqfsError, CommitFailed, NoSpace, ReadOnlyVolume
from anqfs.namespace.core import ROOT_CALLER as ROOT
from anqfs.namespace.namespace import Namespace
from anqfs.store.volume import Volume

from . import commit_points, direct, judge, preload
from .content import pattern
from .daemon import Daemon, check_store, detach, end_orderly, eventually, have_begun, make_store, writers
from .observe import Mounted
from .preload import Kind

Counts = collections.Counter[str]
READ_ONLY_LINE = "could not be made durable, the volume is read-only from now on"
DiskFault = tuple[set[Kind], int, bool]
DISK_FAULTS: list[DiskFault] = [
    ({Kind.WRITE}, errno.ENOSPC, False),
    ({Kind.WRITE}, errno.ENOSPC, True),
    ({Kind.WRITE}, errno.EIO, False),
    ({Kind.WRITTEN}, errno.EIO, False),
    ({Kind.SYNC_BEGIN}, errno.EIO, False),
    ({Kind.SYNC_BEGIN}, errno.ENOSPC, False),
]
"""Which calls fail, with which errno, and whether a failing write puts a half first. WRITTEN: LMDB's meta page, written through."""
EXPECTED = (errno.ENOSPC, errno.EIO, errno.EROFS)


# ---------------------------------------------------------------- errors at each step of a commit, without a mount


def commit_faults(directory: Path, *, seed: int, deadline: float, attempts: int) -> tuple[Counts, list[str]]:
    """Fail one step of a commit, look at the volume, open it again; for many steps."""
    rng = random.Random(f"commit faults {seed}")
    counts: Counts = collections.Counter()
    faults: list[str] = []
    for number in range(attempts):
        if counts["commits failed"] and time.monotonic() > deadline:
            break
        place = directory / f"commit{number}"
        place.mkdir()
        error = rng.choice(
            [NoSpace("no space (injected)"), CommitFailed("an error of the disk (injected)"), OSError(errno.EIO, "injected")]
        )
        faults += _fail_at(place, seed + number, rng.choice([rng.randrange(1, 40), rng.randrange(1, 1500)]), error, counts)
        shutil.rmtree(place)
    return counts, faults


def _fail_at(directory: Path, seed: int, countdown: int, error: Exception, counts: Counts) -> list[str]:
    driver = commit_points.Driver(directory, seed, keep=0.0, limit=0)
    left = countdown

    def reached(step: str) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            counts[f"failed {step}"] += 1
            raise error

    failed = False
    with commit_points.Steps(reached):
        for _ in range(300):
            try:
                driver.step()
                driver.commit()
            except AnqfsError as raised:
                failed = True
                faults = _expect_read_only(driver, raised)
                break
        with contextlib.suppress(CommitFailed, NoSpace):
            driver.close()
    if not failed:
        return []
    counts["commits failed"] += 1
    copy = commit_points.Copy(driver.store, f"after {error!r} at step {countdown}", driver.acked, len(driver.digests))
    return faults + commit_points.verify(copy, driver.digests)


def _expect_read_only(driver: commit_points.Driver, raised: AnqfsError) -> list[str]:
    faults = []
    if driver.volume.failed is None:
        return [f"a failed commit ({raised!r}) leaves the volume writable"]
    if raised.errno not in EXPECTED:
        faults.append(f"a failed commit answers {raised!r}")
    shown = direct.digest(driver.namespace)
    if shown not in driver.digests[driver.acked - 1 :]:
        faults.append("after a failed commit the volume shows none of its states")
    try:
        driver.namespace.mkdir(1, b"after the failure", 0o040755, ROOT)
        faults.append("after a failed commit a directory can be made")
    except ReadOnlyVolume:
        pass
    return faults


# ---------------------------------------------------------------- errors of real calls below a real daemon


def daemon_fault(directory: Path, *, seed: int, counts: Counts, kind: DiskFault | None = None) -> list[str]:
    """Let the disk of a daemon under writers fail, then be well again: everything acknowledged is there after a remount.

    Arguments: `kind` is one of DISK_FAULTS, drawn when None.
    """
    rng = random.Random(f"daemon fault {seed}")
    disk = directory / "disk"
    disk.mkdir()
    store, key_file = make_store(disk)
    fault = preload.Faults(directory / "fault")
    daemon = Daemon(store, key_file, directory / "mount", directory / "daemon.log", environment=preload.environment(disk, fault=fault.path))
    kinds, number, partial = rng.choice(DISK_FAULTS) if kind is None else kind
    counts[f"daemon: {'/'.join(kind.name.lower() for kind in kinds)} {errno.errorcode[number]}{' half' if partial else ''}"] += 1
    try:
        with daemon:
            faults = _until_read_only(daemon, directory, fault, kinds, number, partial, rng, seed)
            fault.disarm()
            daemon.stop()
        daemon.environment = {}
        daemon.start()
        histories = [h for at in (1, 2) for h in judge.histories(judge.read_lines(directory / f"log{at}")).values()]
        observer = Mounted(daemon.mountpoint)
        for history in histories:
            verdict = judge.judge(history, observer, f"w{history.writer}".encode())
            faults += verdict.faults
            counts.update({"acknowledged": history.acked, "files": verdict.files})
        (daemon.mountpoint / "again").write_bytes(b"writable again")
        if (code := daemon.stop()) != 0:
            faults.append(f"after the remount the daemon ended with {code}: {daemon.log_tail(1000)}")
        faults += [f"check: {finding}" for finding in check_store(store, key_file)]
    finally:
        if daemon.process is not None and daemon.process.poll() is None:
            daemon.kill()
        detach(daemon.mountpoint)
        fault.close()
    return faults


def forget(path: Path) -> None:
    """Make the kernel forget a file's pages, so that the daemon is asked again."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _until_read_only(
    daemon: Daemon, directory: Path, fault: preload.Faults, kinds: set[Kind], number: int, partial: bool, rng: random.Random, seed: int
) -> list[str]:
    faults = []
    data = pattern(8, 1, 1, 0, 700_000)
    for name in ("read later", "read by a reader"):
        _write_synced(daemon.mountpoint / name, data)
    with writers(2, daemon.mountpoint, directory, seed, "--sync-share", "0.5") as started:
        eventually("the writers to begin", lambda: have_begun([directory / f"log{at}" for at in (1, 2)]))
        time.sleep(rng.uniform(0.1, 0.5))
        fault.arm(kinds, number, after=rng.randrange(30), sticky=True, partial=partial)
        eventually("the writers to fail", lambda: all(process.poll() is not None for process in started))
        for process in started:
            process.wait()
    for at in (1, 2):
        failure = next((line for line in judge.read_lines(directory / f"log{at}") if "failed" in line), None)
        if failure is None:
            faults.append(f"writer {at} stopped without an error")
        elif failure["errno"] not in EXPECTED:
            faults.append(f"a writer got {errno.errorcode.get(failure['errno'])}: {failure['message']}")
    for name in ("read later", "read by a reader"):
        forget(daemon.mountpoint / name)
        if (daemon.mountpoint / name).read_bytes() != data:
            faults.append("after the failure an acknowledged file reads wrong")
    os.listdir(daemon.mountpoint / "w1")
    try:
        (daemon.mountpoint / "new").mkdir()
        faults.append("after a failed commit a directory can be made")
    except OSError as error:
        if error.errno != errno.EROFS:
            faults.append(f"after a failed commit mkdir answers {error!r} instead of EROFS")
    lines = [line for line in daemon.log.read_text().splitlines() if READ_ONLY_LINE in line]
    if len(lines) != 1:
        faults.append(f"the log has {len(lines)} lines about the failed commit instead of one: {lines[:3]}\n{daemon.log_tail(1500)}")
    return faults


# ---------------------------------------------------------------- a disk that is really full


@contextlib.contextmanager
def small_disk(directory: Path, megabytes: int) -> Iterator[Path]:
    """Mount a tmpfs of this size (needs root)."""
    place = directory / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(place)], check=True, stdin=subprocess.DEVNULL)
    try:
        yield place
    finally:
        detach(place)


def full_disk(directory: Path, *, seed: int, counts: Counts, megabytes: int = 48) -> list[str]:
    """Fill a small disk through the mount, delete on it, write again; then fill it from outside, so that not even the reserve is left."""
    rng = random.Random(f"full disk {seed}")
    with small_disk(directory, megabytes) as disk:
        store, key_file = make_store(disk)
        daemon = Daemon(store, key_file, directory / "mount", directory / "daemon.log")
        try:
            with daemon:
                faults = _fill_and_free(daemon, rng, counts)
                if (code := daemon.stop()) != 0:
                    faults.append(f"the daemon of a volume that was full ended with {code}: {daemon.log_tail(1500)}")
            faults += [f"check: {finding}" for finding in check_store(store, key_file)]
            faults += _filled_from_outside(daemon, disk, rng, counts)
            faults += [f"check: {finding}" for finding in check_store(store, key_file)]
        finally:
            if daemon.process is not None and daemon.process.poll() is None:
                daemon.kill()
            detach(daemon.mountpoint)
    return faults


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("wb", buffering=0) as file:
        view = memoryview(data)
        while view:
            view = view[file.write(view) :]
        os.fsync(file.fileno())


def _fill(top: Path, number: int, rng: random.Random, limit: int = 10_000) -> tuple[dict[Path, bytes], int]:
    """Write synced files until one is refused; return those acknowledged and the errno."""
    written: dict[Path, bytes] = {}
    top.mkdir()
    for at in range(limit):
        data = pattern(number, at, 1, 0, rng.choice([1000, 60_000, 400_000, 1_500_000]))
        path = top / f"f{at}"
        try:
            _write_synced(path, data)
        except OSError as error:
            return written, error.errno or 0
        written[path] = data
    raise AssertionError("the disk never fills")


def _takes(path: Path, size: int) -> bool:
    """Whether a file of this size can be written now (what was freed can be used again only after two more commits)."""
    try:
        _write_synced(path, bytes(size))
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        return False
    finally:
        path.unlink()
    return True


def _wrong(written: dict[Path, bytes]) -> list[str]:
    return [f"{path.name}: acknowledged, now wrong" for path, data in written.items() if path.read_bytes() != data]


def _free(path: Path) -> int:
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize


def _fill_and_free(daemon: Daemon, rng: random.Random, counts: Counts) -> list[str]:
    top = daemon.mountpoint
    (top / "s").mkdir()
    old, _ = {}, 0
    for at in range(4):
        path = top / "s" / f"old{at}"
        old[path] = pattern(9, at, 1, 0, 2_000_000)
        _write_synced(path, old[path])
    os.mkdir(top / "s" / ".snapshot" / "keeps")
    for path in old:
        path.unlink()
    written, number = _fill(top / "a", 1, rng)
    counts.update({"files until full": len(written)})
    faults = [] if number == errno.ENOSPC else [f"a full disk answers {errno.errorcode.get(number)}"]
    faults += _wrong(written)
    before = _free(top)
    for path in list(written)[::2]:
        path.unlink()
        del written[path]
    os.sync()
    eventually("deleting to free space on a full volume", lambda: _free(top) > before + (1 << 20))
    before = _free(top)
    [name] = [name for name in os.listdir(top / "s" / ".snapshot") if name.endswith("_keeps")]
    os.rmdir(top / "s" / ".snapshot" / name)
    eventually("deleting a snapshot to free space", lambda: _free(top) > before + 6_000_000)
    eventually("the freed space to be writable", lambda: _takes(top / "probe", 1_500_000))
    again, number = _fill(top / "b", 2, rng)
    counts.update({"files until full again": len(again)})
    if not again:
        faults.append("nothing can be written after space was freed")
    faults += _wrong(written) + _wrong(again)
    counts["full disks"] += 1
    for path in list(again):
        path.unlink()
    return faults


def _filled_from_outside(daemon: Daemon, disk: Path, rng: random.Random, counts: Counts) -> list[str]:
    faults = []
    daemon.start()
    _write_synced(daemon.mountpoint / "safe", data := pattern(3, 1, 1, 0, 300_000))
    stranger = disk / "stranger"
    with stranger.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    errors = []
    for at in range(200):
        try:
            _write_synced(daemon.mountpoint / f"x{at}", rng.randbytes(500_000))
        except OSError as error:
            errors.append(error.errno)
            break
    if not errors or errors[0] not in EXPECTED:
        faults.append(f"a disk that a stranger filled answers {errors}")
    if (daemon.mountpoint / "safe").read_bytes() != data:
        faults.append("an acknowledged file is wrong on a disk that a stranger filled")
    daemon.kill()
    daemon.start()
    if (daemon.mountpoint / "safe").read_bytes() != data:
        faults.append("an acknowledged file is wrong after a mount on a full disk")
    stranger.unlink()
    daemon.kill()
    daemon.start()
    if (daemon.mountpoint / "safe").read_bytes() != data:
        faults.append("an acknowledged file is wrong after the disk had room again")
    _write_synced(daemon.mountpoint / "fresh", data)
    if (code := daemon.stop()) != 0:
        faults.append(f"the daemon ended with {code} after the disk had room again: {daemon.log_tail(1500)}")
    counts["disks filled by a stranger"] += 1
    return faults


# ---------------------------------------------------------------- a full map


def full_map(directory: Path, counts: Counts) -> list[str]:
    """The databases may not grow any more: the writer hears of it, and a larger map brings everything acknowledged back."""
    store = directory / "mapped"
    secret = Secret("key-file", b"the key of a small map " * 3)
    Volume.create(store, secret)
    volume = Volume.open(store, secret)
    Namespace.format(volume)
    volume.close()
    volume = Volume.open(store, secret, map_size=8 << 20, map_limit=8 << 20)
    namespace = Namespace(volume)
    written: dict[int, bytes] = {}
    refused: AnqfsError | None = None
    for at in range(200):
        data = pattern(4, at, 1, 0, 300_000)
        try:
            node, _ = namespace.create(1, b"f%d" % at, 0o100644, ROOT)
            namespace.write(node, 0, data)
            volume.commit().wait(60)
        except AnqfsError as error:
            refused = error
            break
        written[node] = data
    faults = []
    if not isinstance(refused, NoSpace):
        faults.append(f"a full map answers {refused!r}")
    faults += [f"node {node} is wrong in a full map" for node, data in written.items() if namespace.read(node, 0, len(data)) != data]
    with contextlib.suppress(NoSpace, CommitFailed):
        volume.close()
    with contextlib.closing(Volume.open(store, secret)) as volume:
        namespace = Namespace(volume)
        faults += [f"node {node} is lost" for node, data in written.items() if namespace.read(node, 0, len(data)) != data]
        namespace.mkdir(1, b"more", 0o040755, ROOT)
        volume.commit().wait(60)
    counts.update({"full maps": 1, "files in a full map": len(written)})
    return faults


def run(directory: Path, *, seconds: float, seed: int) -> tuple[Counts, list[str]]:
    """Each kind at least once, then over again until the time is over."""
    deadline = time.monotonic() + seconds
    counts: Counts = collections.Counter()
    faults: list[str] = []
    while not faults and (not counts or time.monotonic() < deadline):
        place = directory / f"seed{seed}"
        place.mkdir()
        more, wrong = commit_faults(place, seed=seed, deadline=min(deadline, time.monotonic() + seconds / 4), attempts=20)
        counts.update(more)
        faults += wrong + full_map(place, counts)
        (place / "fault").mkdir()
        faults += daemon_fault(place / "fault", seed=seed, counts=counts)
        (place / "full").mkdir()
        faults += full_disk(place / "full", seed=seed, counts=counts)
        shutil.rmtree(place)
        seed += 1
    return counts, faults


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    end_orderly()
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="anqfs-faults-") as directory:
        counts, faults = run(Path(directory), seconds=options.seconds, seed=options.seed)
    for fault in faults[:20]:
        print(fault, file=sys.stderr)
    print(json.dumps({"part": "faults", "seed": options.seed, "faults": len(faults), **counts}))
    return 0 if counts["commits failed"] and counts["full disks"] and not faults else 1


if __name__ == "__main__":
    raise SystemExit(main())
