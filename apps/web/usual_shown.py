"""How long the flows and steps of a correlation usually take, from their last day; looked up once a minute.

A day hardly changes within a minute, and who looks at a saga of thousands of rows asks for the same day with every
block of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from apps.lib.micros import DAY, MINUTE, SECOND, Micros
from apps.sagas import histogram, queries
from apps.sagas.flow_series import Slots, flow_series
from apps.sagas.remembered import Remembered
from apps.sagas.shapes import CorrelationView, InstanceView, StepView
from apps.sagas.story import Against, against_usual

#: Window over which the usual is taken, and how many runs make it worth showing.
_WINDOW, _ENOUGH = DAY, 20
_MOST_FLOWS = 3
#: Percentiles are within a few hundredths: only what lies above them by more than that is worth a word.
_ABOVE = 1.1
#: Steps of flows, and flows, that are remembered at most.
_MOST_REMEMBERED, _SECONDS = 20_000, 60.0


@dataclass(frozen=True, slots=True)
class Usual:
    """Median and p95 of so many durations."""

    count: int
    p50: Micros
    p95: Micros

    def times(self, took: Micros | None) -> float | None:
        """How many times the p95 something took; None while it is not clearly above it."""
        return took / self.p95 if took is not None and self.p95 > 0 and took > _ABOVE * self.p95 else None


@dataclass(frozen=True, slots=True)
class UsualStep:
    """A step of a flow; None where too few were seen."""

    wait: Usual | None
    run: Usual | None


_steps: Remembered[dict[str, UsualStep]] = Remembered(most=_MOST_REMEMBERED, seconds=_SECONDS)
_flows: Remembered[Usual] = Remembered(most=_MOST_REMEMBERED, seconds=_SECONDS)


def usual_steps(project_id: int, flow: str, now: Micros) -> Mapping[str, UsualStep]:
    """Steps by name, those of which enough was seen; nothing when that takes too long to find."""
    key = (project_id, flow, now // MINUTE)
    found = _steps.find(key)
    if found is not None:
        return found
    try:
        rows = queries.step_latency(project_id, flow, since=now - _WINDOW, until=now + SECOND)
    except queries.ReadTooLongError:
        return {}
    steps = {row.step: UsualStep(_usual(row.wait), _usual(row.run)) for row in rows}
    found = {name: step for name, step in steps.items() if step.wait or step.run}
    # What was never enough may be in a moment.
    return _steps.keep(key, found, len(found)) if found else found


def _usual(seen: queries.Quantiles) -> Usual | None:
    if seen.count < _ENOUGH or seen.p50 is None or seen.p95 is None:
        return None
    return Usual(seen.count, round(seen.p50 * SECOND), round(seen.p95 * SECOND))


def usual_runs(view: CorrelationView, now: Micros) -> dict[tuple[str, str], tuple[Micros, Micros]]:
    """(flow, step) to p50 and p95 of its run, as the timeline draws them."""
    flows = list(dict.fromkeys(one.instance.flow for one in view.instances))[:_MOST_FLOWS]
    return {
        (flow, name): (step.run.p50, step.run.p95)
        for flow in flows
        for name, step in usual_steps(view.project_id, flow, now).items()
        if step.run is not None
    }


@dataclass(frozen=True, slots=True)
class Beside:
    """What a step took beside its usual: `what` is queued or run, `took` None while that is not known."""

    what: str
    took: Micros | None
    usual: Usual | None
    times: float | None


def beside_usual(view: CorrelationView, flow: str, step: StepView, now: Micros) -> list[Beside]:
    """Wait and run of a step, those of which anything is known."""
    usual = usual_steps(view.project_id, flow, now).get(step.step, UsualStep(None, None))
    return list(_beside(step, usual))


def _beside(step: StepView, usual: UsualStep) -> Iterator[Beside]:
    for what, took, known in (("queued", step.wait_us, usual.wait), ("run", step.run_us, usual.run)):
        if took is not None or known is not None:
            yield Beside(what, took, known, known.times(took) if known is not None else None)


def against_usual_flow(view: CorrelationView, one: InstanceView, now: Micros) -> Against | None:
    """How long an instance took against those of its flow that ended within a day; None where too few did."""
    row = one.instance
    usual = _usual_flow(view.project_id, row.flow, now)
    if usual is None:
        return None
    took = (row.ended_at if row.ended_at is not None else now) - row.started_at
    return against_usual(max(0, took), usual.p50, usual.p95, usual.count)


def _usual_flow(project_id: int, flow: str, now: Micros) -> Usual | None:
    key = (project_id, flow, now // MINUTE)
    found = _flows.find(key)
    if found is not None:
        return found
    width = _WINDOW // MINUTE
    try:
        series = flow_series(project_id, [flow], Slots(now // MINUTE - width + 1, width, 1))[flow]
    except queries.ReadTooLongError:
        return None
    known = series.runs.get(0, {})
    p50, p95, count = histogram.quantile(known, 0.5), histogram.quantile(known, 0.95), sum(known.values())
    if p50 is None or p95 is None or count < _ENOUGH:
        return None
    return _flows.keep(key, Usual(count, round(p50), round(p95)))
