"""How many random histories the model tests run: a few in the quick form; thousands overnight.

`--model-seeds N`: of the namespace and the reference model; `--mount-seeds N`: of a mount and ext4.

The options are known when the tests of this directory are named on the command line; otherwise the quick form runs.
"""

from __future__ import annotations

import pytest

QUICK_SEEDS = 24
QUICK_STEPS = 250
QUICK_MOUNT_SEEDS = 12
QUICK_MOUNT_STEPS = 200


def pytest_addoption(parser: pytest.Parser) -> None:
    """Register the options of the model tests."""
    parser.addoption("--model-seeds", type=int, default=QUICK_SEEDS, help="random histories to run against the reference model")
    parser.addoption("--model-first", type=int, default=0, help="seed of the first of them")
    parser.addoption("--model-steps", type=int, default=QUICK_STEPS, help="operations in each of them")
    parser.addoption("--mount-seeds", type=int, default=QUICK_MOUNT_SEEDS, help="random histories to run on a mount and on ext4")
    parser.addoption("--mount-first", type=int, default=0, help="seed of the first of them")
    parser.addoption("--mount-steps", type=int, default=QUICK_MOUNT_STEPS, help="operations in each of them")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make one test of each seed."""
    for kind, quick in (("model", QUICK_SEEDS), ("mount", QUICK_MOUNT_SEEDS)):
        if f"{kind}_seed" in metafunc.fixturenames:
            first = metafunc.config.getoption(f"--{kind}-first", 0)
            metafunc.parametrize(f"{kind}_seed", range(first, first + metafunc.config.getoption(f"--{kind}-seeds", quick)))
