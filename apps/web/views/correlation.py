"""The page of one correlation: what is wrong in a sentence, the timeline, its events, the event being inspected.

Everything on screen stands in the address. The whole page, the fragment that live updates fetch (`#correlation`) and
the blocks of rows that a long saga loads while it is scrolled are the same view of the same data.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import msgspec
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.templatetags.static import static
from django.urls import reverse
from django.views.decorators.http import require_safe

from apps.dlq.queries import count_of_saga
from apps.lib import micros
from apps.lib.micros import Micros
from apps.sagas import finding_queries, queries
from apps.sagas.correlation_json import correlation_json
from apps.sagas.correlation_view import find_correlation
from apps.sagas.findings.codes import FindingCode
from apps.sagas.history import recent_history
from apps.sagas.locking import shard_of
from apps.sagas.past import find_key
from apps.sagas.shapes import CorrelationView, InstanceView
from apps.sagas.story import is_stuck, sum_up, tell, worst_first
from apps.sagas.timeline import Timeline, build, build_block
from apps.sagas.timeline.drawing import Block
from apps.sagas.timeline.wording import visible
from apps.web import json_text
from apps.web.access import project_view
from apps.web.as_curl import as_curl
from apps.web.comparison_shown import comparison_context
from apps.web.correlation_address import TABS, Address, read_address, spell_services
from apps.web.deadline_table import evidence_of
from apps.web.diagrams_shown import DOWNLOADS, causation_context, download, sequence_context
from apps.web.findings_shown import lines
from apps.web.letters_shown import letters_of_saga
from apps.web.look import Look, past_look
from apps.web.past_shown import read_by, read_moment, scrubber, step_link
from apps.web.usual_shown import against_usual_flow, beside_usual, usual_runs

_LATEST = 4
#: The menu of services lists so many; the others can be asked for by the address.
_MOST_SERVICES = 60
#: Tabs on which an event is inspected beside the diagram that it was chosen in.
DIAGRAM_TABS = ("sequence", "causation", "compare")
#: Up to so many events the ruler of the scrubber shows each of them also in the present.
_RULED = 2_000
#: How much a press on + or - changes, and how far the window moves.
_ZOOM, _PAN = 1.6, 0.25
#: The JSON of a correlation is shown up to so many characters; the API answers all of it.
_MOST_JSON = 200_000


@require_safe
@project_view
def show(request: HttpRequest, correlation_id: str) -> HttpResponse:
    """The page, its live fragment, or one block of rows."""
    project_id = request.project.pk  # type: ignore[attr-defined]
    address = read_address(request)
    look = _look(project_id, correlation_id, address) if "\0" not in correlation_id else None
    if look is None:
        unknown = {"shown_id": visible(correlation_id, 300), "raw_id": correlation_id}
        return render(request, "web/correlation_unknown.html", unknown, status=404)
    if request.GET.get("step", "").isdecimal():
        return redirect(request.path + step_link(address, look.course, int(request.GET["step"][:9])))
    view, now = look.view, look.now
    marks = look.watermarks.behind
    stays = address.tab in DIAGRAM_TABS
    context: dict[str, Any] = {
        "now": now,
        "view": view,
        "address": address,
        "page_path": getattr(request, "shown_at", "") or reverse("web:correlation", args=[correlation_id]),
        "sprite": static("img/icons.svg"),
        "event_prefix": address.prefix(event=None, source=None, rows=None, tab=address.tab if stays else None)
        + "event=",
    }
    if request.htmx and request.GET.get("block"):  # type: ignore[attr-defined]
        block = build_block(view, now, address.options, watermarks=marks, usual=usual_runs(view, now))
        context |= _block_links((block,), address) | {"block": block}
        return render(request, "web/_correlation_block.html", context)
    context |= _heading(view, now, marks) | _inspected(look, address) | _links(address)
    context["letter_count"] = count_of_saga(project_id, correlation_id)
    if not getattr(request, "shown_at", ""):
        is_small = view.event_count <= _RULED
        history = look.history if look.moment is not None or is_small else None
        context["scrubber"] = scrubber(address, history, view.event_count, look.moment, now)
        context["curl"] = as_curl(view, address)
    context |= _tab(look, address)
    if address.tab == "sequence" and request.GET.get("as") in DOWNLOADS:
        return download(request, request.GET["as"], context)
    template = "web/_correlation.html" if request.htmx else "web/correlation.html"  # type: ignore[attr-defined]
    return render(request, template, context)


def _tab(look: Look, address: Address) -> dict[str, Any]:
    """Context of the tab that is open."""
    view, now = look.view, look.now
    marks = look.watermarks.behind
    match address.tab:
        case "timeline":
            usual, told = usual_runs(view, now), look.beside_steps(_RULED)
            timeline = build(view, now, address.options, watermarks=marks, usual=usual, told=told)
            return {
                "timeline": timeline,
                "latest": look.latest(address, _LATEST),
                **_timeline_links(timeline, address),
            }
        case "sequence":
            return sequence_context(view, look.known, address)
        case "causation":
            return causation_context(view, look.known, address, _cycles(view))
        case "compare":
            ranked = worst_first(view, now, watermarks=marks)
            return comparison_context(view, ranked[0] if ranked else None, address, now)
        case "findings":
            return {"rows": lines(finding_queries.findings_of(*_key(view)))}
        case "events":
            return look.events(address)
        case "letters":
            return {"letters": letters_of_saga(view.project_id, view.correlation_id)}
        case _:
            return _document(correlation_json(view, look.watermarks))


def _look(project_id: int, correlation_id: str, address: Address) -> Look | None:
    """The correlation as it stands, or as it was known at the moment that the address asks for."""
    moment = read_moment(address.values)
    if moment is None:
        view = find_correlation(project_id, correlation_id)
        if view is None:
            return None
        now = micros.now()
        return Look(view, now, queries.watermarks(project_id, now), read_by(address.values))
    key = find_key(project_id, correlation_id)
    if key is None:
        return None
    history = recent_history(project_id, correlation_id, *key)
    return past_look(history, moment)


def _cycles(view: CorrelationView) -> set[tuple[str, str]]:
    """The events, as (source, id), that prove that the saga runs in circles."""
    found = finding_queries.findings_of(*_key(view))
    return {
        (proof["source"], proof["event_id"])
        for one in found
        if one.code == FindingCode.EVENT_CYCLE and one.status == "open"
        for proof in one.evidence
    }


def _document(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Context of the JSON tab. What is very long is cut at the end of a line, and says so."""
    whole = msgspec.json.format(msgspec.json.encode(answer), indent=2).decode()
    shown = whole
    if len(whole) > _MOST_JSON:
        shown = whole[: whole.rindex("\n", 0, _MOST_JSON)]
    return {"document": json_text.pieces(shown), "shown_size": len(shown), "whole_size": len(whole)}


