"""Starting a daemon and stopping it. Called by the command line; blocking.

`prepare` checks what can be checked before a passphrase is asked for. `start` returns when the mount answers.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

from anqfs.control import locate, offline, registry, wire
from anqfs.control.client import Client
from anqfs.control.options import Options, other_users_allowed
from anqfs.control.registry import Entry
from anqfs.errors import CommitFailed, MountFailed, NotMounted, StoreInUse, UsageError
from anqfs.mount import mountpoint as place

if TYPE_CHECKING:
    from anqfs.control.daemon import Order
    from anqfs.crypto.secrets import Secret

_MODULE = "anqfs.control.daemon"
_POLL = 0.005
_ANSWER_SECONDS = 30.0
_EXIT_SECONDS = 120.0
_NOISE_BYTES = 4096


def prepare(store: str, mountpoint: str, options: Options) -> dict[str, Any]:
    """Check an order and return its fields. Clears a dead mount point.

    Raises StoreMissing, StoreInUse, MountFailed, UsageError.
    """
    offline.must_be_store(store)
    entry = locate.by_store(store)
    if entry is not None:
        raise StoreInUse(f"{wire.shown(store)}: is mounted on {wire.shown(entry.mountpoint)} by the daemon with pid {entry.pid}")
    if options.allow_other and os.geteuid() != 0 and not other_users_allowed():
        raise UsageError("allow_other: an ordinary user may give it only when /etc/fuse.conf has the line user_allow_other")
    real_store = os.path.realpath(os.fsencode(store))
    point = locate.mount_point(mountpoint)
    place.prepare(point)
    if (real_store + b"/").startswith(point.rstrip(b"/") + b"/") or point.startswith(real_store + b"/"):
        raise MountFailed(f"{wire.shown(point)}: the store and the mount point lie in one another: name a mount point elsewhere")
    return {
        "store": os.fsdecode(real_store),
        "mountpoint": os.fsdecode(point),
        "read_only": options.read_only,
        "allow_other": options.allow_other,
        "kernel": options.kernel,
        "expect_root": options.expect_root,
        "fsid_device": options.fsid_device,
    }


def _order(fields: dict[str, Any]) -> Order:
    from anqfs.control.daemon import Order

    return Order(**fields)


def stay(fields: dict[str, Any], secret: Secret) -> int:
    """Be the daemon: serve until it is unmounted or told to end. Returns the exit code; errors go to stderr."""
    from anqfs.control import daemon

    def report(document: dict[str, Any]) -> None:
        if "error" in document:
            print(f"anqfs: {document['message']}", file=sys.stderr, flush=True)
        else:
            tell_service_manager("READY=1")

    return daemon.run(_order(fields), secret, report, foreground=True)


def tell_service_manager(state: str) -> None:
    """Send a state to the service manager that started this process, if it wants to hear of it. Source: sd_notify(3)."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as stream:
        try:
            stream.sendto(state.encode(), "\0" + address[1:] if address[0] == "@" else address)
        except OSError as error:
            print(f"anqfs: the service manager cannot be told {state}: {error.strerror}", file=sys.stderr, flush=True)


def start(fields: dict[str, Any], secret: Secret) -> Entry:
    """Start a detached daemon and return its entry when the mount answers. Raises what the daemon reports."""
    order_read, order_write = os.pipe()
    report_read, report_write = os.pipe()
    noise = os.memfd_create("anqfs-daemon-stderr")
    command = [
        sys.executable,
        "-P",
        "-m",
        _MODULE,
        str(order_read),
        str(report_write),
        fields["store"],
        fields["mountpoint"],
    ]
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=noise,
            cwd="/",
            pass_fds=(order_read, report_write),
            start_new_session=True,
        )
    finally:
        os.close(order_read)
        os.close(report_write)
    try:
        _send(order_write, fields, secret)
        with os.fdopen(report_read, "rb") as stream:
            entry = _outcome(stream.readline(), process, noise)
        _wait_for_answer(entry)
    except BaseException:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait()
        raise
    finally:
        os.close(noise)
    process.returncode = 0  # it lives on: not ours to wait for, and no warning about it
    return entry


