"""Keeps which variant each instance is of, and how many of each there are: what flow maps, funnels and `via:` read.

`judging` calls this with what it has gathered of its correlations anyway, so every change of a correlation is followed
within seconds and recording pays nothing for it. What an instance counts for is kept beside it and taken back before it
counts for something else: sums stay true however often and in whatever order it is told.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

import msgspec
import psycopg

from apps.lib.micros import HOUR, Micros
from apps.sagas import rollup_names
from apps.sagas.attempts import OUTCOMES
from apps.sagas.findings import CorrelationFacts
from apps.sagas.findings.facts import InstanceFacts, StepFacts
from apps.sagas.histogram import bucket_of, from_flat, to_flat
from apps.sagas.rollups import RollupKey
from apps.sagas.variants import Path, Visit, encode, journey_of

#: How an instance may have ended; whatever else its status says, it is open.
ENDINGS = ("completed", "compensated", "failed", "cancelled", "timed_out")
STATUSES = ("open", *ENDINGS)
_LATEST_HOUR = 2**31 - 1
_K = TypeVar("_K", bound=Hashable)
#: Facts that end an attempt.
_ENDS = frozenset(OUTCOMES)
#: Causes are followed over so many events that say nothing of a step.
_FAR = 8

_KNOWN = """
SELECT p.shard, p.instance_id::text, p.correlation_uuid::text, p.project_id, p.flow, p.variant, p.hour, p.status, p.run,
       p.pauses
FROM unnest(%s::int[], %s::uuid[]) k(shard, correlation_uuid)
JOIN instance_path p ON p.shard = k.shard AND p.correlation_uuid = k.correlation_uuid
"""

_INSERT_VARIANTS = """
INSERT INTO variant (project_id, flow, variant, nodes, marks, seen_at)
SELECT project_id, flow, variant, nodes, marks, seen_at FROM json_populate_recordset(null::variant, %s::json)
ON CONFLICT (project_id, flow, variant) DO NOTHING
"""

_COLUMNS = (
    "shard",
    "instance_id",
    "correlation_uuid",
    "project_id",
    "flow",
    "variant",
    "hour",
    "status",
    "run",
    "pauses",
)
_UPSERT_PATHS = f"""
INSERT INTO instance_path ({", ".join(_COLUMNS)})
SELECT {", ".join(_COLUMNS)} FROM json_populate_recordset(null::instance_path, %s::json)
ON CONFLICT (shard, instance_id) DO UPDATE SET {", ".join(f"{name} = excluded.{name}" for name in _COLUMNS[2:])}
"""  # noqa: S608 - our own column names

_DELETE_PATHS = """
DELETE FROM instance_path p USING unnest(%s::int[], %s::uuid[]) k(shard, instance_id)
WHERE p.shard = k.shard AND p.instance_id = k.instance_id
"""

_TALLY_KEYS = "unnest(%s::bigint[], %s::text[], %s::int[], %s::text[]) k(project_id, flow, hour, variant)"
_INSERT_TALLIES = f"""
INSERT INTO variant_tally (project_id, flow, hour, variant, {", ".join(STATUSES)}, runs, pauses)
SELECT k.*, {", ".join("0" for _ in STATUSES)}, '{{}}', '{{}}' FROM {_TALLY_KEYS}
ON CONFLICT (project_id, flow, hour, variant) DO NOTHING
"""  # noqa: S608 - our own column names

#: Rows are locked in the order of their key, so that no two surveyors wait for each other in a ring.
_LOCK_TALLIES = f"""
SELECT t.project_id, t.flow, t.hour, t.variant, {", ".join(f"t.{name}" for name in STATUSES)}, t.runs, t.pauses
FROM {_TALLY_KEYS}
JOIN variant_tally t
     ON t.project_id = k.project_id AND t.flow = k.flow AND t.hour = k.hour AND t.variant = k.variant
