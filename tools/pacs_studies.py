"""Which studies an imaginary hospital exports: patients, studies, series and their identifiers, from a seed alone.

Nothing here touches a disk or a pixel. The same seed and size always plan the same studies, whoever writes them and with how many
workers. All patients are invented: common names drawn at random, put together by no register.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta

MIB = 1 << 20
HEADER_BYTES = 2048
"""About what the elements before the pixels take; planning needs no more precision than this."""
SMALLEST_STUDY = 600_000
"""A remainder below this many bytes is not worth a study of its own."""

_SURNAMES = (
    "Adams Bauer Bennett Carter Costa Dubois Evans Fischer Garcia Hughes Ivanova Jensen Kim Kowalska Larsen Lopez Martin Meyer Moretti "
    "Müller Nakamura Nguyen Novak Okafor Olsen Patel Peeters Petrov Quinn Rossi Schäfer Silva Smith Sørensen Tanaka Taylor Usman "
    "Virtanen Walker Weber Wright Yilmaz Young Zimmermann"
)
_GIVEN = {
    "F": "Alice Anna Beatriz Chloé Clara Emma Fatima Grace Hannah Ines Julia Laura Mei Nadia Olivia Priya Rosa Sofia Yuki Zoë",
    "M": "Adam Ahmed Bruno Carlos Daniel Emil Felix Hugo Ivan James Jonas Kenji Luca Marek Noah Oscar Pedro Rahul Samuel Viktor",
}
_CYCLE = ("CT", "MR", "CR", "US", "CT", "MR", "CT", "CT")
"""Modalities in turn: half of the studies are CT, as in most archives, and even a small export has one of each."""
_DESCRIPTIONS = {
    "CT": ("CT THORAX W CONTRAST", "CT ABDOMEN PELVIS", "CT HEAD WO CONTRAST", "CT ANGIO CHEST"),
    "MR": ("MRI BRAIN W WO CONTRAST", "MRI LUMBAR SPINE", "MRI KNEE LEFT"),
    "CR": ("CHEST 2 VIEWS", "CHEST PORTABLE"),
    "US": ("US ABDOMEN COMPLETE", "ECHOCARDIOGRAM"),
}
_SERIES = {
    "CT": ("AXIAL 1.0 B30f", "LUNG 1.0 B70f"),
    "MR": ("AX T1", "AX T2 FLAIR", "SAG T2", "AX DWI"),
    "CR": ("PA AND LATERAL",),
    "US": ("CINE",),
}


@dataclass(frozen=True, slots=True)
class Patient:
    """Someone who does not exist."""

    id: str
    name: str
    sex: str
    birth_date: str


@dataclass(frozen=True, slots=True)
class Series:
    """Images of one kind taken in one go. `palette` only matters to ultrasound: indexed colour in place of RGB."""

    uid: str
    number: int
    modality: str
    description: str
    instances: int
    rows: int
    columns: int
    frames: int = 1
    bytes_per_pixel: int = 2
    palette: bool = False

    @property
    def pixel_bytes(self) -> int:
        """Bytes of pixel data in each instance."""
        return self.rows * self.columns * self.frames * self.bytes_per_pixel

    @property
    def size(self) -> int:
        """About the bytes of all instances."""
        return self.instances * (self.pixel_bytes + HEADER_BYTES)


@dataclass(frozen=True, slots=True)
class Study:
    """One visit of one patient."""

    seed: int
    index: int
    uid: str
    patient: Patient
    day: str
    time: str
    accession: str
    modality: str
    description: str
    series: tuple[Series, ...]

    @property
    def size(self) -> int:
        """About the bytes of all its instances."""
        return sum(series.size for series in self.series)


def make_uid(*parts: object) -> str:
    """Return a UID below 2.25 (the root for UUIDs) that depends on nothing but `parts`; always 44 characters long."""
    number = int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:16], "big")
    least = 10**38
    return f"2.25.{least + number % ((1 << 128) - least)}"


def instance_uid(series: Series, number: int) -> str:
    """Return the SOP instance UID of the `number`th (from 1) instance of a series."""
    return make_uid(series.uid, number)


def make_patient(seed: int, index: int) -> Patient:
    """Return the `index`th patient of the hospital with this seed."""
    draw = random.Random(f"{seed}/patient/{index}")
    sex = draw.choice("FM")
    born = date(1930, 1, 1) + timedelta(days=draw.randrange(80 * 365))
    return Patient(
        id=f"PAT{draw.randrange(10**5):05d}{index:05d}",
        name=f"{draw.choice(_SURNAMES.split())}^{draw.choice(_GIVEN[sex].split())}^{draw.choice('ABCDEFGHJKLMNPRSTVW')}",
        sex=sex,
        birth_date=born.strftime("%Y%m%d"),
    )


def make_study(seed: int, index: int, most: int) -> Study:
    """Return the `index`th study; at most about `most` bytes, but never without an image.

    Two studies in a row belong to the same patient, so that an archive has patients with a history.
    """
    draw = random.Random(f"{seed}/study/{index}")
    modality = _CYCLE[index % len(_CYCLE)]
    uid = make_uid(seed, "study", index)
    day = date(2019, 1, 1) + timedelta(days=draw.randrange(6 * 365))
    return Study(
        seed=seed,
        index=index,
        uid=uid,
        patient=make_patient(seed, index // 2),
        day=day.strftime("%Y%m%d"),
        time=f"{draw.randrange(7, 20):02d}{draw.randrange(60):02d}{draw.randrange(60):02d}",
        accession=f"ACC{day.year % 100:02d}{index:07d}",
        modality=modality,
        description=draw.choice(_DESCRIPTIONS[modality]),
        series=_PLANNERS[modality](draw, uid, most),
    )


def plan_studies(seed: int, size: int) -> Iterator[Study]:
    """Yield studies until they are about `size` bytes together.

    No study is larger than a sixth of the whole, so that a small export has several; the last one is cut to fit.
    """
    share = max(size // 6, 3 * MIB)
    planned = index = 0
    while index == 0 or size - planned >= SMALLEST_STUDY:
        study = make_study(seed, index, min(share, size - planned))
        yield study
        planned += study.size
        index += 1


def _slices(draw: random.Random, uid: str, most: int, modality: str, edge: int, series: range, instances: range) -> tuple[Series, ...]:
    """Plan series of square slices: as many as drawn, or as fit."""
    wanted = [draw.choice(instances) for _ in range(draw.choice(series))]
    fit = max(1, most // (edge * edge * 2 + HEADER_BYTES))
    planned = []
    for number, count in enumerate(wanted, 1):
        count = min(count, fit)
        if count > 0:
            name = _SERIES[modality][(number - 1) % len(_SERIES[modality])]
            planned.append(Series(make_uid(uid, number), number, modality, name, count, edge, edge))
        fit -= count
    return tuple(planned)


def _plan_ct(draw: random.Random, uid: str, most: int) -> tuple[Series, ...]:
    return _slices(draw, uid, most, "CT", 512, range(1, 3), range(60, 301))


def _plan_mr(draw: random.Random, uid: str, most: int) -> tuple[Series, ...]:
    return _slices(draw, uid, most, "MR", 256, range(2, 5), range(20, 41))


def _plan_cr(draw: random.Random, uid: str, most: int) -> tuple[Series, ...]:
    """One or two plates of 7.5 MB; a quarter of that where there is no room for one."""
    rows, columns = (2140, 1760) if most >= 2140 * 1760 * 2 else (1070, 880)
    count = min(draw.choice(range(1, 3)), max(1, most // (rows * columns * 2)))
    return (Series(make_uid(uid, 1), 1, "CR", _SERIES["CR"][0], count, rows, columns),)


def _plan_us(draw: random.Random, uid: str, most: int) -> tuple[Series, ...]:
    """Cine loops of 640x480, in RGB or with a palette."""
    palette = draw.random() < 0.4
    frame = 640 * 480 * (1 if palette else 3)
    frames = min(draw.choice(range(20, 61)), max(1, most // frame))
    count = min(draw.choice(range(1, 4)), max(1, most // (frame * frames)))
    return (Series(make_uid(uid, 1), 1, "US", _SERIES["US"][0], count, 480, 640, frames, 1 if palette else 3, palette),)


_PLANNERS = {"CT": _plan_ct, "MR": _plan_mr, "CR": _plan_cr, "US": _plan_us}
