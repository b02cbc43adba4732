"""Signatures of receipts: Ed25519, by the package `cryptography` (`pip install 'camu_jax[signing]'`).

A key is a PEM file, made by `openssl genpkey -algorithm ed25519 -out key.pem`.
"""

import base64
from typing import TYPE_CHECKING, Any

from camu_jax.deletion.receipt import Receipt, digest

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


def private_key(pem: bytes) -> "Ed25519PrivateKey":
    """Reads a private key without a password.

    Raises:
      ValueError: it is not the PEM of an Ed25519 private key.
      ImportError: the package `cryptography` is missing.
    """
    serialization, ed25519 = _library()
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as error:  # damaged, or with a password
        raise ValueError(f"the key cannot be read ({str(error)[:80]}); allowed: {_ALLOWED}") from None
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise ValueError(f"the key is a {type(key).__name__}; allowed: {_ALLOWED}")
    return key


_ALLOWED = "the PEM file of an Ed25519 private key without a password"


def sign(receipt: Receipt, key: "Ed25519PrivateKey") -> Receipt:
    """The receipt with a signature of its digest."""
    serialization, _ = _library()
    raw = key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    value = key.sign(bytes.fromhex(digest(receipt)))
    signature = {"public_key": base64.b64encode(raw).decode(), "value": base64.b64encode(value).decode()}
    return {**receipt, "signature": signature}  # type: ignore[typeddict-item]


def signed_by(receipt: Receipt) -> str | None:
    """The public key that signed a receipt, in base64; None where the signature is not that of its contents.

    Raises:
      KeyError: there is no signature.
      ImportError: the package `cryptography` is missing.
    """
    _, ed25519 = _library()
    from cryptography.exceptions import InvalidSignature

    signature = receipt["signature"]
    try:
        key = ed25519.Ed25519PublicKey.from_public_bytes(base64.b64decode(signature["public_key"], validate=True))
        key.verify(base64.b64decode(signature["value"], validate=True), bytes.fromhex(digest(receipt)))
    except (ValueError, InvalidSignature):  # no base64, another length, or of something else
        return None
    return signature["public_key"]


def _library() -> Any:
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError:
        raise ImportError("signatures need the package cryptography: pip install 'camu_jax[signing]'") from None
    return serialization, ed25519
