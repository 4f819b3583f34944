"""The filesystem: inodes, directories, file maps, xattrs, ACLs, snapshots. No FUSE, no LMDB, no sockets, no threads."""
