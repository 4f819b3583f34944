"""`--model-seeds N`: how many random histories the model test runs (a few dozen in the quick form; thousands overnight).

The options are known when the tests of this directory are named on the command line; otherwise the quick form runs.
"""

from __future__ import annotations

import pytest

QUICK_SEEDS = 24
QUICK_STEPS = 250


def pytest_addoption(parser: pytest.Parser) -> None:
    """Register the options of the model test."""
    parser.addoption("--model-seeds", type=int, default=QUICK_SEEDS, help="random histories to run against the reference model")
    parser.addoption("--model-first", type=int, default=0, help="seed of the first of them")
    parser.addoption("--model-steps", type=int, default=QUICK_STEPS, help="operations in each of them")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make one test of each seed."""
    if "model_seed" in metafunc.fixturenames:
        first = metafunc.config.getoption("--model-first", 0)
        metafunc.parametrize("model_seed", range(first, first + metafunc.config.getoption("--model-seeds", QUICK_SEEDS)))
