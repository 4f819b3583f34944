"""DICOM files of a planned study: pydicom encodes one instance of each series, the others differ in a few fields of fixed width.

Encoding a data set takes pydicom about a millisecond, patching four fields a few microseconds. The fields that change (SOP instance
UID, instance number, position, time) are encoded once with placeholders of the same width and found again in the encoded bytes.
"""

from __future__ import annotations

from functools import lru_cache
from io import BytesIO
from typing import Any

from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian

import pacs_images
from pacs_studies import Series, Study, instance_uid, make_uid

_SOP_CLASSES = {
    "CT": "1.2.840.10008.5.1.4.1.1.2",
    "MR": "1.2.840.10008.5.1.4.1.1.4",
    "CR": "1.2.840.10008.5.1.4.1.1.1",
    "US": "1.2.840.10008.5.1.4.1.1.3.1",
}
_UID_MARK = "2.25." + "9" * 39
_NUMBER_MARK = "987654"
_TIME_MARK = "235959.987654"
_LOCATION_MARK = "-98765.431"
_POSITION_MARK = "-98765.442"


class SeriesEncoder:
    """Makes the files of one series."""

    def __init__(self, study: Study, series: Series) -> None:
        """Encode the fields that all instances share."""
        self._study = study
        self._series = series
        self._salt = int(series.uid[5:]) % 9973
        head = _encode(_dataset(study, series)) + _pixel_element(series)
        self._head = head
        self._fields = {mark: _places(head, mark) for mark in (_UID_MARK, _NUMBER_MARK, _TIME_MARK, _LOCATION_MARK, _POSITION_MARK)}

    def encode(self, number: int) -> bytes:
        """Return the whole file of the `number`th instance, from 1."""
        head = bytearray(self._head)
        seconds = int(self._study.time[4:6]) * 1_000_000 + number * 17_000
        location = f"{number * 1.25 - 300:<10.3f}"
        values = {
            _UID_MARK: instance_uid(self._series, number),
            _NUMBER_MARK: f"{number:<6d}",
            _TIME_MARK: f"{self._study.time[:4]}{seconds // 1_000_000 % 60:02d}.{seconds % 1_000_000:06d}",
            _LOCATION_MARK: location,
            _POSITION_MARK: location,
        }
        for mark, value in values.items():
            for place in self._fields[mark]:
                head[place : place + len(mark)] = value.encode("ascii")
        return b"".join((head, pacs_images.make_pixels(self._series, number, self._salt)))


@lru_cache(maxsize=4)
def encoder(study: Study, series: Series) -> SeriesEncoder:
    """Return the encoder of a series, kept for the next call."""
    return SeriesEncoder(study, series)


def _places(head: bytes, mark: str) -> list[int]:
    """Return where a placeholder is in the encoded fields."""
    places, start = [], head.find(mark.encode("ascii"))
    while start >= 0:
        places.append(start)
        start = head.find(mark.encode("ascii"), start + 1)
    return places


def _encode(dataset: Dataset) -> bytes:
    """Return preamble, file meta information and data set, without pixels."""
    buffer = BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def _pixel_element(series: Series) -> bytes:
    """Return tag, VR and length of the pixel data (PS3.5 7.1): explicit VR except for MR, which uses implicit VR."""
    length = series.pixel_bytes.to_bytes(4, "little")
    if series.modality == "MR":
        return b"\xe0\x7f\x10\x00" + length
    return b"\xe0\x7f\x10\x00" + (b"OB" if series.modality == "US" else b"OW") + b"\0\0" + length


def _dataset(study: Study, series: Series) -> Dataset:
    """Return the fields of an instance, with placeholders where instances differ."""
    dataset = Dataset()
    dataset.file_meta = _file_meta(series)
    _fill(dataset, _identity(study, series))
    _fill(dataset, _PICTURE_FIELDS[series.modality])
    _fill(dataset, {"Rows": series.rows, "Columns": series.columns})
    if series.modality in ("CT", "MR"):
        _fill(dataset, _GEOMETRY | {"FrameOfReferenceUID": make_uid(study.uid, "frame"), "PixelSpacing": _spacing(series)})
    if series.modality == "US":
        _fill(dataset, {"NumberOfFrames": series.frames, "FrameTime": "33.3", "FrameIncrementPointer": 0x00181063})
        _fill(dataset, _palette_fields() if series.palette else {"PlanarConfiguration": 0})
    return dataset


