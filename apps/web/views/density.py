"""Choosing how close together rows stand."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.views.decorators.http import require_POST

from apps.web.density import keep
from apps.web.views.account import safe_target


@require_POST
def choose(request: HttpRequest) -> HttpResponse:
    """Remember the choice in this browser, and go back to the page where it was made."""
    answer = redirect(safe_target(request, request.POST.get("next", "")))
    keep(answer, request.POST.get("density", ""))
    return answer
