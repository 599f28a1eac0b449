"""The instances page: query, presets, sort, pages of rows that update where they stand."""

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
from django.views.decorators.http import require_safe

from apps.lib import micros
from apps.lib.micros import Micros
from apps.projects.models import Project
from apps.sagas import queries
from apps.sagas.query import Query, QueryError, parse, to_text
from apps.sagas.query_keys import KEYS
from apps.web.access import project_view
from apps.web.completion import complete as completions
from apps.web.completion import spelt
from apps.web.rows import read_again, read_keys, rows_of, write_keys

LIMIT = 50
#: Counts beside the presets may be this old: they are the dearest part of the page.
PRESET_SECONDS = 5

#: (label, query, sort, tone of its count)
PRESETS = (
    ("All", "", queries.DEFAULT_SORT, ""),
    ("Open", "is:open", queries.DEFAULT_SORT, ""),
    ("Stuck", "is:stuck", "deadline", "t-late"),
    ("Compensation owed", "is:owed", "owed_since", "t-late"),
    ("Retrying", "is:open attempts>1", "-attempts", ""),
    ("Suspended", "is:open is:suspended", queries.DEFAULT_SORT, ""),
    ("Failed", "status:failed,timed_out", queries.DEFAULT_SORT, ""),
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
    "correlation_id": "correlation ID",
}
#: Columns after "Waiting for": label, the sort that a press asks for, whether figures stand in it.
_HEADS = (
    ("Deadline", "deadline", False),
    ("Why", "", False),
    ("Age", "started_at", True),
    ("Attempts", "-attempts", True),
    ("Compensation", "owed_since", False),
)


@dataclass(frozen=True, slots=True)
class Asked:
    """What the address says: the query (or why it cannot be read), sort and place."""

    text: str
    query: Query
    sort: str
    cursor: str | None
    problem: dict[str, str] | None

    def url_query(self, **changes: str | None) -> str:
        """The address of a changed view; a change of query or sort starts at the first page."""
        values = {"q": self.text, "sort": self.sort, **changes}
        if values["sort"] == queries.DEFAULT_SORT:
            values["sort"] = None
        return urlencode({key: value for key, value in values.items() if value})


@project_view
@require_safe
def show(request: HttpRequest) -> HttpResponse:
    """The page."""
    now = micros.now()
    project: Project = request.project  # type: ignore[attr-defined]
    asked = _asked(request)
    if len(asked.query.terms) == 1 and (found := _only_correlation(project.pk, asked, now)):
        return redirect("web:correlation", found)
    context = _frame(project, asked, now)
    if asked.problem is not None:
        return render(request, "web/instances.html", context, status=422)
    try:
        page = queries.list_instances(
            project.pk, asked.query, now=now, sort=asked.sort, cursor=asked.cursor, limit=LIMIT
        )
        context["total"] = queries.count_instances(project.pk, asked.query, now=now)
    except queries.SortError:
        return redirect(f"{request.path}?{asked.url_query(sort=None)}")
    except queries.CursorError:
        return redirect(f"{request.path}?{asked.url_query()}")
    except queries.ReadTooLongError as error:
        context["problem"] = {"message": str(error), "before": asked.text, "at": "", "after": ""}
        return render(request, "web/instances.html", context, status=503)
    context |= {
        "rows": rows_of(page.items, queries.watermarks(project.pk, now)),
        "shown": write_keys(page.items),
        "summary": f"{context['total']} found",
        "next_url": page.next_cursor and asked.url_query(cursor=page.next_cursor),
        "previous_url": page.previous_cursor and asked.url_query(cursor=page.previous_cursor),
        "first_url": asked.cursor and page.previous_cursor and asked.url_query(),
    }
    return render(request, "web/instances.html", context)


@project_view
@require_safe
def rows(request: HttpRequest) -> HttpResponse:
    """The rows on the screen as they are now, in the same order, and how many new ones wait to be asked for."""
    now = micros.now()
    project: Project = request.project  # type: ignore[attr-defined]
    asked = _asked(request)
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
    except (queries.SortError, queries.ReadTooLongError) as error:
        return HttpResponse(str(error), status=503, content_type="text/plain; charset=utf-8")
    context = {
        "rows": shown,
        "shown": write_keys(row.instance for row in shown),
        "rows_query": asked.url_query(cursor=asked.cursor),
        "new_count": fresh,
        "new_is_least": fresh >= LIMIT,
        "now": now,
    }
    return render(request, "web/_instance_rows.html", context)


