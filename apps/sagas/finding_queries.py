"""Reads of findings for pages, API and alerts."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from django.conf import settings
from django.db import connection
from django.db.models import Q

from apps.lib import keyset
from apps.lib.keyset import Page
from apps.lib.micros import Micros
from apps.lib.read_limit import read_limit
from apps.sagas.findings.codes import CODES, RULES
from apps.sagas.models import Finding

#: What a list can be narrowed to.
STATUSES = ("open", "resolved", "inconclusive")
MOST_GROUPS = 500


@dataclass(frozen=True, slots=True)
class FindingGroup:
    """Open findings of one code in one flow."""

    code: str
    flow: str
    count: int
    #: When the oldest of them was broken.
    since: Micros

    @property
    def label(self) -> str:
        """The rule in a few words."""
        return RULES[self.code][0]


@dataclass(frozen=True, slots=True)
class OwedGroup:
    """What one service owes in one flow."""

    flow: str
    service: str
    step: str
    count: int
    since: Micros


def list_findings(
    project_id: int,
    *,
    status: str | None = None,
    code: str | None = None,
    flow: str | None = None,
    limit: int = 50,
    cursor: str | None = None,
) -> Page[Finding]:
    """Findings, the latest first. Raises `keyset.CursorError` and ReadTooLongError, ValueError for unknown words."""
    if status is not None and status not in STATUSES:
        raise ValueError(f"status is one of {', '.join(STATUSES)}")
    if code is not None and code not in CODES:
        raise ValueError(f"code is one of {', '.join(CODES)}")
    wanted = Q(project_id=project_id)
    for name, value in (("status", status), ("code", code), ("flow", flow)):
        if value is not None:
            wanted &= Q(**{name: value})
    bound_to = ("findings", str(project_id), status or "", code or "", repr(flow))
    position = None
    order = ("-opened_at", "id")
    if cursor is not None:
        position = keyset.decode_cursor(cursor, secret=settings.SECRET_KEY, bound_to=bound_to, width=2)
        opened_at, last = position.values
        if position.is_backward:
            wanted &= Q(opened_at__gt=opened_at) | Q(opened_at=opened_at, id__lt=UUID(str(last)))
            order = ("opened_at", "-id")
        else:
            wanted &= Q(opened_at__lt=opened_at) | Q(opened_at=opened_at, id__gt=UUID(str(last)))
    with read_limit():
        rows = list(Finding.objects.filter(wanted).order_by(*order)[: limit + 1])
    if position is not None and position.is_backward:
        rows.reverse()
    return keyset.page_of(
        rows,
        limit=limit,
        position=position,
        place=lambda row: (row.opened_at, str(row.id)),
        secret=settings.SECRET_KEY,
        bound_to=bound_to,
    )


def findings_of(shard: int, correlation_uuid: str) -> list[Finding]:
    """All findings of one correlation: what is open first, then what cannot be concluded, then what is over."""
    ranks = {"open": 0, "inconclusive": 1, "resolved": 2}
    rows = Finding.objects.filter(shard=shard, correlation_uuid=correlation_uuid)
    return sorted(rows, key=lambda row: (ranks[row.status], row.since, row.code, row.fingerprint))


def count_open_of(shard: int, correlation_uuid: str) -> int:
    """How many open findings one correlation has."""
    return Finding.objects.filter(shard=shard, correlation_uuid=correlation_uuid, status="open").count()


def groups(project_id: int) -> list[FindingGroup]:
    """Open findings by code, in the order of the rules, and flow."""
    sql = """
        SELECT code, flow, count(*), min(since) FROM finding WHERE project_id = %s AND status = 'open'
        GROUP BY code, flow ORDER BY count(*) DESC, flow LIMIT %s
    """
    with read_limit(), connection.cursor() as cursor:
        cursor.execute(sql, [project_id, MOST_GROUPS])
        found = [FindingGroup(*row) for row in cursor.fetchall()]
    return sorted(found, key=lambda group: (CODES.index(group.code), -group.count, group.flow))


def owed_groups(project_id: int) -> list[OwedGroup]:
    """The owed ledger in sums: by flow, service and step, what has been owed longest first."""
    sql = """
        SELECT flow, service, step, count(*), min(since) AS oldest FROM finding
        WHERE project_id = %s AND code = 'compensation_owed' AND status = 'open'
        GROUP BY flow, service, step ORDER BY oldest, flow, service, step LIMIT %s
    """
    with read_limit(), connection.cursor() as cursor:
        cursor.execute(sql, [project_id, MOST_GROUPS])
        return [OwedGroup(*row) for row in cursor.fetchall()]


def list_owed(
    project_id: int, *, flow: str | None = None, service: str | None = None, limit: int = 50, cursor: str | None = None
) -> Page[Finding]:
    """The owed ledger: what was completed and neither undone nor confirmed, the oldest first.

    Raises `keyset.CursorError` and ReadTooLongError.
    """
    wanted = Q(project_id=project_id, code="compensation_owed", status="open")
    if flow is not None:
        wanted &= Q(flow=flow)
    if service is not None:
        wanted &= Q(service=service)
    bound_to = ("owed", str(project_id), repr(flow), repr(service))
    position = None
    order: tuple[str, ...] = ("since", "id")
    if cursor is not None:
        position = keyset.decode_cursor(cursor, secret=settings.SECRET_KEY, bound_to=bound_to, width=2)
        since, last = position.values
        if position.is_backward:
            wanted &= Q(since__lt=since) | Q(since=since, id__lt=UUID(str(last)))
            order = ("-since", "-id")
        else:
            wanted &= Q(since__gt=since) | Q(since=since, id__gt=UUID(str(last)))
    with read_limit():
        rows = list(Finding.objects.filter(wanted).order_by(*order)[: limit + 1])
    if position is not None and position.is_backward:
        rows.reverse()
    return keyset.page_of(
        rows,
        limit=limit,
        position=position,
        place=lambda row: (row.since, str(row.id)),
        secret=settings.SECRET_KEY,
        bound_to=bound_to,
    )
