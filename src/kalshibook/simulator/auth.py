"""
Who may talk to the simulated exchange: signatures as Kalshi checks them.

The signed text is the timestamp, the method and the path without its query (Kalshi API reference,
"API keys"). RSA keys sign with PSS over SHA-256 and a salt of 32 bytes, Ed25519 keys plainly.
"""

import base64
import binascii
from typing import Final, TypeAlias, final

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

__all__ = ["KEY_HEADER", "SIGNATURE_HEADER", "TIMESTAMP_HEADER", "Denied", "KeyRing"]

KEY_HEADER: Final = "kalshi-access-key"
TIMESTAMP_HEADER: Final = "kalshi-access-timestamp"
SIGNATURE_HEADER: Final = "kalshi-access-signature"

_PublicKey: TypeAlias = RSAPublicKey | Ed25519PublicKey
_LONGEST_TIMESTAMP: Final = 15


class Denied(Exception):  # noqa: N818 - an answer, not a failure
    """
    A request is refused with 401.

    Attributes:
        code: of the error's body.
        details: more about it, perhaps empty.
    """

    def __init__(self, code: str, details: str = "") -> None:
        super().__init__(f"{code}: {details}" if details else code)
        self.code = code
        self.details = details

    def body(self) -> bytes:
        """Return the error as JSON."""
        body = {"code": self.code, "message": self.code.replace("_", " ")}
        return msgspec.json.encode(body | {"details": self.details} if self.details else body)


@final
class KeyRing:
    """The public keys that the exchange knows, and whose they are."""

    def __init__(self, tolerance_ms: int) -> None:
        self._tolerance_ms = tolerance_ms
        self._keys: dict[str, tuple[_PublicKey, str]] = {}

    def register(self, key_id: str, public_key_pem: str | bytes, *, user: str = "") -> None:
        """
        Make a key known.

        Args:
            key_id: its name.
            public_key_pem: an RSA or Ed25519 key.
            user: whose it is; keys of one user share limits. A user of its own unless given.

        Raises:
            ValueError: it is no such key.
        """
        pem = public_key_pem.encode() if isinstance(public_key_pem, str) else public_key_pem
        try:
            key = load_pem_public_key(pem)
        except UnsupportedAlgorithm as error:
            raise ValueError(f"key {key_id!r} cannot be read: {error}") from None
        if not isinstance(key, RSAPublicKey | Ed25519PublicKey):
            raise ValueError(f"key {key_id!r} is neither RSA nor Ed25519")  # noqa: TRY004 - a wrong value
        self._keys[key_id] = (key, user or key_id)

    def user_of(
        self, key_id: str | None, timestamp: str | None, signature: str | None, text: str, now_ms: int
    ) -> str:
        """
        Return whose request it is.

        Args:
            key_id: from the request's headers, as the next two.
            timestamp: Unix milliseconds.
            signature: base64.
            text: method and path, such as ``GET/trade-api/ws/v2``.
            now_ms: the exchange's clock.

        Raises:
            Denied: the request is not signed by a known key just now.
        """
        if not key_id or not timestamp or not signature:
            raise Denied("authentication_error", "MISSING_HEADERS")
        if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= _LONGEST_TIMESTAMP):
            raise Denied("authentication_error", "INVALID_TIMESTAMP")
        if abs(int(timestamp) - now_ms) > self._tolerance_ms:
            raise Denied("header_timestamp_expired")
        held = self._keys.get(key_id)
        if held is None:
            raise Denied("authentication_error", "NOT_FOUND")
        key, user = held
        if not _is_signed(key, signature, f"{timestamp}{text}".encode()):
            raise Denied("authentication_error", "INCORRECT_API_KEY_SIGNATURE")
        return user


def _is_signed(key: _PublicKey, signature: str, text: bytes) -> bool:
    try:
        raw = base64.b64decode(signature, validate=True)
        if isinstance(key, Ed25519PublicKey):
            key.verify(raw, text)
        else:
            pss = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=hashes.SHA256.digest_size)
            key.verify(raw, text, pss, hashes.SHA256())
    except (binascii.Error, ValueError, InvalidSignature):
        return False
    return True
