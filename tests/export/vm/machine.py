"""A virtual machine (qemu, no acceleration needed) whose Linux kernel is the client of the servers under test.

Its packets leave from the network namespace that it runs in, whose loopback it sees as 10.0.2.2. Tests call the functions of
guest.py in it by name. Every call has a deadline; the machine dies with the test process.
"""

from __future__ import annotations

import ast
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

from .archive import Archive
from .image import build

HOST = "10.0.2.2"
GUEST = "10.0.2.15"
BOOT_SECONDS = 90.0
CALL_SECONDS = 60.0
QEMU = [
    "qemu-system-x86_64",
    "-accel",
    "tcg,thread=multi",
    "-M",
    "pc",
    "-cpu",
    "max",
    "-smp",
    "1",
    "-m",
    "640",
    "-nodefaults",
    "-no-user-config",
    "-no-reboot",
    "-display",
    "none",
    "-serial",
    "stdio",
]
KERNEL_ARGUMENTS = "console=ttyS0 panic=-1 quiet loglevel=4 mitigations=off random.trust_cpu=on nokaslr"


class GuestError(AssertionError):
    """A call failed in a way that no errno tells, or was not answered in time."""


class Machine:
    """One virtual machine; `start` boots it and returns when it answers."""

    def __init__(self, top: Path, run_in: list[str], more: Archive | None = None) -> None:
        """`top`: a directory for its files. `run_in`: the beginning of a command line, for a network namespace. `more`: files to add."""
        self._top = top
        self._run_in = run_in
        self._more = more
        self._process: subprocess.Popen[bytes] | None = None
        self._port: socket.socket | None = None
        self._pending = b""

    def start(self) -> None:
        """Boot. Raises GuestError when it does not answer within BOOT_SECONDS."""
        image = build()
        initramfs = image.initramfs
        if self._more is not None:
            initramfs = self._top / "initramfs"
            initramfs.write_bytes(image.initramfs.read_bytes() + self._more.bytes())
        address = self._top / "port"
        with socket.socket(socket.AF_UNIX) as listener, open(self._top / "console", "wb") as console:
            listener.bind(str(address))
            listener.listen(1)
            listener.settimeout(BOOT_SECONDS)
            command = [
                *QEMU,
                "-kernel",
                image.kernel,
                "-initrd",
                initramfs,
                "-append",
                KERNEL_ARGUMENTS,
                "-nic",
                "user,model=virtio-net-pci",
            ]
            command += [
                "-device",
                "virtio-serial-pci",
                "-chardev",
                f"socket,id=port,path={address}",
                "-device",
                "virtserialport,chardev=port",
            ]
            self._process = subprocess.Popen([*self._run_in, *command], stdin=subprocess.DEVNULL, stdout=console, stderr=console)
            self._port = listener.accept()[0]
        if self._line(BOOT_SECONDS, "booting") != b"ready":
            raise GuestError("the virtual machine did not come up")

    def call(self, function: str, *arguments: Any, seconds: float = CALL_SECONDS, **named: Any) -> Any:
        """Call a function of guest.py in the machine. Raises the OSError that it raised, or GuestError."""
        assert self._port is not None
        self._port.settimeout(seconds)
        self._port.sendall(ascii((function, arguments, named)).encode("ascii") + b"\n")
        outcome = ast.literal_eval(self._line(seconds, function).decode("ascii"))
        if outcome[0] == "value":
            return outcome[1]
        _, kind, number, text = outcome
        if number:
            raise OSError(number, text)
        raise GuestError(f"{function}{arguments} in the virtual machine: {kind}\n{text}")

    def console(self) -> str:
        """Return what the machine's console has shown so far."""
        path = self._top / "console"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def stop(self) -> None:
        """Switch it off; it is killed if it does not end by itself."""
        if self._port is not None:
            self._port.close()
        if self._process is not None:
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def _line(self, seconds: float, what: str) -> bytes:
        assert self._port is not None
        limit = time.monotonic() + seconds
        while b"\n" not in self._pending:
            self._port.settimeout(max(0.001, limit - time.monotonic()))
            try:
                piece = self._port.recv(1 << 16)
            except TimeoutError:
                raise GuestError(f"the virtual machine gave no answer in {seconds} s: {what}") from None
            if not piece:
                raise GuestError(f"the virtual machine went down: {what}")
            self._pending += piece
        line, _, self._pending = self._pending.partition(b"\n")
        return line
