"""Runs one random history on a real namespace and on the reference model, and compares what both answer and show.

A failure says which step it was; the run is then repeated with every comparison after every step, so that what is reported is the
shortest prefix of the history that shows the fault, with the operations that led there.
"""

from __future__ import annotations

import errno
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any
from unittest.mock import patch

from anqfs.crypto.secrets import Secret
from anqfs.errors import AnqfsError
from anqfs.namespace.check import check
from anqfs.namespace.core import Caller
from anqfs.namespace.namespace import Namespace
from anqfs.namespace.restore import Restore
from anqfs.namespace.scrub import Scrub
from anqfs.store.volume import Volume

from .operations import Chooser, Operation
from .reference import ROOT, Model, ModelError, Seen, Tree

CALLER = Caller(0, 0, frozenset(), 0)
TREE_EVERY = 7
SNAPSHOTS_EVERY = 29
LOG_SHOWN = 40
WORK_MAX = 100_000


class Difference(AssertionError):
    """The namespace and the model disagree."""


LIMITS: list[dict[str, int]] = [
    {},
    {"files.MERGE_ABOVE": 2, "files.MERGE_NOW": 4},
    {"packing.ABOVE": 0, "packing.FEWEST": 1, "packing.MOST": 3, "packing.PACK": 6000},
    {"files.REMOVE_NOW": 0, "reclaim.STEP": 1},
    {
        "files.MERGE_ABOVE": 1,
        "files.REMOVE_NOW": 1,
        "reclaim.STEP": 0,
        "restore_steps.ENTRIES_AT_ONCE": 2,
        "restore_steps.WINDOWS_AT_ONCE": 2,
    },
]
"""Bounds made small, so that short histories reach what lies beyond them: a seed takes one of these."""


@contextmanager
def ordered_by_seed(seed: int) -> Iterator[None]:
    """Make the order of names in a directory, which is that of a hash with a random key, depend on the seed alone; and take its limits."""
    with ExitStack() as stack:
        stack.enter_context(patch.object(Volume, "name_hash", lambda _, name: sha256(b"%d " % seed + name).digest()[:16]))
        for name, value in LIMITS[seed % len(LIMITS)].items():
            module, _, constant = name.partition(".")
            stack.enter_context(patch(f"anqfs.namespace.{module}.{constant}", value))
        yield


def run_seed(seed: int, steps: int, directory: Path, secret: Secret) -> None:
    """Run one history; raise Difference for the shortest prefix of it that shows a fault."""
    with ordered_by_seed(seed):
        _run_seed(seed, steps, directory, secret)


def _run_seed(seed: int, steps: int, directory: Path, secret: Secret) -> None:
    try:
        Run(seed, directory / "quick", secret).run(steps)
    except Exception as first:
        careful = Run(seed, directory / "careful", secret, every_step=True)
        try:
            careful.run(steps)
        except Exception as error:
            raise Difference(f"seed {seed}, step {len(careful.log)}: {error!r}\n{careful.tail()}") from error
        raise Difference(f"seed {seed}: {first!r} (but not when everything is compared after each step)") from first


