"""The tab that puts a correlation beside another: which one, and the pairs of instances as its template needs them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from django.urls import reverse

from apps.lib.micros import Micros
from apps.sagas import nearest, queries
from apps.sagas.comparison import Comparison, Line, Side, compare
from apps.sagas.correlation_view import find_correlation
from apps.sagas.shapes import CorrelationView, InstanceView
from apps.sagas.timeline.drawing import percent
from apps.sagas.timeline.wording import span, visible
from apps.web.correlation_address import Address

_MOST_PAIRS, _MOST_LINES = 4, 200


@dataclass(frozen=True, slots=True)
class Strip:
    """One side of a step on the scale that both instances share."""

    css: str
    x: str
    width: str
    y: int


@dataclass(frozen=True, slots=True)
class ShownLine:
    """A step with both sides as words and bars."""

    line: Line
    name: str
    service: str
    mine: str
    theirs: str
    strips: tuple[Strip, ...]


@dataclass(frozen=True, slots=True)
class Pair:
    """An instance of this correlation beside one of the other."""

    flow: str
    mine: InstanceView
    theirs: InstanceView
    comparison: Comparison
    lines: list[ShownLine]
    more: int
    longer: str
    sentence: str


def comparison_context(
    view: CorrelationView, worst: InstanceView | None, address: Address, now: Micros
) -> dict[str, Any]:
    """Context of the comparison: with the chosen correlation, else with the nearest successful one."""
    context: dict[str, Any] = {"pairs": [], "chosen": address.values.get("with", ""), "candidates": []}
    if worst is None:
        return context
    try:
        found = nearest.nearest_successful(view.project_id, worst)
    except queries.ReadTooLongError as error:
        found = []
        context["too_long"] = str(error)
    wanted = context["chosen"] or (found[0].correlation_id if found else "")
    context["candidates"] = [
        {
            "shown": visible(one.correlation_id, 60),
            "link": address.with_(**{"with": one.correlation_id}),
            "differs_by": one.differs_by,
            "duration": one.duration,
            "is_current": one.correlation_id == wanted,
        }
        for one in found
    ]
    context["other_shown"] = visible(wanted, 120)
    if not wanted:
        return context
    other = find_correlation(view.project_id, wanted) if "\0" not in wanted else None
    if other is None:
        context["is_unknown"] = True
        return context
    context["other"] = other
    context["other_link"] = f"{reverse('web:correlation', args=[wanted])}?{urlencode({'tab': 'timeline'})}"
    pairs = _paired(view, other, worst)
    context["pairs"] = [_pair(mine, theirs, now) for mine, theirs in pairs[:_MOST_PAIRS]]
    context["more_pairs"] = max(0, len(pairs) - _MOST_PAIRS)
    return context


def _paired(
    view: CorrelationView, other: CorrelationView, worst: InstanceView
) -> list[tuple[InstanceView, InstanceView]]:
    """Instances of the same flow, in order of their begin, that of `worst` first."""
    left: dict[str, list[InstanceView]] = {}
    for one in other.instances:
        left.setdefault(one.instance.flow, []).append(one)
    ordered = sorted(view.instances, key=lambda one: one is not worst)
    return [(one, left[one.instance.flow].pop(0)) for one in ordered if left.get(one.instance.flow)]


def _pair(mine: InstanceView, theirs: InstanceView, now: Micros) -> Pair:
    found = compare(mine, theirs, now)
    more = found.mine_took - found.theirs_took
    times = f", {found.mine_took / found.theirs_took:.1f}×" if more > 0 and found.theirs_took else ""
    lines = (
        sorted(found.lines, key=lambda line: not line.differences) if len(found.lines) > _MOST_LINES else found.lines
    )
    return Pair(
        flow=visible(mine.instance.flow, 80),
        mine=mine,
        theirs=theirs,
        comparison=found,
        lines=[_shown(line, found.longest) for line in lines[:_MOST_LINES]],
        more=max(0, len(found.lines) - _MOST_LINES),
        longer=f"{span(abs(more))} {'longer' if more >= 0 else 'shorter'}{times}",
        sentence=_sentence(found),
    )


def _sentence(found: Comparison) -> str:
    words = []
    for kind, one, many in (
        ("missing", "step is missing", "steps are missing"),
        ("extra", "step is extra", "steps are extra"),
        ("outcome", "ended otherwise", "ended otherwise"),
        ("slower", "was slower", "were slower"),
        ("attempts", "was tried more often", "were tried more often"),
    ):
        if number := len(found.having(kind)):
            words.append(f"{number:,} {one if number == 1 else many}")
    return ", ".join(words) if words else "both took the same way"


def _shown(line: Line, longest: Micros) -> ShownLine:
    sides = ((line.mine, 5), (line.theirs, 16))
    return ShownLine(
        line=line,
        name=visible(line.step, 100),
        service=visible(line.service, 60),
        mine=_words(line.mine),
        theirs=_words(line.theirs),
        strips=tuple(_strip(side, y, longest, is_undo=line.is_undo) for side, y in sides if side is not None),
    )


def _words(side: Side | None) -> str:
    if side is None:
        return "not seen"
    known = [f"ran {span(side.run)}" if side.run is not None else "", f"queued {span(side.wait)}" if side.wait else ""]
    if side.attempts > 1:
        known.append(f"{side.attempts:,} attempts")
    return ", ".join(filter(None, known))


def _strip(side: Side, y: int, longest: Micros, *, is_undo: bool) -> Strip:
    start = min(100.0, max(0.0, 100 * side.began / longest))
    stop = min(100.0, max(start, 100 * side.ended / longest))
    css = (
        "b-undo"
        if is_undo
        else {"failed": "b-fail", "timed_out": "b-fail", "running": "b-run"}.get(side.status, "b-done")
    )
    return Strip(css, percent(min(start, 99.4)), percent(max(0.6, stop - start)), y)
