"""Who looks at which project, and what they may do there: the one gate that every page passes.

`@project_view(role=…)` promises the view: `request.project` is a project that the signed-in person may see,
`request.role` is their role in it, and the answer is never cached. Whoever may not gets: the login page (not signed
in), 404 (somebody else's project: it looks like one that does not exist), 403 (a member whose role is too small).

The project comes from, in this order: the form's own `project` field (so that a second tab cannot redirect a change
into another project), the `X-Project` header of fragment requests, `?project=slug`, the session, the first one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, overload

from django.contrib.auth.views import redirect_to_login
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.cache import add_never_cache_headers
from django_htmx.http import HttpResponseClientRedirect

from apps.projects import second_factors
from apps.projects.models import Membership, Project, Role

SESSION_KEY = "project"
_RANK = {Role.VIEWER.value: 0, Role.OPERATOR.value: 1, Role.ADMIN.value: 2}

View = Callable[..., HttpResponse]


def may(role: str, needed: str) -> bool:
    """True when somebody with `role` may do what `needed` asks for."""
    return _RANK.get(role, -1) >= _RANK[needed]


def projects_of(user: Any) -> list[tuple[Project, str]]:
    """The projects that this user may see with their role in each, by name. A superuser is admin of every project."""
    if user.is_superuser:
        return [(project, Role.ADMIN.value) for project in Project.objects.order_by("name", "slug")]
    memberships = Membership.objects.filter(user=user).select_related("project").order_by("project__name")
    return [(membership.project, membership.role) for membership in memberships]


def role_in(user: Any, project_id: int) -> str | None:
    """The user's role in one project, None when they may not see it (or may not sign in any more)."""
    if not user.is_authenticated or not user.is_active:
        return None
    if user.is_superuser:
        return Role.ADMIN.value
    return Membership.objects.filter(user=user, project_id=project_id).values_list("role", flat=True).first()


@overload
def project_view(view: View) -> View: ...
@overload
def project_view(
    *, role: str = ..., change_role: str | None = ..., sets_up_factor: bool = ...
) -> Callable[[View], View]: ...
def project_view(
    view: View | None = None,
    *,
    role: str = Role.VIEWER.value,
    change_role: str | None = None,
    sets_up_factor: bool = False,
) -> Callable[[View], View] | View:
    """Decorate a view that shows or changes one project.

    `role` is what anybody needs to look, `change_role` (default: the same) what a POST needs. `sets_up_factor`: shown
    also to those who must set up a second factor first.
    """

    def decorate(inner: View) -> View:
        @wraps(inner)
        def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
            response = _answer(inner, request, args, kwargs)
            add_never_cache_headers(response)
            return response

        return guarded

    def _answer(inner: View, request: HttpRequest, args: tuple, kwargs: dict) -> HttpResponse:
        if not request.user.is_authenticated:
            return _to_login(request)
        request.owes_factor = second_factors.is_owed(request.user, request.session)  # type: ignore[attr-defined]
        if request.owes_factor and not sets_up_factor:  # type: ignore[attr-defined]
            url = reverse("mfa_index")
            return HttpResponseClientRedirect(url) if request.htmx else redirect(url)  # type: ignore[attr-defined]
        choices = projects_of(request.user)
        request.choices = choices  # type: ignore[attr-defined]
        if not choices:
            return render(request, "web/no_project.html", status=403)
        project, held = _chosen(request, choices)
        request.project, request.role = project, held  # type: ignore[attr-defined]
        needed = (change_role or role) if request.method not in {"GET", "HEAD"} else role
        if not may(held, needed):
            return render(request, "web/forbidden.html", {"needed": needed, "held": held}, status=403)
        return inner(request, *args, **kwargs)

    return decorate(view) if view is not None else decorate


def _chosen(request: HttpRequest, choices: list[tuple[Project, str]]) -> tuple[Project, str]:
    """The project that the request names, else the one of the session, else the first."""
    named = request.POST.get("project") or request.headers.get("X-Project") or request.GET.get("project")
    slug = named or request.session.get(SESSION_KEY)
    found = next((choice for choice in choices if choice[0].slug == slug), None)
    if found is None:
        if named:
            raise Http404("There is no such project")
        found = choices[0]
    if request.method == "GET" and not request.htmx and request.session.get(SESSION_KEY) != found[0].slug:  # type: ignore[attr-defined]
        request.session[SESSION_KEY] = found[0].slug
    return found


def _to_login(request: HttpRequest) -> HttpResponse:
    """The login page; a fragment request makes the whole page go there."""
    if request.htmx:  # type: ignore[attr-defined]
        url = request.htmx.current_url_abs_path or "/"  # type: ignore[attr-defined]
        return HttpResponseClientRedirect(redirect_to_login(url).url)
    return redirect_to_login(request.get_full_path() if request.method == "GET" else "/")
