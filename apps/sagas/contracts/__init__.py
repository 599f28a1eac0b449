"""Contracts of events: JSON Schemas, what breaks them, what changes between them, and what traffic suggests. Pure."""

from __future__ import annotations

from apps.sagas.contracts.checking import CannotCheckError, Checker, compiled
from apps.sagas.contracts.compatibility import PROMISES, Change, Compatibility, compare
from apps.sagas.contracts.inference import infer
from apps.sagas.contracts.reading import MAX_BYTES, Schema, SchemaError, read_schema

__all__ = [
    "MAX_BYTES",
    "PROMISES",
    "CannotCheckError",
    "Change",
    "Checker",
    "Compatibility",
    "Schema",
    "SchemaError",
    "compare",
    "compiled",
    "infer",
    "read_schema",
]
