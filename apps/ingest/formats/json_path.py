"""The part of JSONPath (RFC 9535) that finds one value: names, indexes and wildcards; no filters. Pure.

`$.order.id`, `$['order']["id"]`, `$.items[0].sku`, `$.items[*].sku`, `$[-1]`. Of several matches the first counts.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

#: One step of a path: a name, an index, or None for the wildcard.
_Step = str | int | None
_STEP = re.compile(
    r"\.(?P<name>[^.\[\]'\"*\s]+)|\[(?P<index>-?\d{1,9})\]|\['(?P<single>[^']*)'\]|\[\"(?P<double>[^\"]*)\"\]"
    r"|(?P<wild>\.\*|\[\*\])"
)


@lru_cache(maxsize=1024)
def parse(path: str) -> tuple[_Step, ...]:
    """The steps of a path. Raises ValueError that names the position of what is not understood."""
    if not path.startswith("$"):
        raise ValueError(f"{path[:80]!r} is not a JSONPath: it begins with $, such as $.order.id")
    steps: list[_Step] = []
    position = 1
    while position < len(path):
        match = _STEP.match(path, position)
        if match is None:
            raise ValueError(f"{path[:80]!r} is not a JSONPath that is understood here, at character {position + 1}")
        if match["index"] is not None:
            steps.append(int(match["index"]))
        elif match["wild"] is not None:
            steps.append(None)
        else:
            steps.append(next(text for text in match.group("name", "single", "double") if text is not None))
        position = match.end()
    return tuple(steps)


def find(path: str, document: Any) -> Any:
    """The first value at `path`; None when there is none. Raises ValueError for a path that is none."""
    return _find(parse(path), document)


def find_text(path: str, document: Any) -> str | None:
    """The first value at `path` as text if it is text or a number and not empty; else None."""
    return scalar_text(find(path, document))


def scalar_text(value: Any) -> str | None:
    """Text and numbers as text; None for everything else and for what is empty."""
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return None


def _find(steps: tuple[_Step, ...], value: Any) -> Any:
    for place, step in enumerate(steps):
        if step is None:
            return _first_of(value, steps[place + 1 :])
        if isinstance(step, str):
            value = value.get(step) if isinstance(value, dict) else None
        else:
            value = value[step] if isinstance(value, list) and -len(value) <= step < len(value) else None
        if value is None:
            return None
    return value


def _first_of(value: Any, rest: tuple[_Step, ...]) -> Any:
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for child in children:
        found = _find(rest, child)
        if found is not None:
            return found
    return None
