"""Proofs that nothing is lost: kills, power cuts, faults, tampering, hostile use. Each module runs alone: `python -m tests.crash.NAME`."""
