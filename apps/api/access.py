"""Who calls the API: a bearer token with a scope, or the session of a member.

Every route names one of `READ` and `OPERATE`. A token speaks for its project. A session speaks for the project that
its page shows (or the one that `X-Project` names), may write only with a CSRF token, and operates only as operator or
admin.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.http import HttpRequest
from ninja.security import APIKeyCookie, HttpBearer
from ninja.utils import check_csrf

from apps.api.problems import ProblemError
from apps.projects import second_factors, tokens
from apps.projects.models import Membership, Project, Role, Scope, Token

_SAFE_METHODS = {"GET", "HEAD", "OPTIONS"}
_OPERATORS = {Role.OPERATOR.value, Role.ADMIN.value}
#: Where pages keep the slug of the project that they show.
_SESSION_PROJECT = "project"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, and on which project."""

    project_id: int
    user_name: str = ""
    token_id: int | None = None
    #: Of somebody who signed in; tokens have scopes instead.
    role: str = ""

    @property
    def name(self) -> str:
        """For logs of what was done: the user, or the token by its name."""
        if self.token_id is None:
            return self.user_name
        name = Token.objects.filter(pk=self.token_id).values_list("name", flat=True).first()
        return f"token {name or self.token_id}"


class BearerToken(HttpBearer):
    """`Authorization: Bearer …` with a token of the scope."""

    def __init__(self, scope: str) -> None:
        super().__init__()
        self.scope = scope

    def __call__(self, request: HttpRequest) -> Any | None:
        """The caller; None when there is no such header. Raises ProblemError."""
        header = request.headers.get("Authorization")
        if header is None:
            return None
        kind, _, text = header.partition(" ")
        identity = tokens.identify(text.strip()) if kind.lower() == "bearer" else None
        if identity is None:
            raise ProblemError(401, "The token is not valid.")
        caller = Caller(identity.project_id, token_id=identity.token_id)
        if self.scope not in identity.scopes:
            # For the audit log: it was refused, but it is known who asked.
            request.auth = caller  # type: ignore[attr-defined]
            raise ProblemError(403, f"The token has not the scope {self.scope}.", code="missing_scope")
        return caller

    def authenticate(self, request: HttpRequest, token: str) -> Any | None:
        """Not used: `__call__` tells apart what this could not."""
        raise NotImplementedError


class MemberSession(APIKeyCookie):
    """The session of somebody who signed in and is a member of the project."""

    param_name = settings.SESSION_COOKIE_NAME

    def __init__(self, scope: str) -> None:
        super().__init__(csrf=False)
        self.scope = scope

    def __call__(self, request: HttpRequest) -> Any | None:
        """The caller; None when nobody is signed in. Raises ProblemError."""
        user = request.user
        if not user.is_authenticated or not user.is_active:
            return None
        if request.method not in _SAFE_METHODS and check_csrf(request) is not None:
            raise ProblemError(403, "The CSRF token is missing or wrong.", code="csrf")
        if second_factors.is_owed(user, request.session):
            raise ProblemError(403, "Set up a second factor for your account first.", code="second_factor")
        project_id, role = _chosen(request, user)
        if self.scope == Scope.OPERATE and role not in _OPERATORS:
            raise ProblemError(403, "Viewers cannot change anything.", code="missing_role")
        return Caller(project_id, user_name=user.get_username(), role=role)

    def authenticate(self, request: HttpRequest, key: str | None) -> Any | None:
        """Not used: see `__call__`."""
        raise NotImplementedError


def _chosen(request: HttpRequest, user: Any) -> tuple[int, str]:
    """The project that the request or session names, else the first; with the role of the user in it."""
    if user.is_superuser:
        choices = [
            (pk, slug, Role.ADMIN.value) for pk, slug in Project.objects.order_by("name").values_list("pk", "slug")
        ]
    else:
        memberships = Membership.objects.filter(user=user).order_by("project__name")
        choices = list(memberships.values_list("project_id", "project__slug", "role"))
    named = request.headers.get("X-Project")
    wanted = named or request.session.get(_SESSION_PROJECT)
    for project_id, slug, role in choices:
        if slug == wanted:
            return project_id, role
    if named is not None or not choices:
        raise ProblemError(403, "You are not a member of this project.", code="not_a_member")
    return choices[0][0], choices[0][2]


READ = [BearerToken(Scope.READ.value), MemberSession(Scope.READ.value)]
OPERATE = [BearerToken(Scope.OPERATE.value), MemberSession(Scope.OPERATE.value)]


def caller_of(request: HttpRequest) -> Caller:
    """Who called, on a route that names READ or OPERATE."""
    caller: Caller = request.auth  # type: ignore[attr-defined]
    return caller


def administrator_of(request: HttpRequest) -> Caller:
    """Who called, on a route that names OPERATE and changes what pages let only admins change. Raises ProblemError.

    A token with the scope `operate` may: an admin made it.
    """
    caller = caller_of(request)
    if caller.token_id is None and caller.role != Role.ADMIN:
        raise ProblemError(403, "Only admins of the project can change this.", code="missing_role")
    return caller
