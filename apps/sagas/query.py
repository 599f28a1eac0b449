"""The one query language of page, API, export and alert rules: text to `Query` and back. Pure.

    flow:order* status:failed,timed_out attempts>3 age>15m attr.customer="A 42" -is:stuck 7f3a

Terms stand side by side and must all hold; values joined by a comma are alternatives; `-` or `NOT` before a term
negates it. A term without a key finds what begins a correlation ID or equals a flow, a step or a searchable fact.
`*` stands for anything where a text is expected; quotes take everything literally (a backslash before a quote or a
backslash inside them). Keys: `query_keys.KEYS`.
What a query means to the database is in `conditions`; docs/query-language.md explains it to people.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from apps.lib import micros
from apps.lib.micros import Micros
from apps.sagas.query_keys import KEYS, Key, ValueKind

MAX_LENGTH = 2000
MAX_TERMS = 50
MAX_ALTERNATIVES = 100
_MAX_NUMBER = 2**63 - 1

_OPERATOR = re.compile(r"(?P<name>[A-Za-z_]{1,32})(?P<operator>:|!=|<=|>=|=|<|>)")
_ATTRIBUTE = re.compile(
    r"attr\.(?P<quoted>\"(?:[^\"\\]|\\.)*\")?(?P<bare>[^\s:=!<>\",]*)(?P<operator>:|!=|<=|>=|=|<|>)"
)
_SPACE = re.compile(r"\s+")
_WORD = re.compile(r"\S+")
_BARE = re.compile(r"[^\s,\"]+")
_BARE_TEXT = re.compile(r"[^\s\"]+")
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
_UNWANTED = re.compile(r"[\x00-\x08\x0e-\x1f\x7f\ud800-\udfff]")


class QueryError(ValueError):
    """The query cannot be understood: `position` is the 0-based character, `message` says why and what to write."""

    def __init__(self, position: int, message: str) -> None:
        super().__init__(message)
        self.position = position
        self.message = message


@dataclass(frozen=True, slots=True)
class Pattern:
    """A text to compare with: its literal pieces, between which anything may stand. One piece = exactly that."""

    pieces: tuple[str, ...]

    @property
    def is_exact(self) -> bool:
        """True without a wildcard."""
        return len(self.pieces) == 1

    @property
    def text(self) -> str:
        """The text itself, `*` for each wildcard."""
        return "*".join(self.pieces)


Value = Pattern | int


@dataclass(frozen=True, slots=True)
class Term:
    """One condition. `key` is a name in KEYS, or "text"; `name` is that of an attribute, else "".

    `operator` is one of = != < <= > >=, with one value each, except that = takes alternatives. Durations and instants
    are Micros. `!=` is read as a negated `=`.
    """

    key: str
    operator: str
    values: tuple[Value, ...]
    is_negated: bool = False
    name: str = ""


@dataclass(frozen=True, slots=True)
class Query:
    """Terms that must all hold; none = everything."""

    terms: tuple[Term, ...] = ()


def parse(text: str) -> Query:
    """Read a query. Raises QueryError."""
    if len(text) > MAX_LENGTH:
        raise QueryError(MAX_LENGTH, f"the query is longer than {MAX_LENGTH} characters")
    if unwanted := _UNWANTED.search(text):
        raise QueryError(unwanted.start(), "control characters cannot be part of a query")
    return Query(tuple(_Reader(text).terms()))


def to_text(query: Query) -> str:
    """The canonical spelling: `parse` reads it back as the same query."""
    return " ".join(_term_text(term) for term in query.terms)


def suggestions(word: str, words: Iterable[str]) -> str:
    """` Did you mean …?` for a misspelt word, else the list of what there is."""
    known = list(words)
    close = difflib.get_close_matches(word.lower(), known, n=3, cutoff=0.6)
    if close:
        return f" Did you mean {' or '.join(close)}?"
    return f" There are: {', '.join(known)}."


class _Reader:
    """Walks through the text once, from left to right."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def terms(self) -> list[Term]:
        terms: list[Term] = []
        while self._skip_space():
            start = self.at
            self._refuse_or(terms)
            is_negated = self._take_negation()
            term = self._term(is_negated)
            if len(terms) == MAX_TERMS:
                raise QueryError(start, f"a query has at most {MAX_TERMS} terms")
            terms.append(term)
        return terms

    def _skip_space(self) -> bool:
        """Go to the next term; False at the end."""
        if space := _SPACE.match(self.text, self.at):
            self.at = space.end()
        return self.at < len(self.text)

    def _refuse_or(self, before: list[Term]) -> None:
        """`a:1 OR b:2` would quietly mean something else, so it is refused beside keys; in free text it is a word."""
        word = _WORD.match(self.text, self.at)
        if word is None or word[0] != "OR" or not before:
            return
        after = _SPACE.match(self.text, word.end())
        is_beside_key = before[-1].key != "text" or (after and self._key_at(after.end()) is not None)
        if is_beside_key:
            raise QueryError(
                self.at, 'alternatives are joined by a comma: status:failed,timed_out; "OR" in quotes is text'
            )

    def _key_at(self, at: int) -> re.Match[str] | None:
        return _OPERATOR.match(self.text, at) or _ATTRIBUTE.match(self.text, at)

    def _take_negation(self) -> bool:
        word = _WORD.match(self.text, self.at)
        if word is not None and word[0] == "NOT":
            position = self.at
            self.at = word.end()
            if not self._skip_space():
                raise QueryError(position, 'NOT stands before a term, as in NOT is:stuck; "NOT" in quotes is text')
            return True
        if word is not None and word[0][0] == "-" and len(word[0]) > 1:
            self.at += 1
            return True
        return False

    def _term(self, is_negated: bool) -> Term:
        start = self.at
        if attribute := _ATTRIBUTE.match(self.text, start):
            name = _unquote(attribute["quoted"]) if attribute["quoted"] else attribute["bare"]
            if not name or (attribute["quoted"] and attribute["bare"]):
                raise QueryError(start, "name the fact after the dot: attr.customer=42")
            self.at = attribute.end()
            return self._keyed(KEYS["attr"], attribute["operator"], start, is_negated, name)
        if keyed := _OPERATOR.match(self.text, start):
            key = KEYS.get(keyed["name"].lower())
            if key is None:
                raise QueryError(start, self._unknown_key(keyed["name"]))
            if key.name == "attr":
                raise QueryError(start, "name the fact after a dot: attr.customer=42")
            self.at = keyed.end()
            return self._keyed(key, keyed["operator"], start, is_negated)
        return Term("text", "=", (Pattern((self._free_text(),)),), is_negated)

    def _unknown_key(self, name: str) -> str:
        hint = suggestions(name, KEYS)
        return f"{name!r} is not a key.{hint} Put text that contains such a character in quotes."

    def _keyed(self, key: Key, operator: str, start: int, is_negated: bool, name: str = "") -> Term:
        if operator == "!=":
            is_negated = not is_negated
        operator = "=" if operator in {":", "!="} else operator
        if operator != "=" and key.kind in {ValueKind.TEXT, ValueKind.WORD}:
            raise QueryError(start, f"{key.name} is compared with : or !=, as in {key.example}")
        if operator == "=" and key.kind in {ValueKind.DURATION, ValueKind.INSTANT}:
            raise QueryError(start, f"{key.name} is compared with <, <=, > or >=, as in {key.example}")
        values = []
        while True:
            position = self.at
            pattern = self._pattern()
            if pattern is None:
                raise QueryError(position, f"a value is missing, as in {key.example}")
            values.append(_value(key, pattern, position))
            if not self.text.startswith(",", self.at):
                break
            if operator != "=":
                raise QueryError(self.at, f"only one value can be compared with {operator}")
            if len(values) == MAX_ALTERNATIVES:
                raise QueryError(self.at, f"at most {MAX_ALTERNATIVES} alternatives")
            self.at += 1
        return Term(key.name, operator, tuple(values), is_negated, name)

    def _pattern(self) -> Pattern | None:
        """Quoted and bare stretches up to a space or comma; only a bare `*` is a wildcard."""
        pieces = [""]
        start = self.at
        while self.at < len(self.text):
            if self.text[self.at] == '"':
                pieces[-1] += self._quoted()
            elif bare := _BARE.match(self.text, self.at):
                first, *others = re.split(r"\*+", bare[0])
                pieces[-1] += first
                pieces += others
                self.at = bare.end()
            else:
                break
        return Pattern(tuple(pieces)) if self.at > start else None

    def _free_text(self) -> str:
        text = ""
        while self.at < len(self.text):
            if self.text[self.at] == '"':
                text += self._quoted()
            elif bare := _BARE_TEXT.match(self.text, self.at):
                text += bare[0]
                self.at = bare.end()
            else:
                break
        return text

    def _quoted(self) -> str:
        start = self.at
        end = start + 1
        while end < len(self.text) and self.text[end] != '"':
            end += 2 if self.text[end] == "\\" else 1
        if end >= len(self.text):
            raise QueryError(start, "this quote is not closed")
        self.at = end + 1
        return _unquote(self.text[start : self.at])


