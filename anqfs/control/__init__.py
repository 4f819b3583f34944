"""The daemon of a mounted volume, its HTTP API on a Unix socket, the client for it, and the registry of running daemons."""
