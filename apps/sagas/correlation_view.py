"""Everything projected of one correlation, for the page and the API.

A saga of thousands of events is looked at many times while it hardly changes: tab by tab, block by block of its rows.
What was read of it is therefore kept for a while, and used again when PostgreSQL says that none of its rows has changed
since.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple
from uuid import UUID

from django.db import connection, transaction

from apps.sagas import catalog
from apps.sagas.attempts import Execution, Fact, execution_of
from apps.sagas.deadlines import NOTHING_LEARNED, LearnedSteps
from apps.sagas.interpretation import DeclaredFlow, DeclaredStep
from apps.sagas.loading import decode_facts, decode_step
from apps.sagas.locking import shard_of
from apps.sagas.models import Correlation, Instance, SettledFacts, StepExecution
from apps.sagas.projection import step_deadline
from apps.sagas.remembered import Remembered
from apps.sagas.shapes import CorrelationView, InstanceView, StepView
from apps.sagas.undoing import StepRef, Undoable

#: From how many events on a correlation is worth remembering; of how many events in all, and for how many seconds.
_LONG, _MOST_REMEMBERED, _SECONDS = 500, 60_000, 300.0
_views: Remembered[CorrelationView] = Remembered(most=_MOST_REMEMBERED, seconds=_SECONDS)
#: A row that was changed is another version of itself: made by another transaction, in another place.
_VERSION = """
SELECT '{table}', count(*), coalesce(sum(hashtextextended(tableoid::text || ctid::text || xmin::text, 0)), 0)::text
FROM {table} WHERE shard = %s AND correlation_uuid = %s
"""
_TABLES = ("instance", "settled_facts", "step_execution")
_VERSIONS = " UNION ALL ".join(_VERSION.format(table=table) for table in _TABLES) + " ORDER BY 1"


def find_correlation(project_id: int, correlation_id: str) -> CorrelationView | None:
    """The correlation with its instances, step executions and attempts; None when nothing was recorded of it."""
    shard = shard_of(project_id, correlation_id)
    with transaction.atomic():
        if not connection.savepoint_ids:
            # One snapshot for all rows: never half of a recorded transaction.
            connection.cursor().execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        correlation = Correlation.objects.filter(
            shard=shard, project_id=project_id, correlation_id=correlation_id
        ).first()
        if correlation is None:
            return None
        meaning = catalog.current(project_id)
        if correlation.event_count < _LONG:
            return _read(correlation, meaning)
        stamp = _stamp(correlation, meaning)
        return _views.find_or(stamp, lambda: _read(correlation, meaning, stamp), lambda view: view.event_count)


def _stamp(correlation: Correlation, meaning: catalog.ProjectMeaning) -> str:
    """Another one whenever anything of what `_read` reads has changed."""
    parts: list[object] = [correlation.id, meaning.revision, correlation.event_count]
    parts += [correlation.first_event_at, correlation.last_event_at]
    with connection.cursor() as cursor:
        cursor.execute(_VERSIONS, [correlation.shard, correlation.id] * len(_TABLES))
        parts += [part for row in cursor.fetchall() for part in row]
    return " ".join(map(str, parts))


def _read(correlation: Correlation, meaning: catalog.ProjectMeaning, stamp: str = "") -> CorrelationView:
    keys = {"shard": correlation.shard, "correlation_uuid": correlation.id}
    instances = list(Instance.objects.filter(**keys).order_by("started_at", "flow", "run_id"))
    columns = StepExecution.objects.filter(**keys).values_list("instance_id", "step", "step_id", "state")
    rows = [(_ref(one, step, step_id), decode_step(state)) for one, step, step_id, state in columns]
    settled: dict[StepRef, list[Fact]] = {}
    if any(state.settled is not None for _, state in rows):
        for old in SettledFacts.objects.filter(**keys).order_by("place"):
            settled.setdefault(_ref(old.instance_id, old.step, old.step_id), []).extend(decode_facts(old.facts))
    declared = {
        str(instance.id): meaning.definitions.of(instance.flow, instance.flow_version or None) for instance in instances
    }
    learned = {
        str(instance.id): meaning.definitions.learned(instance.flow, instance.flow_version) for instance in instances
    }
    entries = []
    for ref, state in rows:
        if ref[0] in declared:  # else the undeclared instance, hidden by declared ones
            facts = settled.get(ref, []) + state.facts
            known = _known(declared[ref[0]], ref)
            execution = execution_of(facts, known.service if known is not None else None)
            entries.append(Executed(ref, execution, state.given.is_owed))
    return CorrelationView(
        project_id=correlation.project_id,
        correlation_id=correlation.correlation_id,
        correlation_uuid=str(correlation.id),
        event_count=correlation.event_count,
        first_event_at=correlation.first_event_at,
        last_event_at=correlation.last_event_at,
        instances=view_instances(instances, declared, entries, learned),
        stamp=stamp,
    )


class Executed(NamedTuple):
    """A step execution; `is_owed` once its instance turns back."""

    ref: StepRef
    execution: Execution
    is_owed: bool


def view_instances(
    instances: Sequence[Instance],
    declared: Mapping[str, DeclaredFlow | None],
    executed: Iterable[Executed],
    learned: Mapping[str, LearnedSteps] | None = None,
) -> tuple[InstanceView, ...]:
    """Instances with their step executions, joined by what undoes what.

    What is `declared` and `learned` of each one's flow is by the instance's id as text.
    """
    steps = _Steps(instances, declared, executed, learned or {})
    return tuple(
        InstanceView(instance, tuple(steps.views(instance)), _unseen(declared[str(instance.id)], instance, steps))
        for instance in instances
    )


def _known(flow: DeclaredFlow | None, ref: StepRef) -> DeclaredStep | None:
    return flow.steps.get(ref[1]) if flow is not None else None


def _ref(instance_id: UUID, step: str, step_id: str) -> StepRef:
    return (str(instance_id), step, step_id)


class _Steps:
    """The step executions of a correlation: read once, joined by what undoes what."""

    def __init__(
        self,
        instances: Sequence[Instance],
        declared: Mapping[str, DeclaredFlow | None],
        executed: Iterable[Executed],
        learned: Mapping[str, LearnedSteps],
    ) -> None:
        self._declared = declared
        self._learned = learned
        self.of_instance: dict[str, list[Executed]] = {str(instance.id): [] for instance in instances}
        for one in executed:
            self.of_instance[one.ref[0]].append(one)
        for found in self.of_instance.values():
            found.sort(key=lambda one: (one.execution.first_at, one.ref[1:]))
        self._undoes, self._undone_by = self._join()

    def _join(self) -> tuple[dict, dict]:
        """What each compensation undoes (own instance first, then the correlation), and the reverse."""
        done = {one.ref: one.execution for entries in self.of_instance.values() for one in entries}
        undoable = Undoable(ref for ref, execution in done.items() if execution.compensates is None)
        undoes: dict[StepRef, tuple[StepRef, ...]] = {}
        undone_by: dict[StepRef, list[str]] = {}
        for ref, execution in done.items():
            if execution.compensates is None:
                continue
            undoes[ref] = tuple(undoable.targets(ref, execution.compensates))
            for target in undoes[ref]:
                completed = done[target].done
                if execution.done is not None and completed is not None and execution.done > completed:
                    undone_by.setdefault(target, []).append(ref[1])
        return undoes, undone_by

    def views(self, instance: Instance) -> Iterable[StepView]:
        """The step executions of one instance, earliest first."""
        declared = self._declared[str(instance.id)]
        learned = self._learned.get(str(instance.id), NOTHING_LEARNED)
        for ref, execution, is_owed in self.of_instance[str(instance.id)]:
            known = _known(declared, ref)
            deadline_at, reason = None, ""
            if execution.is_open and instance.ended_at is None:
                deadline_at, reason = step_deadline(ref[1], execution.sign_at, execution.begun_at, declared, learned)
            yield StepView(
                step=ref[1],
                step_id=ref[2],
                status=execution.status,
                service=execution.service,
                first_at=execution.first_at,
                started_at=execution.started_at,
                ended_at=execution.ended_at,
                wait_us=execution.wait_us,
                run_us=execution.run_us,
                compensates=execution.compensates,
                inferred=execution.inferred,
                attempts=tuple(execution.attempts),
                compensated_by=tuple(sorted(set(self._undone_by.get(ref, ())))),
                undoes=self._undoes.get(ref, ()),
                role=known.role if known is not None else "",
                owed=instance.owed_count > 0 and is_owed,
                deadline_at=deadline_at,
                deadline_reason=reason or None,
            )


def _unseen(declared: DeclaredFlow | None, instance: Instance, steps: _Steps) -> tuple[tuple[str, str, str], ...]:
    """Forward steps of the definition that this instance has not begun."""
    if declared is None:
        return ()
    seen = {one.ref[1] for one in steps.of_instance[str(instance.id)]}
    return tuple((step.name, step.service or "", step.role) for step in declared.forward_steps if step.name not in seen)
