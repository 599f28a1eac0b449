"""Removes what should never have been sent, before it is stored: the values of sensitive keys. Pure.

A key is sensitive when one of its words is (`accessToken`, `card_number`, `X-Api-Key`), whatever its spelling; words
inside words are not (`discard`, `session`). The whole value goes, whether it is text, a number or an object.

That holds everywhere. What one source's rules add to it is a `Policy`, which holds for whatever is read while it is
`applying`: further keys, patterns of text, and values that are hashed instead of removed.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from itertools import pairwise
from typing import Any

import msgspec
import re2  # type: ignore[import-untyped]

FILTERED = "[Filtered]"
#: What begins a value that was hashed: equal values have equal hashes within a project.
HASHED = "hashed:"
_HASH_CHARACTERS = 24

#: Words of a key that make it sensitive. Neighbouring words are also tried together: `api_key`, `apiKey`, `api-key`.
SENSITIVE_WORDS = frozenset(
    {"password", "passwd", "passphrase", "pwd", "secret", "token", "authorization", "credential", "credentials"}
    | {"apikey", "privatekey", "card", "cardnumber", "creditcard", "cvv", "cvc", "iban", "ssn", "email", "cookie"}
)
#: Finds every text that could hold such a key, and some more, at a fraction of the cost of looking at each key.
_HINT = re.compile(rb"passw|passp|pwd|secret|token|authori|api|private|credential|card|cv[vc]|iban|ssn|email|cookie")
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
#: Letters of other alphabets make words too, in the keys of rules and what they are compared with.
_ANY_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_A-Za-z]+")
#: Excerpts of text that could not be parsed: `"password": "…"` and `password=…`, whatever follows up to the next mark.
_PAIR = re.compile(r'("?)([A-Za-z][A-Za-z0-9_.-]{0,80})\1(\s*[:=]\s*)("(?:[^"\\]|\\.)*"?|[^\s,;&"}\]]+)')
#: So many neighbouring words of a key are tried together with the keys of rules.
_MOST_WORDS = 6
_encode = msgspec.json.Encoder(order="deterministic").encode


def may_hold(text: bytes) -> bool:
    """False when no key in this text can be sensitive: then it need not be looked through."""
    return _HINT.search(text.lower()) is not None


@lru_cache(maxsize=4096)
def is_sensitive(key: str) -> bool:
    """True when the value of this key must not be stored, whoever sent it."""
    words = [word.lower() for word in _WORD.findall(key[:256])]
    if not SENSITIVE_WORDS.isdisjoint(words):
        return True
    return any(first + second in SENSITIVE_WORDS for first, second in pairwise(words))


def is_redacted(value: Any) -> bool:
    """True for what stands in place of a value that was removed or hashed."""
    return isinstance(value, str) and (value == FILTERED or value.startswith(HASHED))


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
    """The same for text of no known shape, such as an excerpt of something that could not be read.

    With what the policy that is applied asks for: its keys, and its patterns anywhere in the text.
    """
    policy = _policy.get()

    def filtered(match: re.Match[str]) -> str:
        quote, key, colon, value = match.groups()
        if not is_sensitive(key) and (policy is None or policy.treatment_of(key) is None):
            return match[0]
        mark = f'"{FILTERED}"' if value.startswith('"') else FILTERED
        return f"{quote}{key}{quote}{colon}{mark}"

    found = _PAIR.sub(filtered, text)
    return found if policy is None else policy.text(found)


def by_policy(value: Any) -> Any:
    """`redact`, by the policy that is applied where there is one."""
    policy = _policy.get()
    return redact(value) if policy is None else policy.redact(value)[0]


def text_by_policy(text: str) -> str:
    """The text without what the patterns of the policy find, where one is applied."""
    policy = _policy.get()
    return text if policy is None else policy.text(text)


# --- what rules add ---------------------------------------------------------------------------------------------------


def normal_key(key: str) -> str:
    """A key without its spelling: `customerName`, `customer_name` and `Customer-Name` are one."""
    return "".join(word.lower() for word in _ANY_WORD.findall(key[:256]))


class Policy:
    """What is removed (False) or hashed (True), beyond the sensitive keys: by key, and by pattern anywhere in text.

    `keys` are spelt as `normal_key` does. A rule also decides on a key that is sensitive anyway. Without a `hash_key`
    nothing is hashed: it is removed. With `seal`, which makes a text of what was taken and of whose it was, the
    originals are handed to it.
    """

    def __init__(
        self,
        keys: Mapping[str, bool] | None = None,
        patterns: Sequence[tuple[str, bool]] = (),
        *,
        hash_key: bytes = b"",
        seal: Callable[[str, Mapping[str, Any]], str] | None = None,
    ) -> None:
        self._keys = dict(keys or {})
        self._patterns = [(compiled(text), is_hashed) for text, is_hashed in patterns]
        self._hash_key = hash_key
        self.seal = seal
        self._treatments: dict[str, bool | None] = {}

    def treatment_of(self, key: str) -> bool | None:
        """Of the value of this key: None = it may stay, False = removed, True = hashed."""
        if key not in self._treatments:
            if len(self._treatments) > 10_000:
                self._treatments.clear()
            self._treatments[key] = self._judged(key)
        return self._treatments[key]

    def named(self, key: str, value: Any) -> Any:
        """What may be stored of the value of this key."""
        return self.redact({key: value})[0][key]

    def redact(self, value: Any) -> tuple[Any, dict[str, Any]]:
        """A copy that may be stored, and what was taken out of it, by the place where it lay: `$.customer.email`."""
        taken: dict[str, Any] = {}
        return self._copy(value, "$", taken), taken

    def text(self, text: str) -> str:
        """The text with everything replaced that a pattern finds."""
        for pattern, is_hashed in self._patterns:
            try:
                text = pattern.sub(lambda match, h=is_hashed: self._mark(match[0], h) if match[0] else "", text)
            except UnicodeEncodeError:
                text = pattern.sub(FILTERED, text.encode(errors="replace").decode())
        return text

    def _judged(self, key: str) -> bool | None:
        words = [word.lower() for word in _ANY_WORD.findall(key[:256])]
        # The whole of it, of however many words; then runs of its words, the longest first.
        whole = self._keys.get("".join(words))
        if whole is not None:
            return whole
        for length in range(min(len(words), _MOST_WORDS), 0, -1):
            for first in range(len(words) - length + 1):
                found = self._keys.get("".join(words[first : first + length]))
                if found is not None:
                    return found
        return False if is_sensitive(key) else None

    def _copy(self, value: Any, place: str, taken: dict[str, Any]) -> Any:
        if type(value) is dict:
            kept = {}
            for key, child in value.items():
                treatment = None if child is None else self.treatment_of(key)
                if treatment is None:
                    kept[key] = self._copy(child, f"{place}.{key}", taken)
                else:
                    taken[f"{place}.{key}"] = child
                    kept[key] = self._mark(child, treatment)
            return kept
        if type(value) is list:
            return [self._copy(child, f"{place}[{index}]", taken) for index, child in enumerate(value)]
        if self._patterns and value is not None and type(value) is not bool:
            text = value if type(value) is str else _encode(value).decode()
            found = self.text(text)
            if found != text:
                taken[place] = value
                return found
        return value

    def _mark(self, value: Any, is_hashed: bool) -> str:
        if not is_hashed or not self._hash_key:
            return FILTERED
        text = value.encode(errors="surrogatepass") if isinstance(value, str) else _encode(value)
        return HASHED + hmac.new(self._hash_key, text, hashlib.sha256).hexdigest()[:_HASH_CHARACTERS]


@lru_cache(maxsize=512)
def compiled(pattern: str) -> Any:
    """A pattern that takes time in proportion to the text, whatever it says (RE2). Raises ValueError."""
    options = re2.Options()
    options.max_mem = 1 << 20
    options.log_errors = False
    try:
        return re2.compile(pattern, options)
    except (re2.error, UnicodeEncodeError) as error:
        told = error.args[0] if error.args else ""
        raise ValueError(told.decode(errors="replace") if isinstance(told, bytes) else str(told)) from None


_policy: ContextVar[Policy | None] = ContextVar("redaction_policy", default=None)


def current() -> Policy | None:
    """The policy that holds here; None = nothing beyond the sensitive keys."""
    return _policy.get()


@contextmanager
def applying(policy: Policy | None) -> Iterator[None]:
    """Whatever is read inside is stored by this policy."""
    before = _policy.set(policy)
    try:
        yield
    finally:
        _policy.reset(before)
