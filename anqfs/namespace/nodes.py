"""Node ids: `view << 40 | ino`. Any module of the namespace, and `mount/` for the live ino of a node.

View 0 is the live tree. View SNAPSHOTS is a range of virtual directories: `SNAPSHOTS << 40 | ino` is the `.snapshot` of the live
directory `ino`. View VERSIONS is another: the `.snapshot/@GMT` of each. The views between are recorded (`V`): the tree of one snapshot,
entered through one of these doors of one directory. All ids are below 2**63.
"""

from __future__ import annotations

from anqfs.store.schema import INO_BITS, INO_MAX

SNAPSHOTS = 0x7FFFFF
VERSIONS = SNAPSHOTS - 1
VIEW_MAX = VERSIONS - 1
ROOT = 1
SNAPSHOT_NAME = b".snapshot"
VERSIONS_NAME = b"@GMT"
BY_TIME = 1 << INO_BITS
"""Added to the entry directory of a view that was entered through `.snapshot/@GMT`."""


def node_of(view: int, ino: int) -> int:
    """Return the node id of an inode in a view."""
    return view << INO_BITS | ino


def view_of(node: int) -> int:
    """Return a node's view: 0 for live ones, SNAPSHOTS for `.snapshot` directories, VERSIONS for those called `@GMT` in them."""
    return node >> INO_BITS


def is_door(node: int) -> bool:
    """Tell whether a node is a `.snapshot` or the `@GMT` in one: what they list comes and goes with the snapshots."""
    return node >> INO_BITS >= VERSIONS


def ino_of(node: int) -> int:
    """Return a node's inode number; of a door, that of the directory it belongs to."""
    return node & INO_MAX


def snapshots_node(ino: int) -> int:
    """Return the node id of the `.snapshot` of a live directory."""
    return SNAPSHOTS << INO_BITS | ino


def versions_node(ino: int) -> int:
    """Return the node id of `.snapshot/@GMT` of a live directory."""
    return VERSIONS << INO_BITS | ino