def _send(handle: int, fields: dict[str, Any], secret: Secret) -> None:
    head = {"order": fields, "kind": secret.kind, "length": len(secret.material)}
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(json.dumps(head).encode() + b"\n" + secret.material)
    except BrokenPipeError:
        return  # the daemon died; its report, or the lack of one, says why


def _outcome(line: bytes, process: subprocess.Popen[bytes], noise: int) -> Entry:
    if not line:
        code = process.wait()
        said = os.pread(noise, _NOISE_BYTES, max(0, os.fstat(noise).st_size - _NOISE_BYTES)).decode("utf-8", "replace").strip().splitlines()
        raise MountFailed(f"the daemon ended with status {code} before the mount answered{': ' + said[-1] if said else ''}")
    document = json.loads(line)
    if "error" in document:
        process.wait()
        raise wire.from_fault(document)
    return Entry(**document["entry"])


def _wait_for_answer(entry: Entry) -> None:
    deadline = time.monotonic() + _ANSWER_SECONDS
    point = os.fsencode(entry.mountpoint)
    while place.mounted_at(point) is None or not place.alive(point):
        if time.monotonic() > deadline or not registry.is_running(entry):
            raise MountFailed(f"{wire.shown(point)}: the mount does not answer; see the log {wire.shown(entry.log)}")
        time.sleep(_POLL)


def unmount(mountpoint: str) -> None:
    """Unmount; return when everything is durable and the daemon is gone. Clears a dead mount point. File servers are stopped first.

    Raises NotMounted, MountFailed when it is busy, and the error of a last commit that failed. When it stays mounted, the servers go on.
    """
    from anqfs.control import exports

    point = locate.mount_point(mountpoint)
    mount = place.mounted_at(point)
    if mount is None or mount.kind not in locate.KINDS:
        raise NotMounted(f"{wire.shown(point)}: is no anqfs mount point")
    with exports.stopped(point):
        _take_away(point, mount)


def _take_away(point: bytes, mount: place.Mount) -> None:
    shown = wire.shown(point)
    if locate.is_dead(point):
        place.detach(point)
        registry.entries()
        return
    entry = next((one for one in registry.entries() if one.device == mount.device), None)
    if entry is None:
        _unmount_unregistered(point)
        return
    failed = _stop(entry)
    _wait_until_gone(point, entry.pid, entry.started)
    if failed is not None:
        raise CommitFailed(f"{shown}: is unmounted, but the volume had failed and what was written since is lost: {failed}")


def _stop(entry: Entry) -> str | None:
    """Ask the daemon to unmount; return what its volume had failed with, if anything."""
    try:
        answer: dict[str, str | None] = Client(entry).post("/anqfs/v1/stop", patience=None)
    except NotMounted:
        if registry.is_running(entry) and place.mounted_at(os.fsencode(entry.mountpoint)) is not None:
            raise
    except StoreInUse:
        return None  # another umount is at it: wait with it
    else:
        return answer["failed"]
    return None


def _unmount_unregistered(point: bytes) -> None:
    """Unmount what another user's daemon serves, one with another registry, or one that is just starting."""
    daemons = _daemons_at(point)
    try:
        place.unmount(point)
    except OSError as error:
        raise MountFailed(f"{wire.shown(point)}: cannot be unmounted: {error.strerror}") from error
    for pid, started in daemons:
        _wait_until_gone(point, pid, started)


def _daemons_at(point: bytes) -> list[tuple[int, int]]:
    """Return (pid, start time) of the detached daemons whose arguments name this mount point."""
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/cmdline", "rb") as stream:
                words = stream.read().split(b"\0")
        except OSError:
            continue
        started = registry.start_time(int(name))
        if started is not None and _MODULE.encode() in words and words[-2:] == [point, b""]:
            found.append((int(name), started))
    return found


def _wait_until_gone(point: bytes, pid: int, started: int) -> None:
    deadline = time.monotonic() + _EXIT_SECONDS
    while registry.start_time(pid) == started:
        if time.monotonic() > deadline:
            raise MountFailed(f"{wire.shown(point)}: it is unmounted, but the daemon (pid {pid}) does not end: see its log")
        time.sleep(_POLL)
