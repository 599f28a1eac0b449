"""What can be done on the instances page: save and delete views, choose columns, act on the rows that were selected.

Whoever may look may save views and choose columns for themselves. To share a view, to write notes and to acknowledge
incidents needs an operator. Nothing here changes a saga.
"""

from __future__ import annotations

from django.contrib import messages
from django.core.cache import cache
from django.db.models import Q
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render

from apps.alerts import incidents
from apps.alerts.models import Incident
from apps.lib.micros import Micros
from apps.projects.models import Project, Role
from apps.sagas import queries
from apps.sagas.instance_csv import csv_chunks
from apps.sagas.instance_csv import read_columns as read_fields
from apps.sagas.models import Instance
from apps.sagas.query import QueryError
from apps.web.access import may
from apps.web.instance_columns import fields_of, read_columns
from apps.web.instance_list import Asked
from apps.web.notes import NoteError, write_notes
from apps.web.rows import chosen_instances, read_keys
from apps.web.saved_views import ViewError, choose_columns, delete_view, save_view

_MOST_PK = 2**63 - 1
#: What only an operator may do.
_OPERATING = {"note", "acknowledge", "export"}


def act(request: HttpRequest, project: Project, asked: Asked, now: Micros) -> HttpResponse:
    """Do what the form asks for and lead back to the same list."""
    action = request.POST.get("action", "")
    held: str = request.role  # type: ignore[attr-defined]
    is_sharing = action == "save-view" and request.POST.get("shared") == "on"
    if (action in _OPERATING or is_sharing) and not may(held, Role.OPERATOR.value):
        return render(request, "web/forbidden.html", {"needed": Role.OPERATOR.value, "held": held}, status=403)
    if action == "columns":
        chosen = read_columns(request.POST.getlist("column"))
        choose_columns(project.pk, request.user.pk, chosen)
        messages.success(request, "These are your columns from now on." if chosen else "The usual columns again.")
        return redirect(f"{request.path}?{asked.url_query(columns=None)}")
    if action == "save-view":
        _save(request, project, asked, is_sharing)
    elif action == "delete-view":
        _delete(request, project, held)
    elif action in _OPERATING:
        return _act_on_rows(request, project, asked, action, now)
    return redirect(f"{request.path}?{asked.url_query(cursor=asked.cursor)}")


def _save(request: HttpRequest, project: Project, asked: Asked, is_shared: bool) -> None:
    try:
        view = save_view(
            project,
            request.user,
            name=request.POST.get("name", ""),
            query=asked.text,
            sort=asked.sort,
            columns=asked.columns if request.POST.get("with_columns") == "on" else (),
            is_shared=is_shared,
        )
    except (ViewError, QueryError, queries.SortError) as error:
        messages.error(request, str(error))
    else:
        whom = f"shared with everybody in {project.name}" if is_shared else "for you alone"
        messages.success(request, f"View saved as {view.name}, {whom}.")


def _delete(request: HttpRequest, project: Project, held: str) -> None:
    given = request.POST.get("view", "")
    number = int(given) if given.isascii() and given.isdecimal() and len(given) < 19 else 0
    name = delete_view(project.pk, request.user, min(number, _MOST_PK), is_admin=may(held, Role.ADMIN.value))
    if name is None:
        messages.error(request, "There is no such view of yours.")
    else:
        messages.success(request, f"The view {name} is deleted.")


def _act_on_rows(request: HttpRequest, project: Project, asked: Asked, action: str, now: Micros) -> HttpResponse:
    chosen = chosen_instances(project.pk, read_keys(" ".join(request.POST.getlist("row"))))
    if not chosen:
        messages.error(request, "No row is selected.")
    elif action == "export":
        return _export(project, asked, chosen, now)
    elif action == "note":
        _note(request, project, chosen, now)
        if back := request.POST.get("back"):  # from the page of the saga itself
            return redirect("web:correlation", back)
    else:
        _acknowledge(request, project, chosen, now)
    return redirect(f"{request.path}?{asked.url_query(cursor=asked.cursor)}")


def _export(project: Project, asked: Asked, chosen: list[Instance], now: Micros) -> HttpResponse:
    """The selected rows as CSV, in the columns on the screen."""
    marks = queries.watermarks(project.pk, now)
    for instance in chosen:
        queries.show_stuck(instance, marks)
    lines = b"".join(csv_chunks(chosen, read_fields(fields_of(asked.columns))))
    return HttpResponse(
        lines,
        content_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": 'attachment; filename="selected.csv"'},
    )


def _note(request: HttpRequest, project: Project, chosen: list[Instance], now: Micros) -> None:
    sagas = [instance.correlation_id for instance in chosen]
    try:
        count = write_notes(project.pk, sagas, request.POST.get("note", ""), by=request.user.get_username(), now=now)
    except NoteError as error:
        messages.error(request, str(error))
    else:
        messages.success(request, f"Noted on {count:,} {'saga' if count == 1 else 'sagas'}.")


def _acknowledge(request: HttpRequest, project: Project, chosen: list[Instance], now: Micros) -> None:
    """Take on the open incidents of what the selected sagas wait for or failed with."""
    numbers = list(
        Incident.objects.filter(_related(chosen), project_id=project.pk, resolved_at=None, acknowledged_at=None)
        .order_by("number")
        .values_list("number", flat=True)
    )
    for number in numbers:
        incidents.acknowledge(project.pk, number, by=request.user.get_username(), now=now)
    if not numbers:
        messages.error(request, "No open incident is about what the selected sagas wait for, owe or failed with.")
        return
    cache.delete(f"notices.{project.pk}")
    listed = ", ".join(f"#{number}" for number in numbers[:10]) + (" and others" if len(numbers) > 10 else "")
    what = "Incident" if len(numbers) == 1 else "Incidents"
    messages.success(request, f"{what} {listed} {'is' if len(numbers) == 1 else 'are'} yours.")


def _related(chosen: list[Instance]) -> Q:
    """Incidents of the same flow whose step one of them waits for, whose error it has, or whose example it is."""
    related = Q(pk__in=[])
    for instance in chosen:
        same = Q(sample__contains=[instance.correlation_id])
        if instance.waiting_for:
            same |= Q(step=instance.waiting_for)
        if instance.error_fingerprint:
            same |= Q(error_fingerprint=instance.error_fingerprint)
        if instance.owed_count:
            same |= Q(rule__condition="compensation_owed")
        related |= Q(flow=instance.flow) & same
    return related
