"""Samba's own tests end on anqfs as on ext4: those that take seconds; `python -m tests.export.torture --all` runs the others, too."""

from __future__ import annotations

import pytest

from tests.export.torture import SLOW, SUITES, bed, row


@pytest.mark.timeout(600)
def test_smbtorture_ends_as_on_ext4() -> None:
    wrong, passed = [], 0
    with bed() as made:
        for suite in SUITES:
            if suite not in SLOW:
                on_ext4, on_anqfs, found = made.compared(suite)
                print(row(suite, on_ext4, on_anqfs))
                wrong += found
                passed += on_anqfs.count("success")
    assert wrong == []
    assert passed > 100, "the suites ran"
