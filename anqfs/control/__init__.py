"""The daemon, its HTTP API on a Unix socket, and the client for it."""
