"""The way of an image archive: an exporter writes studies over SMB, a viewer reads them over NFS, a deleted study comes back."""

from __future__ import annotations

import hashlib
import io
from pathlib import PurePosixPath

import pydicom
import pytest
from nfs_rs import NfsError

from pacs_archive import instance_path, study_directory
from pacs_datasets import encoder
from pacs_studies import Study, instance_uid, plan_studies
from tests.export.exported import Exported, snapshot
from tests.export.smb_client import SmbClient
from tests.export.test_coherence import Nfs
from tests.export.test_smb_versions import token_of

SIZE = 12 << 20
MOST = 8
"""Instances of a series that are made."""


def instances(study: Study) -> dict[str, bytes]:
    """Return the files of a study by their paths in the archive."""
    return {
        instance_path("uid", study, series, number): encoder(study, series).encode(number)
        for series in study.series
        for number in range(1, min(series.instances, MOST) + 1)
    }


def make_directories(client: SmbClient, path: str) -> None:
    """Make a directory and those above it."""
    client.do("makedirs", path, exist_ok=True)


def delete_study(client: SmbClient, directory: str, files: list[str]) -> None:
    """Delete a study as Explorer does: each file, then the directories, from below."""
    for path in files:
        client.do("remove", path)
    for series in sorted({str(PurePosixPath(path).parent) for path in files}):
        client.do("rmdir", series)
    client.do("rmdir", directory)


def test_studies_written_over_smb_are_read_over_nfs_and_a_deleted_one_comes_back(vol: Exported) -> None:
    archive = vol.directory("archive")
    studies = list(plan_studies(7, SIZE))[:3]
    content = {f"archive/{path}": data for study in studies for path, data in instances(study).items()}
    digests = {path: hashlib.sha256(data).hexdigest() for path, data in content.items()}
    with vol.smb() as exporter, vol.nfs_client() as connection:
        viewer = Nfs(connection)
        for path, data in content.items():
            make_directories(exporter, str(PurePosixPath(path).parent))
            exporter.write(path, data)
            assert hashlib.sha256(viewer.read(path)).hexdigest() == digests[path]
        for study in studies:
            for series in study.series:
                path = f"archive/{instance_path('uid', study, series, 1)}"
                assert pydicom.dcmread(io.BytesIO(viewer.read(path))).SOPInstanceUID == instance_uid(series, 1)

        shot = snapshot(archive, "nightly")
        gone = studies[1]
        directory = f"archive/{study_directory('uid', gone)}"
        files = [path for path in content if path.startswith(directory + "/")]
        assert files
        delete_study(exporter, directory, files)
        for path in files:
            with pytest.raises(FileNotFoundError):
                viewer.read(path)

        # over NFS, through .snapshot
        for path in files:
            old = path.replace("archive/", f"archive/.snapshot/{shot.name}/", 1)
            assert hashlib.sha256(viewer.read(old)).hexdigest() == digests[path]
            with pytest.raises((NfsError, OSError)):
                viewer.write(old, b"forged")

    # over SMB, through Previous Versions, by another client: the directories first, then what was in them
    with vol.smb() as doctor:
        token = token_of(shot)
        assert token in doctor.versions("archive")
        with doctor.open(directory, at=token) as then:
            assert then.names() == sorted({PurePosixPath(path).parent.name for path in files})
        for path in files:
            make_directories(doctor, str(PurePosixPath(path).parent))
            data = doctor.read_at(path, token)
            doctor.write(path, data)
            assert hashlib.sha256(doctor.read(path)).hexdigest() == digests[path]
    with vol.nfs_client() as connection:
        viewer = Nfs(connection)
        assert {path: hashlib.sha256(viewer.read(path)).hexdigest() for path in content} == digests
