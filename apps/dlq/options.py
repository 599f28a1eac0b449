"""What a dead-letter queue's connection can be told: named options, some of them secret. Forms are made from these.

Names are those of the consumers' own options (`bootstrap_servers`, `sasl_password` …), so that people meet one word
per thing. All options of a queue are encrypted as a whole before they are stored.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

MAX_CHARACTERS = 20_000

#: Options by name, defaults filled in.
Settings = Mapping[str, str]


class SettingsError(ValueError):
    """The settings cannot be saved: `problems` says why for each option."""

    def __init__(self, problems: dict[str, str]) -> None:
        super().__init__("; ".join(f"{name}: {problem}" for name, problem in problems.items()))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Option:
    """One thing that a connection can be told."""

    name: str
    label: str
    help: str = ""
    default: str = ""
    is_required: bool = False
    #: Never shown again once stored.
    is_secret: bool = False
    #: The values that it may have with their words; empty = any text.
    choices: tuple[tuple[str, str], ...] = ()
    #: Several lines.
    is_long: bool = False


def checked(options: Iterable[Option], given: Mapping[str, str]) -> dict[str, str]:
    """The options as they are to be stored, defaults filled in. Raises SettingsError; unknown names are problems."""
    known = {option.name: option for option in options}
    problems = {name: "there is no such option" for name in given if name not in known}
    values: dict[str, str] = {}
    for option in known.values():
        value = given.get(option.name, "").strip() or option.default
        if option.is_required and not value:
            problems[option.name] = "is needed"
        elif option.choices and value and value not in dict(option.choices):
            problems[option.name] = f"is one of {', '.join(code for code, _ in option.choices)}"
        elif "\0" in value or len(value) > MAX_CHARACTERS:
            problems[option.name] = f"is text of at most {MAX_CHARACTERS:,} characters"
        elif not option.is_long and not value.isprintable():
            problems[option.name] = "is one line of printable characters"
        values[option.name] = value
    if problems:
        raise SettingsError(problems)
    return values
