"""The instances page: query, views, sort, columns, pages of rows that update where they stand."""

from __future__ import annotations

import shlex
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from django.conf import settings
from django.core.cache import cache
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods, require_safe

from apps.lib import micros
from apps.lib.micros import Micros
from apps.projects.models import Project
from apps.sagas import queries
from apps.sagas.models import Instance
from apps.sagas.query import Query, QueryError, parse, to_text
from apps.sagas.query_keys import KEYS
from apps.web.access import project_view
from apps.web.completion import complete as completions
from apps.web.completion import spelt
from apps.web.instance_columns import COLUMNS, FIRST, USUAL, Column, columns_of, fields_of
from apps.web.instance_list import Asked, Problem, read_asked, view_query
from apps.web.rows import read_again, read_keys, rows_of, write_keys
from apps.web.saved_views import chosen_columns, views_for
from apps.web.views.instance_actions import act

LIMIT = 50
#: Counts beside presets and saved views may be this old: they are the dearest part of the page.
PRESET_SECONDS, VIEW_SECONDS = 5, 15
#: So may what the query finds, which stands beside rows that are read at once: the page then looks again.
FOUND_SECONDS = 1
#: A page that is opened does not wait for its total: what takes longer is an estimate until its first look again.
QUICK_SECONDS = 0.01
LOOK_AGAIN_MS = FOUND_SECONDS * 1000 + 100
#: Saved views beyond these show no count.
MOST_COUNTED = 8


@dataclass(frozen=True, slots=True)
class Preset:
    """A view that every project has."""

    label: str
    query: str
    sort: str = queries.DEFAULT_SORT
    #: Hue of its count while that is not 0.
    tone: str = ""


PRESETS = (
    Preset("All", ""),
    Preset("Open", "is:open"),
    Preset("Stuck", "is:stuck", "deadline", "late"),
    Preset("Stalest first", "is:open", "last_event_at"),
    Preset("Compensating", "status:compensating"),
    Preset("Compensation owed", "is:owed", "owed_since", "late"),
    Preset("Retrying", "is:open attempts>1", "-attempts"),
    Preset("Suspended", "is:open is:suspended"),
    Preset("Failed today", "status:failed,timed_out ended>={today}"),
)
SORTS = {
    "-last_event_at": "latest event",
    "last_event_at": "longest idle",
    "deadline": "most overdue",
    "-started_at": "newest",
    "started_at": "oldest",
    "-duration": "slowest",
    "-attempts": "most attempts",
    "owed_since": "longest owed",
    "flow": "flow",
    "status": "status",
    "waiting_for": "waiting for",
    "correlation_id": "correlation ID",
}
#: The other way round, as a press on a column's heading asks for.
REVERSED_SORTS = {
    "-deadline": "latest deadline",
    "duration": "quickest",
    "attempts": "fewest attempts",
    "-owed_since": "latest owed",
    "-flow": "flow, Z to A",
    "-status": "status, Z to A",
    "-waiting_for": "waiting for, Z to A",
    "-correlation_id": "correlation ID, Z to A",
}


@project_view
@require_http_methods(["GET", "HEAD", "POST"])
def show(request: HttpRequest) -> HttpResponse:
    """The page; a POST saves or deletes a view, chooses columns, or acts on the rows that were selected."""
    now = micros.now()
    project: Project = request.project  # type: ignore[attr-defined]
    asked = read_asked(request, chosen_columns(project.pk, request.user.pk))
    if request.method == "POST":
        return act(request, project, asked, now)
    if "column" in request.GET:  # the form of the columns, without script
        chosen = ",".join(request.GET.getlist("column"))
        return redirect(f"{request.path}?{asked.url_query(columns=chosen)}")
    if len(asked.query.terms) == 1 and (found := _only_correlation(project.pk, asked, now)):
        return redirect("web:correlation", found)
    context = _frame(request, asked, now)
    if asked.problem is not None:
        return render(request, "web/instances.html", context, status=422)
    try:
        page = queries.list_instances(
            project.pk, asked.query, now=now, sort=asked.sort, cursor=asked.cursor, limit=LIMIT
        )
        context["total"], _ = _found(project.pk, asked, now, seconds=QUICK_SECONDS)
    except queries.SortError:
        return redirect(f"{request.path}?{asked.url_query(sort=None)}")
    except queries.CursorError:
        return redirect(f"{request.path}?{asked.url_query()}")
    except queries.ReadTooLongError as error:
        context["problem"] = Problem(str(error), asked.text)
        return render(request, "web/instances.html", context, status=503)
    context |= {
        "rows": rows_of(page.items, queries.watermarks(project.pk, now)),
        "shown": write_keys(page.items),
        "next_url": page.next_cursor and asked.url_query(cursor=page.next_cursor),
        "previous_url": page.previous_cursor and asked.url_query(cursor=page.previous_cursor),
        "first_url": asked.cursor and page.previous_cursor and asked.url_query(),
    }
    if not page.items and not asked.text:
        context["is_first_use"] = not Instance.objects.filter(project_id=project.pk).exists()
    return render(request, "web/instances.html", context)


