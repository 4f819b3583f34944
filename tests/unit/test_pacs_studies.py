"""The made-up hospital: the same seed gives the same studies, and a size is met with several kinds of them."""

from __future__ import annotations

import pytest

from pacs_studies import MIB, make_uid, plan_studies

SIZES = (1 * MIB, 10 * MIB, 200 * MIB, 3000 * MIB)


@pytest.mark.parametrize("size", SIZES)
def test_planned_size_is_near_the_asked_one(size: int) -> None:
    planned = sum(study.size for study in plan_studies(1, size))
    assert abs(planned - size) < 2 * MIB, planned


def test_a_small_export_has_every_modality() -> None:
    assert {study.modality for study in plan_studies(5, 10 * MIB)} == {"CT", "MR", "CR", "US"}


def test_ct_series_of_a_large_export_are_of_realistic_length() -> None:
    lengths = [series.instances for study in list(plan_studies(2, 3000 * MIB))[:-1] for series in study.series if series.modality == "CT"]
    assert lengths
    assert all(60 <= length <= 300 for length in lengths), lengths


def test_plan_depends_on_the_seed_only() -> None:
    assert list(plan_studies(7, 50 * MIB)) == list(plan_studies(7, 50 * MIB))
    assert [study.uid for study in plan_studies(7, 50 * MIB)] != [study.uid for study in plan_studies(8, 50 * MIB)]


def test_identifiers_are_unique() -> None:
    studies = list(plan_studies(3, 1000 * MIB))
    series = [series.uid for study in studies for series in study.series]
    assert len({study.uid for study in studies}) == len(studies)
    assert len({study.accession for study in studies}) == len(studies)
    assert len(set(series)) == len(series)


def test_a_patient_has_a_history() -> None:
    patients = [study.patient for study in plan_studies(4, 200 * MIB)]
    assert patients[0] == patients[1] != patients[2]


def test_uids_are_valid_and_of_one_width() -> None:
    uids = {make_uid("any", number) for number in range(500)}
    assert len(uids) == 500
    assert all(len(uid) == 44 and uid.startswith("2.25.") and uid[5] != "0" and uid[5:].isdigit() for uid in uids)
