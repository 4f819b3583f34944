"""The whole-volume check: every record opened, every tag verified, every relation between records recomputed.

Called offline by the command line (and by tests) on a volume that nothing else changes; any thread. It only reads, it needs no second
pass over file data, and damage of any kind becomes a finding, never an exception. How the parts divide the work:

| module                 | judges                                                                                     |
|------------------------|--------------------------------------------------------------------------------------------|
| `check_families`       | inodes, names, maps, attributes, totals and their past versions, one inode after the other |
| `check_extents`        | extents and their counts against the maps                                                  |
| `check_changes`        | the change index against the versions of inodes                                            |
| `check_administration` | quotas, tree deletes, snapshot policies, security keys, holds, users of the API            |
| here                   | snapshots, dead lists, marks, views, orphans, counters, the root digest                    |
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from anqfs.errors import AnqfsError
from anqfs.namespace.check_administration import Administration
from anqfs.namespace.check_changes import ChangeRecords
from anqfs.namespace.check_extents import Extents, Uses
from anqfs.namespace.check_families import Families
from anqfs.namespace.check_source import KEY_LENGTHS, PAST_LETTERS, Absent, Source, is_directory, kind_of, snapshot_of
from anqfs.namespace.owners import Sums, place_in
from anqfs.store.administration import COUNTER_HOLD, COUNTER_POLICY, COUNTER_SECURITY_KEY
from anqfs.store.schema import (
    COUNTER_DEAD,
    COUNTER_EPOCH,
    COUNTER_EXTENT,
    COUNTER_INO,
    COUNTER_SNAPSHOT,
    COUNTER_VIEW,
    EPOCH_MAX,
    OWNERS,
    CloneJob,
    Counter,
    Dead,
    Frees,
    Inode,
    Mark,
    Orphan,
    OwnerTotals,
    Record,
    View,
    ViewNumber,
    inode_key,
    live_key,
    mark_key,
    view_key,
    view_number_key,
)
from anqfs.store.volume import Volume

FINDINGS_MAX = 10_000
"""Findings listed; more are only counted."""
PROGRESS_EVERY = 1000
_COUNTED = (COUNTER_SNAPSHOT, COUNTER_VIEW, COUNTER_DEAD, COUNTER_POLICY, COUNTER_SECURITY_KEY, COUNTER_HOLD)
OWN_LETTERS = b"CKF" + bytes(KEY_LENGTHS)


@dataclass(frozen=True)
class Finding:
    """One fault: the live path or snapshot path that it strikes (or `volume`, `snapshot N`, `inode N`, `extent N`) and what is wrong."""

    path: bytes
    what: str

    def __str__(self) -> str:
        return f"{self.path.decode('utf-8', 'backslashreplace')}: {self.what}"


@dataclass
class Report:
    """What a check found. `size` is bytes of file data verified; `unlisted` counts the findings above the list's bound."""

    findings: list[Finding] = field(default_factory=list)
    unlisted: int = 0
    records: int = 0
    extents: int = 0
    leftovers: int = 0
    """Unused extents that the next opening for writing deletes: a crash left them, or all records were put back to an older state."""
    size: int = 0
    files: int = 0
    directories: int = 0
    snapshots: int = 0
    seconds: float = 0.0
    root: str = ""

    @property
    def clean(self) -> bool:
        """True when nothing is wrong."""
        return not self.findings


def check(volume: Volume, progress: Callable[[int, int], None] | None = None) -> Report:
    """Verify a whole volume and return what is wrong with it.

    `progress(done, total)` is called now and then with counts of records and extents. The volume must not change meanwhile; what its
    open group holds is committed first. Raises only what that commit raises.
    """
    if volume.read_only and volume.replayed:
        raise ValueError("what the intent log holds must be in the stores: open the volume for writing once")
    if not volume.read_only and volume.failed is None:
        volume.commit(to_stores=True).wait()
    started = time.monotonic()
    checker = _Checker(volume, progress)
    checker.run()
    checker.report.seconds = time.monotonic() - started
    return checker.report


