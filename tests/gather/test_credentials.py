"""Keys: which are taken, what they sign, and that nothing of them is ever shown."""

import base64
import copy
import pickle
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from kalshibook.errors import SettingsError
from kalshibook.gather.credentials import Credentials
from kalshibook.gather.options import GatherOptions
from kalshibook.settings import Argument, load_settings

NOW_MS = 1_764_140_000_123
RSA_KEY = rsa.generate_private_key(public_exponent=65_537, key_size=2048)
ED25519_KEY = ed25519.Ed25519PrivateKey.generate()


def pem_of(
    key: PrivateKeyTypes,
    form: serialization.PrivateFormat = serialization.PrivateFormat.PKCS8,
    passphrase: bytes | None = None,
) -> str:
    """Return a private key as PEM text."""
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase:
        encryption = serialization.BestAvailableEncryption(passphrase)
    return key.private_bytes(serialization.Encoding.PEM, form, encryption).decode()


def public_pem() -> str:
    """Return the public half."""
    return (
        RSA_KEY.public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode()
    )


def signature_in(headers: dict[str, str]) -> bytes:
    """Return the signature that headers carry."""
    return base64.b64decode(headers["KALSHI-ACCESS-SIGNATURE"], validate=True)


def verify_rsa(signature: bytes, text: bytes, salt_length: int = 32) -> None:
    """Check as the exchange does."""
    pss = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=salt_length)
    RSA_KEY.public_key().verify(signature, text, pss, hashes.SHA256())


@pytest.mark.parametrize(
    "form", [serialization.PrivateFormat.PKCS8, serialization.PrivateFormat.TraditionalOpenSSL]
)
def test_rsa_signs_time_method_and_path(form: serialization.PrivateFormat) -> None:
    """RSA-PSS with a salt of 32 bytes, over the text that the exchange builds too."""
    key = Credentials("an-id", pem_of(RSA_KEY, form))

    headers = key.headers("get", "/trade-api/v2/markets?limit=1000&cursor=abc", NOW_MS)

    assert ("an-id", str(NOW_MS)) == (headers["KALSHI-ACCESS-KEY"], headers["KALSHI-ACCESS-TIMESTAMP"])
    verify_rsa(signature_in(headers), f"{NOW_MS}GET/trade-api/v2/markets".encode())
    with pytest.raises(InvalidSignature):
        verify_rsa(signature_in(headers), f"{NOW_MS}GET/trade-api/v2/markets?limit=1000".encode())
    with pytest.raises(InvalidSignature):
        verify_rsa(signature_in(headers), f"{NOW_MS}GET/trade-api/v2/markets".encode(), salt_length=20)


def test_ed25519_signs_the_handshake() -> None:
    """The kind of signature follows the kind of key: plain Ed25519 over the same text."""
    headers = Credentials("an-id", pem_of(ED25519_KEY)).headers("GET", "/trade-api/ws/v2", NOW_MS)

    signature = signature_in(headers)
    assert 64 == len(signature)
    ED25519_KEY.public_key().verify(signature, f"{NOW_MS}GET/trade-api/ws/v2".encode())


def test_each_moment_has_a_signature_of_its_own() -> None:
    """A signature of one time, method or path is worth nothing for another."""
    key = Credentials("an-id", pem_of(ED25519_KEY))

    signatures = {
        key.headers(method, path, now)["KALSHI-ACCESS-SIGNATURE"]
        for method in ("GET", "POST")
        for path in ("/a", "/b")
        for now in (1, 2)
    }

    assert 8 == len(signatures)


