"""Tampering: a store altered behind the program's back answers with the right bytes or an error, never with wrong bytes, and check tells.

`python -m tests.crash.tamper --seconds S --seed N`. Each attempt alters a copy of a store in one way, then a child process runs the
check, reads every file and writes a new one. A record put back from an older copy of the same volume opens (it was valid in its
place once), so old bytes may be seen there; the root digest must tell.
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
import stat
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anqfs.control import offline
from anqfs.crypto.secrets import Secret
from anqfs.errors import AnqfsError, RolledBack
from anqfs.namespace.check import check
from anqfs.namespace.core import ROOT_CALLER as ROOT
from anqfs.namespace.namespace import Namespace
from anqfs.store.volume import Volume

from .alter import FILE_LEVEL, RECORD_LEVEL, Stage
from .child import ChildCrashed, in_child
from .content import pattern
from .observe import Direct

MIB = 1 << 20
SECRET = Secret("key-file", b"the key of the tampered stores " * 2)


@dataclass
class Outcome:
    """What a child saw: files right, files that gave an error, wrong files, findings of check (path, text), and why it did not open."""

    right: int = 0
    errors: list[str] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    found: list[tuple[str, str]] = field(default_factory=list)
    refused: str = ""
    writable: bool = False
    root: str = ""
    ended: bool = False
    """LMDB ended the process."""


# ---------------------------------------------------------------- making the stores


def build(directory: Path, seed: int) -> Stage:
    """Make the stores."""
    store, older, foreign = directory / "store", directory / "older", directory / "foreign"
    truth, stale = _fill(store, older, 1)
    _fill(foreign, None, 2)
    return Stage(store, older, foreign, truth, stale, _root(store), _root(older))


def _root(store: Path) -> str:
    with contextlib.closing(Volume.open(store, SECRET, read_only=True)) as volume:
        return volume.root


def _fill(store: Path, older: Path | None, writer: int) -> tuple[dict[bytes, bytes], dict[bytes, bytes]]:
    Volume.create(store, SECRET)
    volume = Volume.open(store, SECRET)
    Namespace.format(volume)
    namespace = Namespace(volume)
    truth: dict[bytes, bytes] = {}
    nodes: dict[bytes, int] = {}
    for number in range(6):
        directory, _ = namespace.mkdir(1, b"d%d" % number, stat.S_IFDIR | 0o755, ROOT)
        for at, length in enumerate((0, 10, 3000, 5000, 70_000, 200_000, 1_500_000 if number == 0 else 64_000)):
            name = b"f%d" % at
            node, _ = namespace.create(directory, name, stat.S_IFREG | 0o644, ROOT)
            path = b"d%d/%s" % (number, name)
            nodes[path] = node
            truth[path] = pattern(writer, node, 1, 0, length)
            _write(namespace, node, truth[path])
            namespace.setxattr(node, b"user.path", path, 0, ROOT)
        namespace.symlink(directory, b"link", b"f1", ROOT)
    namespace.snapshot_create(1, b"before")
    volume.close()
    stale = dict(truth)
    if older is not None:
        shutil.copytree(store, older)
    volume = Volume.open(store, SECRET)
    namespace = Namespace(volume)
    for path in list(truth)[::2]:
        length = len(truth[path])
        if length:
            truth[path] = pattern(writer, nodes[path], 2, 0, length)
            _write(namespace, nodes[path], truth[path])
    namespace.snapshot_create(1, b"after")
    volume.commit().wait(60)
    while namespace.work(1000):
        volume.commit().wait(60)
    volume.close()
    [before, after] = sorted(_snapshot_names(store))
    truth.update({b".snapshot/" + before + b"/" + path: data for path, data in stale.items()})
    truth.update({b".snapshot/" + after + b"/" + path: truth[path] for path in stale})
    return truth, stale


def _write(namespace: Namespace, node: int, data: bytes) -> None:
    for offset in range(0, len(data), 1 << 20):
        namespace.write(node, offset, data[offset : offset + (1 << 20)])


def _snapshot_names(store: Path) -> list[bytes]:
    with contextlib.closing(Volume.open(store, SECRET, read_only=True)) as volume:
        return Direct(Namespace(volume)).snapshots(b"")


ROLLS_BACK = {"replay", "database_older"}
HIDES = {
    "remove",
    "file_bits",
    "file_keys",
    "file_page",
    "file_header",
    "file_cut",
    "file_noise",
    "file_gone",
    "database_older",
    "database_foreign",
}
"""Kinds that may take whole records away: their names may be absent, which only the check can tell."""


REPLACES_PAGES = {"file_page", "file_header", "file_cut", "file_bits", "file_keys"}
"""Kinds that may put another kind of page where LMDB's tree expects keys: LMDB then ends the process, as docs/threat-model.md says, and the
check tells why."""


# ---------------------------------------------------------------- judging


def examine(store: Path, truth: dict[bytes, bytes], stale: dict[bytes, bytes]) -> dict[str, Any]:
    """Run the check, read everything, write something. Runs in the child."""
    logging.disable(logging.CRITICAL)
    outcome = Outcome()
    try:
        with contextlib.closing(Volume.open(store, SECRET, read_only=True)) as volume:
            outcome.root = volume.root
            report = check(volume)
            outcome.found = [(os.fsdecode(finding.path or b""), str(finding.what)) for finding in report.findings]
        with contextlib.closing(Volume.open(store, SECRET)) as volume:
            namespace = Namespace(volume)
            _read_all(namespace, truth, stale, outcome)
            outcome.writable = _write_new(namespace, volume)
    except (AnqfsError, OSError) as error:
        outcome.refused = f"{type(error).__name__}: {error}"
    return vars(outcome)


def _read_all(namespace: Namespace, truth: dict[bytes, bytes], stale: dict[bytes, bytes], outcome: Outcome) -> None:
    observer = Direct(namespace)
    for path, want in truth.items():
        name = os.fsdecode(path)
        try:
            node = observer.find(path)
            size = namespace.attributes(node).size
            got = b"".join(namespace.read(node, at, 1 << 20) for at in range(0, size, 1 << 20)) if size < 1 << 24 else b"too large"
        except AnqfsError as error:
            number = errno.errorcode.get(error.errno, str(error.errno))
            outcome.errors.append(f"{number} {name}")
            continue
        old = stale.get(path.split(b"/", 2)[2] if path.startswith(b".snapshot") else path)
        if got == want:
            outcome.right += 1
        elif _is_mixed(got, want, old or b""):
            outcome.stale.append(name)
        else:
            at = next((at for at in range(min(len(got), len(want))) if got[at] != want[at]), min(len(got), len(want)))
            outcome.wrong.append(f"{name}: length {len(got)}, wanted {len(want)}; at {at} {got[at : at + 32]!r}")


def _is_mixed(got: bytes, want: bytes, old: bytes) -> bool:
    """Whether each MiB is today's or that of the older copy: what putting single old records back can show."""
    if len(got) not in (len(want), len(old)):
        return False
    return all(got[at : at + MIB] in (want[at : at + MIB], old[at : at + MIB]) for at in range(0, len(got), MIB))


