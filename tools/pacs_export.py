#!/usr/bin/env python3
"""Exports studies into a directory as a PACS would: made-up ones from a seed, or real files; or checks an earlier export.

    pacs_export.py TARGET --size 200M --seed 1 --workers 2 --manifest /somewhere/else.jsonl
    pacs_export.py TARGET --real pydicom --manifest /somewhere/else.jsonl
    pacs_export.py TARGET --verify --manifest /somewhere/else.jsonl

The same seed and size give byte-identical files, whatever the number of workers. Also importable: `export_studies`, `export_real`.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

import pacs_archive
from pacs_archive import Entry
from pacs_studies import Series, Study, plan_studies

INSTANCES_PER_TASK = 16
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}

Report = Callable[[int], None]
"""Called with the bytes that were just stored."""


class Task(NamedTuple):
    """Some instances of one series: what a worker does in one go."""

    study: Study
    series: Series
    first: int
    last: int


def parse_size(text: str) -> int:
    """Return bytes from `10M`, `1.5G`, `4096`; units are powers of 1024. Raises argparse.ArgumentTypeError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if not match or float(match[1]) <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 10M or 1.5G")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def plan_tasks(studies: Iterable[Study]) -> Iterator[Task]:
    """Cut studies into tasks."""
    for study in studies:
        for series in study.series:
            for first in range(1, series.instances + 1, INSTANCES_PER_TASK):
                yield Task(study, series, first, min(first + INSTANCES_PER_TASK - 1, series.instances))


def run_task(root: Path, layout: str, task: Task) -> list[Entry]:
    """Make and store the instances of one task; the series directory is durable at the end."""
    import pacs_datasets  # numpy and the pictures are only needed where images are made

    encoder = pacs_datasets.encoder(task.study, task.series)
    entries = []
    for number in range(task.first, task.last + 1):
        path = pacs_archive.instance_path(layout, task.study, task.series, number)
        entries.append(pacs_archive.store(root, path, encoder.encode(number)))
    pacs_archive.sync_directories(root, [entries[0].path])
    return entries


def export_studies(root: Path, size: int, seed: int, *, workers: int = 1, layout: str = "uid", report: Report | None = None) -> list[Entry]:
    """Export made-up studies of about `size` bytes into `root`; return their manifest entries in a fixed order.

    Each worker is a thread: making images and waiting for the disk leave the interpreter to the others. Raises OSError as the file system
    does; nothing half-written stays under its name.
    """
    tasks = plan_tasks(plan_studies(seed, size))
    results = _run_in_threads(root, layout, tasks, workers, report)
    return [entry for number in sorted(results) for entry in results[number]]


def _run_in_threads(root: Path, layout: str, tasks: Iterator[Task], workers: int, report: Report | None) -> dict[int, list[Entry]]:
    """Run tasks in threads, with at most two in flight for each; return their entries by the task's number."""
    results: dict[int, list[Entry]] = {}
    numbered = enumerate(tasks)
    flying: dict[Future[list[Entry]], int] = {}
    with ThreadPoolExecutor(workers) as pool:
        try:
            while True:
                for number, task in islice(numbered, workers * 2 - len(flying)):
                    flying[pool.submit(run_task, root, layout, task)] = number
                if not flying:
                    return results
                for future in wait(flying, return_when=FIRST_COMPLETED).done:
                    number = flying.pop(future)
                    results[number] = future.result()
                    _tell(report, results[number])
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def export_real(root: Path, source: str, *, below: str = "real", report: Report | None = None) -> list[Entry]:
    """Copy real DICOM files (see pacs_archive.real_files) to `root`/`below`; return their manifest entries."""
    base, paths = pacs_archive.real_files(source)
    entries = []
    for path in paths:
        entry = pacs_archive.store(root, f"{below}/{path}", (base / path).read_bytes())
        entries.append(entry)
        _tell(report, [entry])
    pacs_archive.sync_directories(root, [entry.path for entry in entries])
    return entries


def _tell(report: Report | None, entries: list[Entry]) -> None:
    if report is not None:
        report(sum(entry.bytes for entry in entries))


@contextmanager
def progress_bar(console: Console, title: str, total: int | None) -> Iterator[Report]:
    """Show progress while files are stored: bytes, speed."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task(title, total=total)
        yield lambda done: progress.advance(bar, done)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return the exit code: 0 all well, 1 files differ or could not be written, 2 wrong usage."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if not (options.size or options.real or options.verify):
        parser.error("nothing to do: give --size, --real or --verify")
    console = Console(stderr=True, quiet=options.json)
    target: Path = options.target
    manifest: Path = options.manifest or target.resolve().with_name(target.resolve().name + ".manifest.jsonl")
    if manifest.resolve().is_relative_to(target.resolve()):
        console.print(f"the manifest must lie outside {target}: give --manifest", style="red", markup=False)
        return 2
    started = time.monotonic()
    try:
        report = _verify(target, manifest) if options.verify else _export(options, target, manifest, console)
    except OSError as error:
        print(f"pacs_export: {error}", file=sys.stderr)
        return 1
    seconds = time.monotonic() - started
    report |= {"seconds": round(seconds, 3), "files_per_second": round(report["files"] / seconds), "manifest": str(manifest)}
    report["mb_per_second"] = round(report["bytes"] / seconds / 1e6, 1)
    if options.json:
        print(json.dumps(report))
    else:
        for sentence in report.get("faults", []):
            print(sentence)
        verb = "checked" if options.verify else "exported"
        rates = f"{report['files_per_second']} files/s, {report['mb_per_second']} MB/s"
        print(f"{verb} {report['files']} files, {report['bytes'] / 1e6:.1f} MB in {seconds:.1f} s ({rates}); manifest: {manifest}")
    return 1 if report.get("faults") else 0


def _export(options: argparse.Namespace, target: Path, manifest: Path, console: Console) -> dict[str, Any]:
    target.mkdir(parents=True, exist_ok=True)
    entries: list[Entry] = []
    if options.size:
        with progress_bar(console, "studies", options.size) as report:
            entries += export_studies(target, options.size, options.seed, workers=options.workers, layout=options.layout, report=report)
    if options.real:
        with progress_bar(console, "real files", None) as report:
            entries += export_real(target, options.real, report=report)
    pacs_archive.write_manifest(manifest, entries)
    return {"files": len(entries), "bytes": sum(entry.bytes for entry in entries)}


def _verify(target: Path, manifest: Path) -> dict[str, Any]:
    entries = pacs_archive.read_manifest(manifest)
    faults = list(pacs_archive.verify(target, entries))
    return {"files": len(entries), "bytes": sum(entry.bytes for entry in entries), "faults": faults}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", type=Path, help="directory to export into, or to verify")
    parser.add_argument("--size", type=parse_size, help="about how much to make up, e.g. 10M, 1G, 100G")
    parser.add_argument("--seed", type=int, default=1, help="which hospital (default 1)")
    parser.add_argument("--workers", type=_positive, default=1, help="writers at the same time (default 1)")
    parser.add_argument("--layout", choices=pacs_archive.LAYOUTS, default="uid", help="how directories are named (default uid)")
    parser.add_argument("--real", metavar="pydicom|DIR", help="also export real files: pydicom's own test files, or a directory's")
    parser.add_argument("--manifest", type=Path, help="where the manifest lies (default: beside TARGET)")
    parser.add_argument("--verify", action="store_true", help="compare TARGET with the manifest and write nothing")
    parser.add_argument("--json", action="store_true", help="print one JSON object in place of text")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return value


if __name__ == "__main__":
    sys.exit(main())
