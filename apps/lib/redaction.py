"""Removes what should never have been sent, before it is stored: the values of sensitive keys. Pure.

A key is sensitive when one of its words is (`accessToken`, `card_number`, `X-Api-Key`), whatever its spelling; words
inside words are not (`discard`, `session`). The whole value goes, whether it is text, a number or an object.
"""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import pairwise
from typing import Any

FILTERED = "[Filtered]"

#: Words of a key that make it sensitive. Neighbouring words are also tried together: `api_key`, `apiKey`, `api-key`.
SENSITIVE_WORDS = frozenset(
    {"password", "passwd", "passphrase", "pwd", "secret", "token", "authorization", "credential", "credentials"}
    | {"apikey", "privatekey", "card", "cardnumber", "creditcard", "cvv", "cvc", "iban", "ssn", "email", "cookie"}
)
#: Finds every text that could hold such a key, and some more, at a fraction of the cost of looking at each key.
_HINT = re.compile(rb"passw|passp|pwd|secret|token|authori|api|private|credential|card|cv[vc]|iban|ssn|email|cookie")
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
#: Excerpts of text that could not be parsed: `"password": "…"` and `password=…`, whatever follows up to the next mark.
_PAIR = re.compile(r'("?)([A-Za-z][A-Za-z0-9_.-]{0,80})\1(\s*[:=]\s*)("(?:[^"\\]|\\.)*"?|[^\s,;&"}\]]+)')


def may_hold(text: bytes) -> bool:
    """False when no key in this text can be sensitive: then it need not be looked through."""
    return _HINT.search(text.lower()) is not None


@lru_cache(maxsize=4096)
def is_sensitive(key: str) -> bool:
    """True when the value of this key must not be stored."""
    words = [word.lower() for word in _WORD.findall(key[:256])]
    if not SENSITIVE_WORDS.isdisjoint(words):
        return True
    return any(first + second in SENSITIVE_WORDS for first, second in pairwise(words))


def redact(value: Any) -> Any:
    """A copy with `[Filtered]` for the value of every sensitive key, at any depth. Null stays null."""
    if type(value) is dict:
        return {
            key: FILTERED if child is not None and is_sensitive(key) else redact(child) for key, child in value.items()
        }
    if type(value) is list:
        return [redact(child) for child in value]
    return value


def redact_text(text: str) -> str:
    """The same for text of no known shape, such as an excerpt of something that could not be read."""

    def filtered(match: re.Match[str]) -> str:
        quote, key, colon, value = match.groups()
        if not is_sensitive(key):
            return match[0]
        mark = f'"{FILTERED}"' if value.startswith('"') else FILTERED
        return f"{quote}{key}{quote}{colon}{mark}"

    return _PAIR.sub(filtered, text)