def _write_new(namespace: Namespace, volume: Volume) -> bool:
    data = b"new data " * 10_000
    try:
        node, _ = namespace.create(1, b"new", stat.S_IFREG | 0o644, ROOT)
        namespace.write(node, 0, data)
        volume.commit().wait(60)
        return namespace.read(node, 0, len(data)) == data
    except AnqfsError:
        return False


def judge(kind: str, letter: str, outcome: Outcome, pinned: str) -> list[str]:
    """Return what is wrong with an outcome. `pinned` is the root of the store before it was altered.

    All records put back to an older copy are an older volume: what was written since looks like what a crash leaves. Only the pinned root
    tells, and it has to.
    """
    faults = [f"wrong bytes: {line}" for line in outcome.wrong]
    if outcome.stale and kind not in ROLLS_BACK:
        faults.append(f"old bytes: {outcome.stale[:3]}")
    odd = [line for line in outcome.errors if not line.startswith("EIO ")]
    if odd and kind not in HIDES | ROLLS_BACK and letter not in ("S", "K"):  # snapshots go on under another name
        faults.append(f"an errno other than EIO: {odd[:3]}")
    if outcome.refused:
        if kind in ("flip", "shorten", "lengthen", "swap", "copy_over", "replay", "foreign", "remove") and letter != "K":
            faults.append(f"one altered record makes the whole volume refuse: {outcome.refused}")
        return faults
    damaged = outcome.errors or outcome.stale or outcome.wrong
    if damaged and not outcome.found and (kind != "database_older" or outcome.root == pinned):
        faults.append(f"check finds nothing, yet: {(outcome.errors + outcome.stale)[:3]}")
    named = {path.strip("/") for path, _ in outcome.found}
    for line in outcome.errors:
        number, name = line.split(" ", 1)
        if number == "EIO" and kind in ("flip", "shorten", "swap") and not _named(name, named, in_directory=letter in ("D", "d", "K")):
            faults.append(f"check does not name {name}: it names {sorted(named)[:5]}")
    return faults