def _fill(dataset: Dataset, fields: dict[str, Any]) -> None:
    for keyword, value in fields.items():
        setattr(dataset, keyword, value)


def _file_meta(series: Series) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(_SOP_CLASSES[series.modality])
    meta.MediaStorageSOPInstanceUID = UID(_UID_MARK)
    meta.TransferSyntaxUID = ImplicitVRLittleEndian if series.modality == "MR" else ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(make_uid("export"))
    meta.ImplementationVersionName = "PACSEXPORT"
    return meta


def _identity(study: Study, series: Series) -> dict[str, Any]:
    """Return who, when and what."""
    return {
        "SpecificCharacterSet": "ISO_IR 192",
        "SOPClassUID": _SOP_CLASSES[series.modality],
        "SOPInstanceUID": _UID_MARK,
        "StudyDate": study.day,
        "SeriesDate": study.day,
        "ContentDate": study.day,
        "StudyTime": study.time,
        "ContentTime": _TIME_MARK,
        "AccessionNumber": study.accession,
        "Modality": series.modality,
        "Manufacturer": "Imaginary Imaging",
        "InstitutionName": "Hospital of Nowhere",
        "ReferringPhysicianName": "Referrer^Invented",
        "StudyDescription": study.description,
        "SeriesDescription": series.description,
        "PatientName": study.patient.name,
        "PatientID": study.patient.id,
        "PatientBirthDate": study.patient.birth_date,
        "PatientSex": study.patient.sex,
        "StudyInstanceUID": study.uid,
        "SeriesInstanceUID": series.uid,
        "StudyID": f"{study.index + 1:08d}",
        "SeriesNumber": series.number,
        "InstanceNumber": _NUMBER_MARK,
    }


def _spacing(series: Series) -> list[str]:
    return ["0.742"] * 2 if series.modality == "CT" else ["0.898"] * 2


def _palette_fields() -> dict[str, Any]:
    """Return a palette of 256 entries of 16 bits in place of RGB samples."""
    fields: dict[str, Any] = {"SamplesPerPixel": 1, "PhotometricInterpretation": "PALETTE COLOR"}
    for channel, colour in enumerate(("Red", "Green", "Blue")):
        fields[f"{colour}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        fields[f"{colour}PaletteColorLookupTableData"] = pacs_images.palette(channel)
    return fields


_GEOMETRY: dict[str, Any] = {
    "PatientPosition": "HFS",
    "ImagePositionPatient": ["-190.000", "-190.000", _POSITION_MARK],
    "ImageOrientationPatient": ["1", "0", "0", "0", "1", "0"],
    "SliceLocation": _LOCATION_MARK,
    "SliceThickness": "1.25",
}
_GRAY: dict[str, Any] = {
    "SamplesPerPixel": 1,
    "PhotometricInterpretation": "MONOCHROME2",
    "BitsAllocated": 16,
    "BitsStored": 12,
    "HighBit": 11,
    "PixelRepresentation": 0,
}
_PICTURE_FIELDS: dict[str, dict[str, Any]] = {
    "CT": _GRAY
    | {
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "KVP": "120",
        "XRayTubeCurrent": "210",
        "ConvolutionKernel": "B30f",
        "RescaleIntercept": "-1024",
        "RescaleSlope": "1",
        "RescaleType": "HU",
        "WindowCenter": "40",
        "WindowWidth": "400",
    },
    "MR": _GRAY
    | {
        "ImageType": ["ORIGINAL", "PRIMARY", "M", "SE"],
        "ScanningSequence": "SE",
        "SequenceVariant": "SK",
        "MagneticFieldStrength": "1.5",
        "RepetitionTime": "550",
        "EchoTime": "12",
        "FlipAngle": "90",
    },
    "CR": _GRAY
    | {
        "ImageType": ["ORIGINAL", "PRIMARY"],
        "BodyPartExamined": "CHEST",
        "ViewPosition": "PA",
        "KVP": "125",
        "ImagerPixelSpacing": ["0.2", "0.2"],
    },
    "US": {
        "ImageType": ["ORIGINAL", "PRIMARY"],
        "SamplesPerPixel": 3,
        "PhotometricInterpretation": "RGB",
        "BitsAllocated": 8,
        "BitsStored": 8,
        "HighBit": 7,
        "PixelRepresentation": 0,
    },
}
