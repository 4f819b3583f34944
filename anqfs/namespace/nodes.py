"""Node ids: `view << 40 | ino`. Any module of the namespace, and `mount/` for the live ino of a node.

View 0 is the live tree. View SNAPSHOTS is a range of virtual directories: `SNAPSHOTS << 40 | ino` is the `.snapshot` of the live
directory `ino`. The views between are recorded (`V`): the tree of one snapshot, entered through one directory. All ids are below
2**63.
"""

from __future__ import annotations

from anqfs.store.schema import INO_BITS, INO_MAX

SNAPSHOTS = 0x7FFFFF
VIEW_MAX = SNAPSHOTS - 1
ROOT = 1
SNAPSHOT_NAME = b".snapshot"


def node_of(view: int, ino: int) -> int:
    """Return the node id of an inode in a view."""
    return view << INO_BITS | ino


def view_of(node: int) -> int:
    """Return a node's view: 0 for live ones, SNAPSHOTS for `.snapshot` directories."""
    return node >> INO_BITS


def ino_of(node: int) -> int:
    """Return a node's inode number; of a `.snapshot` directory, that of the directory it belongs to."""
    return node & INO_MAX


def snapshots_node(ino: int) -> int:
    """Return the node id of the `.snapshot` of a live directory."""
    return SNAPSHOTS << INO_BITS | ino
