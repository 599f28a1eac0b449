"""What conditions over a window of time share: minute figures, which of them a query means, since when they hold.

Their figures are the sums that `sagas.rollups` keeps per flow, version, step and minute, so that judging a rule costs
the same however many sagas there are. A query that speaks of more than those is judged by the instances themselves.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, TypeVar

from apps.alerts.models import Rule
from apps.lib import micros
from apps.lib.micros import MINUTE, Micros
from apps.sagas.conditions import Condition, all_of, any_of, like
from apps.sagas.query import Pattern, Query, QueryError, parse

#: Rules over windows are judged this often, not by every sweep: their figures are of whole minutes.
EVERY: Micros = 20 * micros.SECOND

K = TypeVar("K", bound=tuple[str, ...])

_COLUMNS = {"flow": "rollup.flow", "version": "rollup.flow_version", "step": "rollup.step"}


def rollup_condition(queries: Collection[str], keys: Collection[str] = tuple(_COLUMNS)) -> Condition | None:
    """The rows of `rollup` that the queries mean; None when they speak of more than these keys.

    Raises QueryError when one cannot be understood.
    """
    terms = [term for text in dict.fromkeys(queries) for term in parse(text).terms]
    if any(term.key not in keys or term.operator != "=" for term in terms):
        return None
    parts = []
    for term in terms:
        column = _COLUMNS[term.key]
        condition = any_of(
            Condition(f"{column} = %s", [value.text])
            if value.is_exact
            else Condition(f"{column} LIKE %s", [like(value)])
            for value in term.values
            if isinstance(value, Pattern)
        )
        parts.append(condition.negated() if term.is_negated else condition)
    return all_of(parts)


def only_counted_keys(text: str) -> None:
    """Raises QueryError for a query that speaks of more than minute figures know."""
    query: Query = parse(text)
    for term in query.terms:
        if term.key not in _COLUMNS or term.operator != "=":
            known = ", ".join(_COLUMNS)
            raise QueryError(0, f"{term.key}: this kind of rule reads figures by minute; its query may use {known}")


def held_since(rule: Rule, keys: Collection[K], now: Micros) -> dict[K, Micros]:
    """Since when each key has held, as far as sweeps have seen; writes it into the rule's memory."""
    known: dict[str, Any] = dict(rule.memory.get("since") or {})
    named = {"\x1f".join(key): key for key in keys}
    since = {text: min(int(known.get(text, now)), now) for text in named}
    rule.memory = {**rule.memory, "since": since}
    return {key: since[text] for text, key in named.items()}


def first_minute(now: Micros, window: Micros) -> int:
    """The minute that a window begins with."""
    return (now - window) // MINUTE


def words(span: Micros) -> str:
    """`15 minutes`, `1 hour`, `90 seconds`."""
    for unit, word in ((micros.DAY, "day"), (micros.HOUR, "hour"), (MINUTE, "minute")):
        if span >= unit and span % unit == 0:
            count = span // unit
            return f"{count:,} {word}{'' if count == 1 else 's'}"
    return f"{span // micros.SECOND:,} seconds"
