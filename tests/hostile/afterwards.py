"""After the storm: every page still opens, every call still answers, and a full rebuild changes nothing."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.test import Client

from apps.projects.models import Membership, Project
from apps.projects.tokens import create_token
from apps.sagas.models import Correlation
from tests.sagas.stored import projections

PAGES = (
    "/", "/instances", "/flows", "/findings", "/findings/owed", "/incidents", "/incidents/stuck", "/dead-letters",
    "/sources", "/notices", "/search?q=x", "/settings", "/settings/audit",
)  # fmt: skip
CALLS = ("/instances", "/instances?limit=1000", "/flows", "/findings", "/incidents", "/sources")


def signed_in(project: Project) -> Client:
    """The browser of an administrator of the project; an exception in a page is raised."""
    user, _ = get_user_model().objects.get_or_create(username=f"admin-of-{project.slug}")
    Membership.objects.get_or_create(project=project, user=user, defaults={"role": "admin"})
    browser = Client(raise_request_exception=True)
    browser.force_login(user)
    return browser


def check(project: Project) -> int:
    """Open every page and call of a project, and rebuild it. Returns how many correlations were looked at."""
    browser = signed_in(project)
    header = {"HTTP_AUTHORIZATION": f"Bearer {create_token(project, ['read'])}"}
    for page in PAGES:
        _opened(browser.get(f"{page}{'&' if '?' in page else '?'}project={project.slug}"), page)
    for call in CALLS:
        _opened(Client().get(f"/api/v1{call}", **header), call)
    names = list(Correlation.objects.filter(project=project).values_list("correlation_id", flat=True))
    for name in names:
        address = quote(name, safe="")
        _opened(browser.get(f"/correlations/{address}?project={project.slug}"), name)
        _opened(Client().get(f"/api/v1/correlations/{address}", **header), name)
        _opened(Client().get(f"/api/v1/correlations/{address}/events?limit=1000", **header), name)
    before = projections(project.pk)
    call_command("rebuild", project=project.slug)
    assert projections(project.pk) == before
    return len(names)


def _opened(response: Any, what: str) -> None:
    assert response.status_code == 200, (what, response.status_code, getattr(response, "content", b"")[:300])