class Run:
    """One history in progress."""

    def __init__(self, seed: int, directory: Path, secret: Secret, every_step: bool = False) -> None:
        self.seed = seed
        self.directory = directory
        self.secret = secret
        self.every_step = every_step
        self.chooser = Chooser(seed)
        self.log: list[Operation] = []
        self.now = 10**18
        self.generation = 0
        self.model = Model(self.now)
        self.nodes: dict[int, int] = {ROOT: ROOT}
        self.history: list[tuple[Model, dict[int, int]]] = []
        directory.mkdir(parents=True)
        Volume.create(self.store, secret, iterations=1000)
        volume = Volume.open(self.store, secret)
        Namespace.format(volume)
        volume.close()
        self.open()
        self.namespace.set_attributes(ROOT, mode=0o755, uid=0, gid=0, atime=self.now, mtime=self.now, caller=CALLER)
        self.adopt_times()
        self.durable()

    @property
    def store(self) -> Path:
        return self.directory / f"store{self.generation}"

    def tail(self) -> str:
        return "\n".join(f"  {step}: {shorten(operation)}" for step, operation in list(enumerate(self.log, 1))[-LOG_SHOWN:])

    # -------------------------------------------------------------- the volume

    def open(self) -> None:
        self.volume = Volume.open(self.store, self.secret)
        self.namespace = Namespace(self.volume, clock=lambda: self.now)
        for ino, count in self.model.held.items():
            for _ in range(count):
                self.namespace.hold(self.nodes[ino])

    def durable(self) -> None:
        """Commit, and let crashes return to this state at the oldest."""
        self.volume.commit().wait()
        self.history = []
        self.remember()

    def remember(self) -> None:
        self.history.append((self.model.copy(), dict(self.nodes)))

    # ------------------------------------------------------------------ running

    def run(self, steps: int) -> None:
        try:
            for step in range(steps):
                self.step(step)
            self.finish()
        finally:
            self.volume.close()
        shutil.rmtree(self.directory)

    def step(self, step: int) -> None:
        self.now += 1_000_003
        self.model.now = self.now
        operation = self.chooser.choose(self.model)
        self.log.append(operation)
        kind, *arguments = operation
        special: Callable[..., None] | None = getattr(self, f"do_{kind}", None)
        if special is not None:
            special(*arguments)
        else:
            self.both(kind, *arguments)
        self.remember()
        every = self.every_step or kind.startswith("restore") or kind in ("crash", "reopen")
        if every or step % TREE_EVERY == 0:
            self.compare_tree()
            self.compare_usage()
        if every or step % SNAPSHOTS_EVERY == 0:
            self.compare_snapshots()

    def both(self, kind: str, *arguments: Any) -> None:
        """Carry out an operation on both sides and compare the answers."""
        expected = answer(lambda: getattr(self, f"model_{kind}")(*arguments))
        actual = answer(lambda: getattr(self, f"real_{kind}")(*arguments))
        if isinstance(expected, tuple) and isinstance(actual, tuple):  # a new inode: (model's number, node)
            self.nodes[expected[1]] = actual[1]
        elif expected != actual:
            raise Difference(f"{kind} answers {actual}, not {expected}")

    # -------------------------------------------------- one pair for each kind

    def model_create(self, parent: int, name: bytes, mode: int) -> Any:
        return "new", self.model.create(parent, name, mode)

    def real_create(self, parent: int, name: bytes, mode: int) -> Any:
        return "new", self.namespace.create(self.nodes[parent], name, stat.S_IFREG | mode, CALLER)[0]

    def model_mkdir(self, parent: int, name: bytes, mode: int) -> Any:
        return "new", self.model.mkdir(parent, name, mode)

    def real_mkdir(self, parent: int, name: bytes, mode: int) -> Any:
        return "new", self.namespace.mkdir(self.nodes[parent], name, mode, CALLER)[0]

    def model_mknod(self, parent: int, name: bytes, mode: int, rdev: int) -> Any:
        return "new", self.model.mknod(parent, name, mode, rdev)

    def real_mknod(self, parent: int, name: bytes, mode: int, rdev: int) -> Any:
        return "new", self.namespace.mknod(self.nodes[parent], name, mode, rdev, CALLER)[0]

    def model_symlink(self, parent: int, name: bytes, target: bytes) -> Any:
        return "new", self.model.symlink(parent, name, target)

    def real_symlink(self, parent: int, name: bytes, target: bytes) -> Any:
        return "new", self.namespace.symlink(self.nodes[parent], name, target, CALLER)[0]

    def model_link(self, ino: int, parent: int, name: bytes) -> Any:
        self.model.link(ino, parent, name)

    def real_link(self, ino: int, parent: int, name: bytes) -> Any:
        self.namespace.link(self.nodes[ino], self.nodes[parent], name)

    def model_unlink(self, parent: int, name: bytes) -> Any:
        self.model.unlink(parent, name)

    def real_unlink(self, parent: int, name: bytes) -> Any:
        self.namespace.unlink(self.nodes[parent], name)

    def model_rmdir(self, parent: int, name: bytes) -> Any:
        self.model.rmdir(parent, name)

    def real_rmdir(self, parent: int, name: bytes) -> Any:
        self.namespace.rmdir(self.nodes[parent], name)

    def model_rename(self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int) -> Any:
        self.model.rename(parent, name, new_parent, new_name, flags)

    def real_rename(self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int) -> Any:
        self.namespace.rename(self.nodes[parent], name, self.nodes[new_parent], new_name, flags)

    def model_write(self, ino: int, offset: int, data: bytes) -> Any:
        return self.model.write(ino, offset, data)

    def real_write(self, ino: int, offset: int, data: bytes) -> Any:
        return self.namespace.write(self.nodes[ino], offset, data)

    def model_truncate(self, ino: int, size: int) -> Any:
        self.model.truncate(ino, size)

    def real_truncate(self, ino: int, size: int) -> Any:
        self.namespace.set_attributes(self.nodes[ino], size=size, caller=CALLER)

    def model_attributes(self, ino: int, fields: dict[str, int]) -> Any:
        self.model.set_attributes(ino, **fields)

    def real_attributes(self, ino: int, fields: dict[str, int]) -> Any:
        self.namespace.set_attributes(self.nodes[ino], **fields, caller=CALLER)

    def model_setxattr(self, ino: int, name: bytes, value: bytes, flags: int) -> Any:
        self.model.setxattr(ino, name, value, flags)

    def real_setxattr(self, ino: int, name: bytes, value: bytes, flags: int) -> Any:
        self.namespace.setxattr(self.nodes[ino], name, value, flags, CALLER)

    def model_removexattr(self, ino: int, name: bytes) -> Any:
        self.model.removexattr(ino, name)

    def real_removexattr(self, ino: int, name: bytes) -> Any:
        self.namespace.removexattr(self.nodes[ino], name, CALLER)

    def model_hold(self, ino: int) -> Any:
        self.model.hold(ino)

    def real_hold(self, ino: int) -> Any:
        self.namespace.hold(self.nodes[ino])

    def model_drop(self, ino: int) -> Any:
        self.model.drop(ino)

    def real_drop(self, ino: int) -> Any:
        self.namespace.drop(self.nodes[ino])

    def model_snapshot(self, directory: int, name: bytes) -> Any:
        return self.model.snapshot_create(directory, name)

    def real_snapshot(self, directory: int, name: bytes) -> Any:
        return self.namespace.snapshot_create(self.nodes[directory], name).id

    def model_snapshot_delete(self, number: int) -> Any:
        self.model.snapshot_delete(number)

    def real_snapshot_delete(self, number: int) -> Any:
        self.namespace.snapshot_delete(number)

    # ---------------------------------------------------------------- restores

    def do_restore_in_place(self, number: int, path: bytes) -> None:
        self.restore(lambda: self.model.restore_in_place(number, path), number, path, None)

    def do_restore_beside(self, number: int, path: bytes, parent: int, name: bytes) -> None:
        destination = self.nodes[parent], name
        self.restore(lambda: self.model.restore_beside(number, path, parent, name), number, path, destination)

    def restore(self, model: Callable[[], None], number: int, path: bytes, destination: tuple[int, bytes] | None) -> None:
        expected = answer(model)
        actual = answer(lambda: self.real_restore(number, path, destination))
        if expected != actual:
            raise Difference(f"restore answers {actual}, not {expected}")
        if expected is None:
            self.bind()
            self.adopt_times()

    def real_restore(self, number: int, path: bytes, destination: tuple[int, bytes] | None) -> None:
        restore = Restore(self.namespace, number, path, destination)
        steps = 0
        while restore.step(self.chooser_budget(number)):
            steps += 1
            if steps > WORK_MAX:
                raise Difference("a restore does not end")

    @staticmethod
    def chooser_budget(number: int) -> int:
        return (1, 3, 50, 1000)[number % 4]

    def bind(self) -> None:
        """Learn which node is which of the model's inodes, by path. One that was kept must be the same node as before."""
        waiting = [(ROOT, ROOT)]
        while waiting:
            ino, node = waiting.pop()
            if self.nodes.setdefault(ino, node) != node:
                raise Difference(f"the model's inode {ino} was node {self.nodes[ino]} and is {node}")
            entries = {name: child for name, child, _, _ in self.namespace.readdir(node, 0)} if self.model.nodes[ino].is_directory else {}
            for name, child in self.model.nodes[ino].entries.items():
                if name not in entries:
                    raise Difference(f"{name!r} is missing from node {node}")
                waiting.append((child, entries[name]))

    def adopt_times(self) -> None:
        """Take over change times, which nobody can set, after a restore touched what it had to."""
        for ino in set(self.model.below(ROOT)):
            self.model.change(ino, ctime=self.namespace.attributes(self.nodes[ino]).ctime)

    # ------------------------------------------------------------------ events

    def do_work(self, budget: int) -> None:
        self.namespace.work(budget)

    def do_commit(self) -> None:
        self.durable()

    def do_reopen(self) -> None:
        self.model.crash()
        self.volume.close()
        self.open()
        self.check()
        self.durable()

    def do_crash(self, how: str) -> None:
        """Go on from what a power cut would leave: the state must be that after some operation since the last durable commit.

        "lost group": the open group is gone. "lost records": the extents of the last group were durable, its records were not.
        """
        before = self.store
        self.generation += 1
        if how == "lost group":
            shutil.copytree(before, self.store)
            self.volume.close()
        else:
            shutil.copytree(before, self.store)
            self.volume.commit().wait()
            shutil.rmtree(self.store / "extents")
            shutil.copytree(before / "extents", self.store / "extents")
            self.volume.close()
        shutil.rmtree(before)
        now, self.model = self.model, Model()
        self.open()
        self.recover(now)
        self.check()
        self.durable()

    def recover(self, lost: Model) -> None:
        """Find the state that the volume is in among those since the last durable commit."""
        problems = []
        for model, nodes in self.history:
            self.model, self.nodes = model.copy(), dict(nodes)
            self.model.crash()
            try:
                self.compare_tree()
                self.compare_snapshots()
                self.compare_usage()
            except Difference as error:
                problems.append(str(error))
                continue
            self.model.now = lost.now
            return
        raise Difference(
            f"after a crash the volume is in none of the {len(problems)} states it may be in: {problems[0]}; ...; {problems[-1]}"
        )

    # -------------------------------------------------------------- comparisons

    def compare_tree(self) -> None:
        compare("live tree", self.real_tree(ROOT), self.model.tree())

    def compare_snapshots(self) -> None:
        actual = {snapshot.id: snapshot.name for snapshot in self.namespace.snapshots()}
        expected = {number: frozen.name for number, frozen in self.model.snapshots.items()}
        if actual != expected:
            raise Difference(f"the snapshots are {actual}, not {expected}")
        for number, frozen in self.model.snapshots.items():
            if frozen.root in set(self.model.below(ROOT)):
                door = self.namespace.lookup(self.nodes[frozen.root], b".snapshot")[0]
                inside = self.namespace.lookup(door, b"%d_%s" % (number, frozen.name))[0]
            else:
                inside = self.namespace.snapshot_node(number)
            tree = self.model.snapshot_tree(number)
            compare(f"snapshot {number}", self.real_tree(inside), tree)
            usage, below = self.namespace.usage(inside), [seen for path, seen in tree.items() if path]
            actual = (usage.size, usage.files, usage.directories, usage.symlinks, usage.others)
            if actual != totals(below):
                raise Difference(f"the totals of snapshot {number} are {actual}, not {totals(below)}")

    def real_tree(self, root: int) -> Tree:
        """Return what the namespace shows below a node, by path."""
        namespace = self.namespace
        first: dict[int, bytes] = {}
        tree: Tree = {}

        def walk(node: int, path: bytes) -> None:
            inode = namespace.attributes(node)
            first.setdefault(node, path)
            data = namespace.read(node, 0, inode.size + 1) if stat.S_ISREG(inode.mode) else b""
            target = namespace.readlink(node) if stat.S_ISLNK(inode.mode) else b""
            xattrs = tuple(sorted((name, namespace.getxattr(node, name)) for name in namespace.listxattr(node)))
            tree[path] = Seen(
                inode.mode,
                inode.uid,
                inode.gid,
                inode.rdev,
                inode.nlink,
                inode.size,
                inode.atime,
                inode.mtime,
                inode.ctime,
                data,
                target,
                xattrs,
                first[node],
            )
            if stat.S_ISDIR(inode.mode):
                for name, child, _, _ in sorted(namespace.readdir(node, 0)):
                    walk(child, path + b"/" + name)

        walk(root, b"")
        return tree

    def compare_usage(self) -> None:
        """Compare the totals of every directory with what walking it gives."""
        for ino in set(self.model.below(ROOT)):
            if not self.model.nodes[ino].is_directory:
                continue
            usage = self.namespace.usage(self.nodes[ino])
            names = list(self.model.below(ino))[1:]
            nodes = [self.model.nodes[name] for name in names]
            expected = (
                sum(node.size for node in nodes if stat.S_ISREG(node.mode)),
                sum(self.namespace.attributes(self.nodes[name]).allocated for name in names),
                sum(stat.S_ISREG(node.mode) for node in nodes),
                sum(node.is_directory for node in nodes),
                sum(stat.S_ISLNK(node.mode) for node in nodes),
            )
            actual = (usage.size, usage.allocated, usage.files, usage.directories, usage.symlinks)
            if actual != expected or usage.others != len(nodes) - sum(expected[2:]):
                raise Difference(f"the totals of inode {ino} are {usage}, not {expected}")

    # ------------------------------------------------------------------ the end

    def finish(self) -> None:
        """At the end: the check is clean, with snapshots and, when all are deleted, without any trace of them."""
        self.compare_tree()
        self.compare_snapshots()
        self.check()
        self.scrub()
        for number in list(self.model.snapshots):
            self.real_snapshot_delete(number)
        for ino, count in self.model.held.items():
            self.namespace.drop(self.nodes[ino], count)
        self.model.crash()
        self.drain()
        self.check()
        self.nothing_kept()
        self.volume.close()
        self.open()
        self.check()
        self.nothing_kept()
        self.compare_tree()

    def drain(self) -> None:
        for _ in range(WORK_MAX):
            if not self.namespace.work(100):
                return
        raise Difference("background work does not end")

    def check(self) -> None:
        report = check(self.volume)
        if not report.clean:
            raise Difference("check: " + "; ".join(map(str, report.findings[:10])))

    def scrub(self) -> None:
        scrub = Scrub(self.namespace)
        while scrub.step(100):
            self.namespace.work(1)
        if scrub.findings:
            raise Difference("scrub: " + "; ".join(map(str, scrub.findings[:10])))

    def nothing_kept(self) -> None:
        """Without snapshots there are no past records, dead lists, counts above 1 or extents that no live window uses."""
        kept = [key for letter in b"idwxuLsSvVO" for key in self.volume.scan_keys(bytes((letter,)), bytes((letter + 1,)))]
        if kept:
            raise Difference(f"{len(kept)} records of deleted snapshots are left: {kept[:5]}")


