"""Signatures with ECDSA over NIST P-256 and SHA-256, as ANQ's security keys have them. Any thread; verifying takes some 0.1 ms.

anqfs keeps public keys and verifies; it never has a private key, except that the command line signs for whoever gives it one.
"""

from __future__ import annotations

import base64
import binascii

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, EllipticCurvePrivateKey, EllipticCurvePublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_private_key,
    load_der_public_key,
    load_pem_private_key,
    load_pem_public_key,
    load_ssh_private_key,
)

from anqfs.errors import BadSignature, UsageError, WrongKey

_PEM = b"-----BEGIN"


def public_key(text: str) -> bytes:
    """Return a public key as DER SubjectPublicKeyInfo. `text` is that in base64, or PEM. Raises UsageError."""
    try:
        found = load_pem_public_key(text.encode()) if text.lstrip().startswith(_PEM.decode()) else load_der_public_key(from_base64(text))
    except (ValueError, TypeError, UnsupportedAlgorithm, BadSignature) as error:
        raise UsageError("the public key is neither PEM nor the base64 of a DER SubjectPublicKeyInfo") from error
    if not isinstance(found, EllipticCurvePublicKey) or not isinstance(found.curve, SECP256R1):
        raise UsageError("the public key is not an ECDSA key over NIST P-256: make one with `openssl ecparam -name prime256v1 -genkey`")
    return found.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def from_base64(text: str) -> bytes:
    """Return what base64 text stands for; white space is ignored. Raises BadSignature."""
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadSignature("it is not base64") from error


def is_signature(public: bytes, message: bytes, signature: bytes) -> bool:
    """Tell whether `signature` (DER, as RFC 3279 has it) is one over `message` by the private half of a key that `public_key` returned."""
    key = load_der_public_key(public)
    assert isinstance(key, EllipticCurvePublicKey)
    try:
        key.verify(signature, message, ECDSA(SHA256()))
    except InvalidSignature:
        return False
    return True


class SigningKey:
    """A private key that somebody gives the command line for one signature."""

    def __init__(self, material: bytes, password: bytes | None = None) -> None:
        """`material` is PEM, DER or OpenSSH's format. Raises UsageError for others, WrongKey for a missing password."""
        self._key = _private_key(material, password)

    @property
    def public(self) -> str:
        """The public half: base64 of DER SubjectPublicKeyInfo."""
        return base64.b64encode(self._key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).decode()

    def sign(self, message: str) -> str:
        """Return the base64 of a signature."""
        return base64.b64encode(self._key.sign(message.encode(), ECDSA(SHA256()))).decode()


def _private_key(material: bytes, password: bytes | None) -> EllipticCurvePrivateKey:
    for load in (load_pem_private_key, load_ssh_private_key, load_der_private_key):
        try:
            found = load(material, password)
        except TypeError as error:
            raise WrongKey("the private key is protected by a password: give it, or no password for one without") from error
        except (ValueError, UnsupportedAlgorithm):
            continue
        if not isinstance(found, EllipticCurvePrivateKey) or not isinstance(found.curve, SECP256R1):
            raise UsageError("the private key is not an ECDSA key over NIST P-256")
        return found
    raise UsageError("the private key is neither PEM, DER nor OpenSSH's format, or its password is wrong")
