"""Everything projected of one correlation, for the page and the API."""

from __future__ import annotations

from collections.abc import Iterable

from django.db import connection, transaction

from apps.sagas import catalog
from apps.sagas.attempts import Execution, Fact, execution_of
from apps.sagas.interpretation import DeclaredFlow, DeclaredStep
from apps.sagas.loading import decode_facts, decode_step
from apps.sagas.locking import shard_of
from apps.sagas.models import Correlation, Instance, SettledFacts, StepExecution
from apps.sagas.projection import StepState, step_deadline
from apps.sagas.shapes import CorrelationView, InstanceView, StepView
from apps.sagas.undoing import StepRef, Undoable


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
        keys = {"shard": shard, "correlation_uuid": correlation.id}
        instances = list(Instance.objects.filter(**keys).order_by("started_at", "flow", "run_id"))
        rows = [(row, decode_step(row.state)) for row in StepExecution.objects.filter(**keys)]
        settled: dict[StepRef, list[Fact]] = {}
        if any(state.settled is not None for _, state in rows):
            for old in SettledFacts.objects.filter(**keys).order_by("place"):
                settled.setdefault(_ref(old), []).extend(decode_facts(old.facts))
        meaning = catalog.current(project_id)
    declared = {
        instance.id: meaning.definitions.of(instance.flow, instance.flow_version or None) for instance in instances
    }
    for row, state in rows:
        state.facts = settled.get(_ref(row), []) + state.facts
    steps = _Steps(instances, declared, rows)
    views = tuple(
        InstanceView(instance, tuple(steps.views(instance)), _unseen(instance, declared[instance.id], steps))
        for instance in instances
    )
    return CorrelationView(
        project_id=project_id,
        correlation_id=correlation_id,
        correlation_uuid=str(correlation.id),
        event_count=correlation.event_count,
        first_event_at=correlation.first_event_at,
        last_event_at=correlation.last_event_at,
        instances=views,
    )


def _ref(row: StepExecution | SettledFacts) -> StepRef:
    return (str(row.instance_id), row.step, row.step_id)


class _Steps:
    """The step executions of a correlation: read once, joined by what undoes what."""

    def __init__(
        self, instances: list[Instance], declared: dict, rows: Iterable[tuple[StepExecution, StepState]]
    ) -> None:
        self._declared: dict = declared
        self.of_instance: dict[str, list[tuple[StepExecution, StepState, Execution]]] = {
            str(instance.id): [] for instance in instances
        }
        for row, state in rows:
            found = self.of_instance.get(str(row.instance_id))
            if found is None:  # the undeclared instance, hidden by declared ones
                continue
            known = self._known(row.instance_id, row.step)
            found.append((row, state, execution_of(state.facts, known.service if known else None)))
        for found in self.of_instance.values():
            found.sort(key=lambda entry: (entry[2].first_at, entry[0].step, entry[0].step_id))
        self._undoes, self._undone_by = self._join()

    def _known(self, instance_id: object, step: str) -> DeclaredStep | None:
        flow: DeclaredFlow | None = self._declared[instance_id]
        return flow.steps.get(step) if flow is not None else None

    def _join(self) -> tuple[dict, dict]:
        """What each compensation undoes (own instance first, then the correlation), and the reverse."""
        done = {
            (instance_id, row.step, row.step_id): execution
            for instance_id, entries in self.of_instance.items()
            for row, _, execution in entries
        }
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
        for row, state, execution in self.of_instance[str(instance.id)]:
            ref = (str(instance.id), row.step, row.step_id)
            known = self._known(instance.id, row.step)
            deadline_at, reason = None, ""
            if execution.is_open and instance.ended_at is None:
                deadline_at, reason = step_deadline(row.step, execution.sign_at, self._declared[instance.id])
            yield StepView(
                step=row.step,
                step_id=row.step_id,
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
                owed=instance.owed_count > 0 and state.given.is_owed,
                deadline_at=deadline_at,
                deadline_reason=reason or None,
            )


def _unseen(instance: Instance, declared: DeclaredFlow | None, steps: _Steps) -> tuple[tuple[str, str, str], ...]:
    """Forward steps of the definition that this instance has not begun."""
    if declared is None:
        return ()
    seen = {row.step for row, _, _ in steps.of_instance[str(instance.id)]}
    return tuple((step.name, step.service or "", step.role) for step in declared.forward_steps if step.name not in seen)
