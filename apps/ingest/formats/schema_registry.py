"""Payloads in the wire format of Confluent-compatible schema registries, and judging them by their JSON Schema. Pure.

Wire format: the byte 0, the schema's ID in 4 bytes (highest first), the payload. Newer serializers write the ID into
the header `__value_schema_id` instead: the byte 0 and 4 bytes, or the byte 1 and the 16 bytes of a GUID.

A payload that breaks its schema, or whose schema nobody knows, is kept and flagged; nothing is dropped for it.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from typing import Any

import jsonschema
import msgspec
from jsonschema.protocols import Validator
from referencing import Registry

SCHEMA_VALID = "schema_valid"
SCHEMA_INVALID = "schema_invalid"
SCHEMA_UNKNOWN = "schema_unknown"
HEADER = "__value_schema_id"

_MAGIC_ID, _MAGIC_GUID = 0, 1
_PREFIX = 5
#: More than this of a schema is not compiled: it is somebody's mistake.
_SCHEMA_BYTES = 1024 * 1024


class Schema(msgspec.Struct, frozen=True):
    """A registered schema. `kind` is `JSON`, `AVRO` or `PROTOBUF`."""

    name: str
    kind: str
    text: str


#: Finds a schema by its ID or GUID; None when the registry does not know it or is away.
Schemas = Callable[[str], Schema | None]


def split(body: bytes, headers: Mapping[str, Any]) -> tuple[str | None, bytes]:
    """The schema's ID (or GUID), and the payload without it; None and the body as it is for other messages."""
    stated = headers.get(HEADER)
    if isinstance(stated, bytes):
        if len(stated) == _PREFIX and stated[0] == _MAGIC_ID:
            return str(int.from_bytes(stated[1:], "big")), body
        if len(stated) == 17 and stated[0] == _MAGIC_GUID:
            return str(uuid.UUID(bytes=stated[1:])), body
    if len(body) > _PREFIX and body[0] == _MAGIC_ID:
        return str(int.from_bytes(body[1:_PREFIX], "big")), body[_PREFIX:]
    return None, body


class Judge:
    """Judges payloads by their schemas, each compiled once."""

    def __init__(self, schemas: Schemas | None) -> None:
        self._schemas = schemas
        self._validators: dict[str, tuple[Schema, Validator | None]] = {}

    def judge(self, schema_id: str, payload: Any) -> tuple[str, str]:
        """One of the three flags for a parsed payload, and the schema's name ("" when it is not known)."""
        known = self._validators.get(schema_id)
        if known is None:
            schema = self._schemas(schema_id) if self._schemas is not None else None
            if schema is None:
                # Asked again next time: the registry may be back.
                return SCHEMA_UNKNOWN, ""
            known = self._validators[schema_id] = (schema, _validator(schema))
        schema, validator = known
        if validator is None:
            return SCHEMA_UNKNOWN, schema.name
        try:
            return (SCHEMA_VALID if validator.is_valid(payload) else SCHEMA_INVALID), schema.name
        except Exception:
            # A reference that leads nowhere, a pattern that is none: the schema's fault, not the payload's.
            return SCHEMA_UNKNOWN, schema.name


def _validator(schema: Schema) -> Validator | None:
    if schema.kind != "JSON" or len(schema.text) > _SCHEMA_BYTES:
        return None
    try:
        parsed = msgspec.json.decode(schema.text.encode())
        kind = jsonschema.validators.validator_for(parsed, default=jsonschema.Draft202012Validator)
        kind.check_schema(parsed)
    except (msgspec.DecodeError, jsonschema.SchemaError, RecursionError):
        return None
    # An empty registry: no reference makes us ask the network.
    return kind(parsed, registry=Registry())
