"""What can be set of a condition beside its query: thresholds and windows, as a form asks for them and JSON keeps them.

A condition lists its `Parameter`s in an attribute `parameters`; one without it has none. A rule stores only what
differs from the default.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from apps.lib import micros
from apps.lib.micros import SECOND, Micros

Kind = Literal["duration", "percent", "number", "count", "choice"]


@dataclass(frozen=True, slots=True)
class Parameter:
    """One setting. Stored as seconds (duration), a share of 1 (percent), a number, a whole number, or a word."""

    name: str
    label: str
    kind: Kind
    #: As it is stored; None = there is none unless somebody sets it.
    default: float | str | None = None
    help: str = ""
    least: float = 0
    most: float = 1e12
    choices: tuple[tuple[str, str], ...] = ()

    def read(self, text: str) -> float | str | None:
        """What somebody typed, as it is stored; None for nothing. Raises ValueError that says what is allowed."""
        text = text.strip()
        if not text:
            return None
        if self.kind == "choice":
            return self.check(text)
        if self.kind == "duration":
            return self.check(micros.parse_duration(text) / SECOND)
        try:
            number = float(text.removesuffix("%").strip().replace(",", "."))
        except ValueError:
            raise ValueError(f"{text[:20]!r} is not a number") from None
        return self.check(number / 100 if self.kind == "percent" else number)

    def check(self, value: object) -> float | str:
        """A stored value, or ValueError that says what is allowed."""
        if self.kind == "choice":
            if value in (known := [code for code, _ in self.choices]):
                return str(value)
            raise ValueError(f"one of: {', '.join(known)}")
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError("a number is wanted")
        if not self.least <= value <= self.most:
            raise ValueError(f"between {self.shown(self.least)} and {self.shown(self.most)}")
        if self.kind == "count":
            if value != int(value):
                raise ValueError("a whole number is wanted")
            return int(value)
        return value

    def shown(self, value: float | str | None) -> str:
        """A stored value as people write it; "" for None."""
        if value is None:
            return ""
        if isinstance(value, str):
            return value
        if self.kind == "duration":
            return micros.format_duration(int(value * SECOND))
        if self.kind == "percent":
            return f"{value * 100:.6g}%"
        return f"{value:.6g}" if value != int(value) else f"{int(value)}"


#: For conditions that count sagas: fewer than so many of one cause open nothing.
AT_LEAST = Parameter("at_least", "At least", "count", 1, "of one cause; fewer open nothing", least=1, most=1e9)


def parameters_of(condition: object) -> tuple[Parameter, ...]:
    """What can be set of a condition."""
    found: tuple[Parameter, ...] = getattr(condition, "parameters", ())
    return found


def value_of(given: Mapping[str, Any] | None, parameter: Parameter) -> Any:
    """A rule's value of a parameter, else its default."""
    value = (given or {}).get(parameter.name)
    if value is None:
        return parameter.default
    try:
        return parameter.check(value)
    except ValueError:
        return parameter.default


def span_of(given: Mapping[str, Any] | None, parameter: Parameter) -> Micros:
    """A duration's value, in Micros."""
    return int(float(value_of(given, parameter) or 0) * SECOND)


def checked(given: Mapping[str, Any], known: tuple[Parameter, ...]) -> tuple[dict[str, Any], dict[str, str]]:
    """What a rule keeps of its parameters, and what is wrong with them by name."""
    kept: dict[str, Any] = {}
    problems: dict[str, str] = {}
    by_name = {parameter.name: parameter for parameter in known}
    for name, value in given.items():
        if name not in by_name:
            problems[name] = "this kind of rule has no such setting"
        elif value is not None:
            try:
                kept[name] = by_name[name].check(value)
            except ValueError as error:
                problems[name] = str(error)
    return {name: value for name, value in kept.items() if value != by_name[name].default}, problems
