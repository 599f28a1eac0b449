"""Signing in and out, and one's own password."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.contrib import messages
from django.contrib.auth import login as start_session
from django.contrib.auth import logout as stop_session
from django.contrib.auth import update_session_auth_hash
from django.contrib.auth.forms import AuthenticationForm, PasswordChangeForm
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render, resolve_url
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_POST

from apps.web import sign_in
from apps.web.access import project_view
from apps.web.live import end_session
from apps.web.views.settings import page


@never_cache
@sensitive_post_parameters("password")
def login(request: HttpRequest) -> HttpResponse:
    """The sign-in page. The same answer for a wrong name and a wrong password; 429 after too many."""
    wanted = request.POST.get("next") or request.GET.get("next") or ""
    target = _safe(request, wanted)
    if request.user.is_authenticated:
        return redirect(target)
    form = AuthenticationForm(request, data=request.POST or None)
    context: dict[str, Any] = {"form": form, "next": wanted}
    if request.method != "POST":
        return render(request, "web/login.html", context)
    name, address = request.POST.get("username", ""), request.META.get("REMOTE_ADDR", "")
    if sign_in.is_blocked(name, address):
        context["blocked"] = True
        return render(request, "web/login.html", context, status=429)
    if not form.is_valid():
        sign_in.note_failure(name, address)
        return render(request, "web/login.html", context)
    sign_in.forget(name, address)
    start_session(request, form.get_user())
    return redirect(target)


@require_POST
def logout(request: HttpRequest) -> HttpResponse:
    """End the session, and with it the live connections of its pages."""
    session_key = request.session.session_key
    stop_session(request)
    end_session(session_key)
    return redirect(settings.LOGOUT_REDIRECT_URL)


@project_view
@sensitive_post_parameters()
def show(request: HttpRequest) -> HttpResponse:
    """One's own account: name, roles, password."""
    form = PasswordChangeForm(request.user, request.POST or None)  # type: ignore[arg-type]  # signed in
    if request.method == "POST" and form.is_valid():
        session_key = request.session.session_key
        user = form.save()
        update_session_auth_hash(request, user)
        end_session(session_key)
        messages.success(request, "Your password is changed. Other sessions of yours have ended.")
        return redirect("web:settings_account")
    return page(request, "web/settings_account.html", form=form)


def _safe(request: HttpRequest, url: str) -> str:
    """Where to go after signing in: only within this site."""
    hosts = {request.get_host()}
    if url and url_has_allowed_host_and_scheme(url, allowed_hosts=hosts, require_https=request.is_secure()):
        return url
    return resolve_url(settings.LOGIN_REDIRECT_URL)
