"""Keys and signatures as clients of the exchange make them, written down independently of the library."""

import base64
import time

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, padding, rsa


class Signer:
    """One key, and requests signed by it."""

    def __init__(self, key_id: str, kind: str = "rsa") -> None:
        self.key_id = key_id
        self.private: rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey = (
            rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
            if kind == "rsa"
            else ed25519.Ed25519PrivateKey.generate()
        )

    @classmethod
    def read(cls, key_id: str, private_pem: bytes) -> "Signer":
        """Take a key from its file."""
        signer = cls(key_id, "ed25519")
        private = serialization.load_pem_private_key(private_pem, None)
        assert isinstance(private, rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey)
        signer.private = private
        return signer

    @property
    def public_pem(self) -> bytes:
        """What the exchange is given."""
        return self.private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    @property
    def private_pem(self) -> bytes:
        """What a client reads from its file."""
        return self.private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    def headers(self, path: str, *, method: str = "GET", late_ms: int = 0, salt: int = 32) -> dict[str, str]:
        """Return the headers of a signed request."""
        stamp = str(time.time_ns() // 1_000_000 - late_ms)
        text = f"{stamp}{method}{path}".encode()
        if isinstance(self.private, rsa.RSAPrivateKey):
            pss = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=salt)
            signature = self.private.sign(text, pss, hashes.SHA256())
        else:
            signature = self.private.sign(text)
        return {
            "KALSHI-ACCESS-KEY": self.key_id,
            "KALSHI-ACCESS-TIMESTAMP": stamp,
            "KALSHI-ACCESS-SIGNATURE": base64.b64encode(signature).decode(),
        }
