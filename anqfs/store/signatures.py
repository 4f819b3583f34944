"""What `namespace/` needs of signatures: it enforces locks and must not know how they are made. Any thread."""

from __future__ import annotations

from anqfs.crypto.signatures import from_base64, is_signature, public_key

__all__ = ["from_base64", "is_signature", "public_key"]