@project_view
@require_safe
def rows(request: HttpRequest) -> HttpResponse:
    """The rows on the screen as they are now, in the same order, how many new ones wait, and every count anew.

    With a total from before the request goes the header `Look-Again`: after so many milliseconds it is counted anew.
    """
    now = micros.now()
    project: Project = request.project  # type: ignore[attr-defined]
    asked = read_asked(request, chosen_columns(project.pk, request.user.pk))
    keys = read_keys(request.GET.get("shown", ""))
    marks = queries.watermarks(project.pk, now)
    try:
        shown = read_again(project.pk, asked.query, keys, marks)
        fresh = 0
        if asked.cursor is None and asked.problem is None:
            page = queries.list_instances(
                project.pk, asked.query, now=now, sort=asked.sort, limit=max(LIMIT, len(keys)), marks=marks
            )
            known = set(keys)
            fresh = sum((instance.shard, instance.id) not in known for instance in page.items)
        total, is_earlier = _found(project.pk, asked, now) if asked.problem is None else (None, False)
    except (queries.SortError, queries.ReadTooLongError) as error:
        return HttpResponse(str(error), status=503, content_type="text/plain; charset=utf-8")
    canonical = to_text(asked.query) if asked.problem is None else None
    context = {
        "rows": shown,
        "columns": columns_of(asked.columns),
        "shown": write_keys(row.instance for row in shown),
        "rows_query": asked.url_query(cursor=asked.cursor),
        "new_count": fresh,
        "new_is_least": fresh >= LIMIT,
        "total": total,
        "views": [*_presets(project.pk, asked, canonical, now), *_saved(request, asked, canonical, now)],
        "is_refresh": True,
        "now": now,
    }
    answer = render(request, "web/_instance_rows.html", context)
    if is_earlier:
        answer["Look-Again"] = str(LOOK_AGAIN_MS)
    return answer


@project_view
@require_safe
def complete(request: HttpRequest) -> JsonResponse:
    """Completions of the query box at the caret, as JSON; and what is wrong with the query as it stands."""
    text = request.GET.get("q", "")[:2000].replace("\0", "")
    caret = request.GET.get("caret", "")
    at = int(caret) if caret.isascii() and caret.isdecimal() and len(caret) < 6 else len(text)
    return JsonResponse(completions(request.project.pk, text, at))  # type: ignore[attr-defined]


def _only_correlation(project_id: int, asked: Asked, now: Micros) -> str | None:
    """The correlation ID, when what was typed is exactly one: people who paste an ID want its page."""
    term = asked.query.terms[0]
    if term.key != "text" or term.is_negated or asked.cursor:
        return None
    exact = parse(f"correlation:{spelt(term.values[0].text)}")  # type: ignore[union-attr]
    found = queries.list_instances(project_id, exact, now=now, limit=1).items
    return found[0].correlation_id if found else None


def _found(
    project_id: int, asked: Asked, now: Micros, *, seconds: float = queries.COUNT_SECONDS
) -> tuple[queries.Count, bool]:
    """How many the query finds, at most FOUND_SECONDS old, and whether it was counted before this request.

    Counting that takes longer than `seconds` becomes an estimate.
    """
    key = f"found.{project_id}.{hash(to_text(asked.query))}"
    count = cache.get(key)
    if count is not None:
        return count, True
    count = queries.count_instances(project_id, asked.query, now=now, seconds=seconds)
    if not count.is_estimate or seconds >= queries.COUNT_SECONDS:
        cache.set(key, count, FOUND_SECONDS)
    return count, False


def _frame(request: HttpRequest, asked: Asked, now: Micros) -> dict[str, Any]:
    """Everything around the rows."""
    project: Project = request.project  # type: ignore[attr-defined]
    canonical = to_text(asked.query) if asked.problem is None else None
    saved = _saved(request, asked, canonical, now)
    export = {"q": asked.text, "sort": "" if asked.sort == queries.DEFAULT_SORT else asked.sort}
    if asked.columns != USUAL:
        export["columns"] = fields_of(asked.columns)
    facts = [column for column in columns_of(asked.columns) if column.fact]
    return {
        "now": now,
        "q": asked.text,
        "rows_query": asked.url_query(cursor=asked.cursor),
        "sort": asked.sort,
        "default_sort": queries.DEFAULT_SORT,
        "sort_label": (SORTS | REVERSED_SORTS).get(asked.sort, asked.sort),
        "problem": asked.problem,
        "presets": _presets(project.pk, asked, canonical, now),
        "saved": saved,
        "current_view": next((view for view in saved if view["is_current"]), None),
        "chips": _chips(asked),
        "sorts": [
            {"label": label, "url_query": asked.url_query(sort=name), "is_current": name == asked.sort}
            for name, label in SORTS.items()
        ],
        "columns": columns_of(asked.columns),
        "named_columns": ",".join(asked.named),
        "shown_columns": ",".join(asked.columns),
        "choices": [
            (column, column.name in asked.columns) for column in (*COLUMNS.values(), *facts) if column.name != FIRST
        ],
        "heads": [_head(asked, column) for column in columns_of(asked.columns)],
        "export_query": urlencode({key: value for key, value in export.items() if value}),
        "api_url": f"{settings.PUBLIC_URL}/api/v1/instances",
        "public_url": settings.PUBLIC_URL,
        "export_url": "/api/v1/export",
        "curl_query": shlex.quote(f"q={asked.text}"),
    }


