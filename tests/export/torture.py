"""Samba's own test suite, smbtorture smb2.*, under the same smb.conf on ext4 and on anqfs: every test has to end alike.

`python -m tests.export.torture --all` runs all of SUITES (some six minutes), without it those that take seconds; or name suites. What
differs for a known reason is in DIFFERENCES, and docs/semantics.md lists the same. Whatever else differs, twice, makes the exit code 1.

The smb.conf is the one that `anqfs export` makes, but for oplocks: they are allowed here, or their suites would test nothing.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "tools"))  # where pytest finds `leftovers`, too

from tests.export.conftest import Served, serving
from tests.export.own_smbd import PASSWORD, USER, OwnSmbd
from tests.export.smb_client import HOST
from tests.mount.mounted import loop_ext4
from tests.places import plain_temporary, secret_file

SUITES = (
    *(
        "acls",
        "charset",
        "compound",
        "compound_find",
        "connect",
        "create",
        "delete-on-close-perms",
        "deny",
        "dir",
        "dosmode",
        "durable-open",
    ),
    *("ea", "fileid", "getinfo", "ioctl", "lease", "lock", "mangle", "maximum_allowed", "mkdir", "notify", "openattr", "oplock", "read"),
    *("rename", "rw", "samba3misc", "secleak", "setinfo", "sharemode", "streams", "tcon", "timestamps", "winattr"),
)
SLOW = frozenset(("compound_find", "dir", "notify", "oplock", "secleak", "timestamps"))
_SPARSE = ("success", "failure")
DIFFERENCES = {
    "durable-open.alloc-size": _SPARSE,
    "ioctl.sparse_copy_chunk": ("success", "skip"),
    **{f"ioctl.sparse_{name}": _SPARSE for name in ("hole_dealloc", "lock", "perms", "punch", "punch_invalid", "qar_multi", "qar_ob1")},
    "ioctl.shadow_copy": ("failure", "success"),
}
"""Test -> how it ends on ext4 and on anqfs."""
SECONDS = 300
_SHARES = ("ext4", "anqfs")
_RESULT = re.compile(r"^(success|failure|error|skip): (\S+)", re.MULTILINE)


@dataclass
class Outcome:
    """How the tests of one suite ended on one filesystem; `text` is what smbtorture said."""

    results: dict[str, str] = field(default_factory=dict)
    in_time: bool = True
    text: str = ""

    def count(self, *words: str) -> int:
        """Return how many tests ended so."""
        return sum(result in words for result in self.results.values())


class Bed:
    """smbd with the two shares."""

    def __init__(self, smbd: OwnSmbd, places: dict[str, Path]) -> None:
        self._smbd = smbd
        self._places = places

    def run(self, share: str, suite: str) -> Outcome:
        """Run one suite on one share."""
        command = [
            "smbtorture",
            f"--configfile={self._smbd.configuration}",
            "--client-protection=encrypt",
            f"--option=torture:localdir={self._places[share]}",
            "--option=torture:acl_xattr_name=security.NTACL",
            *("-p", str(self._smbd.port), "-U", f"{USER}%{PASSWORD}", f"//{HOST}/{share}", f"smb2.{suite}"),
        ]
        with tempfile.TemporaryDirectory() as scratch, tempfile.TemporaryFile() as output:
            try:
                subprocess.run(command, cwd=scratch, stdin=subprocess.DEVNULL, stdout=output, stderr=output, timeout=SECONDS, check=False)
                in_time = True
            except subprocess.TimeoutExpired:
                in_time = False
            output.seek(0)
            text = output.read().decode(errors="replace")
        return Outcome({name: word for word, name in _RESULT.findall(text)}, in_time, text)

    def on_both(self, suite: str) -> tuple[Outcome, Outcome]:
        """Run one suite on both shares, side by side."""
        with ThreadPoolExecutor(2) as pool:
            first, second = pool.map(lambda share: self.run(share, suite), _SHARES)
        return first, second

    def compared(self, suite: str) -> tuple[Outcome, Outcome, list[str]]:
        """Run one suite on both and return what differs, twice: some tests depend on time."""
        on_ext4, on_anqfs = self.on_both(suite)
        found = differences(suite, on_ext4, on_anqfs)
        if found:
            again = set(differences(suite, *self.on_both(suite)))
            found = [each for each in found if each in again]
        return on_ext4, on_anqfs, found


def differences(suite: str, on_ext4: Outcome, on_anqfs: Outcome) -> list[str]:
    """Return what differs otherwise than DIFFERENCES says."""
    found = []
    for name in sorted(on_ext4.results.keys() | on_anqfs.results.keys()):
        pair = (on_ext4.results.get(name, "missing"), on_anqfs.results.get(name, "missing"))
        expected = DIFFERENCES.get(f"{suite}.{name}")
        if pair != expected and (pair[0] != pair[1] or expected is not None):
            found.append(f"smb2.{suite}.{name}: {pair[0]} on ext4, {pair[1]} on anqfs")
    if not on_ext4.results:
        found.append(f"smb2.{suite}: nothing ran on ext4: {on_ext4.text[-300:]}")
    if on_ext4.in_time != on_anqfs.in_time:
        found.append(f"smb2.{suite}: ended in time on {'ext4' if on_ext4.in_time else 'anqfs'} only")
    return found


def row(suite: str, *outcomes: Outcome) -> str:
    """Return one line of the table."""
    cells = []
    for each in outcomes:
        cell = f"{each.count('success'):3} passed {each.count('failure', 'error'):2} failed {each.count('skip'):2} skipped"
        cells.append(cell + ("" if each.in_time else " (cut)"))
    return f"{suite:22} {cells[0]:38} {cells[1]}"


def _two_shares(text: str, places: dict[str, Path]) -> str:
    """Return the generated smb.conf with its one share twice: as it is, and on ext4."""
    head, _, share = text.partition("[anqfs]\n")
    allowed = share.rstrip() + "\n  oplocks = yes\n  level2 oplocks = yes\n"
    sections = [f"[{name}]\n" + re.sub(r"(?m)^  path = .*$", f"  path = {place}", allowed) for name, place in places.items()]
    return "\n".join([head, *sections])


def _configured(served: Served, places: dict[str, Path]) -> Path:
    """Write the smb.conf and make the account."""
    served.init()
    served.ok("export", "add", "smb", places["anqfs"], "--name", "anqfs", "--read-write", "--clients", HOST)
    word = secret_file(served.top / "password", PASSWORD + "\n")
    served.ok("export", "user", "add", USER, "--password-file", word, "--mountpoint", served.mountpoint)
    configuration = served.top / "smb.conf"
    configuration.write_text(_two_shares(served.ok("export", "config", "smb"), places))
    return configuration


@contextmanager
def bed() -> Iterator[Bed]:
    """Make both filesystems and serve them."""
    top = plain_temporary("anqfs-torture-")
    with ExitStack() as stack:
        served = stack.enter_context(contextmanager(serving)(Served(top)))
        places = {"ext4": stack.enter_context(loop_ext4(top, inode=1024)) / "torture", "anqfs": served.mountpoint / "torture"}
        for place in places.values():
            place.mkdir()
            place.chmod(0o1777)
        smbd = OwnSmbd(_configured(served, places), served.smb_port, top / "smbd.out")
        yield Bed(stack.enter_context(smbd), places)


def main() -> int:
    """Run suites, print the table, return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suites", nargs="*", metavar="SUITE", choices=[*SUITES, []], help="which; without any, those that take seconds")
    parser.add_argument("--all", action="store_true", help="every suite, also those that take minutes")
    arguments = parser.parse_args()
    chosen = arguments.suites or [suite for suite in SUITES if arguments.all or suite not in SLOW]
    wrong = []
    with bed() as made:
        print(f"{'smb2.':22} {'ext4':38} anqfs", flush=True)
        for suite in chosen:
            on_ext4, on_anqfs, found = made.compared(suite)
            print("\n    ".join([row(suite, on_ext4, on_anqfs), *found]), flush=True)
            wrong += found
    print("differs:" if wrong else "nothing differs but what is known to", *wrong, sep="\n  ")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
