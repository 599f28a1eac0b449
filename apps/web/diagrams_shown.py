"""The diagrams of a correlation page, sequence and causation, as their templates and downloads need them."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from typing import Any, TypeVar

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from apps.sagas import causation, sequence
from apps.sagas.events import SagaEvent
from apps.sagas.history import Told
from apps.sagas.interpretation import Meaning
from apps.sagas.remembered import Remembered
from apps.sagas.shapes import CorrelationView
from apps.sagas.timeline.wording import visible
from apps.web.correlation_address import Address

_Found = TypeVar("_Found")

#: Downloads of the sequence diagram: parameter `as`, media type, ending of the file's name.
DOWNLOADS = {
    "svg": ("image/svg+xml; charset=utf-8", "svg"),
    "mermaid": ("text/vnd.mermaid; charset=utf-8", "mmd"),
}
#: Events without any cause or effect that are named below the graph.
_MOST_ALONE = 12
#: What long correlations come to, so that a tab, a fold and an event of theirs are shown without reading all again.
_MOST_REMEMBERED, _SECONDS = 60_000, 300.0
_conversations: Remembered[sequence.Conversation] = Remembered(most=_MOST_REMEMBERED, seconds=_SECONDS)
_graphs: Remembered[causation.Graph] = Remembered(most=_MOST_REMEMBERED, seconds=_SECONDS)
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


def services_of(view: CorrelationView) -> dict[str, str]:
    """Who did the step that an event tells of, by event id; the step that it ends before the one that it begins."""
    ended: dict[str, str] = {}
    told: dict[str, str] = {}
    for one in view.instances:
        for step in one.steps:
            if step.service:
                for attempt in step.attempts:
                    told.update(dict.fromkeys(attempt.event_ids, step.service))
                    if attempt.ended_at is not None and attempt.event_ids:
                        ended[attempt.event_ids[-1]] = step.service
    return told | ended


def _of_long(
    remembered: Remembered[_Found],
    view: CorrelationView,
    known: Sequence[Told],
    beside: Hashable,
    make: Callable[[list[tuple[SagaEvent, Meaning]]], _Found],
) -> _Found:
    """What `make` finds in the events; of a long correlation perhaps as it was found before in the same ones."""

    def find() -> _Found:
        return make([(one.event, one.meaning) for one in known])

    if not view.stamp or not known:
        return find()
    return remembered.find_or((view.stamp, len(known), known[-1].place, beside), find, lambda _: len(known))


def sequence_context(view: CorrelationView, known: Sequence[Told], address: Address) -> dict[str, Any]:
    """Context of the sequence tab."""
    conversation = _of_long(
        _conversations, view, known, (), lambda told: sequence.read_messages(told, services_of(view))
    )
    rows = sequence.fold(conversation.messages, opened=address.more, event_id=address.event_id or None)
    folds = [row for row in rows if isinstance(row, sequence.Fold)]
    return {
        "conversation": conversation,
        "rows": rows,
        "diagram": sequence.draw(conversation, rows, event_id=address.event_id or None),
        "folded": sum(row.count for row in folds),
        "fold_links": {row.key: address.with_(more=_with(address, row.key)) for row in folds},
        "shut_all": address.with_(more=None) if address.more else "",
        "svg_link": f"{address.prefix(event=None, source=None)}as=svg",
        "mermaid_link": f"{address.prefix(event=None, source=None)}as=mermaid",
    }


def _with(address: Address, key: int) -> str:
    return ",".join(str(one) for one in sorted({*address.more, key}))


def download(request: HttpRequest, kind: str, context: Mapping[str, Any]) -> HttpResponse:
    """The sequence diagram as a file of its own."""
    media_type, ending = DOWNLOADS[kind]
    title = f"{context['view'].correlation_id}"
    if kind == "svg":
        response = render(request, "web/sequence.svg", {**context, "title": visible(title, 200)})
        response["Content-Type"] = media_type
    else:
        text = sequence.to_mermaid(context["conversation"], context["rows"], visible(title, 200))
        response = HttpResponse(text, content_type=media_type)
    name = _UNSAFE.sub("-", title)[:80].strip("-.") or "saga"
    response["Content-Disposition"] = f'attachment; filename="{name}-sequence.{ending}"'
    return response


def causation_context(
    view: CorrelationView, known: Sequence[Told], address: Address, cycles: Collection[tuple[str, str]]
) -> dict[str, Any]:
    """Context of the causation tab. `cycles` are the events, as (source, id), that findings name as part of a cycle."""
    proofs = frozenset(cycles)

    def read(told: list[tuple[SagaEvent, Meaning]]) -> causation.Graph:
        return causation.read_graph(told, services_of(view), proofs)

    graph = _of_long(_graphs, view, known, proofs, read)
    event_id = address.event_id or None
    shown = causation.fold(graph, opened=address.more, event_id=event_id)
    folds = [one for one in shown.nodes if isinstance(one, causation.Folded)]
    return {
        "graph": graph,
        "picture": causation.draw(shown, event_id=event_id),
        "seen_count": len(graph.nodes) - graph.unseen,
        "folded": shown.folded,
        "fold_links": {one.key: address.with_(more=_with(address, one.key)) for one in folds},
        "shut_all": address.with_(more=None) if address.more else "",
        "alone": [(visible(one.label, 80), one.event) for one in graph.alone[:_MOST_ALONE]],
        "alone_more": max(0, len(graph.alone) - _MOST_ALONE),
    }