def _inspected(look: Look, address: Address) -> dict[str, Any]:
    """Context of the inspector, with what its step usually takes."""
    context = look.inspected(address)
    one = context["inspected"]
    if one is not None and one.step is not None:
        context["beside_usual"] = beside_usual(look.view, one.flow, one.step, look.now)
    return context


def _key(view: CorrelationView) -> tuple[int, str]:
    return shard_of(view.project_id, view.correlation_id), view.correlation_uuid


# The header


@dataclass(frozen=True, slots=True)
class FlowLine:
    """One flow of the correlation, as the header names it."""

    flow: str
    shown: str
    version: str
    style: str
    run: str
    status: str


def _heading(view: CorrelationView, now: Micros, marks: Mapping[int, Micros]) -> dict[str, Any]:
    ranked = worst_first(view, now, watermarks=marks)
    worst = ranked[0] if ranked else None
    stuck = [one for one in ranked if is_stuck(one, now, marks)]
    overdue = [one.instance.deadline_at for one in stuck if one.instance.deadline_at is not None]
    due = [one.instance.deadline_at for one in view.instances if one.instance.ended_at is None]
    return {
        "shown_id": visible(view.correlation_id, 300),
        "flows": [_flow_line(one) for one in view.instances[:6]],
        "more_flows": max(0, len(view.instances) - 6),
        "worst": worst.instance if worst else None,
        "title_flow": visible(view.instances[0].instance.flow, 80) if view.instances else "",
        "stuck_at": min(overdue, default=None),
        "stuck_why": _why_stuck(stuck[0]) if stuck else "",
        "next_deadline": None if stuck else min((at for at in due if at is not None), default=None),
        "learned": evidence_of(one.instance for one in view.instances[:6]),
        "story": tell(view, now, watermarks=marks),
        "sums": sum_up(view, now),
        "against": against_usual_flow(view, worst, now) if worst is not None else None,
        "attributes": _attributes(view),
        "finding_count": finding_queries.count_open_of(*_key(view)),
        "dead_letters": sum(one.instance.dead_letter_count for one in view.instances),
        "annotations": sorted({visible(note, 60) for one in view.instances for note in one.instance.annotations}),
    }


def _flow_line(one: InstanceView) -> FlowLine:
    row = one.instance
    version = visible(row.flow_version, 24)
    return FlowLine(
        flow=row.flow,
        shown=visible(row.flow, 80),
        version=f"v{version}" if version[:1].isdigit() else version,
        style=row.style or "discovered",
        run=visible(row.run_id, 40),
        status=row.status,
    )


