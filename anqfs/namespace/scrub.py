"""The online form of `check`: every record and extent verified on the disk, in bounded steps, while the volume is in use.

The daemon's job calls `step` on the trio thread until it answers False. A step is three parts, which a caller that wants the reading off
that thread calls itself: `take` (trio thread), `verify` (any thread, touches only the durable state), `settle` (trio thread). A pass goes
over all records in key order; each live name, inode and dead-list entry is held against what it refers to, each window version against
its extents. The position is in the `Cscrub` record, so a pass goes on after a remount where the last saved step ended.

No false alarms: what changes while it is looked at is looked at again. A window's extent that is missing is a fault only if the durable
record still refers to it afterwards, because an extent is deleted only after the record that let go of it was durable. Relations between
records are judged within one synchronous step, which no operation interrupts.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from dataclasses import dataclass, field
from stat import S_IFMT
from typing import TYPE_CHECKING

from msgspec.structs import replace

from anqfs.errors import AnqfsError, ReadOnlyVolume
from anqfs.namespace.check import Finding
from anqfs.namespace.check_changes import is_recorded
from anqfs.namespace.check_source import Absent, Source, kind_of, snapshot_of
from anqfs.store.schema import ROOT_INO, SCRUB, Dead, Dirent, Inode, Record, ScrubState, Window, dirent_key, inode_key

if TYPE_CHECKING:
    from anqfs.namespace.namespace import Namespace

_log = logging.getLogger(__name__)
STEP_BYTES = 2 << 20
"""Bytes of extents after which a step ends early."""
DAMAGED_MAX = 1000
"""Damaged paths remembered."""
_RECENT_MAX = 4096


@dataclass
class Batch:
    """What one step looks at. `faults` are (key, sealed value, what is wrong), by `verify`."""

    raw: list[tuple[bytes, bytes]]
    at_end: bool
    last: bytes = b""
    records: list[tuple[bytes, Record]] = field(default_factory=list)
    faults: list[tuple[bytes, bytes, str]] = field(default_factory=list)
    count: int = 0
    extents: int = 0
    size: int = 0


class Scrub:
    """One pass, begun or gone on with."""

    def __init__(self, namespace: Namespace) -> None:
        self.namespace = namespace
        self.volume = namespace.volume
        self.findings: list[Finding] = []
        """What this run found, at most DAMAGED_MAX."""
        self.state = self._begin()
        self._recent: OrderedDict[tuple[int, int], int] = OrderedDict()
        """Lengths of extents just verified."""

    def _begin(self) -> ScrubState:
        try:
            record = self.volume.get(SCRUB)
        except AnqfsError as error:
            _log.error("how far the scrub came is not known: %s", error)
            record = None
        state = record if isinstance(record, ScrubState) else ScrubState()
        if state.position:
            return state
        return ScrubState(passes=state.passes, started=self.namespace.core.clock(), finished=state.finished)

    def step(self, budget: int = 256) -> bool:
        """Look at up to `budget` records, or STEP_BYTES of file data; return whether there is more. Raises what a commit's failure left."""
        batch = self.take(budget)
        self.verify(batch)
        return self.settle(batch)

    # ------------------------------------------------------------------- parts

    def take(self, budget: int) -> Batch:
        """Read the next records from the disk. Any thread that is alone with this Scrub."""
        limit = max(1, budget)
        raw = self.volume.raw_records(self.state.position, limit)
        return Batch(raw, len(raw) < limit, self.state.position)

    def verify(self, batch: Batch) -> None:
        """Open the records of a batch and every extent that they refer to."""
        for key, sealed in batch.raw:
            if batch.size >= STEP_BYTES:
                batch.at_end = False
                return
            self._verify_record(batch, key, sealed)
            batch.last = key
            batch.count += 1

    def settle(self, batch: Batch) -> bool:
        """Judge a verified batch against the present state, save the position; return whether the pass goes on. Trio thread."""
        damaged = list(self.state.damaged)
        for key, sealed, what in batch.faults:
            if self._still(key, sealed):
                self._report(damaged, key, what)
        for key, record in batch.records:
            what_else = self._judge_relations(key, record)
            if what_else is not None:
                self._report(damaged, key, what_else)
        if batch.at_end and self._source().inode(ROOT_INO) is Absent.MISSING:
            self._report(damaged, inode_key(ROOT_INO), "the root inode is missing")
        state = self.state
        self.state = replace(
            state,
            position=b"" if batch.at_end else batch.last,
            records=state.records + batch.count,
            extents=state.extents + batch.extents,
            size=state.size + batch.size,
            passes=state.passes + batch.at_end,
            finished=self.namespace.core.clock() if batch.at_end else state.finished,
            damaged=tuple(damaged),
        )
        self._save()
        return not batch.at_end

    def _save(self) -> None:
        try:
            self.volume.put(SCRUB, self.state)
        except ReadOnlyVolume:
            # Reading goes on when nothing can be written; only the position is not kept.
            _log.debug("the scrub's position is not saved: the volume is read-only")

    # --------------------------------------------------------------- verifying

    def _verify_record(self, batch: Batch, key: bytes, sealed: bytes) -> None:
        try:
            record = self.volume.open_record(key, sealed)
        except AnqfsError as error:
            batch.faults.append((key, sealed, f"its {kind_of(key)} record: {error}"))
            return
        except Exception as error:
            batch.faults.append((key, sealed, f"its {kind_of(key)} record cannot be decoded ({type(error).__name__})"))
            return
        if isinstance(record, Window):
            self._verify_window(batch, key, sealed, record)
        elif isinstance(record, Dirent | Inode | Dead) and key[:1].isupper():
            batch.records.append((key, record))

    def _verify_window(self, batch: Batch, key: bytes, sealed: bytes, window: Window) -> None:
        for _offset, length, extent, start, key_number in window.pieces:
            known = self._recent.get((extent, key_number))
            try:
                if known is None:
                    known = self.volume.verify_extent(extent, key_number)
                    batch.extents += 1
                    batch.size += known
                    self._remember(extent, key_number, known)
            except AnqfsError:
                batch.faults.append((key, sealed, f"extent {extent} is damaged or missing"))
                return
            if start + length > known:
                batch.faults.append((key, sealed, f"it uses bytes beyond the end of extent {extent}"))
                return

    def _remember(self, extent: int, key_number: int, length: int) -> None:
        self._recent[extent, key_number] = length
        if len(self._recent) > _RECENT_MAX:
            self._recent.popitem(last=False)

    # ----------------------------------------------------------------- judging

    def _still(self, key: bytes, sealed: bytes) -> bool:
        """Tell whether the durable record is still the one that was judged."""
        before = key[:-1] if key[-1] == 0 else key[:-1] + bytes((key[-1] - 1,)) + b"\xff" * 40
        for found, value in self.volume.raw_records(before, 4):
            if found == key:
                return value == sealed
        return False

    def _judge_relations(self, key: bytes, record: Record) -> str | None:
        """Return what is wrong between a record, as it is now, and those that it refers to."""
        source = self._source()
        now = source.get(key, type(record))
        if isinstance(now, Dirent):
            return self._judge_name(source, key, now)
        if isinstance(now, Inode):
            return self._judge_links(source, key, now)
        if isinstance(now, Dead):
            return self._judge_dead(source, key, now)
        return None

    def _judge_name(self, source: Source, key: bytes, dirent: Dirent) -> str | None:
        child = source.inode(dirent.ino)
        name = dirent.name.decode("utf-8", "backslashreplace")
        if self.volume.name_hash(dirent.name) != key[9:25]:
            return f"the name {name} is kept under another name's hash"
        if child is Absent.MISSING:
            return f"the name {name} leads to inode {dirent.ino}, which does not exist"
        if isinstance(child, Inode) and (
            (int.from_bytes(key[1:9], "big"), key[9:25]) not in child.links or S_IFMT(child.mode) != dirent.kind
        ):
            return f"the name {name} and inode {dirent.ino} do not agree"
        return None

    def _judge_links(self, source: Source, key: bytes, inode: Inode) -> str | None:
        ino = int.from_bytes(key[1:], "big")
        for parent, name_hash in inode.links:
            dirent = source.get(dirent_key(parent, name_hash), Dirent)
            if dirent is Absent.MISSING or (isinstance(dirent, Dirent) and dirent.ino != ino):
                return f"it lists a name in inode {parent} that is not there or is another's"
        return None

    def _judge_dead(self, source: Source, key: bytes, dead: Dead) -> str | None:
        if snapshot_of(source, int.from_bytes(key[1:9], "big")) is Absent.MISSING:
            return "a dead list belongs to no snapshot"
        if dead.key[:1] == b"N":
            return None if is_recorded(self.volume, dead.key) else "its dead list names changes of which none are recorded"
        if source.get(dead.key, Record) is Absent.MISSING:
            return "its dead list names a past record that does not exist"
        return None

    def _source(self) -> Source:
        """Return a reader of the present state. What does not open is reported where the pass meets it, not here."""
        return Source(self.volume, lambda key, what: None)

    def _report(self, damaged: list[bytes], key: bytes, what: str) -> None:
        source = self._source()
        source.snapshots = dict(self.namespace.core.versions.by_id)
        source.index_snapshots()
        finding = Finding(source.describe_key(key), what)
        _log.error("scrub: %s", finding)
        if len(self.findings) < DAMAGED_MAX:
            self.findings.append(finding)
        if finding.path not in damaged and len(damaged) < DAMAGED_MAX:
            damaged.append(finding.path)
