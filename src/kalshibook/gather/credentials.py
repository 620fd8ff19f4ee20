"""
A key of the exchange, and the headers that prove it.

Each request that needs an identity, the WebSocket's handshake among them, carries the key's id, the
time and a signature over time, method and path (Kalshi API reference, "API keys", 2026). The kind of
signature follows the kind of key: RSA-PSS with SHA-256 and a salt as long as its digest, or plain
Ed25519. RSA in the older PKCS#1 v1.5 form is refused by the exchange.
"""

import base64
from pathlib import Path
from typing import Final, NoReturn, Self, final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from kalshibook.errors import SettingsError
from kalshibook.gather.options import GatherOptions

__all__ = ["KEY_HEADER", "SIGNATURE_HEADER", "TIMESTAMP_HEADER", "Credentials"]

KEY_HEADER: Final = "KALSHI-ACCESS-KEY"
TIMESTAMP_HEADER: Final = "KALSHI-ACCESS-TIMESTAMP"
SIGNATURE_HEADER: Final = "KALSHI-ACCESS-SIGNATURE"

_PSS: Final = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=hashes.SHA256.digest_size)

# What people paste instead, by the line that it begins with.
_MISTAKES: Final = {
    "-----BEGIN PUBLIC KEY": "it is the public key; the exchange kept that one, this needs the private key",
    "-----BEGIN RSA PUBLIC KEY": "it is the public key; this needs the private key",
    "-----BEGIN CERTIFICATE": "it is a certificate, not a private key",
    "-----BEGIN OPENSSH": (
        "it is in OpenSSH's own format; `ssh-keygen -p -m PEM -f` with the file's name turns it into PEM"
    ),
}


@final
class Credentials:
    """
    One key: its id and its private half, which never leaves this object.

    Args:
        key_id: the id that the exchange gave the key.
        pem: the private key as PEM text.
        origin: where the text came from, for messages.

    Raises:
        SettingsError: the text is no private key that the exchange knows; nothing of it is repeated.
    """

    __slots__ = ("_key", "_key_id")

    def __init__(self, key_id: str, pem: str, origin: str = "the private key") -> None:
        self._key_id = key_id
        self._key = _read(pem, origin)

    @classmethod
    def load(cls, options: GatherOptions) -> Self | None:
        """
        Read the key that the settings name, or return None when they name none.

        Raises:
            SettingsError: the file cannot be read, or holds no such key.
        """
        if not options.key_id:
            return None
        if options.private_key:
            return cls(options.key_id, options.private_key, "gather.private_key")
        path = Path(options.private_key_file)
        origin = f"gather.private_key_file {str(path)!r}"
        try:
            text = path.read_text(encoding="ascii")
        except OSError as error:
            raise SettingsError(f"{origin} cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise SettingsError(f"{origin} is not PEM text; a key in DER form must be converted") from None
        return cls(options.key_id, text, origin)

    @property
    def key_id(self) -> str:
        """The key's id: not a secret, but nothing that belongs into a log either."""
        return self._key_id

    def headers(self, method: str, path: str, now_ms: int) -> dict[str, str]:
        """
        Return the three headers that sign a request.

        Args:
            method: ``GET`` for a handshake too.
            path: from the root of the host, such as ``/trade-api/v2/markets``; a query string may
                follow and is not signed.
            now_ms: Unix ms; the exchange accepts a clock that is off by some ten seconds.
        """
        text = f"{now_ms}{method.upper()}{path.partition('?')[0]}".encode()
        if isinstance(self._key, RSAPrivateKey):
            signature = self._key.sign(text, _PSS, hashes.SHA256())
        else:
            signature = self._key.sign(text)
        return {
            KEY_HEADER: self._key_id,
            TIMESTAMP_HEADER: str(now_ms),
            SIGNATURE_HEADER: base64.b64encode(signature).decode("ascii"),
        }

    def __reduce__(self) -> NoReturn:
        # Pickled, a key would travel into caches and crash reports.
        raise TypeError("credentials cannot be pickled or copied; load them where they are needed")

    def __repr__(self) -> str:
        kind = "RSA" if isinstance(self._key, RSAPrivateKey) else "Ed25519"
        return f"Credentials({kind})"


def _read(pem: str, origin: str) -> RSAPrivateKey | Ed25519PrivateKey:
    # A variable of one line, as env files have, carries its line ends as backslash and n.
    text = pem.replace("\\n", "\n").strip()
    for beginning, advice in _MISTAKES.items():
        if text.startswith(beginning):
            raise SettingsError(f"{origin} is no usable key: {advice}")
    # The library's own errors may quote what they could not read; none is passed on.
    try:
        key = load_pem_private_key(text.encode(), password=None)
    except TypeError:
        raise SettingsError(
            f"{origin} is encrypted with a passphrase; `openssl pkey -in` with the file's name decrypts it"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise SettingsError(
            f"{origin} is not a private key in PEM form; it begins with '-----BEGIN PRIVATE KEY-----' "
            "or '-----BEGIN RSA PRIVATE KEY-----' and is whole"
        ) from None
    if not isinstance(key, RSAPrivateKey | Ed25519PrivateKey):
        kind = type(key).__name__.removesuffix("PrivateKey").strip("_")
        raise SettingsError(f"{origin} is a key of type {kind}; the exchange knows RSA and Ed25519")
    return key
