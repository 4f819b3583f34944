"""Private keys for the tests of snapshot locks, made anew each time."""

from __future__ import annotations

import subprocess

from anqfs.crypto.signatures import SigningKey


def new_pem() -> bytes:
    """Return a new private key as a user makes it."""
    made = subprocess.run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout"], capture_output=True, check=True)
    return made.stdout


def new_key() -> SigningKey:
    """Return a new private key."""
    return SigningKey(new_pem())
