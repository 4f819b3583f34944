"""anqfs: an encrypted, snapshotting filesystem in user space that behaves like an Azure Native Qumulo namespace."""

__version__ = "0.1.0"
