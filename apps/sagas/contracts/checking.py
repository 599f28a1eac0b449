"""Does a payload keep to its schema? Pure, and bounded in what it costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import lru_cache
from typing import Any

import msgspec
from jsonschema import validators
from jsonschema.exceptions import ValidationError

from apps.lib.redaction import is_redacted
from apps.sagas.contracts.reading import MAX_MATCHED, Schema, read_schema

#: Keywords that are evaluated for one payload; references that multiply each other end here.
MOST_STEPS = 50_000
_NAMES_SHOWN = 3

_steps: ContextVar[int] = ContextVar("steps", default=0)
_JSON_NAMES = {dict: "object", list: "array", str: "string", bool: "boolean", int: "integer", float: "number"}


class CannotCheckError(Exception):
    """The payload cannot be judged by this schema: the message says why."""


@lru_cache(maxsize=512)
def compiled(text: str) -> Checker:
    """The checker of a schema's text. Raises SchemaError."""
    return Checker(read_schema(text))


class Checker:
    """A schema, ready to judge payloads."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self._validator = _bounded(schema.validator)(schema.document)

    def problem_of(self, data: str | None) -> str:
        """What breaks the schema in a payload (JSON text; None = no payload): "" when nothing does.

        Names places and rules, never values. Raises CannotCheckError.
        """
        try:
            payload = None if data is None else msgspec.json.decode(data)
        except (msgspec.DecodeError, ValueError, RecursionError):
            payload = data
        before = _steps.set(0)
        try:
            errors = [error for error in self._validator.iter_errors(payload) if not _is_redacted(error)]
        except RecursionError:
            raise CannotCheckError("its schema refers to itself without an end") from None
        finally:
            _steps.reset(before)
        problems = sorted({_describe(error) for error in errors})
        if not problems:
            return ""
        more = len(problems) - _NAMES_SHOWN
        return "; ".join(problems[:_NAMES_SHOWN]) + (f"; and {more} more" if more > 0 else "")


@lru_cache(maxsize=16)
def _bounded(validator: Any) -> Any:
    """The dialect with every keyword counted, and patterns matched against short texts only."""
    keywords = {name: _counted(check) for name, check in validator.VALIDATORS.items()}
    keywords["pattern"] = _counted(_short_only(validator.VALIDATORS["pattern"]))
    return validators.extend(validator, keywords)


_Check = Callable[..., Iterator[ValidationError] | None]


def _counted(check: _Check) -> _Check:
    def counting(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
        steps = _steps.get() + 1
        if steps > MOST_STEPS:
            raise CannotCheckError("its schema asks for too many steps to be checked")
        _steps.set(steps)
        yield from check(validator, value, instance, schema) or ()

    return counting


def _short_only(check: _Check) -> _Check:
    def matching(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
        if isinstance(instance, str) and len(instance) > MAX_MATCHED:
            raise CannotCheckError(f"a text of more than {MAX_MATCHED} characters is not matched against a pattern")
        yield from check(validator, value, instance, schema) or ()

    return matching


def _is_redacted(error: ValidationError) -> bool:
    """What was removed before it was stored cannot break anything."""
    return is_redacted(error.instance)


def _describe(error: ValidationError) -> str:
    where = "$" + "".join("[]" if isinstance(part, int) else f".{part}" for part in error.absolute_path)
    keyword, value, instance = str(error.validator), error.validator_value, error.instance
    if keyword == "type":
        wanted = " or ".join(value) if isinstance(value, list) else str(value)
        return f"{where} must be {wanted} and is {_JSON_NAMES.get(type(instance), 'null')}"
    if keyword == "required" and isinstance(instance, dict) and isinstance(value, list):
        lacking = [name for name in value if isinstance(name, str) and name not in instance]
        return f"{where} lacks {', '.join(lacking[:_NAMES_SHOWN])}"
    if keyword == "additionalProperties" and isinstance(instance, dict):
        known = error.schema.get("properties", {}) if isinstance(error.schema, dict) else {}
        extra = sorted(name for name in instance if name not in known)
        return f"{where} has {', '.join(extra[:_NAMES_SHOWN])}, which the schema does not know"
    if keyword in {"enum", "const"}:
        return f"{where} is not one of the values that are allowed"
    return f"{where} breaks {keyword}"