def test_loads_from_settings(tmp_path: Path) -> None:
    """From a file or from text, by every route; blanks, `$` and `@` in a path stand for themselves."""
    text = pem_of(ED25519_KEY)
    path = tmp_path / "my $HOME key@work .pem"
    path.write_text(text)
    signed = Credentials("an-id", text).headers("GET", "/a", NOW_MS)
    one_line = text.replace("\n", "\\n")
    environ = {"KALSHIBOOK_GATHER_KEY_ID": "an-id"}
    arguments = [Argument.parse(f"gather.private_key_file={path}")]

    loaded = [
        load_settings(environ=environ | {"KALSHIBOOK_GATHER_PRIVATE_KEY": text}).settings.gather,
        load_settings(environ=environ | {"KALSHIBOOK_GATHER_PRIVATE_KEY": one_line}).settings.gather,
        load_settings(environ=environ | {"KALSHIBOOK_GATHER_PRIVATE_KEY_FILE": str(path)}).settings.gather,
        load_settings(environ=environ, arguments=arguments).settings.gather,
    ]

    assert Credentials.load(GatherOptions()) is None
    for options in loaded:
        key = Credentials.load(options)
        assert key is not None
        assert signed == key.headers("GET", "/a", NOW_MS)


SHORT = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0IGJvZHk=\n-----END PRIVATE KEY-----\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (lambda: "hunter2", "is not a private key in PEM form"),
        (lambda: "hunter2 \u20ac", "is not a private key in PEM form"),
        (lambda: SHORT, "is not a private key in PEM form"),
        (lambda: pem_of(RSA_KEY)[:700], "is not a private key in PEM form"),
        (lambda: pem_of(RSA_KEY, passphrase=b"hunter2"), "is encrypted with a passphrase"),
        (
            lambda: pem_of(RSA_KEY, serialization.PrivateFormat.TraditionalOpenSSL, b"hunter2"),
            "is encrypted with a passphrase",
        ),
        (lambda: pem_of(ec.generate_private_key(ec.SECP256R1())), "of type EllipticCurve|of type EC"),
        (public_pem, "it is the public key"),
        (lambda: pem_of(RSA_KEY, serialization.PrivateFormat.OpenSSH), "OpenSSH's own format"),
        (lambda: "-----BEGIN CERTIFICATE-----\nhunter2\n", "it is a certificate"),
    ],
    ids=["text", "not-ascii", "broken", "cut", "encrypted", "encrypted-pkcs1", "ec", "public", "ssh", "cert"],
)
def test_what_is_no_key_is_told_without_repeating_it(text: Callable[[], str], words: str) -> None:
    """The error says what is wrong and what to do; not a word of the text is in it or in its traceback."""
    pem = text()
    with pytest.raises(SettingsError, match=words) as caught:
        Credentials("an-id", pem, "gather.private_key")

    told = "".join(traceback.format_exception(caught.value))
    assert "gather.private_key" in str(caught.value)
    assert "hunter2" not in told
    assert all(line not in told for line in pem.splitlines()[1:-1] if line)


def test_file_that_cannot_be_read(tmp_path: Path) -> None:
    """A missing file, a folder and a binary file each end in one clear sentence."""
    binary = tmp_path / "key.der"
    binary.write_bytes(b"\x30\x82\xff")

    for path, words in (
        (tmp_path / "none.pem", "cannot be read: No such file"),
        (tmp_path, "cannot be read: Is a directory"),
        (binary, "is not PEM text"),
    ):
        options = GatherOptions(key_id="an-id", private_key_file=str(path))
        with pytest.raises(SettingsError, match=words):
            Credentials.load(options)


def test_is_never_shown() -> None:
    """Neither the object nor the settings that hold the text give it away; it cannot be pickled or copied."""
    text = pem_of(ED25519_KEY)
    secret = text.splitlines()[1]
    options = GatherOptions(key_id="an-id", private_key=text)
    key = Credentials.load(options)

    rows = load_settings(
        arguments=[
            Argument("gather.key_id", "an-id", "--set"),
            Argument("gather.private_key", text, "--set"),
        ],
        environ={},
    ).rows()
    for shown in (repr(key), str(key), f"{key}", repr([key]), repr(options), str(options), str(rows)):
        assert secret not in shown
        assert "an-id" not in shown
    assert not hasattr(key, "__dict__")
    for leak in (lambda: pickle.dumps(key), lambda: copy.deepcopy(key)):
        with pytest.raises(TypeError):
            leak()
