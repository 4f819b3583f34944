"""FUSE. The only room that imports pyfuse3."""
