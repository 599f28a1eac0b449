"""What somebody may mean by a few words: a saga, an event or trace of one, a flow, an incident, a source, a page.

People paste what they have: a correlation ID, an order number, an event's id, a trace ID or a whole `traceparent`, the
address of a page. `find` says what there is, and whether one of them is certainly meant.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlencode, urlsplit

from django.db import connection
from django.urls import reverse

from apps.alerts.models import Incident
from apps.lib.micros import Micros
from apps.lib.read_limit import ReadTooLongError, read_limit
from apps.projects.models import Project, Role, Source
from apps.sagas import queries
from apps.sagas.conditions import like
from apps.sagas.locking import shard_of
from apps.sagas.models import Correlation, Flow, Instance
from apps.sagas.query import Pattern, Query, QueryError, Term, parse, to_text
from apps.web.access import may
from apps.web.completion import attribute_names, spelt
from apps.web.saved_views import views_for

LONGEST = 2000
#: So many of each kind are shown.
MOST = 6
#: Events are not indexed by id alone or by trace: looking for one may take so long, and no longer.
EVENT_SECONDS = 2.0
#: The same for values of facts, of so many names, from so many characters on.
FACT_SECONDS, _MOST_NAMES, _SHORTEST_FACT = 0.5, 16, 3
_TRACE = re.compile(r"(?:[0-9a-f]{2}-)?(?P<trace>[0-9a-f]{32})(?:-[0-9a-f]{16}(?:-[0-9a-f]{2})?)?", re.IGNORECASE)
_XRAY = re.compile(r"(?:Root=)?1-(?P<first>[0-9a-f]{8})-(?P<rest>[0-9a-f]{24})", re.IGNORECASE)
#: What ids look like: no spaces, and long enough or with a figure in it, so that words cost no search of all events.
_ID = re.compile(r"(?=\S*\d)\S{6,512}|\S{20,512}")

#: Pages: route, label, other words that people may type, what one must be to look.
PAGES: tuple[tuple[str, str, str, str], ...] = (
    ("overview", "Overview", "home start dashboard", Role.VIEWER.value),
    ("instances", "Instances", "sagas list query", Role.VIEWER.value),
    ("flows", "Flows", "definitions workflows map", Role.VIEWER.value),
    ("findings", "Findings", "rules conduct", Role.VIEWER.value),
    ("owed", "Owed compensations", "undo ledger", Role.VIEWER.value),
    ("incidents", "Incidents", "alerts trouble", Role.VIEWER.value),
    ("dead_letters", "Dead letters", "dlq queues", Role.VIEWER.value),
    ("redrives", "Redrives", "dlq replay", Role.VIEWER.value),
    ("sources", "Sources", "systems connected rejected", Role.VIEWER.value),
    ("source_new", "Connect a source", "new broker engine kafka", Role.ADMIN.value),
    ("settings", "Settings", "project retention", Role.VIEWER.value),
    ("settings_members", "Members", "people roles users", Role.VIEWER.value),
    ("settings_tokens", "Tokens", "api keys ingest", Role.VIEWER.value),
    ("settings_receivers", "Receivers", "mail webhook chat", Role.VIEWER.value),
    ("settings_rules", "Rules", "alerts conditions", Role.VIEWER.value),
    ("settings_audit", "Audit log", "history who did what", Role.ADMIN.value),
    ("settings_account", "Account", "password profile", Role.VIEWER.value),
)


@dataclass(frozen=True, slots=True)
class Hit:
    """One thing that may be meant, and where it is."""

    title: str
    detail: str
    url: str
    icon: str
    #: True when nothing else can be meant.
    is_exact: bool = False


@dataclass(slots=True)
class Found:
    """Everything that may be meant, by kind, in the order in which people look for it."""

    groups: list[tuple[str, list[Hit]]] = field(default_factory=list)
    #: What could not be looked through in time.
    given_up: str = ""

    @property
    def exact(self) -> Hit | None:
        """The one thing that is certainly meant, if there is one."""
        certain = [hit for _, hits in self.groups for hit in hits if hit.is_exact]
        return certain[0] if len(certain) == 1 else None


def is_query(text: str) -> bool:
    """True for text with at least one key of the query language, whether or not it can be understood."""
    if text.startswith(("http://", "https://")):
        return False
    try:
        return any(term.key != "text" for term in parse(text).terms)
    except QueryError:
        return True


def find(project: Project, user: Any, role: str, text: str, now: Micros, *, is_deep: bool = True) -> Found:
    """What `text` may mean in a project. Without `is_deep` events are not searched."""
    found = Found()
    wanted = _unwrapped(text.replace("\0", "").strip()[:LONGEST])
    pages = _pages(role, wanted)
    if not wanted:
        found.groups = [("Pages", pages)]
        return found
    sagas = _sagas(project.pk, wanted, now, found)
    events: list[Hit] = []
    if is_deep and not sagas and _ID.fullmatch(wanted):
        events = _events(project.pk, wanted, found)
    groups: list[tuple[str, list[Hit]]] = [
        ("Sagas", sagas),
        ("Facts", [] if sagas or events else _facts(project.pk, wanted)),
        ("Events", events),
        ("Incidents", _incidents(project.pk, wanted)),
        ("Pages", pages),
        ("Flows", _flows(project.pk, wanted)),
        ("Sources", _sources(project.pk, wanted)),
        ("Views", _views(project.pk, user.pk, wanted)),
        ("Instances", [_as_query(wanted)]),
    ]
    found.groups = [(kind, hits) for kind, hits in groups if hits]
    return found


def _unwrapped(text: str) -> str:
    """The correlation ID in the address of its page; anything else as it is."""
    if text.startswith(("http://", "https://")):
        try:
            path = urlsplit(text).path
        except ValueError:
            return text
        prefix = "/correlations/"
        if path.startswith(prefix) and len(path) > len(prefix):
            return unquote(path.removeprefix(prefix))
    return text


def _sagas(project_id: int, text: str, now: Micros, found: Found) -> list[Hit]:
    """The saga of that ID; else those whose ID begins with it or that have it as a fact."""
    shard = shard_of(project_id, text)
    if Correlation.objects.filter(shard=shard, project_id=project_id, correlation_id=text).exists():
        return [_saga(text, "correlation ID", is_exact=True)]
    try:
        query = parse(f'"{text}"' if '"' not in text and "\\" not in text else spelt(text))
        instances = queries.list_instances(project_id, query, now=now, limit=3 * MOST).items
    except (QueryError, queries.ReadTooLongError):
        found.given_up = "sagas"
        return []
    details: dict[str, str] = {}
    facts = 0
    for instance in instances:
        detail = _why(instance, text)
        facts += detail.startswith("attr.")
        details.setdefault(instance.correlation_id, detail)
    is_one_fact = len(details) == 1 and facts > 0
    return [_saga(one, detail, is_exact=is_one_fact) for one, detail in list(details.items())[:MOST]]


def _facts(project_id: int, text: str) -> list[Hit]:
    """Values of searchable facts that begin so: what is typed of an order number."""
    if len(text) < _SHORTEST_FACT:
        return []
    sql = (
        "SELECT named.name, fact.value FROM unnest(%s::text[]) AS named(name) CROSS JOIN LATERAL (SELECT DISTINCT value"
        " FROM instance_attribute WHERE project_id = %s AND name = named.name AND value LIKE %s ORDER BY value LIMIT 4)"
        " AS fact LIMIT %s"
    )
    try:
        with read_limit(FACT_SECONDS), connection.cursor() as cursor:
            cursor.execute(
                sql, [attribute_names(project_id)[:_MOST_NAMES], project_id, like(Pattern((text, ""))), MOST]
            )
            rows = cursor.fetchall()
    except ReadTooLongError:
        return []
    return [
        Hit(value, f"attr.{name}", f"{reverse('web:instances')}?{urlencode({'q': fact_query(name, value)})}", "search")
        for name, value in rows
    ]


def fact_query(name: str, value: str) -> str:
    """The query that finds instances by a fact."""
    return to_text(Query((Term("attr", "=", (Pattern((value,)),), name=name),)))


def _why(instance: Instance, text: str) -> str:
    for name, value in (instance.attributes or {}).items():
        if str(value) == text:
            return f"attr.{name}, {instance.flow}, {instance.status}"
    return f"{instance.flow}, {instance.status}"


def _saga(correlation_id: str, detail: str, *, is_exact: bool = False) -> Hit:
    return Hit(correlation_id, detail, reverse("web:correlation", args=[correlation_id]), "running", is_exact)


def _events(project_id: int, text: str, found: Found) -> list[Hit]:
    """Events of this id or trace, read from the table until the time is over."""
    trace = _TRACE.fullmatch(text)
    xray = _XRAY.fullmatch(text)
    condition, params = "event.event_id = %s", [text]
    if trace or xray:
        wanted = trace["trace"] if trace else xray["first"] + xray["rest"]  # type: ignore[index]
        condition += " OR position(%s in event.attributes) > 0"
        params.append(f'"trace_id":"{wanted.lower()}"')
    sql = (
        "SELECT correlation.correlation_id, event.event_id, event.source, event.type FROM event"  # noqa: S608
        " JOIN correlation ON correlation.shard = event.shard AND correlation.id = event.correlation_uuid"
        f" WHERE correlation.project_id = %s AND ({condition}) LIMIT 200"
    )
    try:
        with read_limit(EVENT_SECONDS), connection.cursor() as cursor:
            cursor.execute(sql, [project_id, *params])
            rows = cursor.fetchall()
    except ReadTooLongError:
        found.given_up = "events"
        return []
    sagas: dict[str, tuple[str, str, str]] = {}
    for correlation_id, event_id, source, kind in rows:
        sagas.setdefault(correlation_id, (event_id, source, kind))
    hits = []
    for correlation_id, (event_id, source, kind) in list(sagas.items())[:MOST]:
        url = reverse("web:correlation", args=[correlation_id])
        is_event = event_id == text
        if is_event:
            url += "?" + urlencode({"event": event_id, "source": source})
        detail = f"event {kind}" if is_event else f"trace {text}"
        hits.append(Hit(correlation_id, detail, url, "events", is_exact=len(sagas) == 1))
    return hits


def _incidents(project_id: int, text: str) -> list[Hit]:
    number = re.fullmatch(r"(?:#|INC-|incident\s+)?(\d{1,9})", text, re.IGNORECASE)
    of_project = Incident.objects.filter(project_id=project_id)
    if number:
        rows = of_project.filter(number=int(number[1]))
        is_exact = not text[0].isdigit()
    else:
        rows, is_exact = of_project.filter(resolved_at=None, title__icontains=text), False
    return [
        Hit(f"INC-{row.number} {row.title}", _state(row), reverse("web:incident", args=[row.number]), "bell", is_exact)
        for row in rows.order_by("-number")[:MOST]
    ]


def _state(row: Incident) -> str:
    return f"{row.severity}, {'resolved' if row.resolved_at else 'unresolved'}"


def _pages(role: str, text: str) -> list[Hit]:
    words = text.lower()
    shown = [page for page in PAGES if may(role, page[3])]
    matching = [page for page in shown if words in page[1].lower() or any(_begins(words, page[2]))]
    return [
        Hit(label, "page", reverse(f"web:{name}"), "arrow", is_exact=label.lower() == words)
        for name, label, _, _ in (matching if words else shown)
    ]


def _begins(words: str, others: str) -> Iterator[bool]:
    return (len(words) > 1 and other.startswith(words) for other in others.split())


def _flows(project_id: int, text: str) -> list[Hit]:
    rows = Flow.objects.filter(project_id=project_id, name__icontains=text)
    return _named(rows, text, "flow", "events", lambda row: reverse("web:flow", args=[row.name]))


def _sources(project_id: int, text: str) -> list[Hit]:
    rows = Source.objects.filter(project_id=project_id, name__icontains=text)
    return _named(rows, text, "source", "signal", lambda row: reverse("web:source", args=[row.pk]))


def _named(rows: Any, text: str, kind: str, icon: str, url: Callable[[Any], str]) -> list[Hit]:
    return [
        Hit(row.name, kind, url(row), icon, is_exact=row.name == text) for row in rows.order_by("name", "pk")[:MOST]
    ]


def _views(project_id: int, user_id: int, text: str) -> list[Hit]:
    hits = []
    for view in views_for(project_id, user_id):
        if text.lower() in view.name.lower():
            values = {"q": view.query, "sort": view.sort, "columns": ",".join(view.columns)}
            query = urlencode({key: value for key, value in values.items() if value})
            hits.append(Hit(view.name, view.query or "all", f"{reverse('web:instances')}?{query}", "star"))
    return hits[:MOST]


def _as_query(text: str) -> Hit:
    url = f"{reverse('web:instances')}?{urlencode({'q': text})}"
    return Hit(text, "as a query of the instances", url, "search")
