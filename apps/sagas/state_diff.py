"""What changed from one payload to the next: the leaves that came, went or differ. Pure.

Numbers are compared as they are written, so that 1.10 and 1.1 differ as their senders made them differ.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

#: So many changes are told; more are counted.
MOST = 60
_DEEPEST = 60


class _Number(str):
    """A number as it was written."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Change:
    """One leaf. `before` is None where it came, `after` where it went; both are JSON text."""

    path: str
    before: str | None
    after: str | None

    @property
    def kind(self) -> str:
        """came, went or changed."""
        return "came" if self.before is None else "went" if self.after is None else "changed"


@dataclass(frozen=True, slots=True)
class Changes:
    """The changes in the order of their paths, and how many more there are."""

    told: tuple[Change, ...] = ()
    more: int = 0


def diff(before: str | None, after: str | None) -> Changes | None:
    """What changed; None where either is no JSON that could be compared."""
    try:
        old, new = _read(before), _read(after)
    except (ValueError, RecursionError):
        return None
    found = list(_changes("", old, new, 0))
    return Changes(tuple(found[:MOST]), max(0, len(found) - MOST))


_NOTHING = object()


def _read(text: str | None) -> Any:
    if text is None or not text.strip():
        return _NOTHING
    return json.loads(text, parse_float=_Number, parse_int=_Number, parse_constant=_Number)


def _changes(path: str, old: Any, new: Any, depth: int) -> Iterator[Change]:
    if type(old) is type(new) and depth < _DEEPEST:
        if isinstance(old, dict):
            for key in [*old, *(key for key in new if key not in old)]:
                yield from _changes(_join(path, key), old.get(key, _NOTHING), new.get(key, _NOTHING), depth + 1)
            return
        if isinstance(old, list):
            for index in range(max(len(old), len(new))):
                left = old[index] if index < len(old) else _NOTHING
                right = new[index] if index < len(new) else _NOTHING
                yield from _changes(f"{path}[{index}]", left, right, depth + 1)
            return
    if old is _NOTHING and isinstance(new, dict) and new and depth < _DEEPEST:
        for key, value in new.items():
            yield from _changes(_join(path, key), _NOTHING, value, depth + 1)
    elif new is _NOTHING and isinstance(old, dict) and old and depth < _DEEPEST:
        for key, value in old.items():
            yield from _changes(_join(path, key), value, _NOTHING, depth + 1)
    elif type(old) is not type(new) or old != new:
        yield Change(path or "payload", _spelt(old), _spelt(new))


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _spelt(value: Any) -> str | None:
    if value is _NOTHING:
        return None
    if isinstance(value, _Number):
        return str(value)
    if isinstance(value, dict | list):
        return "{…}" if isinstance(value, dict) else f"[{len(value)}]" if value else "[]"
    return json.dumps(value, ensure_ascii=False)
