"""Reads a JSON Schema that somebody wrote, and refuses what could not be judged safely. Pure.

Dialects: JSON Schema drafts 4, 6, 7, 2019-09 and 2020-12 (https://json-schema.org/specification); 2020-12 where none is
named. References stay inside the document; patterns must not be able to take long (see `_refuse_slow_pattern`).
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
from jsonschema import validators
from jsonschema.exceptions import SchemaError as InvalidSchema

with warnings.catch_warnings():
    # Its public successor does not exist: `re` has no other way to look at a pattern.
    warnings.simplefilter("ignore", DeprecationWarning)
    from re import _parser as pattern_parser  # type: ignore[attr-defined]

MAX_BYTES = 256 * 1024
MAX_DEPTH = 32
MAX_NODES = 20_000
MAX_PATTERN = 256
#: Unbounded repeats in one pattern; each may multiply the time that a match takes by the length of the text.
MAX_REPEATS = 3
#: Texts longer than this are not matched against patterns.
MAX_MATCHED = 500

_DRAFTS = {
    "http://json-schema.org/draft-04/schema": validators.Draft4Validator,
    "http://json-schema.org/draft-06/schema": validators.Draft6Validator,
    "http://json-schema.org/draft-07/schema": validators.Draft7Validator,
    "https://json-schema.org/draft/2019-09/schema": validators.Draft201909Validator,
    "https://json-schema.org/draft/2020-12/schema": validators.Draft202012Validator,
}
_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")


class SchemaError(ValueError):
    """The schema cannot be used; the message says what is wrong and where (as a JSON Pointer)."""


@dataclass(frozen=True)
class Schema:
    """A schema that was read: its document and the class that validates its dialect."""

    document: Any
    validator: Any = field(compare=False)

    @property
    def identity(self) -> str | None:
        """Its `$id`, with which events may name it as their `dataschema`."""
        found = self.document.get("$id", self.document.get("id")) if isinstance(self.document, dict) else None
        return found if isinstance(found, str) else None


def read_schema(text: str) -> Schema:
    """Read a schema from JSON. Raises SchemaError."""
    if len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise SchemaError(f"a schema has at most {MAX_BYTES} bytes")
    try:
        document = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise SchemaError(f"is not JSON: {error}") from None
    if not isinstance(document, dict | bool):
        raise SchemaError("a schema is a JSON object, or true or false")
    _refuse_unsafe(document)
    validator = _dialect(document)
    try:
        validator.check_schema(document)
    except InvalidSchema as error:
        where = "".join(f"/{part}" for part in error.absolute_path)
        raise SchemaError(f"{where or '/'} is not what JSON Schema allows there: {error.validator}") from None
    except (re.error, RecursionError) as error:
        raise SchemaError(f"cannot be checked: {error}") from None
    return Schema(document, validator)


def _dialect(document: Any) -> Any:
    named = document.get("$schema") if isinstance(document, dict) else None
    if named is None:
        return validators.Draft202012Validator
    found = _DRAFTS.get(named.rstrip("#") if isinstance(named, str) else "")
    if found is None:
        raise SchemaError(f"/$schema names a dialect that is not known; there are {', '.join(_DRAFTS)}")
    return found


def _refuse_unsafe(document: Any) -> None:
    for nodes, (where, depth, key, value) in enumerate(_walk(document)):
        if depth > MAX_DEPTH:
            raise SchemaError(f"is nested more than {MAX_DEPTH} deep")
        if nodes >= MAX_NODES:
            raise SchemaError(f"has more than {MAX_NODES} values")
        if key in _REFERENCES and isinstance(value, str):
            _refuse_dangling(document, where, value)
        elif key == "pattern" and isinstance(value, str):
            _refuse_slow_pattern(where, value)
        elif key == "patternProperties" and isinstance(value, dict):
            for pattern in value:
                _refuse_slow_pattern(where, pattern)


def _walk(document: Any) -> Iterator[tuple[str, int, str, Any]]:
    """(pointer, depth, key, value) of every value; a list's entries have the key ""."""
    pending: list[tuple[str, int, str, Any]] = [("", 0, "", document)]
    while pending:
        where, depth, key, value = pending.pop()
        yield where or "/", depth, key, value
        if isinstance(value, dict):
            pending += [(f"{where}/{name}", depth + 1, name, each) for name, each in value.items()]
        elif isinstance(value, list):
            pending += [(f"{where}/{index}", depth + 1, "", each) for index, each in enumerate(value)]


def _refuse_dangling(document: Any, where: str, reference: str) -> None:
    if not reference.startswith("#"):
        raise SchemaError(f"{where} refers to another document; only references within it (#/…) are followed")
    if reference in {"#", ""} or not reference.startswith("#/"):
        return
    if target(document, reference) is None:
        raise SchemaError(f"{where} refers to {reference}, which does not exist")


def target(document: Any, reference: str) -> Any:
    """What a reference within the document points to; None when that does not exist."""
    found = document
    for part in reference[1:].split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(found, dict) and name in found:
            found = found[name]
        elif isinstance(found, list) and name.isdigit() and int(name) < len(found):
            found = found[int(name)]
        else:
            return None
    return found


def _refuse_slow_pattern(where: str, pattern: str) -> None:
    """Refuse patterns that Python's backtracking may need exponential time for: a repeat within a repeat.

    `(a+)+$` is the classic; alternatives within a repeat are as bad where two of them can begin alike.
    """
    if len(pattern) > MAX_PATTERN:
        raise SchemaError(f"{where}: a pattern has at most {MAX_PATTERN} characters")
    try:
        parsed = pattern_parser.parse(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise SchemaError(f"{where}: is not a regular expression: {error}") from None
    repeats = _repeats(where, parsed, inside=False)
    if repeats > MAX_REPEATS:
        raise SchemaError(f"{where}: has {repeats} unbounded repeats; {MAX_REPEATS} are the most")


def _repeats(where: str, parsed: Any, *, inside: bool) -> int:
    """The number of unbounded repeats. Raises SchemaError for what is dangerous inside one."""
    count = 0
    for code, argument in parsed:
        name = str(code)
        if name in {"MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"}:
            _, most, inner = argument
            # A large bound is as good as none.
            unbounded = most is pattern_parser.MAXREPEAT or int(most) > 50
            if inside and int(most) > 1:
                raise SchemaError(f"{where}: has a repeat within a repeat, which may take for ever to match")
            count += unbounded + _repeats(where, inner, inside=inside or int(most) > 1)
        elif name == "BRANCH":
            if inside and not _begin_apart(argument[1]):
                raise SchemaError(f"{where}: repeats alternatives that can begin alike, which may take for ever")
            count += sum(_repeats(where, each, inside=inside) for each in argument[1])
        elif name == "SUBPATTERN":
            count += _repeats(where, argument[-1], inside=inside)
        elif name in {"ASSERT", "ASSERT_NOT"}:
            count += _repeats(where, argument[1], inside=inside)
        elif name == "ATOMIC_GROUP":
            count += _repeats(where, argument, inside=inside)
        elif name in {"GROUPREF", "GROUPREF_EXISTS"}:
            raise SchemaError(f"{where}: refers back to a group, which JSON Schema does not ask for")
    return count


def _begin_apart(branches: list) -> bool:
    """Each alternative begins with a character of its own."""
    first = [(str(each[0][0]), each[0][1]) if len(each) else ("", None) for each in branches]
    return all(code == "LITERAL" for code, _ in first) and len({value for _, value in first}) == len(first)
