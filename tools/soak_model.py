"""The soak's model job: random histories on a namespace and on the reference model, one seed after another until the time is over.

`python -m tools.soak_model --seconds S --seed N`, from the project's directory. See soak_jobs.py for what a job prints.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import traceback
from pathlib import Path

from anqfs.crypto.secrets import Secret
from tests.model.driver import run_seed

STEPS = 1000
"""Operations in one history."""


def main() -> int:
    """Run histories; stop at the first that differs from the model. Returns 0 if none did."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    deadline = time.monotonic() + options.seconds
    seed, faults = options.seed, 0
    while not faults and (seed == options.seed or time.monotonic() < deadline):
        with tempfile.TemporaryDirectory(prefix="anqfs-model.") as directory:
            try:
                run_seed(seed, STEPS, Path(directory), Secret("key-file", b"k" * 32))
            except Exception:  # whatever goes wrong is a fault of this seed
                traceback.print_exc()
                print(f"again: pytest tests/model --model-first {seed} --model-seeds 1 --model-steps {STEPS}", file=sys.stderr)
                faults = 1
        seed += 1
    histories = seed - options.seed
    print(json.dumps({"part": "model", "seed": options.seed, "faults": faults, "histories": histories, "operations": histories * STEPS}))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
