"""Rates: too large a share of the sagas failed or was undone, or of the attempts was a retry, within a window.

Failure and compensation rates are shares of the sagas that ended in the window, by flow: failed or timed out, and
compensated. The retry rate is the share of the attempts begun in the window that were not the first of their step, by
flow and step. A share of fewer than the rule's minimum says nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.db import connection

from apps.alerts.causes import SAMPLE_SIZE, Cause, shown
from apps.alerts.conditions.defaults import BuiltIn
from apps.alerts.conditions.grouping import MOST_CAUSES, dimensions
from apps.alerts.conditions.marks import marks_of
from apps.alerts.conditions.parameters import Parameter, span_of, value_of
from apps.alerts.conditions.spells import Spell, runs_of
from apps.alerts.conditions.windows import EVERY, first_minute, held_since, rollup_condition, words
from apps.alerts.models import Rule
from apps.lib.micros import MINUTE, Micros
from apps.sagas.conditions import all_of, condition_of
from apps.sagas.query import parse

WINDOW = Parameter("window", "Window", "duration", 900, "the last so many minutes", least=60, most=86_400)
LIMIT = Parameter("limit", "Limit", "percent", 0.1, "this share or more", least=0.0001, most=1)
MINIMUM = Parameter("minimum", "Of at least", "count", 20, "a share of fewer says nothing", least=1, most=1e9)


Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Share:
    """So many of so many, in one flow (and step)."""

    flow: str
    step: str
    part: int
    whole: int

    @property
    def rate(self) -> float:
        """Between 0 and 1."""
        return min(self.part / self.whole, 1.0) if self.whole else 0.0


@dataclass(slots=True)
class Rate:
    """One kind of rate, never changed. SQL is ours."""

    code: str
    label: str
    #: In the rollups: what counts, what it is a share of, and of which rows.
    part: str
    whole: str
    rows: str
    #: In the instances that ended in the window; "" where attempts are counted.
    instance_part: str
    #: `sagas failed`, `attempts were retries`.
    words: str
    unit: str
    dimensions: tuple[str, ...] = ("flow",)
    built_in: BuiltIn | None = None
    parameters: tuple[Parameter, ...] = (LIMIT, WINDOW, MINIMUM)
    every_us: Micros = EVERY

    def projects(self, now: Micros) -> set[int] | None:
        """Wherever somebody has written such a rule."""
        return None

    def causes(self, rule: Rule, now: Micros, *, also: str = "") -> list[Cause]:
        """Flows (and steps) whose share has been too large for the rule's pending-for."""
        window = span_of(rule.parameters, WINDOW)
        limit = value_of(rule.parameters, LIMIT)
        minimum = value_of(rule.parameters, MINIMUM)
        shares = self.shares(rule, now - window, now, also)
        high = {(share.flow, share.step): share for share in shares if share.whole >= minimum and share.rate >= limit}
        since = dict.fromkeys(high, now) if also else held_since(rule, high.keys(), now)
        high = {key: share for key, share in high.items() if also or since[key] <= now - rule.pending_us}
        worst = sorted(high.items(), key=lambda item: (-item[1].part, item[0]))[:MOST_CAUSES]
        return [self._cause(rule, share, since[key], window, limit, now) for key, share in worst]

    def past(self, rule: Rule, since: Micros, now: Micros) -> tuple[list[Spell], bool]:
        """By the figures of every minute."""
        window = span_of(rule.parameters, WINDOW)
        limit, minimum = value_of(rule.parameters, LIMIT), value_of(rule.parameters, MINIMUM)
        minutes: defaultdict[Key, dict[int, tuple[int, int]]] = defaultdict(dict)
        for flow, step, minute, part, whole in self._read(rule, since - window, now, "", by_minute=True):
            minutes[flow, step][minute] = (part, whole)
        spells = []
        for key, figures in minutes.items():
            looks = (
                (at, whole >= minimum and part / whole >= limit)
                for at, part, whole in sliding(figures, window, first_minute(now, now - since), now // MINUTE)
            )
            title = f"{' '.join(filter(None, map(shown, key))) or 'All flows'}: too many of {self.words}"
            spells += [Spell(key, title, begins, ends) for begins, ends in runs_of(looks)]
        return spells, True

    def shares(self, rule: Rule, begins: Micros, ends: Micros, also: str = "") -> list[Share]:
        """What happened in whole minutes from `begins` on, by flow (and step), as far as the queries find it."""
        return [Share(flow, step, part, whole) for flow, step, _, part, whole in self._read(rule, begins, ends, also)]

    def _read(
        self, rule: Rule, begins: Micros, ends: Micros, also: str, *, by_minute: bool = False
    ) -> list[tuple[str, str, int, int, int]]:
        """Rows of flow, step, minute (0 for all together), part and whole."""
        # What a saga's end says nothing of, its instance must be asked.
        keys = ("flow", "version", "step") if "step" in self.dimensions else ("flow", "version")
        counted_rows = rollup_condition([rule.query, also], keys)
        minute = f"/ {MINUTE}" if by_minute else "* 0"
        if counted_rows is None:
            return self._of_instances(rule, begins, ends, also, minute)
        flow, step = self._columns(rule, "flow", "step")
        # Names are ours; every value is a parameter.
        statement = f"""
            SELECT {flow}, {step}, {"minute" if by_minute else "0"}, sum({self.part})::bigint, sum({self.whole})::bigint
              FROM rollup
             WHERE rollup.project_id = %s AND rollup.minute >= %s AND rollup.minute <= %s AND {self.rows}
               AND {counted_rows.sql}
             GROUP BY 1, 2, 3
        """  # noqa: S608
        params = [rule.project_id, first_minute(ends, ends - begins), ends // MINUTE, *counted_rows.params]
        return _rows(statement, params)

    def _of_instances(
        self, rule: Rule, begins: Micros, ends: Micros, also: str, minute: str
    ) -> list[tuple[str, str, int, int, int]]:
        marks = marks_of(rule.project_id, ends)
        texts = dict.fromkeys((rule.query, also))
        wanted = all_of([condition_of(parse(text), rule.project_id, marks) for text in texts])
        # The window of minute figures is of whole minutes: so is this one.
        begins = begins // MINUTE * MINUTE
        if self.instance_part:
            flow, step = self._columns(rule, "instance.flow", "''")
            statement = f"""
                SELECT {flow}, {step}, instance.ended_at {minute},
                       count(*) FILTER (WHERE {self.instance_part}), count(*)
                  FROM instance
                 WHERE instance.last_event_at >= %s AND instance.ended_at >= %s AND instance.ended_at <= %s
                   AND {wanted.sql}
                 GROUP BY 1, 2, 3
            """  # noqa: S608
            return _rows(statement, [begins, begins, ends, *wanted.params])
        flow, step = self._columns(rule, "instance.flow", "step.step")
        statement = f"""
            SELECT {flow}, {step}, step.first_at {minute},
                   sum(greatest(step.attempt_count - 1, 0))::bigint, sum(step.attempt_count)::bigint
              FROM instance JOIN step_execution AS step ON step.shard = instance.shard
               AND step.correlation_uuid = instance.correlation_uuid AND step.instance_id = instance.id
             WHERE instance.last_event_at >= %s AND step.first_at >= %s AND step.first_at <= %s AND {wanted.sql}
             GROUP BY 1, 2, 3
        """  # noqa: S608
        return _rows(statement, [begins, begins, ends, *wanted.params])

    def _columns(self, rule: Rule, flow: str, step: str) -> tuple[str, str]:
        by = dimensions(rule, self.dimensions)
        return flow if "flow" in by else "''", step if "step" in by else "''"

    def _cause(self, rule: Rule, share: Share, since: Micros, window: Micros, limit: float, now: Micros) -> Cause:
        where = " ".join(filter(None, [shown(share.flow), shown(share.step)])) or "All flows"
        return Cause(
            key=(share.flow, share.step),
            title=f"{where}: {share.rate:.0%} of {self.words} in {words(window)}",
            reason=f"{share.part:,} of {share.whole:,}, limit {limit * 100:.3g}%",
            count=share.part,
            since=since,
            flow=share.flow,
            step=share.step,
            unit=self.unit,
            sample=self._sample(rule.project_id, share, now - window, now),
        )

    def _sample(self, project_id: int, share: Share, begins: Micros, ends: Micros) -> list[str]:
        """The latest sagas that count."""
        counts = self.instance_part or "instance.retry_count > 0"
        flow, params = ("AND instance.flow = %s", [share.flow]) if share.flow else ("", [])
        statement = f"""
            SELECT correlation_id FROM instance
             WHERE project_id = %s AND last_event_at >= %s AND last_event_at <= %s AND {counts} {flow}
             ORDER BY last_event_at DESC, id LIMIT {SAMPLE_SIZE}
        """  # noqa: S608
        with connection.cursor() as cursor:
            cursor.execute(statement, [project_id, begins, ends, *params])
            return list(dict.fromkeys(row[0] for row in cursor.fetchall()))


def sliding(
    figures: Mapping[int, tuple[int, int]], window: Micros, first: int, last: int
) -> Iterator[tuple[Micros, int, int]]:
    """The sums of a window that slides over minute figures, at the end of each minute: (moment, part, whole)."""
    length = window // MINUTE
    part = whole = 0
    for minute in range(first - length, last + 1):
        more, less = figures.get(minute, (0, 0)), figures.get(minute - length - 1, (0, 0))
        part, whole = part + more[0] - less[0], whole + more[1] - less[1]
        if minute >= first:
            yield (minute + 1) * MINUTE, part, whole


def _rows(statement: str, params: Sequence[Any]) -> list[tuple[str, str, int, int, int]]:
    with connection.cursor() as cursor:
        cursor.execute(statement, params)
        return cursor.fetchall()


_ENDED = "(rollup.completed + rollup.failed + rollup.timed_out + rollup.cancelled + rollup.compensated)"

RATES: Collection[Rate] = (
    Rate(
        code="failure_rate",
        label="Too many sagas fail",
        part="rollup.failed + rollup.timed_out",
        whole=_ENDED,
        rows="rollup.step = ''",
        instance_part="instance.status IN ('failed', 'timed_out')",
        words="its sagas failed",
        unit="failed saga",
    ),
    Rate(
        code="compensation_rate",
        label="Too many sagas are undone",
        part="rollup.compensated",
        whole=_ENDED,
        rows="rollup.step = ''",
        instance_part="instance.status = 'compensated'",
        words="its sagas were compensated",
        unit="compensated saga",
    ),
    Rate(
        code="retry_rate",
        label="Too many attempts are retries",
        part="rollup.retried",
        whole="rollup.started",
        rows="rollup.step <> ''",
        instance_part="",
        words="its attempts were retries",
        unit="retry",
        dimensions=("flow", "step"),
    ),
)
