"""The filesystem: inodes, directories, file maps, xattrs, ACLs, snapshots. No FUSE, no LMDB, no sockets, no threads."""

from anqfs.namespace.core import ROOT_CALLER as ROOT
from anqfs.namespace.core import Caller
from anqfs.namespace.namespace import Namespace

__all__ = ["ROOT", "Caller", "Namespace"]