def answer(call: Callable[[], Any]) -> Any:
    """Return what a call answers, or the name of the errno that it raises."""
    try:
        return call()
    except (ModelError, AnqfsError) as error:
        return errno.errorcode.get(error.errno, error.errno)


def totals(below: list[Seen]) -> tuple[int, int, int, int, int]:
    """Return size, files, directories, symlinks and others of what is below a directory."""
    files, directories, symlinks = ([one for one in below if kind(one.mode)] for kind in (stat.S_ISREG, stat.S_ISDIR, stat.S_ISLNK))
    others = len(below) - len(files) - len(directories) - len(symlinks)
    return sum(one.size for one in files), len(files), len(directories), len(symlinks), others


def compare(what: str, actual: Tree, expected: Tree) -> None:
    """Raise Difference that says which path differs in what."""
    if actual == expected:
        return
    for path in sorted(set(actual) | set(expected)):
        if actual.get(path) != expected.get(path):
            raise Difference(f"{what}: {path!r}: {explain(actual.get(path), expected.get(path))}")


def explain(actual: Seen | None, expected: Seen | None) -> str:
    if actual is None or expected is None:
        return "is missing" if actual is None else "should not be there"
    fields = [name for name in Seen.__dataclass_fields__ if getattr(actual, name) != getattr(expected, name)]
    return ", ".join(f"{name} is {shorten(getattr(actual, name))}, not {shorten(getattr(expected, name))}" for name in fields)


def shorten(value: Any) -> str:
    if isinstance(value, tuple):
        return "(" + ", ".join(map(shorten, value)) + ")"
    if isinstance(value, bytes) and len(value) > 40:
        return f"{value[:16]!r}...({len(value)} bytes)"
    return repr(value)
