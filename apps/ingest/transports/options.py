"""What a consumer can be told: named options, some of them secret, kept in `Source.settings`.

`settings` holds the options as they were given and, under `secrets`, the secret ones encrypted; forms and commands are
made from the declarations here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from apps.lib import secrets

SECRETS = "secrets"
_MOST_CHARACTERS = 20_000


class OptionError(ValueError):
    """An option is unknown, missing or impossible; `option` names it, the message says what is wrong."""

    def __init__(self, option: str, message: str) -> None:
        super().__init__(f"{option}: {message}")
        self.option = option
        self.detail = message


@dataclass(frozen=True, slots=True)
class Option:
    """One thing that a transport can be told."""

    name: str
    label: str
    help: str = ""
    default: str = ""
    is_required: bool = False
    is_secret: bool = False
    #: The values that it may have; empty = any.
    choices: tuple[str, ...] = ()


def seal(options: Iterable[Option], given: Mapping[str, str]) -> dict[str, Any]:
    """What to keep in `Source.settings`. Raises OptionError."""
    known = {option.name: option for option in options}
    for name in given:
        if name not in known:
            raise OptionError(name, f"is not known; there are {', '.join(sorted(known))}")
    settings: dict[str, Any] = {}
    sealed: dict[str, str] = {}
    for option in known.values():
        value = given.get(option.name, "").strip()
        _check(option, value)
        if not value or value == option.default:
            continue
        if option.is_secret:
            sealed[option.name] = secrets.encrypt(value)
        else:
            settings[option.name] = value
    return {**settings, SECRETS: sealed} if sealed else settings


def unseal(options: Iterable[Option], settings: Mapping[str, Any]) -> dict[str, str]:
    """The options of a source, defaults included. Raises secrets.UnreadableSecretError."""
    sealed = settings.get(SECRETS) or {}
    values: dict[str, str] = {}
    for option in options:
        if option.is_secret and option.name in sealed:
            values[option.name] = secrets.decrypt(sealed[option.name])
        else:
            values[option.name] = str(settings.get(option.name) or option.default)
    return values


def _check(option: Option, value: str) -> None:
    if option.is_required and not value and not option.default:
        raise OptionError(option.name, f"is needed: {option.help or option.label}")
    if value and option.choices and value not in option.choices:
        raise OptionError(option.name, f"must be one of {', '.join(option.choices)}")
    if len(value) > _MOST_CHARACTERS or "\0" in value:
        raise OptionError(option.name, f"must be text of at most {_MOST_CHARACTERS} characters")
