"""Network namespaces: each test's servers have loopback and ports of their own, and nothing else of this machine's network.

A namespace lives as long as a process that does nothing, which dies with the tests: whatever happens, none is left over.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")
TIED = ["setpriv", "--pdeathsig", "KILL"]  # what is started with it dies with the thread that started it
DEADLINE = 20.0


class Network:
    """A network namespace with its loopback up."""

    def __init__(self) -> None:
        self._holder = subprocess.Popen([*TIED, "unshare", "--net", "sleep", "infinity"], stdin=subprocess.DEVNULL)
        self.path = f"/proc/{self._holder.pid}/ns/net"
        own = os.readlink("/proc/self/ns/net")
        limit = time.monotonic() + DEADLINE
        while os.readlink(self.path) == own:
            assert self._holder.poll() is None and time.monotonic() < limit, "no network namespace could be made"
            time.sleep(0.005)
        self.run("ip", "link", "set", "lo", "up")

    def within(self, *command: str) -> list[str]:
        """Return a command that runs `command` in this namespace, tied to the life of the tests."""
        return ["nsenter", f"--net={self.path}", *TIED, *command]

    def run(self, *command: str) -> str:
        """Run a command in this namespace and return what it printed. Raises CalledProcessError."""
        return subprocess.run(self.within(*command), check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL).stdout

    def call(self, function: Callable[[], Result]) -> Result:
        """Call a function on a thread that is in this namespace: sockets that it makes stay there."""
        outcome: list[Result] = []
        failure: list[BaseException] = []

        def work() -> None:
            try:
                with open(self.path, "rb") as stream:
                    _enter(stream.fileno())
                outcome.append(function())
            except BaseException as error:  # handed to the caller below
                failure.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        if failure:
            raise failure[0]
        return outcome[0]

    def members(self) -> list[int]:
        """Return the processes in this namespace, but for the one that keeps it."""
        own, found = os.readlink(self.path), []
        for name in os.listdir("/proc"):
            if name.isdigit() and int(name) != self._holder.pid:
                with contextlib.suppress(OSError):  # it has ended meanwhile
                    if os.readlink(f"/proc/{name}/ns/net") == own:
                        found.append(int(name))
        return found

    def close(self) -> None:
        """Let the namespace go; its links go with it."""
        self._holder.kill()
        self._holder.wait()


def _enter(descriptor: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, 0x40000000):
        raise OSError(ctypes.get_errno(), "setns")


def join(one: Network, other: Network, name: str, addresses: tuple[str, str]) -> None:
    """Connect two namespaces by a pair of virtual Ethernet devices with these addresses ("10.1.2.3/24"), both called `name`."""
    pids = [each.path.split("/")[2] for each in (one, other)]
    ip = ["ip", "link", "add", name, "netns", pids[0], "type", "veth", "peer", "name", name, "netns", pids[1]]
    subprocess.run(ip, check=True, stdin=subprocess.DEVNULL)
    for network, address in zip((one, other), addresses, strict=True):
        network.run("ip", "address", "add", address, "dev", name)
        network.run("ip", "link", "set", name, "up")


def answers(network: Network, address: str, port: int) -> bool:
    """Tell whether someone in reach of a namespace listens on a TCP port."""

    def connect() -> bool:
        with socket.socket() as probe:
            probe.settimeout(DEADLINE)
            return probe.connect_ex((address, port)) == 0

    return network.call(connect)
