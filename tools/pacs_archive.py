"""An archive on a file system, written and checked the way a PACS does it.

Every file goes to a temporary name in its directory, is written from start to end, fsynced and renamed into place; it never changes
afterwards. What was written is noted in a manifest (JSON lines: path below the archive, SHA-256, bytes) that lies outside, so that the
archive can be checked against it later, wherever it has travelled.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import warnings
from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import UID

from pacs_studies import Series, Study, instance_uid

TEMPORARY_PREFIX = ".incoming-"
READ_CHUNK = 1 << 20
LAYOUTS = ("uid", "hash")
_NOT_IMAGES = {".py", ".pyc", ".json", ".txt", ".md"}


class Entry(NamedTuple):
    """One file of a manifest: path below the archive, hex SHA-256, bytes."""

    path: str
    sha256: str
    bytes: int


def instance_path(layout: str, study: Study, series: Series, number: int) -> str:
    """Return where an instance lies below the archive.

    `uid` names directories by patient, study and series, as exports for people do; `hash` is the year/month/day and 8-digit hash
    pattern of dcm4chee.
    """
    image = instance_uid(series, number)
    if layout == "uid":
        return f"{study.patient.id}/{study.uid}/{series.uid}/{image}.dcm"
    day = study.day
    return f"{day[:4]}/{day[4:6]}/{day[6:]}/{_short(study.uid)}/{_short(series.uid)}/{_short(image)}"


def study_directory(layout: str, study: Study) -> str:
    """Return the directory below the archive that holds all of a study."""
    return instance_path(layout, study, study.series[0], 1).rsplit("/", 2)[0]


def _short(uid: str) -> str:
    return hashlib.sha256(uid.encode("ascii")).hexdigest()[:8].upper()


def store(root: Path, path: str, content: bytes) -> Entry:
    """Put one file into the archive, durably, and return its manifest entry.

    The directory's own entry is made durable by sync_directories, once for many files. Raises OSError; the temporary file is gone then.
    """
    place = root / path
    place.parent.mkdir(parents=True, exist_ok=True)
    temporary = place.with_name(TEMPORARY_PREFIX + place.name[:200])
    try:
        with open(temporary, "wb", buffering=0) as file:
            rest = memoryview(content)
            while rest:
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
        os.rename(temporary, place)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return Entry(path, hashlib.sha256(content).hexdigest(), len(content))


def sync_directories(root: Path, paths: Iterable[str]) -> None:
    """Make the names of stored files durable: fsync each of their directories and those above, up to the archive's root."""
    directories = {root}
    for path in paths:
        directories.update(root / parent for parent in Path(path).parents)
    for directory in sorted(directories, reverse=True):
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def hash_file(path: Path) -> tuple[str, int]:
    """Return the hex SHA-256 and the number of bytes of a file."""
    digest = hashlib.sha256()
    size = 0
    with open(path, "rb", buffering=0) as file:
        while chunk := file.read(READ_CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return digest.hexdigest(), size


def write_manifest(path: Path, entries: Iterable[Entry]) -> None:
    """Write a manifest, whole or not at all."""
    temporary = path.with_name(path.name + ".part")
    with open(temporary, "w", encoding="utf-8", errors="surrogateescape") as file:
        for entry in entries:
            file.write(json.dumps(entry._asdict()) + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def read_manifest(path: Path) -> list[Entry]:
    """Return the entries of a manifest."""
    with open(path, encoding="utf-8") as file:
        return [Entry(**json.loads(line)) for line in file]


def list_files(root: Path) -> set[str]:
    """Return the paths below `root` of everything in it that is not a directory."""
    found: set[str] = set()
    for directory, _, names in os.walk(root, onerror=_raise):
        found.update(os.path.relpath(os.path.join(directory, name), root) for name in names)
    return found


def _raise(error: OSError) -> None:
    raise error


def verify(root: Path, entries: Iterable[Entry], *, exact: bool = True) -> Iterator[str]:
    """Yield a sentence for each file that is missing, different or, if `exact`, not in the manifest."""
    expected = set()
    for entry in entries:
        expected.add(entry.path)
        try:
            digest, size = hash_file(root / entry.path)
        except OSError as error:
            yield f"{entry.path}: {error.strerror}"
            continue
        if size != entry.bytes:
            yield f"{entry.path}: {size} bytes in place of {entry.bytes}"
        elif digest != entry.sha256:
            yield f"{entry.path}: the content differs"
    if exact:
        for path in sorted(list_files(root) - expected):
            yield f"{path}: not in the manifest"


def real_files(source: str) -> tuple[Path, list[str]]:
    """Return a directory and the paths below it of real DICOM files.

    `source` is a directory, or the word `pydicom` for the test files inside the pydicom package: CT, MR, CR, US, SR, RT, compressed,
    big endian, and some that are broken on purpose. Raises FileNotFoundError if there are none.
    """
    base = Path(pydicom.__file__).parent / "data" if source == "pydicom" else Path(source)
    paths = [
        path
        for path in sorted(list_files(base))
        if stat.S_ISREG(os.stat(base / path).st_mode) and (source != "pydicom" or Path(path).suffix not in _NOT_IMAGES)
    ]
    if not paths:
        raise FileNotFoundError(f"there are no files in {base}")
    return base, paths


def parse_result(content: bytes) -> str:
    """Return what parsing a DICOM file gives, as a short text that is the same only if the parse is the same.

    A file that pydicom rejects has a result too: the error. So files that are broken on purpose can be compared before and after.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            dataset = pydicom.dcmread(BytesIO(content), force=True)
            text = "\n".join(_describe(dataset))
        except Exception as error:  # a broken file fails with whatever it likes: that is its result
            return f"error {type(error).__name__}: {error}"
    return "parsed " + hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _describe(dataset: Dataset) -> Iterator[str]:
    """Yield a line for each element, nested ones included, with its value's bytes hashed."""
    yield repr(getattr(dataset, "file_meta", None))
    for element in dataset.iterall():
        value: Any = element.value
        shown = hashlib.sha256(value).hexdigest() if isinstance(value, bytes) else repr(value)
        yield f"{element.tag} {element.VR} {shown}"


def check_instance(path: Path, image: UID | str) -> str | None:
    """Return what is wrong with a generated instance, or None: it must parse strictly, have that UID and hold all of its pixels."""
    try:
        dataset = pydicom.dcmread(path)
    except Exception as error:  # any failure to parse is the answer
        return f"{path}: does not parse: {error}"
    if dataset.SOPInstanceUID != image or dataset.file_meta.MediaStorageSOPInstanceUID != image:
        return f"{path}: is the instance {dataset.SOPInstanceUID}"
    pixels = dataset.Rows * dataset.Columns * dataset.SamplesPerPixel * dataset.BitsAllocated // 8 * int(dataset.get("NumberOfFrames", 1))
    if len(dataset.PixelData) != pixels:
        return f"{path}: {len(dataset.PixelData)} bytes of pixels in place of {pixels}"
    return None
