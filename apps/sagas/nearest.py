"""Which successful instance is most like a given one: what it is compared with when nobody chose another."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from django.db import connection

from apps.lib.micros import Micros
from apps.lib.read_limit import read_limit
from apps.sagas.models import Instance
from apps.sagas.shapes import InstanceView
from apps.sagas.timeline.lanes import is_undo

#: So many successful instances of the flow are looked at, the latest ones.
LOOKED_AT = 40
_STEPS = """
SELECT instance_id::text, step, count(*) FROM step_execution
WHERE shard = ANY(%s) AND correlation_uuid = ANY(%s::uuid[]) AND instance_id = ANY(%s::uuid[])
GROUP BY instance_id, step
"""


@dataclass(frozen=True, slots=True)
class Likeness:
    """A successful instance, and by how many step executions its way differs."""

    correlation_id: str
    run_id: str
    flow_version: str
    started_at: Micros
    duration: Micros
    differs_by: int


def nearest_successful(project_id: int, one: InstanceView, *, limit: int = 5) -> list[Likeness]:
    """Completed instances of the same flow, the most alike first: by steps, then version, then time.

    A step that `one` tried to do counts as done, so that a saga that failed late is near to those that got further.
    Raises ReadTooLongError.
    """
    row = one.instance
    with read_limit():
        found = list(
            Instance.objects.filter(project_id=project_id, flow=row.flow, status="completed")
            .exclude(correlation_id=row.correlation_id)
            .order_by("-last_event_at")
            .only("shard", "id", "correlation_uuid", "correlation_id", "run_id", "flow_version", "started_at",
                  "duration_us")[:LOOKED_AT]
        )  # fmt: skip
        steps = _steps_of(found)
    mine = Counter(step.step for step in one.steps if not is_undo(step))
    ranked = sorted(
        found,
        key=lambda each: (
            _distance(mine, steps.get(str(each.id), Counter())),
            each.flow_version != row.flow_version,
            abs(each.started_at - row.started_at),
        ),
    )
    return [
        Likeness(
            correlation_id=each.correlation_id,
            run_id=each.run_id,
            flow_version=each.flow_version,
            started_at=each.started_at,
            duration=each.duration_us or 0,
            differs_by=_distance(mine, steps.get(str(each.id), Counter())),
        )
        for each in ranked[:limit]
    ]


def _steps_of(instances: list[Instance]) -> dict[str, Counter[str]]:
    steps: dict[str, Counter[str]] = {}
    if not instances:
        return steps
    shards = [each.shard for each in instances]
    uuids = [str(each.correlation_uuid) for each in instances]
    with connection.cursor() as cursor:
        cursor.execute(_STEPS, [shards, uuids, [str(each.id) for each in instances]])
        for instance_id, step, number in cursor.fetchall():
            steps.setdefault(instance_id, Counter())[step] = number
    return steps


def _distance(mine: Counter[str], theirs: Counter[str]) -> int:
    """Executions that only one of both has."""
    return (mine - theirs).total() + (theirs - mine).total()
