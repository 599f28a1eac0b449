"""Which rows there are, in which order and how tall: cheap for every row, so that only those in view are drawn. Pure.

Forward lanes come first, an instance that another started inside it; then the undo axis and, mirrored under it, what
was undone last first, so that connectors never cross; last the ghosts of what must still come.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from apps.lib.micros import Micros
from apps.sagas.shapes import CorrelationView, InstanceView, StepView
from apps.sagas.timeline.drawing import COMPACT_AXIS, COMPACT_ROW, ROW, TALL, UNDO_AXIS

#: An instance that turned back has no use for steps that it never reached.
_TURNED = frozenset({"compensating", "compensated", "failed", "cancelled", "timed_out"})
#: How deep instances are drawn inside one another.
_DEEPEST = 12
_BAD = frozenset({"failed", "timed_out"})
#: Stands for an end that has not come: later than every moment.
_OPEN: Micros = 2**63
StepKey = tuple[str, str, str]


@dataclass(slots=True)
class Lane:
    """A row before it is drawn."""

    kind: str
    key: str
    height: int
    instance: InstanceView
    step: StepView | None = None
    depth: int = 0
    #: A ghost's own words: (name, service, role).
    unseen: tuple[str, str, str] = ("", "", "")
    failed: int = 0
    waiting: int = 0
    top: int = 0
    is_shut: bool = False


@dataclass(slots=True)
class Lanes:
    """All rows of a correlation, top to bottom."""

    lanes: list[Lane]
    height: int
    #: What each compensation undoes and each step is undone by, as places in `lanes`.
    undoes: list[tuple[int, int]]
    undone_count: int
    owed_count: int
    #: Places of the first and last row of each instance that has a frame.
    frames: list[tuple[InstanceView, int, int]] = field(default_factory=list)


def turned_back(instance: InstanceView) -> bool:
    """True when it will not go on to the steps it has not reached."""
    row = instance.instance
    return row.status in _TURNED or row.compensation_state != "none"


def is_undo(step: StepView) -> bool:
    """True for a compensation."""
    return step.compensates is not None


def judged_at(instance: InstanceView, now: Micros, watermarks: Mapping[int, Micros]) -> Micros:
    """By when lateness of `instance` is judged: its source's watermark in `watermarks`, the present without one."""
    return min(now, watermarks.get(instance.instance.source_ref, now))


def is_late(step: StepView, judged: Micros) -> bool:
    """True for an open step whose deadline had passed at `judged`."""
    return step.is_open and step.deadline_at is not None and step.deadline_at < judged


def step_key(instance: InstanceView, step: StepView) -> StepKey:
    """Names one step execution within its correlation."""
    return (str(instance.instance.id), step.step, step.step_id)


def lay_out(
    view: CorrelationView, *, shut: Collection[str] = (), services: Collection[str] = (), is_compact: bool = False
) -> Lanes:
    """Rows of `view`; the steps of instances named in `shut` are left out, their compensations are not.

    With `services` only the work of those is laid out, and the instances that have some.
    """
    rows: list[Lane] = []
    frames: list[tuple[InstanceView, int, int]] = []
    children = _children(view.instances)
    has_heads = len(view.instances) > 1

    def place(instance: InstanceView, depth: int) -> None:
        first = len(rows)
        is_shut = str(instance.instance.id) in shut
        if has_heads:
            rows.append(_head(instance, depth, is_shut=is_shut))
        is_empty = not any(_is_of(step.service, services) for step in instance.steps if not is_undo(step))
        within = depth + 1 if has_heads else depth
        started: list[tuple[Micros, Micros, InstanceView | StepView]] = [
            (child.instance.started_at, _OPEN + 1, child) for child in children[str(instance.instance.id)]
        ]
        if not is_shut:
            # Of two that begin with one event, as choreographed steps do, the one that ended with it came first.
            started += [
                (step.first_at, step.ended_at or _OPEN, step)
                for step in instance.steps
                if not is_undo(step) and _is_of(step.service, services)
            ]
        for _, _, item in sorted(started, key=lambda entry: entry[:2]):
            if isinstance(item, StepView):
                rows.append(_step_lane(instance, item, within))
            else:
                place(item, within)
        if not is_shut and turned_back(instance):
            rows.extend(_ghost(instance, unseen, within) for unseen in instance.unseen if _is_of(unseen[1], services))
        if services and is_empty and has_heads and len(rows) == first + 1:
            rows.pop()
        if depth and len(rows) > first + 1:
            frames.append((instance, first, len(rows) - 1))

    for instance in children[""]:
        place(instance, 0)
    undoes, undone, owed = _undo_lanes(view, rows, services)
    for instance in view.instances:
        if not turned_back(instance) and instance.instance.ended_at is None:
            depth = 1 if has_heads else 0
            rows.extend(_ghost(instance, unseen, depth) for unseen in instance.unseen if _is_of(unseen[1], services))
    top = 0
    for lane in rows:
        if is_compact:
            lane.height = COMPACT_AXIS if lane.kind == "undo-axis" else COMPACT_ROW
        lane.top = top
        top += lane.height
    return Lanes(lanes=rows, height=top, undoes=undoes, undone_count=undone, owed_count=owed, frames=frames)


