"""Saved views: queries under a name, for oneself or for the project. And what each person chose for their pages."""

from __future__ import annotations

from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import Q

from apps.projects.models import Project
from apps.sagas import queries
from apps.sagas.query import parse
from apps.web.instance_columns import read_columns
from apps.web.models import PageChoice, SavedView

#: So many of one person in one project, and so many shared ones.
MOST_VIEWS = 50
LONGEST_NAME = 64


class ViewError(ValueError):
    """A view cannot be saved as asked; the message says why."""


def views_for(project_id: int, user_id: int | None) -> list[SavedView]:
    """The person's own views and those that are shared in the project, by name."""
    found = SavedView.objects.filter(Q(owner_id=user_id) | Q(is_shared=True), project_id=project_id)
    return list(found.select_related("owner").order_by("name", "pk")[: 2 * MOST_VIEWS])


def save_view(
    project: Project, user: Any, *, name: str, query: str, sort: str, columns: tuple[str, ...], is_shared: bool
) -> SavedView:
    """Save a view; one's own of the same name is replaced.

    Raises ViewError, QueryError and SortError.
    """
    name = " ".join(name.split())
    if not name or len(name) > LONGEST_NAME or "\0" in name:
        raise ViewError(f"A view needs a name of at most {LONGEST_NAME} characters.")
    parse(query)
    queries.order_of(sort)
    values = {"query": query, "sort": sort, "columns": list(columns), "is_shared": is_shared}
    mine = SavedView.objects.filter(project=project, owner=user)
    if not mine.filter(name=name).exists() and mine.count() >= MOST_VIEWS:
        raise ViewError(f"{MOST_VIEWS} views are as many as one person keeps in a project: delete one first.")
    try:
        with transaction.atomic():
            view, _ = SavedView.objects.update_or_create(project=project, owner=user, name=name, defaults=values)
    except IntegrityError:
        raise ViewError(f"Somebody shares a view of the name {name} already.") from None
    return view


def delete_view(project_id: int, user: Any, view_id: int, *, is_admin: bool) -> str | None:
    """Delete one's own view, or as an admin a shared one; its name, None where there is none that one may delete."""
    allowed = Q(owner=user) | Q(is_shared=True) if is_admin else Q(owner=user)
    view = SavedView.objects.filter(allowed, project_id=project_id, pk=view_id).first()
    if view is None:
        return None
    view.delete()
    return view.name


def chosen_columns(project_id: int, user_id: int | None) -> tuple[str, ...]:
    """The columns that a person chose in a project; none for whoever chose nothing."""
    found = (
        PageChoice.objects.filter(project_id=project_id, user_id=user_id or 0).values_list("columns", flat=True).first()
    )
    return read_columns(found or ())


def choose_columns(project_id: int, user_id: int | None, columns: tuple[str, ...]) -> None:
    """Remember the columns of a person in a project; none = the usual ones again."""
    PageChoice.objects.update_or_create(
        project_id=project_id, user_id=user_id or 0, defaults={"columns": list(columns)}
    )
