"""`/search`: from a few words to the page that is meant. The palette shows the same answer without leaving the page."""

from __future__ import annotations

from urllib.parse import urlencode

from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_safe

from apps.lib import micros
from apps.web.access import project_view
from apps.web.search import find, is_query


@project_view
@require_safe
def show(request: HttpRequest) -> HttpResponse:
    """Go to what is certainly meant; else list what may be meant. With `X-Palette` only the list, and no going."""
    text = request.GET.get("q", "").strip()
    is_palette = "X-Palette" in request.headers
    if text and is_query(text) and not is_palette:
        return redirect(f"{reverse('web:instances')}?{urlencode({'q': text})}")
    project, role = request.project, request.role  # type: ignore[attr-defined]
    found = find(project, request.user, role, text, micros.now())
    if found.exact is not None and not is_palette:
        return redirect(found.exact.url)
    template = "web/_search.html" if is_palette else "web/search.html"
    return render(request, template, {"q": text, "found": found})
