"""Slower than usual: the p95 of what ended in a window is so many times that of the days before.

What is usual is read from the rollups once an hour and kept in the rule's memory, so that judging reads the window
alone. What has run too seldom, in the window or in the days before, is not judged.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any, NamedTuple

from django.db import connection

from apps.alerts.causes import Cause, shown
from apps.alerts.conditions.defaults import BuiltIn
from apps.alerts.conditions.grouping import MOST_CAUSES
from apps.alerts.conditions.parameters import Parameter, span_of, value_of
from apps.alerts.conditions.rates import WINDOW
from apps.alerts.conditions.spells import Spell, runs_of
from apps.alerts.conditions.windows import EVERY, held_since, only_counted_keys, rollup_condition, words
from apps.alerts.models import Rule
from apps.lib.micros import DAY, HOUR, MINUTE, Micros
from apps.sagas import histogram
from apps.sagas.query import QueryError

OF = Parameter(
    "of", "Of", "choice", "saga", "how long what takes", choices=(("saga", "whole sagas"), ("step", "each step"))
)
FACTOR = Parameter("factor", "Times the usual", "number", 2, "as slow or slower", least=1.1, most=1000)
DAYS = Parameter("usual_days", "Usual: days before", "count", 7, "what it is compared with", least=1, most=90)
MINIMUM = Parameter("minimum", "Of at least", "count", 20, "runs in the window", least=1, most=1e9)

QUANTILE = 0.95
#: What has run more seldom in the days before has no usual duration.
LEAST_USUAL = 50
USUAL_FOR: Micros = HOUR

#: What the past is looked at in.
_BIN: Micros = 5 * MINUTE

Key = tuple[str, str]
Histograms = dict[Key, dict[int, int]]


class Usual(NamedTuple):
    """How long something usually takes: its p95 in microseconds, and of how many runs."""

    p95: float
    runs: int


class SlowerThanUsual:
    """Flows, or steps, whose p95 has left what is usual behind."""

    code = "slow"
    label = "Slower than usual"
    built_in: BuiltIn | None = None
    parameters = (FACTOR, WINDOW, OF, DAYS, MINIMUM)
    every_us: Micros = EVERY

    def check_query(self, text: str) -> None:
        """Raises QueryError for what the minute figures do not know."""
        only_counted_keys(text)

    def projects(self, now: Micros) -> set[int] | None:
        return None

    def causes(self, rule: Rule, now: Micros, *, also: str = "") -> list[Cause]:
        window = span_of(rule.parameters, WINDOW)
        usual = self._usual(rule, now)
        recent = durations(rule, (now - window) // MINUTE, now // MINUTE, also)
        slow = {key: found for key, runs in recent.items() if (found := slowness(rule, runs, usual.get(key)))}
        since = dict.fromkeys(slow, now) if also else held_since(rule, slow.keys(), now)
        held = [key for key in slow if also or since[key] <= now - rule.pending_us]
        worst = sorted(held, key=lambda key: (-slow[key].times, key))[:MOST_CAUSES]
        return [_cause(key, slow[key], since[key], window) for key in worst]

    def _usual(self, rule: Rule, now: Micros) -> dict[Key, Usual]:
        kept: dict[str, Any] = rule.memory.get("usual") or {}
        if not 0 <= now - int(kept.get("at", -USUAL_FOR)) < USUAL_FOR:
            found = usual_durations(rule, now)
            kept = {"at": now, "p95": [[*key, *usual] for key, usual in found.items()]}
            rule.memory = {**rule.memory, "usual": kept}
        return {(flow, step): Usual(p95, runs) for flow, step, p95, runs in kept["p95"]}

    def past(self, rule: Rule, since: Micros, now: Micros) -> tuple[list[Spell], bool]:
        """By figures of five minutes each, against what was usual before, or is now where nothing had run before."""
        window = span_of(rule.parameters, WINDOW)
        usual = {**usual_durations(rule, now), **usual_durations(rule, since)}
        first, last, length = since // _BIN, now // _BIN, max(1, window // _BIN)
        bins: defaultdict[Key, dict[int, dict[int, int]]] = defaultdict(lambda: defaultdict(dict))
        rows = _read(rule, (since - window) // MINUTE, now // MINUTE, "", f"rollup.minute / {_BIN // MINUTE}")
        for flow, step, number, bucket, count in rows:
            bins[flow, step][number][bucket] = count
        spells = []
        for key, figures in bins.items():
            looks = []
            for number in range(first, last + 1):
                runs = histogram.merge(*(figures.get(one, {}) for one in range(number - length + 1, number + 1)))
                looks.append(((number + 1) * _BIN, slowness(rule, runs, usual.get(key)) is not None))
            title = f"{' '.join(filter(None, map(shown, key)))} is slower than usual"
            spells += [Spell(key, title, begins, ends) for begins, ends in runs_of(looks)]
        return spells, True


class Slowness(NamedTuple):
    """How slow something is now."""

    p95: float
    usual: Usual
    times: float
    #: Runs that took as long as the limit, or longer.
    slow_runs: int


def slowness(rule: Rule, runs: dict[int, int], usual: Usual | None) -> Slowness | None:
    """How slow the runs are by a rule; None when they are not, or too few to tell."""
    if usual is None or not usual.p95 or sum(runs.values()) < value_of(rule.parameters, MINIMUM):
        return None
    p95 = histogram.quantile(runs, QUANTILE)
    limit = usual.p95 * value_of(rule.parameters, FACTOR)
    if p95 is None or p95 < limit:
        return None
    count = sum(number for bucket, number in runs.items() if histogram.bounds(bucket)[1] >= limit)
    return Slowness(p95, usual, p95 / usual.p95, max(count, 1))


def usual_durations(rule: Rule, now: Micros) -> dict[Key, Usual]:
    """The p95 of the days before the window, of whatever ran often enough."""
    before = now - span_of(rule.parameters, WINDOW)
    days = int(value_of(rule.parameters, DAYS))
    found = durations(rule, (before - days * DAY) // MINUTE, before // MINUTE - 1, "")
    usual = {}
    for key, runs in found.items():
        p95 = histogram.quantile(runs, QUANTILE)
        if p95 is not None and (count := sum(runs.values())) >= LEAST_USUAL:
            usual[key] = Usual(p95, count)
    return usual


def durations(rule: Rule, first: int, last: int, also: str) -> Histograms:
    """Histograms of how long sagas (or steps) took that ended in these minutes, by flow (and step)."""
    found: Histograms = defaultdict(dict)
    for flow, step, _, bucket, count in _read(rule, first, last, also, "0"):
        found[flow, step][bucket] = count
    return found


def _read(rule: Rule, first: int, last: int, also: str, part: str) -> list[tuple[str, str, int, int, int]]:
    """Rows of flow, step, part of the time, bucket and count."""
    wanted = rollup_condition([rule.query, also])
    if wanted is None:
        raise QueryError(0, "a rule about durations reads figures by minute: flow, version and step alone")
    rows = "rollup.step = ''" if value_of(rule.parameters, OF) == "saga" else "rollup.step <> ''"
    # Names are ours; every value is a parameter.
    statement = f"""
        SELECT rollup.flow, rollup.step, {part}, rollup.runs[place], sum(rollup.runs[place + 1])::bigint
          FROM rollup, generate_series(1, cardinality(rollup.runs), 2) AS place
         WHERE rollup.project_id = %s AND rollup.minute >= %s AND rollup.minute <= %s AND {rows} AND {wanted.sql}
         GROUP BY 1, 2, 3, 4 HAVING sum(rollup.runs[place + 1]) > 0
    """  # noqa: S608
    with connection.cursor() as cursor:
        cursor.execute(statement, [rule.project_id, first, last, *wanted.params])
        return cursor.fetchall()


def _cause(key: Key, slow: Slowness, since: Micros, window: Micros) -> Cause:
    flow, step = key
    where = " ".join(filter(None, [shown(flow), shown(step)]))
    return Cause(
        key=key,
        title=f"{where} takes {slow.times:.1f} times as long as usual",
        reason=f"p95 {_seconds(slow.p95)} in {words(window)}, usually {_seconds(slow.usual.p95)}"
        f" (p95 of {slow.usual.runs:,} runs)",
        count=slow.slow_runs,
        since=since,
        flow=flow,
        step=step,
        unit="slow run",
    )


def _seconds(duration_us: float) -> str:
    seconds = duration_us / 1_000_000
    return f"{seconds * 1000:.3g} ms" if seconds < 1 else f"{seconds:,.3g} s" if seconds < 1000 else f"{seconds:,.0f} s"
