"""A schema from payloads that were seen: what all of them have in common. Pure.

A beginning for a person to correct: types as seen, `required` what every object had, no limits that chance may have
set, and other properties allowed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

MAX_DEPTH = 12
#: An object with more names than this is a map: its names are data.
MOST_PROPERTIES = 100


class Shape:
    """What was seen at one place."""

    def __init__(self) -> None:
        self.types: set[str] = set()
        self.objects = 0
        self.properties: dict[str, Shape] = {}
        self.seen: dict[str, int] = {}
        self.items: Shape | None = None

    def see(self, value: Any, depth: int = 0) -> None:
        """Add one value."""
        if isinstance(value, bool):
            self.types.add("boolean")
        elif value is None:
            self.types.add("null")
        elif isinstance(value, int):
            self.types.add("integer")
        elif isinstance(value, float):
            self.types.add("number")
        elif isinstance(value, str):
            self.types.add("string")
        elif isinstance(value, list):
            self.types.add("array")
            if depth < MAX_DEPTH:
                self.items = self.items or Shape()
                for each in value:
                    self.items.see(each, depth + 1)
        else:
            self.types.add("object")
            self.objects += 1
            if depth < MAX_DEPTH:
                self._see_properties(value, depth)

    def _see_properties(self, value: dict[str, Any], depth: int) -> None:
        for name, each in value.items():
            if name not in self.properties and len(self.properties) > MOST_PROPERTIES:
                continue
            self.properties.setdefault(name, Shape()).see(each, depth + 1)
            self.seen[name] = self.seen.get(name, 0) + 1

    def schema(self) -> dict[str, Any]:
        """As JSON Schema, names in alphabetical order."""
        types = self.types - {"integer"} if "number" in self.types else set(self.types)
        found: dict[str, Any] = {}
        if types:
            found["type"] = types.pop() if len(types) == 1 else sorted(types)
        if self.properties and len(self.properties) <= MOST_PROPERTIES:
            found["properties"] = {name: self.properties[name].schema() for name in sorted(self.properties)}
            required = sorted(name for name, count in self.seen.items() if count == self.objects)
            if required:
                found["required"] = required
        if self.items is not None and self.items.types:
            found["items"] = self.items.schema()
        return found


def infer(payloads: Iterable[Any]) -> dict[str, Any]:
    """The schema (2020-12) of these payloads, decoded JSON; of none it is one that accepts anything."""
    shape = Shape()
    for payload in payloads:
        shape.see(payload)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **shape.schema()}