def _unquote(quoted: str) -> str:
    return re.sub(r"\\(.)", r"\1", quoted[1:-1], flags=re.DOTALL)


def _value(key: Key, pattern: Pattern, position: int) -> Value:
    if key.kind is ValueKind.TEXT:
        return pattern
    text = pattern.text
    if key.kind is ValueKind.WORD:
        word = text.lower()
        if word not in key.words:
            raise QueryError(position, f"{text[:40]!r} is not a value of {key.name}.{suggestions(text, key.words)}")
        return Pattern((word,))
    if key.kind is ValueKind.NUMBER:
        if not re.fullmatch(r"[0-9]{1,19}", text) or int(text) > _MAX_NUMBER:
            raise QueryError(position, f"{key.name} is compared with a whole number, as in {key.example}")
        return int(text)
    try:
        return micros.parse_duration(text) if key.kind is ValueKind.DURATION else _instant(text)
    except ValueError as error:
        raise QueryError(position, str(error)) from None


def _instant(text: str) -> Micros:
    """A day (UTC) or an RFC 3339 time; without a zone it is UTC. Raises ValueError."""
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return micros.from_datetime(moment)
    except (ValueError, OverflowError):
        raise ValueError(f"{text[:40]!r} is not a time: write 2026-11-19 or 2026-11-19T14:30:00Z") from None


