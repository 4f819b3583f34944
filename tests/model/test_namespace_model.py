"""The namespace answers and shows what the reference model does, through snapshots, restores, reopening and crashes.

Each seed is one history of random operations; `pytest tests/model --model-seeds N` runs more of them,
`--model-first N --model-seeds 1` repeats one, and `--model-steps N` makes them longer.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from anqfs.crypto.secrets import Secret

from .conftest import QUICK_STEPS
from .driver import run_seed


def test_a_random_history_equals_the_reference_model(model_seed: int, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    run_seed(model_seed, pytestconfig.getoption("--model-steps", QUICK_STEPS), tmp_path, Secret("key-file", b"k" * 32))