def _why_stuck(one: InstanceView) -> str:
    waits = visible(one.instance.waiting_for or "an event", 80)
    return f"waiting for {waits} ({visible(one.instance.deadline_reason or 'deadline', 120)})"


def _attributes(view: CorrelationView) -> list[tuple[str, str]]:
    """A few small facts to recognise the transaction by."""
    found: dict[str, str] = {}
    for one in view.instances:
        for name, value in (one.instance.attributes or {}).items():
            if len(found) < 5 and len(str(value)) <= 40:
                found.setdefault(visible(str(name), 40), visible(str(value), 40))
    return list(found.items())


# The timeline's links: everything works without script


def _links(address: Address) -> dict[str, Any]:
    return {
        "tab_links": {
            tab: address.with_(tab=None if tab == "timeline" else tab, cursor=None, end=None, more=None) for tab in TABS
        },
        "close_link": address.with_(event=None, source=None),
        "here": address.with_(),
    }


def _timeline_links(timeline: Timeline, address: Address) -> dict[str, Any]:
    start, end = timeline.start, timeline.end
    length = end - start
    return {
        "path_link": address.with_(path=None if address.options.shows_path else "1"),
        "axis_link": address.with_(axis=None if address.options.is_relative else "relative"),
        "fold_link": address.with_(fold="0" if address.options.is_folded else None, open=None),
        "zoom_in_link": address.with_(**_middle(timeline)),
        "zoom_out_link": address.with_(**_around(timeline, (start + end) // 2, round(length * _ZOOM))),
        "fit_link": address.with_(**{"from": None, "to": None}),
        "earlier_link": address.with_(**_around(timeline, (start + end) // 2 - round(length * _PAN), length)),
        "later_link": address.with_(**_around(timeline, (start + end) // 2 + round(length * _PAN), length)),
        **_service_links(timeline, address),
        "fold_links": {chip.key: address.with_(open=_toggled(address, chip.key)) for chip in timeline.chips},
        "breaks": " ".join(f"{moment}:{place:.3f}" for moment, place in timeline.breaks),
        **_block_links(timeline.blocks, address),
    }


def _service_links(timeline: Timeline, address: Address) -> dict[str, Any]:
    """The menu of services: each entry shows its service too, or no more."""
    chosen = address.options.services
    listed = [one for one in timeline.services if one[0] in chosen]
    listed += [one for one in timeline.services if one[0] not in chosen][: max(0, _MOST_SERVICES - len(listed))]
    at = {name: index for index, (name, _) in enumerate(timeline.services)}
    return {
        "services": [
            {
                "name": visible(name, 60),
                "steps": steps,
                "is_chosen": name in chosen,
                "link": address.with_(service=spell_services(chosen ^ {name}) or None, rows=None),
            }
            for name, steps in sorted(listed, key=lambda one: at[one[0]])
        ],
        "services_more": max(0, len(timeline.services) - len(listed)),
        "services_said": visible(next(iter(chosen)), 40) if len(chosen) == 1 else f"{len(chosen)} services",
        "all_services_link": address.with_(service=None, rows=None),
    }


def _block_links(blocks: Iterable[Block], address: Address) -> dict[str, Any]:
    heads = [row.instance_id for block in blocks for row in block.rows if row.instance_id]
    return {
        "rows_prefix": address.prefix(rows=None),
        "shut_links": {one: address.with_(shut=",".join(sorted(set(address.options.shut) ^ {one}))) for one in heads},
    }


def _middle(timeline: Timeline) -> dict[str, int]:
    """The middle of what is drawn, folds as narrow as they are drawn."""
    half = 50 / _ZOOM
    return {"from": _moment_at(timeline, 50 - half), "to": _moment_at(timeline, 50 + half)}


def _moment_at(timeline: Timeline, x: float) -> Micros:
    breaks = timeline.breaks
    for (t0, x0), (t1, x1) in pairwise(breaks):
        if x <= x1 and x1 > x0:
            return t0 + round((t1 - t0) * max(0.0, x - x0) / (x1 - x0))
    return breaks[-1][0]


def _around(timeline: Timeline, centre: Micros, length: int) -> dict[str, int | None]:
    whole = timeline.whole_end - timeline.whole_start
    if length >= whole:
        return {"from": None, "to": None}
    start = min(max(timeline.whole_start, centre - length // 2), timeline.whole_end - length)
    return {"from": start, "to": start + length}


def _toggled(address: Address, key: Micros) -> str:
    return ",".join(str(one) for one in sorted(set(address.options.opened) ^ {key}))