def _term_text(term: Term) -> str:
    sign = "-" if term.is_negated else ""
    if term.key == "text":
        (pattern,) = term.values
        assert isinstance(pattern, Pattern)
        return sign + _free_text_text(pattern.text)
    key = KEYS[term.key]
    name = f"attr.{_name_text(term.name)}" if term.key == "attr" else term.key
    operator = ":" if term.operator == "=" and term.key != "attr" else term.operator
    return f"{sign}{name}{operator}" + ",".join(_value_text(key, value) for value in term.values)


def _value_text(key: Key, value: Value) -> str:
    if isinstance(value, Pattern):
        spelt = "*".join(_piece_text(piece) for piece in value.pieces)
        return spelt or '""'
    if key.kind is ValueKind.DURATION:
        return micros.format_duration(value)
    if key.kind is ValueKind.INSTANT:
        return micros.isoformat(value)
    return str(value)


def _piece_text(piece: str) -> str:
    return _quote(piece) if re.search(r"[\s,\"*\\]", piece) else piece


def _name_text(name: str) -> str:
    return _quote(name) if re.search(r"[\s:=!<>\",\\]", name) else name


def _free_text_text(text: str) -> str:
    is_plain = bool(text) and not re.search(r"[\s\"]", text) and text not in {"NOT", "OR"} and text[0] != "-"
    if is_plain and not _OPERATOR.match(text) and not _ATTRIBUTE.match(text):
        return text
    return _quote(text)


def _quote(text: str) -> str:
    return '"' + re.sub(r"([\"\\])", r"\\\1", text) + '"'