def _is_of(service: str, services: Collection[str]) -> bool:
    return not services or service in services


def services_of(view: CorrelationView) -> dict[str, int]:
    """The services that steps name, in the order of their first work, with how many steps are theirs."""
    first: dict[str, Micros] = {}
    counts: defaultdict[str, int] = defaultdict(int)
    for one in view.instances:
        for step in one.steps:
            if step.service:
                counts[step.service] += 1
                first[step.service] = min(first.get(step.service, step.first_at), step.first_at)
    return {name: counts[name] for name in sorted(counts, key=lambda name: (first[name], name))}


def lane_of(instance: InstanceView, step: StepView) -> Lane:
    """A lane for one step by itself."""
    return _step_lane(instance, step, 0)


def _children(instances: Iterable[InstanceView]) -> dict[str, list[InstanceView]]:
    """Instances by the id of the one that started them, "" for those nobody here started; earliest first."""
    by_run = {(one.instance.flow, one.instance.run_id): str(one.instance.id) for one in instances}
    parent_of: dict[str, str] = {}
    for one in instances:
        row = one.instance
        own = str(row.id)
        parent = by_run.get((row.parent_flow, row.parent_run or "")) if row.parent_flow else None
        # A sender may claim a circle of parents: whoever would close it stands alone.
        above, seen = parent, {own}
        while above and above not in seen:
            seen.add(above)
            above = parent_of.get(above)
        parent_of[own] = "" if parent is None or above in seen or len(seen) > _DEEPEST else parent
    children: defaultdict[str, list[InstanceView]] = defaultdict(list)
    for one in sorted(instances, key=lambda one: (one.instance.started_at, one.instance.flow, one.instance.run_id)):
        children[parent_of[str(one.instance.id)]].append(one)
    return children


def _head(instance: InstanceView, depth: int, *, is_shut: bool) -> Lane:
    return Lane(kind="instance", key=f"i-{instance.instance.id}", height=ROW, instance=instance, depth=depth,
                is_shut=is_shut)  # fmt: skip


def _ghost(instance: InstanceView, unseen: tuple[str, str, str], depth: int) -> Lane:
    return Lane(kind="ghost", key=f"g-{instance.instance.id}-{unseen[0]}", height=ROW, instance=instance, depth=depth,
                unseen=unseen)  # fmt: skip


def _step_lane(instance: InstanceView, step: StepView, depth: int) -> Lane:
    failed = sum(attempt.outcome in _BAD for attempt in step.attempts)
    is_tall = bool(failed) or len(step.attempts) > 1 or is_undo(step) or (step.is_open and step.deadline_at is not None)
    return Lane(
        kind="step",
        key=f"{step.step} {step.step_id}",
        height=TALL if is_tall else ROW,
        instance=instance,
        step=step,
        depth=depth,
        failed=failed,
        waiting=1 if step.is_open else 0,
    )


def _undo_lanes(
    view: CorrelationView, rows: list[Lane], services: Collection[str]
) -> tuple[list[tuple[int, int]], int, int]:
    """Append the undo axis and its lanes; answers the connectors, how many steps were undone and how many are owed.

    The counts are those of the whole saga, whichever services are shown.
    """
    if not any(step.owed or step.compensates is not None for one in view.instances for step in one.steps):
        return [], 0, 0
    place_of = {step_key(lane.instance, lane.step): index for index, lane in enumerate(rows) if lane.step is not None}
    ended_of = {step_key(one, step): step.ended_at or step.first_at for one in view.instances for step in one.steps}
    answered: set[StepKey] = set()
    lanes: list[tuple[Micros, Lane, tuple[StepKey, ...]]] = []
    undone: set[StepKey] = set()
    owed = 0
    for instance in view.instances:
        for step in instance.steps:
            if is_undo(step):
                done_at = [ended_of[target] for target in step.undoes if target in ended_of]
                lanes.append((max(done_at, default=step.first_at), _step_lane(instance, step, 0), step.undoes))
                answered.update(step.undoes)
                if step.status == "completed":
                    undone.update(step.undoes or [step_key(instance, step)])
    for instance in view.instances:
        for step in instance.steps:
            if not step.owed:
                continue
            owed += 1
            undone.discard(step_key(instance, step))
            if step_key(instance, step) not in answered:
                lane = Lane(kind="owed", key=f"{step.step} {step.step_id}", height=TALL, instance=instance,
                            step=step, waiting=1)  # fmt: skip
                lanes.append((step.ended_at or step.first_at, lane, (step_key(instance, step),)))
    lanes = [entry for entry in lanes if entry[1].step is None or _is_of(entry[1].step.service, services)]
    if not lanes:
        return [], len(undone), owed
    lanes.sort(key=lambda entry: (-entry[0], entry[1].key))
    rows.append(Lane(kind="undo-axis", key="undo", height=UNDO_AXIS, instance=lanes[0][1].instance))
    ties = []
    for _, lane, targets in lanes:
        ties += [(place_of[target], len(rows)) for target in targets if target in place_of]
        rows.append(lane)
    return ties, len(undone), owed