ORDER BY t.project_id, t.flow, t.hour, t.variant FOR UPDATE OF t
"""  # noqa: S608 - our own column names

_WRITTEN = (*STATUSES, "runs", "pauses")
_UPDATE_TALLIES = f"""
UPDATE variant_tally t SET {", ".join(f"{name} = k.{name}" for name in _WRITTEN)}
FROM json_populate_recordset(null::variant_tally, %s::json) k
WHERE t.project_id = k.project_id AND t.flow = k.flow AND t.hour = k.hour AND t.variant = k.variant
"""  # noqa: S608 - our own column names


class PathRow(NamedTuple):
    """What is kept of one instance; columns of `InstancePath`."""

    shard: int
    instance_id: str
    correlation_uuid: str
    project_id: int
    flow: str
    variant: str
    hour: int
    status: str
    run: int | None
    pauses: list[int]

    @property
    def tally_key(self) -> tuple[int, str, int, str]:
        """The row that it is counted in."""
        return (self.project_id, self.flow, self.hour, self.variant)


class _Seen(NamedTuple):
    """An instance whose path is to be kept."""

    project_id: int
    shard: int
    correlation_uuid: str
    instance: InstanceFacts
    visits: list[Visit]

    @property
    def names(self) -> Iterator[RollupKey]:
        """Its flow, its steps, and those that they undo."""
        yield self.project_id, self.instance.flow, "", ""
        for visit in self.visits:
            for step in (visit.step, *visit.undoes):
                yield self.project_id, self.instance.flow, "", step


@dataclass
class _Sums:
    """What a chunk adds to one tally."""

    statuses: dict[str, int]
    runs: dict[int, int]
    pauses: dict[tuple[int, int], int]

    @classmethod
    def nothing(cls) -> _Sums:
        return cls(defaultdict(int), defaultdict(int), defaultdict(int))

    def add(self, row: PathRow, sign: int) -> None:
        self.statuses[row.status] += sign
        if row.run is not None:
            self.runs[row.run] += sign
        for edge, bucket in zip(row.pauses[::2], row.pauses[1::2], strict=True):
            self.pauses[edge, bucket] += sign


class Survey:
    """Collects the paths of the instances of some correlations and writes what has changed about them."""

    def __init__(self) -> None:
        self._seen: list[_Seen] = []
        self._rows: dict[str, PathRow] = {}
        self._paths: dict[tuple[int, str, str], Path] = {}

    def add(self, project_id: int, shard: int, correlation_uuid: str, facts: CorrelationFacts) -> None:
        """Take in a correlation. Instances that lists do not show are left out."""
        for instance in facts.instances:
            if instance.id != instance.shown_id or instance.state.started_at is None:
                continue
            visits = visits_of(instance, facts)
            self._seen.append(_Seen(project_id, shard, correlation_uuid, instance, visits))

    def write(self, cursor: psycopg.Cursor, keys: list[list], now: Micros) -> None:
        """Bring what is kept of the correlations `keys` (shards and UUIDs side by side) up to date.

        Call it last in a transaction: the tallies that it locks are shared with other surveyors.
        """
        self._find_paths(cursor)
        cursor.execute(_KNOWN, keys, prepare=True)
        known = {row[1]: PathRow(*row) for row in cursor.fetchall()}
        gone = [row for identity, row in known.items() if identity not in self._rows]
        changed = [row for identity, row in self._rows.items() if known.get(identity) != row]
        if not gone and not changed:
            return
        self._write_variants(cursor, changed, now)
        if gone:
            cursor.execute(_DELETE_PATHS, _columns(sorted((row.shard, row.instance_id) for row in gone)))
        if changed:
            cursor.execute(_UPSERT_PATHS, [_json(sorted(changed, key=lambda row: (row.shard, row.instance_id)))])
        sums: dict[tuple[int, str, int, str], _Sums] = defaultdict(_Sums.nothing)
        for row in gone:
            sums[row.tally_key].add(row, -1)
        for row in changed:
            sums[row.tally_key].add(row, 1)
            if (before := known.get(row.instance_id)) is not None:
                sums[before.tally_key].add(before, -1)
        _add(cursor, sums)

    def _find_paths(self, cursor: psycopg.Cursor) -> None:
        """Names without number are called OTHER here as well, else there would be a variant for each."""
        others = rollup_names.shown_as(cursor, {key for each in self._seen for key in each.names})
        for each in self._seen:
            project_id, shard, correlation_uuid, instance, visits = each
            flow = others.get((project_id, instance.flow, "", ""), (project_id, instance.flow))[1]
            steps = {key[3]: others[key][3] for key in each.names if key in others}
            journey = journey_of(_renamed(visits, steps) if steps else visits)
            identity = journey.path.identity
            self._paths[project_id, flow, identity] = journey.path
            started_at, ended_at = instance.state.started_at, instance.judgement.ended_at
            assert started_at is not None
            status = instance.judgement.status
            pauses = [n for edge, bucket in enumerate(journey.pauses) if bucket is not None for n in (edge, bucket)]
            self._rows[instance.id] = PathRow(
                *(shard, instance.id, correlation_uuid, project_id, flow, identity),
                hour=min(started_at // HOUR, _LATEST_HOUR),
                status=status if status in ENDINGS else "open",
                run=None if ended_at is None else bucket_of(max(ended_at - started_at, 0)),
                pauses=pauses,
            )

    def _write_variants(self, cursor: psycopg.Cursor, changed: Sequence[PathRow], now: Micros) -> None:
        wanted = sorted({(row.project_id, row.flow, row.variant) for row in changed})
        rows = [
            {
                "project_id": project_id,
                "flow": flow,
                "variant": variant,
                "nodes": encode(self._paths[project_id, flow, variant]).decode(),
                "marks": self._paths[project_id, flow, variant].marks,
                "seen_at": now,
            }
            for project_id, flow, variant in wanted
        ]
        if rows:
            cursor.execute(_INSERT_VARIANTS, [msgspec.json.encode(rows).decode()], prepare=True)


def _renamed(visits: Iterable[Visit], steps: Mapping[str, str]) -> list[Visit]:
    """The same executions, of steps that are called otherwise."""
    return [
        replace(
            visit,
            step=steps.get(visit.step, visit.step),
            undoes=tuple(sorted({steps.get(name, name) for name in visit.undoes})),
            causes={steps.get(name, name) for name in visit.causes},
        )
        for visit in visits
    ]


def visits_of(instance: InstanceFacts, facts: CorrelationFacts) -> list[Visit]:
    """The step executions of an instance as visits, each with the steps that caused it."""
    return [
        Visit(
            step=step.name,
            status=step.execution.status,
            began_at=step.execution.started_at if step.execution.started_at is not None else step.execution.first_at,
            ended_at=step.execution.ended_at,
            is_undo=step.is_compensation,
            undoes=tuple(sorted({each.name for each in step.undoes})),
            causes=_causes(step, facts),
        )
        for step in instance.steps
    ]


def _causes(step: StepFacts, facts: CorrelationFacts) -> set[str]:
    """Steps of the same instance that the first event of this one ended, or that its causes tell of."""
    first = step.facts[0]
    if first.kind not in _ENDS:
        ended, _ = _told_of(step, (first.source, first.id), facts)
        if ended:
            return ended
    found: set[str] = set()
    pending, seen = list(first.causes), set()
    for _ in range(_FAR):
        if found or not pending:
            break
        further: list[str] = []
        for event in (event for event_id in pending if event_id not in seen for event in facts.by_id.get(event_id, ())):
            seen.add(event.id)
            ended, begun = _told_of(step, (event.source, event.id), facts)
            found |= ended or begun
            if not (ended or begun):
                further += event.causation_ids
        pending = further
    return found


def _told_of(step: StepFacts, event: tuple[str, str], facts: CorrelationFacts) -> tuple[set[str], set[str]]:
    """Names of other steps of the instance that an event ended, and of those that had begun by then."""
    ended, begun = set(), set()
    for other in facts.steps_of_event.get(event, ()):
        if other.instance is not step.instance or other.name == step.name:
            continue
        if any((fact.source, fact.id) == event and fact.kind in _ENDS for fact in other.facts):
            ended.add(other.name)
        elif (other.execution.first_at, other.ref) < (step.execution.first_at, step.ref):
            begun.add(other.name)
    return ended, begun


def _add(cursor: psycopg.Cursor, sums: dict[tuple[int, str, int, str], _Sums]) -> None:
    columns = _columns(sorted(sums))
    cursor.execute(_INSERT_TALLIES, columns, prepare=True)
    cursor.execute(_LOCK_TALLIES, columns, prepare=True)
    rows: list[dict[str, Any]] = []
    for project_id, flow, hour, variant, *figures in cursor.fetchall():
        change = sums[project_id, flow, hour, variant]
        row: dict[str, Any] = {"project_id": project_id, "flow": flow, "hour": hour, "variant": variant}
        for name, count in zip(STATUSES, figures, strict=False):
            row[name] = count + change.statuses.get(name, 0)
        runs, pauses = figures[len(STATUSES) :]
        row["runs"] = to_flat(_added(from_flat(runs), change.runs))
        kept = {(edge, bucket): n for edge, bucket, n in zip(pauses[::3], pauses[1::3], pauses[2::3], strict=True)}
        row["pauses"] = [n for key, count in sorted(_added(kept, change.pauses).items()) for n in (*key, count)]
        rows.append(row)
    cursor.execute(_UPDATE_TALLIES, [msgspec.json.encode(rows).decode()], prepare=True)


def _added(before: dict[_K, int], change: Mapping[_K, int]) -> dict[_K, int]:
    after = dict(before)
    for key, count in change.items():
        after[key] = after.get(key, 0) + count
    return {key: count for key, count in after.items() if count}


def _columns(rows: Sequence[tuple]) -> list[list]:
    return [list(column) for column in zip(*rows, strict=True)]


def _json(rows: Iterable[PathRow]) -> str:
    return msgspec.json.encode([row._asdict() for row in rows]).decode()