class _Checker:
    """One check in progress."""

    def __init__(self, volume: Volume, progress: Callable[[int, int], None] | None) -> None:
        self.volume = volume
        self.report = Report(root=volume.root)
        self.source = Source(volume, self.damaged)
        self.progress = progress
        self.done = self.total = 0
        self.unnamed: list[tuple[bytes, str]] = []
        self.listed: dict[bytes, int] = {}
        self.highest: dict[bytes, int] = dict.fromkeys(_COUNTED, 0)

    def run(self) -> None:
        """Judge everything, each part on its own, so that what one cannot digest does not keep the others from being judged."""
        uses = Uses()
        families: list[Families] = []
        changes: list[ChangeRecords] = []
        administration = Administration(self.source, self.complain, self.seen, self.highest)
        for part in (
            self.count,
            self.source.load_snapshots,
            lambda: changes.append(ChangeRecords(self.source, self.complain, self.seen)),
            lambda: self.judge_dead_lists(changes[0]),
            lambda: families.append(Families(self.source, self.complain, uses.add, self.judge_past, changes[0].expect, self.seen)),
            lambda: families[0].run(),
            lambda: changes[0].run(self.listed),
            self.judge_unlisted,
            self.judge_snapshots,
            self.judge_marks,
            self.judge_views,
            self.judge_orphans,
            administration.judge_of_directories,
            administration.judge_api_users,
            administration.judge_security_keys,
            administration.judge_policies,
            administration.judge_holds,
            self.judge_clones,
            lambda: self.judge_owners(families[0].owned),
            lambda: self.judge_extents(uses),
            lambda: self.judge_counters(families[0]),
            self.judge_root,
        ):
            self.guard(part)
        for family in families:
            self.report.files, self.report.directories = family.files, family.directories
        self.report.snapshots = len(self.source.snapshots)
        self.name_damage()

    def guard(self, part: Callable[[], None]) -> None:
        """Run one part; whatever it cannot digest is a finding."""
        try:
            part()
        except AnqfsError as error:
            self.complain(b"volume", str(error))
        except Exception as error:
            self.complain(b"volume", f"the check cannot go on here: {type(error).__name__}: {error}")

    # ---------------------------------------------------------------- findings

    def complain(self, path: bytes, what: str) -> None:
        """Add a finding, once."""
        finding = Finding(path, what)
        if len(self.report.findings) >= FINDINGS_MAX:
            self.report.unlisted += 1
        elif finding not in self.report.findings[-100:]:
            self.report.findings.append(finding)

    def damaged(self, key: bytes, what: str) -> None:
        """Remember a record that does not open; it is named at the end, when all other damage is known."""
        self.unnamed.append((key, what))

    def name_damage(self) -> None:
        """Turn the records that do not open into findings."""
        for key, what in self.unnamed:
            self.guard(lambda key=key, what=what: self.complain(self.source.describe_key(key), f"its {kind_of(key)} record: {what}"))  # type: ignore[misc]

    def seen(self) -> None:
        """Count one record or extent."""
        self.done += 1
        if self.progress is not None and self.done % PROGRESS_EVERY == 0:
            self.progress(min(self.done, self.total), self.total)

    def count(self) -> None:
        """Count what there is to do, and report keys that are no record's."""
        for key in self.volume.scan_keys(b"\0", b"\xff"):
            self.report.records += 1
            if key[:1] not in OWN_LETTERS or (key[0] in KEY_LENGTHS and len(key) != KEY_LENGTHS[key[0]]):
                self.complain(b"volume", f"a record has the unknown key {key.hex()}")
        after = 0
        while batch := self.volume.raw_extent_ids(after, 10_000):
            self.report.extents += len(batch)
            after = batch[-1]
        self.total = self.report.records + self.report.extents

    # --------------------------------------------------------------- dead lists

    def judge_dead_lists(self, changes: ChangeRecords) -> None:
        """Judge every entry of every dead list and remember the past records that are listed."""
        for key, record in self.source.letter(b"L"):
            self.seen()
            number = int.from_bytes(key[1:9], "big")
            self.highest[COUNTER_DEAD] = max(self.highest[COUNTER_DEAD], int.from_bytes(key[9:17], "big"))
            if isinstance(record, Dead):
                self.judge_dead(number, record, changes)

    def judge_dead(self, number: int, dead: Dead, changes: ChangeRecords) -> None:
        here = b"snapshot %d" % number
        snapshot = snapshot_of(self.source, number)
        if dead.key[:1] == b"N":
            fault = changes.judge_dead(number, dead.key)
            if fault is not None or dead.key in self.listed:
                self.complain(here, fault or "recorded changes are on two dead lists or twice on one")
            self.listed[dead.key] = dead.ino
            return
        if dead.key[:1] not in PAST_LETTERS or len(dead.key) != KEY_LENGTHS[dead.key[0]]:
            self.complain(here, "its dead list names something that is no past record")
            return
        if snapshot is Absent.MISSING:
            self.complain(here, "it has a dead list but does not exist")
        elif not isinstance(snapshot, Absent) and live_key(dead.key)[1] != snapshot.epoch:
            self.complain(here, f"its dead list names a {chr(dead.key[0])} record of another epoch")
        if self.source.get(dead.key, Record) is Absent.MISSING:
            self.complain(here, f"its dead list names a past {chr(dead.key[0])} record that does not exist")
        if dead.key in self.listed:
            self.complain(here, f"a past {chr(dead.key[0])} record is on two dead lists or twice on one")
        self.listed[dead.key] = dead.ino

    def judge_past(self, key: bytes, ino: int) -> None:
        """Cross one past record off the dead lists."""
        owner = self.listed.pop(key, None)
        if owner is None:
            if not any(damaged[:1] == b"L" for damaged in self.source.damaged):
                self.complain(self.source.describe_key(key), f"a past {chr(key[0])} record is on no dead list")
        elif owner != ino:
            self.complain(self.source.describe_key(key), f"the dead list gives a past {chr(key[0])} record to inode {owner}")

    def judge_unlisted(self) -> None:
        """Forget what the dead lists still name: judge_dead has reported it."""
        self.listed.clear()

    # ---------------------------------------------------------------- snapshots

    def judge_snapshots(self) -> None:
        """Judge each snapshot: its directory then, its own epoch, its mark."""
        epochs: dict[int, int] = {}
        for number, snapshot in self.source.snapshots.items():
            here = b"snapshot %d" % number
            self.seen()
            self.highest[COUNTER_SNAPSHOT] = max(self.highest[COUNTER_SNAPSHOT], number)
            if snapshot.id != number:
                self.complain(here, f"it is kept under another snapshot's number ({snapshot.id})")
            if snapshot.epoch in epochs:
                self.complain(here, f"it has the same epoch as snapshot {epochs[snapshot.epoch]}")
            epochs[snapshot.epoch] = number
            if snapshot.state:
                continue
            root = self.source.at(inode_key(snapshot.root), snapshot.epoch, Inode)
            if root is Absent.MISSING or (isinstance(root, Inode) and not is_directory(root.mode)):
                self.complain(here, f"its directory, inode {snapshot.root}, is missing from it")
            if self.source.get(mark_key(snapshot.root, number), Mark) is Absent.MISSING:
                self.complain(here, "it is missing from the index of its directory's snapshots")

    def judge_marks(self) -> None:
        """Judge the index of snapshots by directory."""
        for key, record in self.source.letter(b"s"):
            self.seen()
            number = int.from_bytes(key[9:17], "big")
            snapshot = snapshot_of(self.source, number)
            if snapshot is Absent.MISSING:
                self.complain(b"snapshot %d" % number, "the index names it, but it does not exist")
            elif (
                not isinstance(snapshot, Absent)
                and isinstance(record, Mark)
                and (snapshot.root, snapshot.epoch) != (int.from_bytes(key[1:9], "big"), record.epoch)
            ):
                self.complain(b"snapshot %d" % number, "the index gives it another directory or epoch")

    def judge_views(self) -> None:
        """Judge views and their index against each other."""
        for key, record in self.source.letter(b"V"):
            self.seen()
            view = int.from_bytes(key[1:], "big")
            self.highest[COUNTER_VIEW] = max(self.highest[COUNTER_VIEW], view - 1)
            if isinstance(record, View):
                index = self.source.get(view_number_key(record.snapshot, record.entry), ViewNumber)
                live = not isinstance(snapshot_of(self.source, record.snapshot), Absent)
                if (live and index is Absent.MISSING) or (isinstance(index, ViewNumber) and index.view != view):
                    self.complain(b"snapshot %d" % record.snapshot, f"its view {view} is not what the index says")
        for key, record in self.source.letter(b"v"):
            self.seen()
            number, entry = int.from_bytes(key[1:9], "big"), int.from_bytes(key[9:17], "big")
            if isinstance(record, ViewNumber):
                known = self.source.get(view_key(record.view), View)
                if known is Absent.MISSING or (isinstance(known, View) and (known.snapshot, known.entry) != (number, entry)):
                    self.complain(b"snapshot %d" % number, f"the index names view {record.view}, which is not its view")

    # ------------------------------------------------------- orphans, the rest

    def judge_orphans(self) -> None:
        """Judge the list of inodes without a name, or with windows that were truncated away."""
        for key, record in self.source.letter(b"O"):
            self.seen()
            inode = self.source.inode(int.from_bytes(key[1:], "big"))
            here = b"inode %d" % int.from_bytes(key[1:], "big")
            if inode is Absent.MISSING and isinstance(record, Orphan):
                self.complain(here, "it is listed as an orphan but does not exist")
            elif isinstance(inode, Inode) and inode.links and not inode.cut_epoch:
                self.complain(here, "it is listed as an orphan but has a name")

    def judge_owners(self, owned: Sums) -> None:
        """Compare the totals by owner and day with the files that were found."""
        stored: Sums = {}
        for key, record in self.source.letter(b"G"):
            self.seen()
            if isinstance(record, OwnerTotals):
                stored[place_in(key)] = (record.size, record.allocated, record.files)
        if self.source.damaged or self.source.get(OWNERS, Counter) is Absent.MISSING:
            return
        for uid, day in sorted(place for place in stored.keys() | owned.keys() if stored.get(place) != owned.get(place)):
            found, kept = owned.get((uid, day), (0, 0, 0)), stored.get((uid, day), (0, 0, 0))
            self.complain(b"volume", f"the totals of owner {uid} for day {day} are {kept}, but the files add up to {found}")

    def judge_clones(self) -> None:
        """Judge the clones in the making: what is left of one is removed when the volume is mounted."""
        for key, record in self.source.letter(b"J"):
            self.seen()
            if isinstance(record, CloneJob) and self.source.inode(record.parent) is Absent.MISSING:
                self.complain(b"inode %d" % record.parent, f"clone {int.from_bytes(key[1:], 'big')} is made in it, but it does not exist")

    def judge_extents(self, uses: Uses) -> None:
        """Verify every extent, and count its uses."""
        freed: set[int] = set()
        for _, record in self.source.letter(b"F"):
            if isinstance(record, Frees):
                freed.update(record.extents)
        extents = Extents(self.source, self.complain, self.seen)
        try:
            counter = self.source.get(COUNTER_EXTENT, Counter)
            extents.run(uses, freed, counter.value if isinstance(counter, Counter) else EPOCH_MAX)
        finally:
            self.report.size = extents.size
            self.report.leftovers = extents.leftovers
            self.highest[COUNTER_EXTENT] = extents.highest

    def judge_counters(self, families: Families) -> None:
        """See that each counter is above every number that it has handed out."""
        self.highest[COUNTER_INO] = families.highest_ino
        self.highest[COUNTER_EPOCH] = max([families.highest_epoch - 1, *(s.epoch for s in self.source.snapshots.values())])
        for name, highest in self.highest.items():
            counter = self.source.get(name, Counter)
            value = counter.value if isinstance(counter, Counter) else 0
            if name == COUNTER_VIEW:
                highest -= 1  # it counts views; their numbers begin at 1
            if counter is not Absent.DAMAGED and highest > 0 and value <= highest:
                self.complain(b"volume", f"the counter {name[1:].decode()} is {value}, but {highest} is in use")

    def judge_root(self) -> None:
        """Compute the root digest again. Damage that is known explains a difference, and is reported where it is."""
        found = self.volume.recompute_root()
        if found != self.report.root and not self.source.damaged:
            self.complain(b"volume", "the root digest is not that of the records: some were changed, removed or added behind its back")
