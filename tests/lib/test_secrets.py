"""Secrets at rest."""

from __future__ import annotations

from typing import Any

import pytest

from apps.lib import secrets
from apps.lib.secrets import UnreadableSecretError


def test_what_is_encrypted_can_be_read_again_and_not_by_looking() -> None:
    token = secrets.encrypt("slack://A/B/C …")
    assert "slack" not in token
    assert secrets.decrypt(token) == "slack://A/B/C …"
    assert secrets.encrypt("slack://A/B/C …") != token


def test_a_changed_token_or_an_unknown_key_is_said(settings: Any) -> None:
    token = secrets.encrypt("x")
    for changed in (token[:-4] + "AAAA", "", "ü", token[1:]):
        with pytest.raises(UnreadableSecretError):
            secrets.decrypt(changed)
    settings.SECRET_KEY = "other"
    with pytest.raises(UnreadableSecretError):
        secrets.decrypt(token)


def test_a_new_key_in_front_encrypts_and_the_old_one_still_reads(settings: Any) -> None:
    settings.ENCRYPTION_KEYS = ["old"]
    token = secrets.encrypt("x")
    settings.ENCRYPTION_KEYS = ["new", "old"]
    assert secrets.decrypt(token) == "x"
    moved = secrets.rotate(token)
    settings.ENCRYPTION_KEYS = ["new"]
    assert secrets.decrypt(moved) == "x"
    with pytest.raises(UnreadableSecretError):
        secrets.rotate(token)


def test_a_changed_secret_key_still_reads_with_its_fallback(settings: Any) -> None:
    token = secrets.encrypt("x")
    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = "fresh", [settings.SECRET_KEY]
    assert secrets.decrypt(token) == "x"