def judge_check(store: Path) -> list[str]:
    """Return what is wrong with the check of a store that makes LMDB end its process: it has to name the tree, and to come to an end."""
    report = offline.check(str(store), SECRET, lambda _text: None)
    told = any("is not sound" in finding["what"] for finding in report["findings"])
    return [] if told and not report["ok"] else [f"the check does not tell why LMDB ends the process: {report['findings'][:3]}"]


def _named(name: str, named: set[str], *, in_directory: bool) -> bool:
    """Whether the path or a directory above it is named; a path in a snapshot also by its live name.

    The root names everything only when the name itself is what was altered, or the key that it was sealed with: then nothing but its
    directory can be named.
    """
    names = [name]
    if name.startswith(".snapshot/"):
        names.append(name.split("/", 2)[2])
    if in_directory and "" in named:
        return True
    return any(n == other or n.startswith(other + "/") for n in names for other in named if other)


def attempt(stage: Stage, directory: Path, kind: Callable[..., str], database: str, rng: random.Random) -> tuple[Outcome | None, list[str]]:
    """Alter a copy in one way and judge what a child sees. Returns None when there was nothing to alter that way."""
    store = directory / "altered"
    shutil.copytree(stage.store, store)
    try:
        letter = kind(database, stage, store, rng)
        if letter == "" and kind in RECORD_LEVEL:
            return None, []
        what = f"{kind.__name__} in {database} {letter!r}"
        try:
            outcome = Outcome(**in_child(examine, store, stage.truth, stage.stale, seconds=60))
        except ChildCrashed as error:
            if kind.__name__ in REPLACES_PAGES and str(error) == "SIGABRT":
                return Outcome(ended=True), [f"{what}: {fault}" for fault in judge_check(store)]
            return Outcome(), [f"{what}: {error}"]
        except RuntimeError as error:
            return Outcome(), [f"{what}: {error}"]
        return outcome, [f"{what}: {fault}" for fault in judge(kind.__name__, letter if database == "records" else "", outcome, stage.root)]
    finally:
        shutil.rmtree(store)


def rollback(stage: Stage) -> list[str]:
    """The whole store put back to its older copy opens, but not when its newest root is expected."""
    faults = []
    with contextlib.closing(Volume.open(stage.older, SECRET, read_only=True, expect_root=stage.older_root)):
        pass
    try:
        Volume.open(stage.older, SECRET, read_only=True, expect_root=stage.root).close()
        faults.append("an older copy of the whole store passes as the newest")
    except RolledBack:
        pass
    return faults


def run(
    directory: Path,
    *,
    seconds: float,
    seed: int,
    attempts: int = 1 << 30,
    kinds: tuple[Callable[..., str], ...] = RECORD_LEVEL + FILE_LEVEL,
) -> tuple[collections.Counter[str], list[str]]:
    """Alter stores for so long or so often; returns counts and faults."""
    deadline = time.monotonic() + seconds
    rng = random.Random(f"tamper {seed}")
    counts: collections.Counter[str] = collections.Counter()
    stage = build(directory, seed)
    untouched = Outcome(**in_child(_examine_copy, stage, directory))
    if untouched.right != len(stage.truth) or untouched.found or untouched.errors or not untouched.writable:
        return counts, [f"the untouched store is not right: {untouched}"]
    faults = rollback(stage)
    counts["rollbacks"] += 1
    number = 0
    while number < len(kinds) * 2 or (number < attempts and time.monotonic() < deadline):
        kind = kinds[number // 2 % len(kinds)]
        database = ("records", "extents")[number % 2]
        number += 1
        outcome, wrong = attempt(stage, directory, kind, database, rng)
        if outcome is None:
            continue
        counts.update({"attempts": 1, kind.__name__: 1, "files right": outcome.right, "files refused": len(outcome.errors)})
        counts["stores refused"] += bool(outcome.refused)
        counts["ended by LMDB"] += outcome.ended
        counts["files stale"] += len(outcome.stale)
        counts["noticed"] += bool(outcome.found or outcome.refused)
        faults += wrong
    return counts, faults


def _examine_copy(stage: Stage, directory: Path) -> dict[str, Any]:
    store = directory / "untouched"
    shutil.copytree(stage.store, store)
    return examine(store, stage.truth, stage.stale)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="anqfs-tamper-") as directory:
        counts, faults = run(Path(directory), seconds=options.seconds, seed=options.seed)
    for fault in faults[:40]:
        print(fault, file=sys.stderr)
    print(json.dumps({"part": "tamper", "seed": options.seed, "faults": len(faults), **counts}))
    return 0 if counts["attempts"] and not faults else 1


if __name__ == "__main__":
    raise SystemExit(main())
