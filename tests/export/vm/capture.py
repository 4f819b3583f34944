"""Captures what goes over a device of a network namespace, and looks for known plaintext in it."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
from collections.abc import Iterator

from .network import Network

_ALL_PROTOCOLS = 0x0003
_STATISTICS = (263, 6)  # SOL_PACKET, PACKET_STATISTICS: packets and drops since it was last asked
_BUFFER = 64 << 20


class Capture:
    """Every packet that came by, as the kernel gave it."""

    def __init__(self, source: socket.socket) -> None:
        self._source = source
        self._stop = threading.Event()
        self.packets: list[bytes] = []
        self._thread = threading.Thread(target=self._collect)
        self._thread.start()

    def finish(self) -> None:
        """End it. Raises AssertionError when the kernel had to drop packets: what was not seen proves nothing."""
        self._stop.set()
        self._thread.join()
        _, dropped = struct.unpack("II", self._source.getsockopt(*_STATISTICS, 8))
        assert dropped == 0, f"{dropped} packets were not captured"

    def payload(self, port: int) -> int:
        """Return how many bytes came from or went to a TCP port, headers apart: connections end when they end, perhaps of a test before."""
        return sum(_carried(packet) for packet in self.packets if port in _ports(packet))

    def holds(self, text: bytes, port: int) -> bool:
        """Tell whether a packet from or to a TCP port holds `text`."""
        return any(text in packet for packet in self.packets if port in _ports(packet))

    def _collect(self) -> None:
        while not self._stop.is_set() or select.select([self._source], [], [], 0)[0]:
            if select.select([self._source], [], [], 0.05)[0]:
                self.packets.append(self._source.recv(1 << 17))


def _ports(packet: bytes) -> tuple[int, ...]:
    """Return the two TCP ports of an Ethernet frame with IPv4 in it; none when it is something else."""
    if packet[12:14] != b"\x08\x00" or packet[23] != socket.IPPROTO_TCP:
        return ()
    start = 14 + 4 * (packet[14] & 15)
    return struct.unpack(">HH", packet[start : start + 4])


def _carried(packet: bytes) -> int:
    """Return how many bytes of data a TCP packet carries."""
    header = 4 * (packet[14] & 15)
    whole = int.from_bytes(packet[16:18], "big")
    return whole - header - 4 * (packet[14 + header + 12] >> 4)


@contextlib.contextmanager
def captured(network: Network, device: str) -> Iterator[Capture]:
    """Capture a device of a namespace for the time of a `with` block."""

    def listen() -> socket.socket:
        source = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL_PROTOCOLS))
        source.setsockopt(socket.SOL_SOCKET, 33, _BUFFER)  # SO_RCVBUFFORCE
        source.bind((device, 0))
        return source

    with network.call(listen) as source:
        capture = Capture(source)
        try:
            yield capture
        finally:
            capture.finish()
