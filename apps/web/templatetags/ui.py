"""Tags of the pages: icons, status, durations, times, sparks. Everything is escaped, nothing is marked as safe."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from django import template
from django.template.base import Template
from django.template.context import Context, RequestContext
from django.template.engine import Engine
from django.templatetags.static import static
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from apps.lib.micros import SECOND, Micros, format_duration, from_datetime
from apps.web import wording
from apps.web.instance_columns import Column

register = template.Library()

#: The outline of each status of instances, steps, attempts, incidents and deliveries.
ICONS = {
    "running": "running",
    "retrying": "redrive",
    "compensating": "undo",
    "completed": "completed",
    "compensated": "undone",
    "failed": "failed",
    "cancelled": "cancelled",
    "timed_out": "timed_out",
    "scheduled": "scheduled",
    "skipped": "skipped",
    "suspended": "suspended",
    "stuck": "stuck",
    "owed": "undo",
    "waiting": "waiting",
    "open": "bell",
    "acknowledged": "bell",
    "snoozed": "suspended",
    "resolved": "completed",
    "delivered": "completed",
    "pending": "waiting",
    "compensable": "undo",
    "pivot": "pivot",
}
#: Class that carries the hue, where it is not the status's own name.
_HUES = {"retrying": "running", "open": "failed", "delivered": "completed", "resolved": "", "acknowledged": ""}


@lru_cache
def _cell(name: str) -> Template:
    return Engine.get_default().get_template(f"web/cells/{name}.html")


@register.simple_tag(takes_context=True)
def cell(context: Context, column: Column) -> SafeString:
    """One cell of the instances table, by the template of its column."""
    return _cell(column.template).render(context)


@register.simple_tag
@lru_cache
def icon(name: str, extra: str = "i-s") -> SafeString:
    """One symbol of the sprite, for the eye only: the words stand beside it."""
    return format_html(
        '<svg class="{}" aria-hidden="true"><use href="{}#i-{}"/></svg>', extra, static("img/icons.svg"), name
    )


@register.simple_tag
@lru_cache
def status(word: str, text: str = "") -> SafeString:
    """Outline + word + hue of a status, in a line of text or a table."""
    return format_html(
        '<span class="status {}">{}{}</span>',
        _HUES.get(word, word),
        icon(ICONS.get(word, "events")),
        text or word.replace("_", " "),
    )


@register.simple_tag
def pill(word: str, text: str = "") -> SafeString:
    """The same as `status`, framed: for headings."""
    return format_html(
        '<span class="pill {}">{}{}</span>',
        _HUES.get(word, word),
        icon(ICONS.get(word, "events")),
        text or word.replace("_", " "),
    )


@register.filter
def duration(micros: Micros | None) -> SafeString | str:
    """Micros as figures with lighter units; an en dash when not known."""
    parts = wording.duration_parts(micros)
    if not parts:
        return "–"
    return format_html('<span class="dur">{}</span>', format_html_join(" ", "{}<i>{}</i>", parts))


@register.filter
def seconds_duration(seconds: float | None) -> SafeString | str:
    """Seconds as figures with lighter units; an en dash when not known."""
    return duration(None if seconds is None else round(seconds * SECOND))


@register.filter
def duration_text(micros: Micros | None) -> str:
    """Micros in words without markup."""
    return wording.duration_text(micros)


@register.filter
def span(micros: Micros) -> str:
    """A duration as it is written in definitions and queries: 30s, 24h."""
    return format_duration(micros)


@register.simple_tag
def moment(at: Any, style: str = "full") -> SafeString | str:
    """A point in time (Micros or datetime). The script turns it into local time when the reader asks for that."""
    at = _micros(at)
    if at is None:
        return "–"
    return format_html(
        '<time datetime="{}" data-style="{}" title="{} UTC">{}</time>',
        wording.iso_text(at),
        style,
        wording.moment_text(at, "full"),
        wording.moment_text(at, style),
    )


@register.simple_tag
def clock(at: Micros) -> str:
    """Hour and minute in UTC, for the axes of charts."""
    return wording.moment_text(at, "time")[:5]


@register.simple_tag
def day(at: Micros) -> str:
    """Day, hour and minute in UTC, for the axes of charts over several days."""
    date, _, time = wording.moment_text(at, "minute").partition(", ")
    return f"{date.rpartition(' ')[0]} {time}"


@register.simple_tag
def ago(at: Any, now: Micros) -> SafeString | str:
    """How long ago something happened; counts on in an open page."""
    return _counting(at, now, "ago", "{} ago")


@register.simple_tag
def age(at: Any, now: Micros) -> SafeString | str:
    """How long something has lasted; counts on in an open page."""
    return _counting(at, now, "age", "{}")


@register.simple_tag
def lasted(begin: Any, end: Any) -> str:
    """How long something lasted that is over, in whole units."""
    start, stop = _micros(begin), _micros(end)
    return "–" if start is None or stop is None else wording.elapsed_text(stop - start)


@register.simple_tag
def due(at: Any, now: Micros) -> SafeString | str:
    """`in 12 s` before a deadline, `12 m 31 s over` after it; counts on in an open page."""
    at = _micros(at)
    if at is None:
        return "–"
    over = now >= at
    text = f"{wording.elapsed_text(now - at)} over" if over else f"in {wording.elapsed_text(at - now)}"
    return format_html(
        '<time datetime="{}" data-counts="due" class="{}" title="{} UTC">{}</time>',
        wording.iso_text(at),
        "t-late" if over else "",
        wording.moment_text(at, "full"),
        text,
    )


def _counting(at: Any, now: Micros, kind: str, words: str) -> SafeString | str:
    at = _micros(at)
    if at is None:
        return "–"
    return format_html(
        '<time datetime="{}" data-counts="{}" title="{} UTC">{}</time>',
        wording.iso_text(at),
        kind,
        wording.moment_text(at, "full"),
        words.format(wording.elapsed_text(now - at)),
    )


def _micros(at: Any) -> Micros | None:
    return at if at is None or isinstance(at, int) else from_datetime(at)


@register.filter
def number(value: float | None) -> str:
    """1204 → 1,204; an en dash when not known."""
    return "–" if value is None else f"{value:,.0f}"


@register.filter
def percent(share: float | None) -> str:
    """0.008 → 0.8 %."""
    return wording.percent_text(share)


@register.filter
def plural(count: int, words: str) -> str:
    """`{{ 3|plural:"saga,sagas" }}` → 3 sagas."""
    one, many = words.split(",")
    return f"{count:,} {one if count == 1 else many}"


@register.filter
def get(mapping: dict, key: Any) -> Any:
    """The value under a key that is itself a variable."""
    return mapping.get(key)


@register.simple_tag
def spark(values: Sequence[float | None], tone: str = "", label: str = "") -> SafeString | str:
    """A small line of values, oldest first, on a 96 × 20 field; nothing when there are fewer than two."""
    known = [0.0 if value is None else float(value) for value in values]
    if len(known) < 2 or not any(known):
        return ""
    top = max(known)
    step = 96 / (len(known) - 1)
    points = " ".join(f"{index * step:.1f} {19 - 17 * value / top:.1f}" for index, value in enumerate(known))
    return format_html(
        '<svg class="spark {}" viewBox="0 0 96 20" preserveAspectRatio="none" role="img" aria-label="{}">'
        '<path class="area" d="M{} 96 20 0 20z"/><path d="M{}"/></svg>',
        tone,
        label,
        points,
        points,
    )


@register.inclusion_tag("components/_form_guard.html", takes_context=True)
def form_guard(context: RequestContext) -> dict[str, Any]:
    """First thing in every POST form: the CSRF token, and the project that the form was made for."""
    return {"csrf_token": context.get("csrf_token"), "project": context.get("project")}
