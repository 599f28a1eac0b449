"""Secrets at rest: what receivers, brokers and engines need to be reached is encrypted before it is stored.

Keys come from `ENCRYPTION_KEYS` (any long random texts, newest first), else from `SECRET_KEY` and its fallbacks. The
first key encrypts, every key decrypts: put a new one in front, run `rotate` over what is stored, drop the old one.
Fernet (AES-128-CBC with HMAC-SHA256) keeps each text whole and unforgeable; keys are derived by HKDF-SHA256.
"""

from __future__ import annotations

import base64
import functools
import os

from cryptography.exceptions import InvalidTag
from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings


class UnreadableSecretError(Exception):
    """A stored secret was encrypted with a key that is not known here: bring the key back, or enter it anew."""


def encrypt(text: str) -> str:
    """The text as an ASCII token that only our keys can open."""
    return _fernet(_keys()).encrypt(text.encode()).decode("ascii")


def decrypt(token: str) -> str:
    """The text of a token. Raises UnreadableSecretError."""
    try:
        return _fernet(_keys()).decrypt(token.encode("ascii")).decode()
    except (InvalidToken, UnicodeError):
        raise UnreadableSecretError("the stored secret cannot be read with the present keys") from None


def rotate(token: str) -> str:
    """The same secret under the newest key. Raises UnreadableSecretError."""
    try:
        return _fernet(_keys()).rotate(token.encode("ascii")).decode("ascii")
    except (InvalidToken, UnicodeError):
        raise UnreadableSecretError("the stored secret cannot be read with the present keys") from None


def _keys() -> tuple[str, ...]:
    given = tuple(getattr(settings, "ENCRYPTION_KEYS", ()) or ())
    return (*given, settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS)


@functools.lru_cache(maxsize=8)
def _fernet(keys: tuple[str, ...]) -> MultiFernet:
    return MultiFernet([Fernet(_derived(key)) for key in keys])


def _derived(key: str) -> bytes:
    derive = HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=b"sagascope secrets at rest")
    return base64.urlsafe_b64encode(derive.derive(key.encode()))


def new_key() -> str:
    """A fresh key for `seal` and for hashing, encrypted as it is to be stored."""
    return encrypt(base64.b64encode(os.urandom(32)).decode())


def key_of(token: str) -> bytes:
    """The key that `new_key` made. Raises UnreadableSecretError."""
    return base64.b64decode(decrypt(token))


def seal(key: bytes, text: str, bound_to: str) -> str:
    """The text under a key of its own (AES-256-GCM); only the same key and `bound_to` open it."""
    nonce = os.urandom(12)
    sealed = AESGCM(key).encrypt(nonce, text.encode(errors="surrogatepass"), _bytes(bound_to))
    return base64.b64encode(nonce + sealed).decode("ascii")


def unseal(key: bytes, sealed: str, bound_to: str) -> str:
    """What was sealed. Raises UnreadableSecretError."""
    try:
        raw = base64.b64decode(sealed, validate=True)
        return AESGCM(key).decrypt(raw[:12], raw[12:], _bytes(bound_to)).decode(errors="surrogatepass")
    except (InvalidTag, ValueError):
        raise UnreadableSecretError("what was sealed cannot be opened with the present key") from None


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogatepass")
