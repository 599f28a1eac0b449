"""What changes between two versions of a schema, and for whom. Pure.

*Backward*: who reads with the new version understands what was written by the old one. *Forward*: who still reads with
the old version understands what is written by the new one. *Full*: both. Compared by structure; where two schemas
differ in a way that only a proof could settle (`anyOf`, `pattern` …) both are taken to break, and the change says so.
A property that is new and optional counts as compatible, as everywhere in practice, though an old payload might hold
anything under that name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from apps.sagas.contracts.reading import Schema, target

_MAX_DEPTH = 64
_ALL_TYPES = frozenset({"null", "boolean", "object", "array", "number", "string", "integer"})
#: Limits by what raising them does: a higher minimum accepts less, a higher maximum accepts more.
_LOWER = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties", "minContains")
_UPPER = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties", "maxContains")
#: What restricts, and cannot be compared unless it is equal.
_OPAQUE = (
    *("pattern", "format", "multipleOf", "uniqueItems", "propertyNames", "patternProperties", "contains", "anyOf"),
    *("oneOf", "allOf", "not", "if", "then", "else", "dependentRequired", "dependentSchemas", "dependencies"),
    *("unevaluatedProperties", "unevaluatedItems", "additionalItems", "prefixItems"),
)

_JSON = Any


@dataclass(frozen=True, slots=True)
class Change:
    """One difference: where (`$.customer.id`), what in words, and which compatibility it breaks."""

    path: str
    what: str
    breaks_backward: bool = False
    breaks_forward: bool = False


@dataclass(frozen=True, slots=True)
class Compatibility:
    """All differences between two versions."""

    changes: tuple[Change, ...]

    @property
    def is_backward(self) -> bool:
        """The new version reads what the old one wrote."""
        return not any(change.breaks_backward for change in self.changes)

    @property
    def is_forward(self) -> bool:
        """The old version reads what the new one writes."""
        return not any(change.breaks_forward for change in self.changes)

    @property
    def is_full(self) -> bool:
        """Both."""
        return self.is_backward and self.is_forward

    def keeps(self, promise: str) -> bool:
        """True when `backward`, `forward` or `full` holds; `none` always does. Raises KeyError."""
        return {
            "none": True,
            "backward": self.is_backward,
            "forward": self.is_forward,
            "full": self.is_full,
        }[promise]


PROMISES = ("none", "backward", "forward", "full")


def compare(old: Schema, new: Schema) -> Compatibility:
    """The differences from `old` to `new`, by path."""
    comparison = _Comparison(old.document, new.document)
    comparison.schemas(old.document, new.document, "$", 0)
    return Compatibility(tuple(dict.fromkeys(sorted(comparison.changes, key=lambda one: (one.path, one.what)))))


class _Comparison:
    def __init__(self, old_root: _JSON, new_root: _JSON) -> None:
        self.old_root = old_root
        self.new_root = new_root
        self.changes: list[Change] = []
        self._compared: set[tuple[int, int]] = set()

    def note(self, path: str, what: str, *, backward: bool = False, forward: bool = False) -> None:
        self.changes.append(Change(path, what, backward, forward))

    def schemas(self, old: _JSON, new: _JSON, path: str, depth: int) -> None:
        old, new = _resolved(old, self.old_root), _resolved(new, self.new_root)
        if old == new and not _refers(old):
            return
        if (id(old), id(new)) in self._compared:
            return
        self._compared.add((id(old), id(new)))
        if depth > _MAX_DEPTH:
            self.note(path, "is nested too deep to be compared", backward=True, forward=True)
            return
        if isinstance(old, bool) or isinstance(new, bool):
            self._booleans(old, new, path)
            return
        self._types(old, new, path)
        self._values(old, new, path)
        self._limits(old, new, path)
        self._properties(old, new, path, depth)
        self._items(old, new, path, depth)
        self._opaque(old, new, path)

    def _booleans(self, old: _JSON, new: _JSON, path: str) -> None:
        if old is True or old == {}:
            self.note(path, "accepted anything, and no longer does", backward=True)
        elif new is True or new == {}:
            self.note(path, "now accepts anything", forward=True)
        else:
            self.note(path, "accepts other things altogether", backward=True, forward=True)

    def _types(self, old: dict, new: dict, path: str) -> None:
        before, after = _types_of(old), _types_of(new)
        gone, came = before - after, after - before
        if gone:
            self.note(path, f"may no longer be {_words(gone)}", backward=True)
        if came:
            self.note(path, f"may now also be {_words(came)}", forward=True)

    def _values(self, old: dict, new: dict, path: str) -> None:
        before, after = _enumerated(old), _enumerated(new)
        if before == after:
            return
        if before is None:
            self.note(path, "is now limited to certain values", backward=True)
        elif after is None:
            self.note(path, "is no longer limited to certain values", forward=True)
        else:
            if before - after:
                self.note(path, f"no longer allows {_words(before - after)}", backward=True)
            if after - before:
                self.note(path, f"now also allows {_words(after - before)}", forward=True)

    def _limits(self, old: dict, new: dict, path: str) -> None:
        for names, tightens_upwards in ((_LOWER, True), (_UPPER, False)):
            for name in names:
                before, after = old.get(name), new.get(name)
                if before == after:
                    continue
                if before is None or after is None:
                    tighter = before is None
                elif isinstance(before, bool) or isinstance(after, bool):
                    tighter = bool(after)
                else:
                    tighter = (after > before) is tightens_upwards
                what = f"{name} was {_shown(before)} and is {_shown(after)}"
                self.note(path, what, backward=tighter, forward=not tighter)

    def _properties(self, old: dict, new: dict, path: str, depth: int) -> None:
        before, after = _mapping(old, "properties"), _mapping(new, "properties")
        must_before, must_now = _required(old), _required(new)
        was_closed, is_closed = old.get("additionalProperties") is False, new.get("additionalProperties") is False
        for name in sorted({*before, *after, *must_before, *must_now}):
            here = f"{path}.{name}"
            if name in before and name in after:
                self.schemas(before[name], after[name], here, depth + 1)
            elif name in after:
                self.note(here, "is new", forward=was_closed)
            elif name in before:
                self.note(here, "is gone", backward=is_closed)
            if name in must_now and name not in must_before:
                self.note(here, "is now required", backward=True)
            elif name in must_before and name not in must_now:
                self.note(here, "is no longer required", forward=True)
        self._others(old, new, path, depth)

    def _others(self, old: dict, new: dict, path: str, depth: int) -> None:
        before, after = old.get("additionalProperties", True), new.get("additionalProperties", True)
        if before == after:
            return
        if isinstance(before, dict) and isinstance(after, dict):
            self.schemas(before, after, f"{path}.*", depth + 1)
        elif before is True or after is False:
            self.note(path, "no longer takes just any other property", backward=True)
        else:
            self.note(path, "now takes other properties as well", forward=True)

    def _items(self, old: dict, new: dict, path: str, depth: int) -> None:
        before, after = old.get("items", True), new.get("items", True)
        if before == after and not _refers(before):
            return
        if isinstance(before, list) or isinstance(after, list):
            self.note(f"{path}[]", "items by position differ", backward=True, forward=True)
        else:
            self.schemas(before, after, f"{path}[]", depth + 1)

    def _opaque(self, old: dict, new: dict, path: str) -> None:
        for name in _OPAQUE:
            before, after = old.get(name), new.get(name)
            if before == after and not _refers(before):
                continue
            if before is None:
                self.note(path, f"{name} is new", backward=True)
            elif after is None:
                self.note(path, f"{name} is gone", forward=True)
            else:
                self.note(path, f"{name} differs; who it breaks cannot be told", backward=True, forward=True)


def _resolved(schema: _JSON, root: _JSON) -> _JSON:
    """What a reference means; a schema that has more beside its reference stays as it is."""
    for _ in range(_MAX_DEPTH):
        if not (isinstance(schema, dict) and set(schema) - {"description", "title"} == {"$ref"}):
            return schema
        reference = schema["$ref"]
        schema = root if reference == "#" else target(root, reference)
    return True


def _refers(schema: _JSON) -> bool:
    """True when equal texts may mean different things, because they refer to something else."""
    pending = [schema]
    while pending:
        one = pending.pop()
        if isinstance(one, dict):
            if "$ref" in one:
                return True
            pending += one.values()
        elif isinstance(one, list):
            pending += one
    return False


def _types_of(schema: dict) -> frozenset[str]:
    named = schema.get("type")
    types = frozenset([named]) if isinstance(named, str) else frozenset(named or _ALL_TYPES)
    return types | {"integer"} if "number" in types else types


def _enumerated(schema: dict) -> frozenset[str] | None:
    if "const" in schema:
        return frozenset([_shown(schema["const"])])
    return frozenset(_shown(value) for value in schema["enum"]) if isinstance(schema.get("enum"), list) else None


def _mapping(schema: dict, key: str) -> dict:
    found = schema.get(key)
    return found if isinstance(found, dict) else {}


def _required(schema: dict) -> set[str]:
    found = schema.get("required")
    return {name for name in found if isinstance(name, str)} if isinstance(found, list) else set()


def _shown(value: _JSON) -> str:
    return "not limited" if value is None else repr(value) if isinstance(value, str) else str(value)


def _words(values: frozenset[str]) -> str:
    names = sorted(values)
    return " or ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