def _head(asked: Asked, column: Column) -> dict[str, Any]:
    """A column's head: pressed again it turns the order round."""
    sort = column.sort
    is_current = bool(sort) and asked.sort.removeprefix("-") == sort.removeprefix("-")
    wanted = sort
    if is_current and asked.sort == sort:
        wanted = sort.removeprefix("-") if sort.startswith("-") else f"-{sort}"
    return {
        "column": column,
        "is_current": is_current,
        "direction": "descending" if asked.sort.startswith("-") else "ascending",
        "arrow": "down" if asked.sort.startswith("-") else "up",
        "url_query": sort and asked.url_query(sort=wanted),
    }


def _chips(asked: Asked) -> list[dict[str, str]]:
    """One chip per term, each with the address of the query without it."""
    chips = []
    terms = asked.query.terms
    for index, term in enumerate(terms):
        text = to_text(Query((term,)))
        key = f"attr.{term.name}" if term.key == "attr" else term.key
        sign = "not " if term.is_negated else ""
        value = text.removeprefix("-")
        if term.key != "text":
            value = value[len(key) :].removeprefix(":")
        rest = to_text(Query(terms[:index] + terms[index + 1 :]))
        known = "text" if term.key == "text" else KEYS[term.key].name if term.key != "attr" else key
        chips.append({"key": sign + known, "value": value, "text": text, "without": asked.url_query(q=rest)})
    return chips


# Presets and saved views, with their counts


def _presets(project_id: int, asked: Asked, canonical: str | None, now: Micros) -> list[dict[str, Any]]:
    """The presets with their counts."""
    texts = [preset.query.replace("{today}", _today(now)) for preset in PRESETS]
    key = f"presets.{project_id}"
    counts = cache.get_or_set(key, lambda: _counts(project_id, texts, now), PRESET_SECONDS) or {}
    same = [
        canonical == to_text(parse(text)) and preset.sort in {asked.sort, queries.DEFAULT_SORT}
        for preset, text in zip(PRESETS, texts, strict=True)
    ]
    exact = [is_same and asked.sort == preset.sort for is_same, preset in zip(same, PRESETS, strict=True)]
    current = exact.index(True) if any(exact) else same.index(True) if any(same) else -1
    return [
        {
            "id": f"count-{number}",
            "label": preset.label,
            "url_query": view_query(text, preset.sort, asked.named),
            "count": counts.get(text) if text and preset.label != "Stalest first" else None,
            "tone": preset.tone,
            "is_current": number == current,
        }
        for number, (preset, text) in enumerate(zip(PRESETS, texts, strict=True))
    ]


def _today(now: Micros) -> str:
    return micros.isoformat(now)[:10]


def _saved(request: HttpRequest, asked: Asked, canonical: str | None, now: Micros) -> list[dict[str, Any]]:
    """One's own and shared views with their counts."""
    project: Project = request.project  # type: ignore[attr-defined]
    views = views_for(project.pk, request.user.pk)
    counted = [view.query for view in views[:MOST_COUNTED]]
    key = f"views.{project.pk}.{hash(tuple(counted))}"
    counts = cache.get_or_set(key, lambda: _counts(project.pk, counted, now), VIEW_SECONDS) if counted else {}
    return [
        {
            "id": f"view-{view.pk}",
            "pk": view.pk,
            "label": view.name,
            "url_query": view_query(view.query, view.sort, tuple(view.columns)),
            "count": (counts or {}).get(view.query),
            "is_shared": view.is_shared,
            "is_mine": view.owner_id == request.user.pk,
            "owner": view.owner.get_username(),
            "is_current": canonical == _canonical(view.query)
            and asked.sort == view.sort
            and (not view.columns or tuple(view.columns) == asked.columns),
        }
        for view in views
    ]


def _canonical(text: str) -> str | None:
    """None for a query that was saved when the language still understood it."""
    try:
        return to_text(parse(text))
    except QueryError:
        return None


def _counts(project_id: int, texts: list[str], now: Micros) -> dict[str, queries.Count]:
    """How many instances each query finds; one that takes too long to count, or cannot be read, is left out."""
    counts = {}
    for text in texts:
        if text:
            with suppress(queries.ReadTooLongError, QueryError):
                counts[text] = queries.count_instances(project_id, parse(text), now=now)
    return counts
