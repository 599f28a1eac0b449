"""Showing one saga to people who have no account: the page that makes and revokes links, and what a link shows.

`/embed/…` is the correlation page without anything around it and without anything behind it: no session, no
navigation, no payloads, only the timeline of one correlation. Which sites may frame it is `EMBED_FRAME_ANCESTORS`.
"""

from __future__ import annotations

import inspect
from typing import Any

from csp.decorators import csp_replace
from django.conf import settings
from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.cache import add_never_cache_headers
from django.views.decorators.clickjacking import xframe_options_exempt
from django.views.decorators.http import require_safe

from apps.lib import micros
from apps.projects.models import Project, Role
from apps.sagas.locking import shard_of
from apps.sagas.models import Correlation
from apps.web import embedding
from apps.web.access import project_view
from apps.web.views import correlation

#: What an address may ask of an embedded timeline. Above all not: an event, whose payload would be shown.
_SHOWN = ("from", "to", "fold", "open", "shut", "rows", "block")


@project_view(role=Role.OPERATOR)
def show(request: HttpRequest, correlation_id: str) -> HttpResponse:
    """The links of a correlation; a POST makes or revokes one."""
    project: Project = request.project  # type: ignore[attr-defined]
    shard = shard_of(project.pk, correlation_id) if "\0" not in correlation_id else 0
    known = Correlation.objects.filter(shard=shard, project_id=project.pk, correlation_id=correlation_id)
    if "\0" in correlation_id or not known.exists():
        raise Http404("There is no such correlation")
    now, by = micros.now(), request.user.get_username()
    action = request.POST.get("action")
    if action == "make":
        spans = {value: (span, words) for value, span, words in embedding.LIFETIMES}
        span, words = spans.get(request.POST.get("for", ""), spans["7d"])
        embedding.make_link(project.pk, correlation_id, lasting=span, by=by, now=now)
        messages.success(request, f"The link holds for {words}. Whoever has it sees this timeline, without signing in.")
    elif action == "revoke":
        given = request.POST.get("link", "")
        number = int(given) if given.isascii() and given.isdecimal() and len(given) < 19 else 0
        if embedding.revoke_link(project.pk, correlation_id, number, by=by, now=now):
            messages.success(request, "The link is revoked: it opens nothing any more.")
        else:
            messages.error(request, "There is no such link that still holds.")
    if action:
        return redirect("web:share", correlation_id)
    links = embedding.links_of(project.pk, correlation_id)
    holding = [link for link in links if link.revoked_at is None and link.expires_at > now]
    context = {
        "now": now,
        "correlation_id": correlation_id,
        "holding": [(link, embedding.url_of(link)) for link in holding],
        "over": [link for link in links if link not in holding],
        "lifetimes": [(value, words) for value, _, words in embedding.LIFETIMES],
        "ancestors": [each for each in settings.EMBED_FRAME_ANCESTORS if each != "'self'"],
    }
    return render(request, "web/share.html", context)


@require_safe
@xframe_options_exempt
def embed(request: HttpRequest, token: str) -> HttpResponse:
    """What a link shows: 404 for what nobody made, 410 once it has expired or was revoked."""
    framed: Any = csp_replace({"frame-ancestors": settings.EMBED_FRAME_ANCESTORS})(_embedded)  # type: ignore[arg-type]
    response: HttpResponse = framed(request, token)
    add_never_cache_headers(response)
    # The address is the key: no other site is to learn it, and no search engine.
    response.headers["Referrer-Policy"] = "no-referrer"
    response.headers["X-Robots-Tag"] = "noindex"
    return response


def _embedded(request: HttpRequest, token: str) -> HttpResponse:
    try:
        link = embedding.open_link(token, micros.now())
    except embedding.NoSuchLinkError:
        return render(request, "web/embed_over.html", {"is_embedded": True, "is_unknown": True}, status=404)
    except embedding.LinkOverError:
        return render(request, "web/embed_over.html", {"is_embedded": True}, status=410)
    given = {name: request.GET[name] for name in _SHOWN if name in request.GET}
    asked = request.GET.copy()
    asked.clear()
    asked.update(given)
    request.GET = asked  # type: ignore[assignment]
    request.project, request.role, request.choices = link.project, Role.VIEWER.value, []  # type: ignore[attr-defined]
    request.shown_at = request.path  # type: ignore[attr-defined]
    # The page behind its gate: the signature has opened it, for this correlation and nothing else.
    return inspect.unwrap(correlation.show)(request, link.correlation_id)
