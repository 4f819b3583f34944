"""Random histories on a real mount and on ext4, one seed after another until the time is over. Needs root, FUSE and loop devices.

`python -m tests.model.mount_run --seconds S --seed N [--steps N]`, from the project's directory. The last line is JSON with counts.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import traceback
from pathlib import Path

from tests.mount.mounted import Mount, loop_ext4

from .mount_driver import Pair, run_seed

STEPS = 250
HISTORIES_EACH = 40
"""Histories on one mount."""


def main() -> int:
    """Run histories; stop at the first that differs. Returns 0 if none did."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args()
    deadline = time.monotonic() + options.seconds
    seed, faults, counts = options.seed, 0, {"histories": 0}
    while not faults and (seed == options.seed or time.monotonic() < deadline):
        with tempfile.TemporaryDirectory(prefix="anqfs-mount-model.") as name:
            base = Path(name)
            base.chmod(0o755)
            mount = Mount(base)
            try:
                mount.make_store()
                with loop_ext4(base) as ext4:
                    pair = Pair(mount.start(), ext4)
                    for _ in range(HISTORIES_EACH):
                        run_seed(pair, seed, options.steps)
                        seed += 1
                        counts["histories"] += 1
                        if time.monotonic() >= deadline:
                            break
                    for kind, count in pair.counts.items():
                        counts[kind] = counts.get(kind, 0) + count
                mount.stop()
                if mount.complaints():
                    raise AssertionError(mount.log_text())
            except Exception:  # whatever goes wrong is a fault of this seed
                traceback.print_exc()
                print(mount.log_text(), file=sys.stderr)
                print(f"again: python -m tests.model.mount_run --seconds 0 --seed {seed} --steps {options.steps}", file=sys.stderr)
                faults = 1
            finally:
                mount.clean_up()
    print(json.dumps({"part": "mount model", "seed": options.seed, "faults": faults, **counts}))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