@project_view
@require_safe
def complete(request: HttpRequest) -> JsonResponse:
    """Completions of the query box at the caret, as JSON."""
    text = request.GET.get("q", "")[:2000].replace("\0", "")
    caret = request.GET.get("caret", "")
    at = int(caret) if caret.isascii() and caret.isdecimal() and len(caret) < 6 else len(text)
    return JsonResponse(completions(request.project.pk, text, at))  # type: ignore[attr-defined]


def _asked(request: HttpRequest) -> Asked:
    text = request.GET.get("q", "").strip()
    sort = request.GET.get("sort") or queries.DEFAULT_SORT
    cursor = request.GET.get("cursor") or None
    try:
        return Asked(text, parse(text), sort, cursor, None)
    except QueryError as error:
        at = min(error.position, len(text))
        word = text[at:].split(maxsplit=1)[0] if text[at:].strip() else ""
        end = at + (text[at:].find(word) + len(word) if word else 0)
        problem = {"message": error.message, "before": text[:at], "at": text[at:end], "after": text[end:]}
        return Asked(text, Query(), sort, cursor, problem)


def _only_correlation(project_id: int, asked: Asked, now: Micros) -> str | None:
    """The correlation ID, when what was typed is exactly one: people who paste an ID want its page."""
    term = asked.query.terms[0]
    if term.key != "text" or term.is_negated or asked.cursor:
        return None
    exact = parse(f"correlation:{spelt(term.values[0].text)}")  # type: ignore[union-attr]
    found = queries.list_instances(project_id, exact, now=now, limit=1).items
    return found[0].correlation_id if found else None


def _frame(project: Project, asked: Asked, now: Micros) -> dict[str, Any]:
    """Everything around the rows."""
    canonical = to_text(asked.query) if asked.problem is None else None
    return {
        "now": now,
        "q": asked.text,
        "rows_query": asked.url_query(cursor=asked.cursor),
        "sort": asked.sort,
        "default_sort": queries.DEFAULT_SORT,
        "sort_label": SORTS.get(asked.sort, asked.sort),
        "problem": asked.problem,
        "presets": _presets(project.pk, canonical, now),
        "chips": _chips(asked),
        "sorts": [
            {"label": label, "url_query": asked.url_query(sort=name), "is_current": name == asked.sort}
            for name, label in SORTS.items()
        ],
        "heads": [_head(asked, *head) for head in _HEADS],
        "export_query": "?" + urlencode({"q": asked.text}) if asked.text else "",
        "api_url": f"{settings.PUBLIC_URL}/api/v1/instances",
        "export_url": "/api/v1/export",
        "curl_query": shlex.quote(f"q={asked.text}"),
    }


def _head(asked: Asked, label: str, sort: str, is_number: bool) -> dict[str, Any]:
    """A column's head: pressed again it turns the order round."""
    is_current = bool(sort) and asked.sort.removeprefix("-") == sort.removeprefix("-")
    wanted = sort
    if is_current and asked.sort == sort:
        wanted = sort.removeprefix("-") if sort.startswith("-") else f"-{sort}"
    return {
        "label": label,
        "is_number": is_number,
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


def _presets(project_id: int, canonical: str | None, now: Micros) -> list[dict[str, Any]]:
    """The presets with their counts."""
    key = f"presets.{project_id}"
    counts = cache.get_or_set(key, lambda: _preset_counts(project_id, now), PRESET_SECONDS) or {}
    presets = []
    for label, text, sort, tone in PRESETS:
        query = {"q": text} if text else {}
        if sort != queries.DEFAULT_SORT:
            query["sort"] = sort
        count = counts.get(label)
        presets.append(
            {
                "label": label,
                "url_query": urlencode(query),
                "count": count,
                "tone": tone if count and count.number else "",
                "is_current": canonical == to_text(parse(text)),
            }
        )
    return presets


def _preset_counts(project_id: int, now: Micros) -> dict[str, queries.Count]:
    """How many instances each preset finds; one that takes too long to count is left out."""
    counts = {}
    for label, text, _, _ in PRESETS:
        if text:
            with suppress(queries.ReadTooLongError):
                counts[label] = queries.count_instances(project_id, parse(text), now=now)
    return counts
