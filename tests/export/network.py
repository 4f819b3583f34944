"""A network of its own: a namespace with one address, where rpcbind runs and ports need not be free on this machine."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

from tests.cli.conftest import eventually

ADDRESS = "10.77.77.1"
_BEGIN = """
set -e
mount -t tmpfs tmpfs /run
ip link set lo up
ip link add inside type veth peer name outside
ip addr add $1/24 dev inside
ip link set inside up
ip link set outside up
exec rpcbind -f
"""


class Network:
    """A network and mount namespace that lives as long as its rpcbind."""

    def __init__(self) -> None:
        """Make it; return when rpcbind answers."""
        command = ["unshare", "--net", "--mount", "--propagation", "slave", "sh", "-c", _BEGIN, "sh", ADDRESS]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
        eventually("rpcbind to answer", self._answers)

    def _answers(self) -> bool:
        if self._process.poll() is not None:
            raise AssertionError(f"the network ended with {self._process.returncode}")
        if os.readlink(f"/proc/{self._process.pid}/ns/net") == os.readlink("/proc/self/ns/net"):
            return False
        return self.run("rpcinfo", "-p", "127.0.0.1", check=False).returncode == 0

    def command(self, *arguments: str | Path) -> list[str]:
        """Return the argv that runs a command in here."""
        return ["nsenter", "--target", str(self._process.pid), "--net", "--mount", "--wd=/", *map(str, arguments)]

    def run(self, *arguments: str | Path, check: bool = True, **more: Any) -> subprocess.CompletedProcess[str]:
        """Run a command in here."""
        done = subprocess.run(
            self.command(*arguments), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False, **more
        )
        assert done.returncode == 0 or not check, done
        return done

    def close(self) -> None:
        """End it; the namespace goes with its last process."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
