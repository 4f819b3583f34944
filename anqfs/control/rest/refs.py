"""References to files: an id, or an absolute path from the volume's root, live or in a snapshot. Trio thread.

Symbolic links are not followed: a path that goes through one is refused, as ANQ does. In a snapshot a path is the one that the file had
below the directory that was snapshotted, as that directory is called now.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from anqfs.control import wire
from anqfs.control.rest.faults import Refused
from anqfs.errors import FilesystemError, UsageError
from anqfs.namespace.nodes import ino_of, view_of
from anqfs.namespace.nodes import node_of as node_in_view
from anqfs.store.schema import INO_MAX, ROOT_INO

if TYPE_CHECKING:
    from anqfs.control.service import Service
    from anqfs.namespace.namespace import Namespace

_LONGEST = 32760


def node_of(service: Service, ref: bytes, snapshot: int | None) -> int:
    """Return the node that `ref` names. Raises UsageError, FilesystemError, NotFound for the snapshot, Refused when it is not in it."""
    namespace = service.namespace
    if ref.isdigit():
        number = _number(ref)
        if snapshot is not None:
            return _in_snapshot(service, snapshot, number)
        namespace.attributes(number)
        return number
    parts = components(ref)
    if snapshot is None:
        return walk(namespace, ROOT_INO, parts)
    top = snapshot_top(service, snapshot)
    above = components(namespace.path_of(namespace.snapshot(snapshot).root) or b"")
    if parts[: len(above)] != above:
        raise _not_covered(snapshot)
    return walk(namespace, top, parts[len(above) :])


def _number(ref: bytes) -> int:
    """Return the id of a file. What the mount shows as st_ino below `.snapshot` is one, too. Raises FilesystemError."""
    number = int(ref) if len(ref) <= 19 else 0
    if not 1 <= number < 1 << 63:
        raise FilesystemError(errno.ESTALE, f"there is no file with the id {wire.shown(ref[:40])}")
    return number


def components(path: bytes) -> list[bytes]:
    """Return the names of an absolute path. Raises UsageError, FilesystemError ENAMETOOLONG."""
    if path[:1] != b"/":
        raise UsageError(f"{path[:80].decode('utf-8', 'replace')!a} is neither a file's id nor an absolute path")
    if b"\0" in path:
        raise UsageError("the path holds a NUL byte")
    if len(path) > _LONGEST:
        raise FilesystemError(errno.ENAMETOOLONG, f"a path has at most {_LONGEST} bytes")
    return [part for part in path.split(b"/") if part not in (b"", b".")]


def walk(namespace: Namespace, node: int, parts: list[bytes]) -> int:
    """Return the node at the end of names below a directory. Raises FilesystemError."""
    for name in parts:
        if name == b"..":
            raise UsageError("a path may not hold ..")
        node, _ = namespace.lookup(node, name)
    return node


def parent_of(namespace: Namespace, path: bytes) -> tuple[int, bytes]:
    """Return the directory and the name that an absolute path ends with. Raises UsageError for the root, FilesystemError."""
    parts = components(path)
    if not parts:
        raise UsageError("this cannot be done to the volume's root")
    return walk(namespace, ROOT_INO, parts[:-1]), parts[-1]


def live(node: int) -> int:
    """Return a node that is in the live tree. Raises FilesystemError EROFS for what is in a snapshot, and for `.snapshot`."""
    if view_of(node):
        raise FilesystemError(errno.EROFS, "it is in a snapshot, which nothing changes")
    return node


def shown_id(node: int, *, in_snapshot: bool) -> str:
    """Return a node's id: in a snapshot that the request names, that of the inode."""
    return str(ino_of(node) if in_snapshot else node)


def snapshot_top(service: Service, snapshot: int) -> int:
    """Return the node of a snapshot's directory. Raises NotFound. The first look into a snapshot is recorded."""
    node = service.namespace.snapshot_node(snapshot)
    service.session.changed()
    return node


def _in_snapshot(service: Service, snapshot: int, ino: int) -> int:
    namespace = service.namespace
    top = snapshot_top(service, snapshot)
    found = namespace.snapshot(snapshot)
    if ino > INO_MAX or not namespace.core.versions.visible(ino, found.epoch, found.root):
        raise _not_covered(snapshot)
    return node_in_view(view_of(top), ino)


def _not_covered(snapshot: int) -> Refused:
    return Refused(404, "fs_file_not_covered_by_snapshot_error", f"it is not in snapshot {snapshot}")
