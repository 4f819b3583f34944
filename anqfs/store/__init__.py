"""Records, extents and transaction groups. The only room that imports lmdb."""
