#!/usr/bin/env python3
"""Shows anqfs at work as the archive behind a PACS, and verifies every file at every step.

It makes an encrypted volume in a temporary directory, exports made-up studies and pydicom's real files into it, takes snapshots, does
what must not be done to an archive, restores a file, a study and the whole tree, searches the raw store for patients' names, changes
keys, remounts and checks. Nothing is left behind unless --keep. Exit code 0 only if everything was as it should be.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

import pacs_archive
import pacs_export
from demo_volume import DemoFailed, DemoVolume
from pacs_archive import Entry
from pacs_studies import Series, Study, instance_uid, plan_studies
from plaintext_search import Searcher, encodings

ARCHIVE = "pacs"
COPIED = 2 << 30
"""Bytes of export up to which the store is copied, to show that the old copy is recognised."""


class Figure(NamedTuple):
    """A line of the table at the end."""

    what: str
    files: int
    bytes: int
    seconds: float


class Demo:
    """The story, step by step; each raises DemoFailed when something is not as promised."""

    def __init__(self, console: Console, volume: DemoVolume, size: int, seed: int, workers: int) -> None:
        self.console = console
        self.volume = volume
        self.size = size
        self.seed = seed
        self.workers = workers
        self.archive = volume.mountpoint / ARCHIVE
        self.studies = list(plan_studies(seed, size))
        self.entries: list[Entry] = []
        self.figures: list[Figure] = []
        self.snapshot_ms = 0.0

    def run(self) -> None:
        """Tell the whole story."""
        self.make_volume()
        self.export()
        self.check_everything("read back", self.archive)
        study_snapshot, root_snapshot = self.take_snapshots()
        self.do_harm()
        self.look_into_snapshot(root_snapshot)
        self.restore(study_snapshot, root_snapshot)
        root = self.unmount_and_check()
        self.search_store()
        self.change_keys(root)
        self.check_everything("read back after the remount", self.archive)
        self.refuse_older_copy()

    def make_volume(self) -> None:
        """Make an encrypted store and mount it."""
        self._title("An encrypted volume")
        self.volume.run("mkfs", self.volume.store, "--key-file", self.volume.key_file)
        self.volume.mount()

    def export(self) -> None:
        """Write studies as a PACS does, and real files."""
        self._title(f"A PACS exports: {len(self.studies)} made-up studies and pydicom's real files")
        started = time.monotonic()
        with pacs_export.progress_bar(self.console, "  export", self.size) as report:
            self.entries = pacs_export.export_studies(self.archive, self.size, self.seed, workers=self.workers, report=report)
        self.entries += pacs_export.export_real(self.archive, "pydicom")
        pacs_archive.write_manifest(self.volume.directory / "manifest.jsonl", self.entries)
        self._figure("written, each fsynced and renamed", self.entries, started)

    def check_everything(self, what: str, archive: Path) -> None:
        """Compare every file with the manifest, and parse it."""
        self._title(f"Every file: {what}")
        self._verify(what, archive)
        started = time.monotonic()
        self._require(self._parse_generated(archive))
        self._require(self._parse_real(archive))
        self._say(
            f"all {len(self.entries)} parsed by pydicom in {time.monotonic() - started:.1f} s; broken ones fail as their originals do"
        )

    def take_snapshots(self) -> tuple[int, int]:
        """Snapshot one study's directory and the volume's root; return both ids."""
        self._title("Snapshots: of one study, and of everything")
        directory = self.archive / self._directory(self.studies[0])
        study = self.volume.ask("snapshot", "create", directory, "--name", "final_report")
        door = self.volume.mountpoint / ".snapshot"
        started = time.monotonic()
        os.mkdir(door / "nightly")
        self.snapshot_ms = (time.monotonic() - started) * 1000
        listed = self.volume.ask("snapshot", "list", self.volume.mountpoint)
        root = next((one for one in listed if one["name"] == "nightly"), None)
        if root is None or f"{root['id']}_nightly" not in os.listdir(door):
            raise DemoFailed("the snapshot made by mkdir is not listed")
        self._say(f"mkdir .snapshot/nightly, of {len(self.entries)} files: {self.snapshot_ms:.1f} ms")
        return int(study["id"]), int(root["id"])

    def do_harm(self) -> None:
        """Overwrite, cut, delete and rename."""
        self._title("Someone overwrites, cuts, deletes and renames")
        first = [self.archive / path for path in self._paths(self.studies[0])]
        with open(first[0], "r+b") as file:
            file.seek(4096)
            file.write(b"not what the scanner saw" * 1000)
        os.truncate(first[1], 100)
        for path in first[2:4]:
            path.unlink()
        doomed = self.archive / self._directory(self.studies[1])
        shutil.rmtree(doomed)
        patient = self.archive / self.studies[2].patient.id
        patient.rename(patient.with_name("misfiled"))
        (self.archive / "real").rename(self.archive / "misfiled" / "real")
        faults = len(list(pacs_archive.verify(self.archive, self.entries)))
        if faults < len(self._paths(self.studies[1])):
            raise DemoFailed("the harm done does not show")
        self._say(f"{faults} differences from the manifest now")

    def look_into_snapshot(self, number: int) -> None:
        """See that the snapshot shows everything as it was, and that nobody can change it."""
        self._title("The snapshot still shows everything")
        view = self.volume.mountpoint / ".snapshot" / f"{number}_nightly" / ARCHIVE
        self._verify("read from the snapshot", view)
        victim = view / self.entries[0].path
        for what, attempt in self._attempts(victim):
            try:
                attempt()
            except OSError as error:
                self._say(f"{what}: {error.strerror}")
            else:
                raise DemoFailed(f"a snapshot let someone {what}")

    def restore(self, study_snapshot: int, root_snapshot: int) -> None:
        """Restore one file, one study and the whole tree."""
        self._title("Restore: one file, one study, the whole tree")
        inside = f"{ARCHIVE}/{self._directory(self.studies[1])}"
        path = self._paths(self.studies[0])[0]
        below = os.path.relpath(path, self._directory(self.studies[0]))
        mount = ("--mountpoint", self.volume.mountpoint)
        self.volume.run("snapshot", "restore", str(study_snapshot), "--path", below, "--in-place", *mount)
        self._require(pacs_archive.verify(self.archive, [one for one in self.entries if one.path == path], exact=False))
        self.volume.run("snapshot", "restore", str(root_snapshot), "--path", inside, "--in-place", *mount)
        self._require(pacs_archive.verify(self.archive, self._of_study(self.studies[1]), exact=False))
        beside = self.volume.mountpoint / "restored"
        started = time.monotonic()
        self.volume.run("snapshot", "restore", str(root_snapshot), "--to", beside)
        self._figure("restored beside, sharing the data", self.entries, started)
        self._verify("read from the restored tree", beside / ARCHIVE)
        self.volume.run("snapshot", "restore", str(root_snapshot), "--path", ARCHIVE, "--in-place", *mount)
        self._verify("read after restoring in place", self.archive)

    def unmount_and_check(self) -> str:
        """Unmount, check the whole store offline, and return its root digest."""
        self._title("Unmounted: an offline check of the whole store")
        self.volume.unmount()
        started = time.monotonic()
        report = self.volume.ask("check", self.volume.store, "--key-file", self.volume.key_file)
        if not report["ok"]:
            raise DemoFailed(f"anqfs check found: {report['findings'][:5]}")
        counts = ", ".join(f"{count} {name}" for name, count in report["counts"].items())
        self._say(f"sound in {time.monotonic() - started:.1f} s: {counts}; root {report['root']}")
        return str(report["root"])

    def search_store(self) -> None:
        """Search the raw store for names and content. The same search finds them in the files themselves."""
        self._title("What the disk holds")
        searcher = Searcher(self._needles())
        plain = pacs_export.run_task(self.volume.directory / "plain", "uid", next(pacs_export.plan_tasks(self.studies)))
        if not any(searcher.in_tree(self.volume.directory / "plain" / plain[0].path.split("/")[0])):
            raise DemoFailed("the search finds nothing even in files that are not encrypted")
        shutil.rmtree(self.volume.directory / "plain")
        started = time.monotonic()
        self._require(f"{hit.file}: {hit.needle!r} at {hit.offset}" for hit in searcher.in_tree(self.volume.store))
        size = sum(path.stat().st_size for path in self.volume.store.rglob("*") if path.is_file())
        seconds = time.monotonic() - started
        self._say(f"{size / 1e6:.0f} MB of store searched in {seconds:.1f} s for {len(searcher)} names, ids and bits of images: none there")

    def change_keys(self, root: str) -> None:
        """Add a second key slot, see that a wrong key does not open, and mount with the second one and a pinned root."""
        self._title("A second key, and a pinned root")
        volume = self.volume
        volume.run("key", "add", volume.store, "--key-file", volume.key_file, "--new-passphrase-file", volume.passphrase_file)
        wrong = volume.directory / "wrong.key"
        wrong.write_bytes(os.urandom(32))
        wrong.chmod(0o600)
        self._say(volume.run("mount", volume.store, volume.mountpoint, "--key-file", wrong, fails_with=4))
        volume.mount("--passphrase-file", volume.passphrase_file, "--expect-root", root)

    def refuse_older_copy(self) -> None:
        """Change the volume, and see that a copy of its store from before the change does not pass for it."""
        self._title("A late report arrives")
        volume = self.volume
        volume.unmount()
        older = volume.directory / "older.store"
        if self.size <= COPIED:
            shutil.copytree(volume.store, older)
        volume.mount()
        pacs_archive.store(volume.mountpoint, "late/report.txt", b"a report that came late")
        root = self.unmount_and_check()
        if self.size <= COPIED:
            self._title("An older copy of the store is put in its place")
            self._say(volume.run("mount", older, volume.mountpoint, "--key-file", volume.key_file, "--expect-root", root, fails_with=9))

    def summary(self) -> Table:
        """Return the figures as a table."""
        table = Table(title="What it took", title_justify="left")
        for column in ("", "files", "MB", "seconds", "files/s", "MB/s"):
            table.add_column(column, justify="left" if not column else "right")
        for what, files, size, seconds in self.figures:
            table.add_row(what, str(files), f"{size / 1e6:.1f}", f"{seconds:.2f}", f"{files / seconds:.0f}", f"{size / 1e6 / seconds:.0f}")
        return table

    def _attempts(self, victim: Path) -> Iterable[tuple[str, Callable[[], Any]]]:
        return (
            ("write to a file in it", lambda: os.close(os.open(victim, os.O_WRONLY))),
            ("delete from it", lambda: os.unlink(victim)),
            ("rename in it", lambda: os.rename(victim, victim.with_name("other"))),
        )

    def _needles(self) -> Iterable[bytes]:
        """Yield what an attacker would like to find: patients, identifiers, and pieces of image headers and pixels."""
        for study in self.studies:
            texts = (study.patient.name, study.patient.id, study.uid, study.accession, study.series[0].uid, study.description)
            for text in (*texts, "Hospital of Nowhere", "final_report"):
                yield from encodings(text)
        import pacs_datasets

        for study in self.studies[:4]:
            content = pacs_datasets.encoder(study, study.series[0]).encode(1)
            for place in (len(content) // 4, len(content) // 2, len(content) * 2 // 3):
                piece = content[place : place + 24]
                if len(set(piece)) > 3:
                    yield piece

    def _parse_generated(self, archive: Path) -> Iterable[str]:
        for study, series, number in self._instances():
            fault = pacs_archive.check_instance(
                archive / pacs_archive.instance_path("uid", study, series, number), instance_uid(series, number)
            )
            if fault:
                yield fault

    def _parse_real(self, archive: Path) -> Iterable[str]:
        base, paths = pacs_archive.real_files("pydicom")
        for path in paths:
            before, after = ((place / path).read_bytes() for place in (base, archive / "real"))
            if pacs_archive.parse_result(before) != pacs_archive.parse_result(after):
                yield f"real/{path}: parses otherwise than its original"

    def _instances(self) -> Iterable[tuple[Study, Series, int]]:
        return ((study, series, number) for study in self.studies for series in study.series for number in range(1, series.instances + 1))

    def _directory(self, study: Study) -> str:
        return pacs_archive.study_directory("uid", study)

    def _of_study(self, study: Study) -> list[Entry]:
        return [entry for entry in self.entries if entry.path.startswith(self._directory(study) + "/")]

    def _paths(self, study: Study) -> list[str]:
        return [entry.path for entry in self._of_study(study)]

    def _verify(self, what: str, archive: Path) -> None:
        started = time.monotonic()
        self._require(pacs_archive.verify(archive, self.entries))
        self._figure(what, self.entries, started)

    def _require(self, faults: Iterable[str]) -> None:
        """Raise DemoFailed if there is any fault."""
        found = list(faults)
        if found:
            raise DemoFailed("\n  ".join([f"{len(found)} fault(s):", *found[:10]]))

    def _figure(self, what: str, entries: list[Entry], started: float) -> None:
        figure = Figure(what, len(entries), sum(entry.bytes for entry in entries), time.monotonic() - started)
        self.figures.append(figure)
        rates = f"{figure.files / figure.seconds:.0f} files/s, {figure.bytes / 1e6 / figure.seconds:.0f} MB/s"
        self._say(f"{figure.files} files, {figure.bytes / 1e6:.1f} MB {what}: {figure.seconds:.2f} s ({rates})")

    def _title(self, text: str) -> None:
        self.console.print(f"\n{text}", style="bold", markup=False)

    def _say(self, text: str) -> None:
        self.console.print(f"  {text}", markup=False, highlight=False, soft_wrap=True)


def main(arguments: list[str] | None = None) -> int:
    """Run the demonstration; return 0 if everything was verified, 1 if not, 130 when interrupted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--size", type=pacs_export.parse_size, default=200 << 20, help="about how much to export (default 200M, at least 10M)"
    )
    parser.add_argument("--seed", type=int, default=1, help="which imaginary hospital (default 1)")
    parser.add_argument("--workers", type=int, default=4, help="writers at the same time (default 4)")
    parser.add_argument("--keep", action="store_true", help="leave the store, its keys and the manifest, unmounted, and say where")
    options = parser.parse_args(arguments)
    if options.size < 10 << 20 or options.workers < 1:
        parser.error("the story needs --size 10M or more, and a worker")
    console = Console()
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGHUP, _interrupt)
    started = time.monotonic()
    try:
        with DemoVolume(console, keep=options.keep) as volume:
            demo = Demo(console, volume, options.size, options.seed, options.workers)
            demo.run()
            console.print()
            console.print(demo.summary())
    except KeyboardInterrupt:
        console.print("\ninterrupted; cleaned up", style="yellow")
        return 130
    except (DemoFailed, OSError) as error:
        console.print(f"\nFAILED: {error}", style="red", markup=False, soft_wrap=True)
        return 1
    console.print(f"\nEverything was verified, in {time.monotonic() - started:.0f} s.", style="bold green")
    return 0


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
