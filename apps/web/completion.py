"""Completion of the query box: which keys and values the word under the caret could become."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from django.db import connection

from apps.lib import micros
from apps.lib.micros import DAY, HOUR, MINUTE
from apps.lib.read_limit import ReadTooLongError, read_limit
from apps.sagas.conditions import like
from apps.sagas.models import Flow
from apps.sagas.query import Pattern, QueryError, parse
from apps.sagas.query_keys import CLAIMS, KEYS, Key, ValueKind

MOST = 12
_KEYED = re.compile(r"-?(?P<key>[a-z_]+)(?P<operator>:|!=|<=|>=|=|<|>)(?P<value>.*)", re.IGNORECASE | re.DOTALL)
_ATTRIBUTE = re.compile(r"-?attr\.(?P<name>[^\s:=!<>\",]+)(?P<operator>:|=|!=)(?P<value>.*)", re.DOTALL)
_DURATIONS = ("30s", "1m", "5m", "15m", "1h", "6h", "24h", "7d")
_DAYS = ("today", "yesterday")
_NUMBERS = ("0", "1", "3", "10", "100", "1000")
#: Instants that people mean most, as spans back from now.
_INSTANTS = (("15 minutes ago", 15 * MINUTE), ("1 hour ago", HOUR), ("6 hours ago", 6 * HOUR), ("24 hours ago", DAY))
#: Columns whose values open instances have few enough of to be counted and offered.
_COUNTED = {
    "waiting": "SELECT waiting_for, count(*) FROM (SELECT waiting_for FROM instance WHERE project_id = %s"
    " AND waiting_for IS NOT NULL LIMIT 20000) AS sample GROUP BY 1 ORDER BY 2 DESC LIMIT 200",
    "service": "SELECT service, count(*) FROM (SELECT service FROM instance WHERE project_id = %s"
    " AND service <> '' ORDER BY last_event_at DESC LIMIT 5000) AS sample GROUP BY 1 ORDER BY 2 DESC LIMIT 200",
    "version": "SELECT flow_version, count(*) FROM (SELECT flow_version FROM instance WHERE project_id = %s"
    " AND flow_version <> '' ORDER BY last_event_at DESC LIMIT 5000) AS sample GROUP BY 1 ORDER BY 2 DESC LIMIT 50",
    "run": "SELECT run_id, count(*) FROM (SELECT run_id FROM instance WHERE project_id = %s"
    " AND run_id <> '' ORDER BY last_event_at DESC LIMIT 5000) AS sample GROUP BY 1 ORDER BY 2 DESC LIMIT 200",
    "error": "SELECT error, count(*) FROM (SELECT error FROM instance WHERE project_id = %s"
    " AND error <> '' ORDER BY last_event_at DESC LIMIT 5000) AS sample GROUP BY 1 ORDER BY 2 DESC LIMIT 50",
    "step": "SELECT unnest(current_steps), count(*) FROM (SELECT current_steps FROM instance WHERE project_id = %s"
    " AND waiting_for IS NOT NULL LIMIT 20000) AS sample GROUP BY 1 ORDER BY 2 DESC LIMIT 200",
}


@dataclass(frozen=True, slots=True)
class Proposal:
    """Replace the characters from `start` to `end` by `text`. `lead` + `label` is what is shown."""

    start: int
    end: int
    text: str
    lead: str
    label: str
    detail: str = ""
    count: int | None = None


def complete(project_id: int, text: str, caret: int) -> dict[str, Any]:
    """What to offer at the caret, best first, under a heading; and why the query cannot be read as it stands."""
    return {**_offered(project_id, text, caret), "problem": _problem(text, caret)}


def _problem(text: str, caret: int) -> dict[str, Any] | None:
    """What is wrong before the word under the caret, which is still being typed."""
    try:
        parse(text)
    except QueryError as error:
        if error.position < _word_start(text, min(max(caret, 0), len(text))):
            return {"position": error.position, "message": error.message}
    return None


def _offered(project_id: int, text: str, caret: int) -> dict[str, Any]:
    caret = min(max(caret, 0), len(text))
    start = _word_start(text, caret)
    word = text[start:caret]
    if attribute := _ATTRIBUTE.fullmatch(word):
        return _attribute_values(project_id, attribute, start, caret)
    keyed = _KEYED.fullmatch(word)
    if keyed is not None and (key := KEYS.get(keyed["key"].lower())) is not None and key.name != "attr":
        return _values(project_id, key, keyed, start, caret)
    return _keys(project_id, word, start, caret)


def _answer(heading: str, proposals: Iterable[Proposal]) -> dict[str, Any]:
    return {"heading": heading, "items": [asdict(proposal) for proposal in list(proposals)[:MOST]]}


def _word_start(text: str, caret: int) -> int:
    """Where the word that ends at the caret begins; spaces inside quotes belong to it."""
    start, is_quoted = 0, False
    for at, character in enumerate(text[:caret]):
        if character == '"':
            is_quoted = not is_quoted
        elif character.isspace() and not is_quoted:
            start = at + 1
    return start


def _keys(project_id: int, word: str, start: int, caret: int) -> dict[str, Any]:
    sign, wanted = ("-", word[1:]) if word.startswith("-") else ("", word)
    proposals = []
    if wanted.lower().startswith("attr"):
        names = attribute_names(project_id)
        proposals += [
            Proposal(start, caret, f"{sign}attr.{spelt(name)}=", f"{sign}attr.", name, "a fact of the events")
            for name in names
            if f"attr.{name}".startswith(wanted)
        ]
    for key in KEYS.values():
        if key.name.startswith(wanted.lower()) and (key.name != "attr" or not proposals):
            end = _ending(key)
            proposals.append(Proposal(start, caret, f"{sign}{key.name}{end}", sign, key.name + end, key.description))
    if wanted:
        flows = Flow.objects.filter(project_id=project_id, name__startswith=wanted).order_by("name")[:5]
        proposals += [
            Proposal(start, caret, f"{sign}flow:{spelt(flow.name)} ", f"{sign}flow:", flow.name, "flow")
            for flow in flows
        ]
    return _answer("Keys of the query language" if not wanted else "Keys and flows", proposals)


def _ending(key: Key) -> str:
    if key.name == "attr":
        return "."
    return ":" if key.kind in {ValueKind.TEXT, ValueKind.WORD} else ">"


def _values(project_id: int, key: Key, keyed: re.Match[str], start: int, caret: int) -> dict[str, Any]:
    """Values for the alternative under the caret: what stands before its last comma is kept."""
    before, comma, partial = keyed["value"].rpartition(",")
    at = start + keyed.start("value") + len(before) + len(comma)
    wanted = partial.strip('"').lower()
    lead = keyed.group(0)[: keyed.start("value")] + before + comma
    known: list[tuple[str, str, int | None]] = []
    if key.kind is ValueKind.WORD:
        known = [(word, CLAIMS.get(word, "") if key.name == "is" else "", None) for word in key.words]
    elif key.kind is ValueKind.DURATION:
        known = [(span, "", None) for span in _DURATIONS]
    elif key.kind is ValueKind.NUMBER:
        known = [(number, "", None) for number in _NUMBERS]
    elif key.kind is ValueKind.INSTANT:
        known = [(text, words, None) for text, words in _instants()]
    elif key.name == "correlation":
        known = [(value, "", None) for value in _beginning(project_id, partial.strip('"'))]
    elif key.name == "flow":
        names = Flow.objects.filter(project_id=project_id).order_by("name").values_list("name", flat=True)
        known = [(name, "", None) for name in names[:500]]
    elif key.name in _COUNTED:
        known = [(value, "", count) for value, count in _counted(_COUNTED[key.name], [project_id])]
    proposals = [
        Proposal(at, caret, spelt(value) + " ", lead, value, detail, count)
        for value, detail, count in known
        if wanted in value.lower()
    ]
    proposals.sort(key=lambda proposal: not proposal.label.lower().startswith(wanted))
    return _answer(f"{key.name}: {key.description}", proposals)


def _instants() -> list[tuple[str, str]]:
    """Instants as the language spells them, and what they are: days in UTC, then times."""
    now = micros.now()
    days = [(micros.isoformat(now - days * DAY)[:10], f"{word}, from midnight UTC") for days, word in enumerate(_DAYS)]
    return days + [(micros.isoformat(now - span)[:16] + "Z", words) for words, span in _INSTANTS]


def _beginning(project_id: int, text: str) -> list[str]:
    """Correlation IDs that begin so: an index answers."""
    if not text:
        return []
    sql = (
        "SELECT DISTINCT correlation_id, 0 FROM instance WHERE project_id = %s AND correlation_id LIKE %s"
        " ORDER BY 1 LIMIT 12"
    )
    return [value for value, _ in _counted(sql, [project_id, like(Pattern((text, "")))])]


def _attribute_values(project_id: int, match: re.Match[str], start: int, caret: int) -> dict[str, Any]:
    sql = (
        "SELECT value, count(*) FROM (SELECT value FROM instance_attribute WHERE project_id = %s AND name = %s"
        " LIMIT 5000) AS sample GROUP BY 1 ORDER BY 2 DESC LIMIT 200"
    )
    wanted = match["value"].strip('"').lower()
    lead = match.group(0)[: match.start("value")]
    proposals = [
        Proposal(start + match.start("value"), caret, spelt(value) + " ", lead, value, "", count)
        for value, count in _counted(sql, [project_id, match["name"]])
        if value.lower().startswith(wanted)
    ]
    return _answer(f"attr.{match['name']}: values seen", proposals)


def attribute_names(project_id: int) -> list[str]:
    """Names of searchable facts, the most frequent of a sample first."""
    sql = (
        "SELECT name, count(*) FROM (SELECT name FROM instance_attribute WHERE project_id = %s LIMIT 5000) AS sample"
        " GROUP BY 1 ORDER BY 2 DESC LIMIT 50"
    )
    return [name for name, _ in _counted(sql, [project_id])]


def _counted(sql: str, params: list[Any]) -> list[tuple[str, int]]:
    """Values and how often they were met in a bounded sample; nothing when that takes too long."""
    try:
        with read_limit(), connection.cursor() as cursor:
            cursor.execute(sql, params)
            return cursor.fetchall()
    except ReadTooLongError:
        return []


def spelt(value: str) -> str:
    """A value as it is written in a query to mean exactly itself: quoted where it holds what the language uses."""
    if value and not re.search(r"[\s,\"*\\:=<>!]", value):
        return value
    return '"' + re.sub(r"([\"\\])", r"\\\1", value) + '"'
