"""The exporter: valid DICOM, byte-identical from a seed, written as a PACS writes, and a manifest that finds every difference."""

from __future__ import annotations

import json
import os
import shutil
from io import BytesIO
from pathlib import Path

import pydicom
import pytest

import pacs_archive
import pacs_export
from pacs_datasets import SeriesEncoder
from pacs_studies import MIB, instance_uid, plan_studies

SMALL = 10 * MIB


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[pacs_archive.Entry]]:
    root = tmp_path_factory.mktemp("archive")
    return root, pacs_export.export_studies(root, SMALL, seed=11)


@pytest.mark.parametrize("seed", range(4))
def test_every_modality_parses_strictly_with_all_its_pixels(seed: int) -> None:
    modalities = set()
    for study in plan_studies(seed, SMALL):
        for series in study.series:
            dataset = pydicom.dcmread(BytesIO(SeriesEncoder(study, series).encode(series.instances)))
            assert dataset.SOPInstanceUID == dataset.file_meta.MediaStorageSOPInstanceUID == instance_uid(series, series.instances)
            assert dataset.InstanceNumber == series.instances
            assert dataset.PatientName == study.patient.name
            pixels = dataset.pixel_array
            assert pixels.nbytes == series.pixel_bytes
            assert pixels.max() < 1 << dataset.BitsStored
            assert pixels.std() > 5, "the picture is flat"
            modalities.add(dataset.Modality)
    assert modalities == {"CT", "MR", "CR", "US"}


def test_instances_of_a_series_differ_in_identity_position_and_pixels() -> None:
    study = next(plan_studies(1, SMALL))
    encoder = SeriesEncoder(study, study.series[0])
    first, second = (pydicom.dcmread(BytesIO(encoder.encode(number))) for number in (1, 2))
    assert first.SOPInstanceUID != second.SOPInstanceUID
    assert first.SliceLocation != second.SliceLocation
    assert first.ImagePositionPatient[2] == first.SliceLocation
    assert first.SeriesInstanceUID == second.SeriesInstanceUID
    assert first.PixelData != second.PixelData


def test_files_are_the_manifest_and_nothing_else(archive: tuple[Path, list[pacs_archive.Entry]]) -> None:
    root, entries = archive
    assert list(pacs_archive.verify(root, entries)) == []
    assert {entry.path for entry in entries} == pacs_archive.list_files(root)


def test_workers_do_not_change_a_byte(archive: tuple[Path, list[pacs_archive.Entry]], tmp_path: Path) -> None:
    assert pacs_export.export_studies(tmp_path, SMALL, seed=11, workers=2) == archive[1]


def test_another_seed_is_another_hospital(archive: tuple[Path, list[pacs_archive.Entry]], tmp_path: Path) -> None:
    other = pacs_export.export_studies(tmp_path, SMALL, seed=12)
    assert not {entry.sha256 for entry in other} & {entry.sha256 for entry in archive[1]}


@pytest.mark.parametrize("layout", pacs_archive.LAYOUTS)
def test_generated_instances_check_out_in_each_layout(layout: str, tmp_path: Path) -> None:
    entries = pacs_export.export_studies(tmp_path, 2 * MIB, seed=3, layout=layout)
    study = next(plan_studies(3, 2 * MIB))
    first = pacs_archive.instance_path(layout, study, study.series[0], 1)
    assert first == entries[0].path
    assert first.startswith(pacs_archive.study_directory(layout, study) + "/")
    image = instance_uid(study.series[0], 1)
    assert pacs_archive.check_instance(tmp_path / first, image) is None
    assert "is the instance" in str(pacs_archive.check_instance(tmp_path / first, "2.25.1"))


def test_verify_names_each_kind_of_difference(archive: tuple[Path, list[pacs_archive.Entry]], tmp_path: Path) -> None:
    root, entries = archive
    copy = tmp_path / "copy"
    shutil.copytree(root, copy)
    missing, cut, altered = (entries[number].path for number in (0, 3, 7))
    (copy / missing).unlink()
    os.truncate(copy / cut, 1000)
    with open(copy / altered, "r+b") as file:
        file.seek(5000)
        byte = file.read(1)
        file.seek(5000)
        file.write(bytes((byte[0] ^ 1,)))
    (copy / "stray").write_bytes(b"")
    assert list(pacs_archive.verify(copy, entries)) == [
        f"{missing}: No such file or directory",
        f"{cut}: 1000 bytes in place of {entries[3].bytes}",
        f"{altered}: the content differs",
        "stray: not in the manifest",
    ]


def test_failed_store_leaves_no_temporary_file(tmp_path: Path) -> None:
    (tmp_path / "name").mkdir()
    with pytest.raises(IsADirectoryError):
        pacs_archive.store(tmp_path, "name", b"content")
    assert os.listdir(tmp_path) == ["name"]


def test_real_files_are_copied_and_parse_as_they_did(tmp_path: Path) -> None:
    base, paths = pacs_archive.real_files("pydicom")
    entries = pacs_export.export_real(tmp_path, "pydicom")
    assert len(paths) == len(entries) > 100
    results = [pacs_archive.parse_result((base / path).read_bytes()) for path in paths]
    assert results == [pacs_archive.parse_result((tmp_path / "real" / path).read_bytes()) for path in paths]
    assert sum(result.startswith("parsed") for result in results) > 100


def test_parse_result_sees_a_changed_element() -> None:
    base, paths = pacs_archive.real_files("pydicom")
    content = (base / next(path for path in paths if path.endswith("CT_small.dcm"))).read_bytes()
    assert pacs_archive.parse_result(content) != pacs_archive.parse_result(content.replace(b"CompressedSamples", b"CompressedSimples"))
    assert pacs_archive.parse_result(content) != pacs_archive.parse_result(content[:-1])


def test_command_exports_and_verifies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target, manifest = tmp_path / "target", tmp_path / "list.jsonl"
    assert pacs_export.main([str(target), "--size", "2M", "--seed", "9", "--manifest", str(manifest), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    entries = pacs_archive.read_manifest(manifest)
    assert report["files"] == len(entries)
    assert report["bytes"] == sum(entry.bytes for entry in entries)
    assert pacs_export.main([str(target), "--verify", "--manifest", str(manifest), "--json"]) == 0
    (target / entries[0].path).unlink()
    capsys.readouterr()
    assert pacs_export.main([str(target), "--verify", "--manifest", str(manifest), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["faults"] == [f"{entries[0].path}: No such file or directory"]


def test_manifest_inside_the_target_is_refused(tmp_path: Path) -> None:
    assert pacs_export.main([str(tmp_path), "--size", "1M", "--manifest", str(tmp_path / "m"), "--json"]) == 2
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("text", "size"), [("10M", 10 << 20), ("1.5g", 3 << 29), ("4096", 4096), ("2KiB", 2048)])
def test_sizes(text: str, size: int) -> None:
    assert pacs_export.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "M", "-1M", "10X", "0"])
def test_wrong_sizes_are_refused(text: str) -> None:
    with pytest.raises(pacs_export.argparse.ArgumentTypeError):
        pacs_export.parse_size(text)
