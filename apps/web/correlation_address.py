"""The address of a correlation page: everything on screen stands in it, and every link of the page is made from it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import unquote, urlencode

from django.http import HttpRequest

from apps.sagas.timeline import Options
from apps.web.density import is_compact

TABS = ("timeline", "sequence", "causation", "events", "findings", "letters", "compare", "json")
#: So many folds of a diagram can be open at once.
_MOST_OPENED = 50
_NUMBER = re.compile(r"-?\d{1,18}")
_KEPT = (
    "tab",
    "from",
    "to",
    "fold",
    "open",
    "shut",
    "event",
    "source",
    "cursor",
    "end",
    "rows",
    "more",
    "with",
    "at",
    "nth",
    "by",
    "axis",
    "path",
    "find",
    "skip",
    "service",
)


@dataclass(frozen=True, slots=True)
class Address:
    """The parameters of the page, read leniently: what cannot be understood is as if it were not there."""

    values: Mapping[str, str]
    tab: str
    options: Options
    event_id: str
    source: str
    #: Keys of the folds of a diagram that are opened.
    more: frozenset[int] = frozenset()

    def with_(self, **changes: object) -> str:
        """The query with some parameters changed; None or "" takes one out."""
        merged = {**self.values, **{key: "" if value is None else str(value) for key, value in changes.items()}}
        return "?" + urlencode([(key, merged[key]) for key in _KEPT if merged.get(key)])

    def prefix(self, **changes: object) -> str:
        """The same, ready for one more parameter to be written behind it."""
        query = self.with_(**changes)
        return query if query == "?" else query + "&"


def read_address(request: HttpRequest) -> Address:
    """What the request asks to see."""
    values = {key: value for key in _KEPT if (value := request.GET.get(key, "")) and "\0" not in value}
    event_id = values.get("event", "")
    opened = frozenset(int(text) for text in values.get("open", "").split(",") if _NUMBER.fullmatch(text))
    options = Options(
        since=_number(values.get("from")),
        until=_number(values.get("to")),
        is_folded=values.get("fold") != "0",
        opened=opened,
        shut=frozenset(filter(None, values.get("shut", "").split(","))),
        blocks=_blocks(request.GET.get("block") or values.get("rows")),
        event_id=event_id or None,
        is_relative=values.get("axis") == "relative",
        shows_path=values.get("path") == "1",
        services=read_services(values.get("service", "")),
        is_compact=is_compact(request),
    )
    tab = values.get("tab", "")
    more = frozenset(int(text) for text in values.get("more", "").split(",")[:_MOST_OPENED] if _NUMBER.fullmatch(text))
    return Address(values, tab if tab in TABS else "timeline", options, event_id, values.get("source", ""), more)


def read_services(text: str) -> frozenset[str]:
    """Names of services, as `spell_services` wrote them."""
    return frozenset(unquote(part) for part in text.split(",") if part)


def spell_services(names: Iterable[str]) -> str:
    """Names of services for the address; whatever they are called, a comma parts them."""
    return ",".join(name.replace("%", "%25").replace(",", "%2C") for name in sorted(names))


def _number(text: str | None) -> int | None:
    return int(text) if text and _NUMBER.fullmatch(text) else None


def _blocks(text: str | None) -> tuple[int, int] | None:
    """`3` or `3-4`."""
    match = re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", text or "")
    return (int(match[1]), int(match[2] or match[1])) if match else None
