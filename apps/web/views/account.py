"""Signing in and out, one's own password and sessions."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from allauth.account.adapter import get_adapter
from allauth.account.decorators import reauthentication_required
from allauth.account.internal.flows.login import perform_password_login
from allauth.account.models import Login
from allauth.mfa.utils import is_mfa_enabled
from django.conf import settings
from django.contrib import messages
from django.contrib.auth import logout as stop_session
from django.contrib.auth import update_session_auth_hash
from django.contrib.auth.forms import PasswordChangeForm
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render, resolve_url
from django.urls import reverse
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_POST

from apps.web.access import project_view
from apps.web.accounts import sessions
from apps.web.accounts.forms import SignInForm
from apps.web.forms import row_id
from apps.web.live import end_session, recheck_user
from apps.web.views.settings import page

WRONG = "Please enter a correct user name and password. Both may be case-sensitive."


@never_cache
@sensitive_post_parameters("password")
def login(request: HttpRequest) -> HttpResponse:
    """The sign-in page. The same answer for a wrong name and a wrong password; 429 after too many.

    Whoever has a second factor is asked for it next.
    """
    wanted = request.POST.get("next") or request.GET.get("next") or ""
    target = safe_target(request, wanted)
    if request.user.is_authenticated:
        return redirect(target)
    form = SignInForm(request.POST if request.method == "POST" else None)
    context: dict[str, Any] = {"form": form, "next": wanted, "sign_on": sign_on(target)}
    if request.method != "POST":
        return render(request, "web/login.html", context)
    if not form.is_valid():
        return render(request, "web/login.html", context)
    credentials = {name: form.cleaned_data[name] for name in ("username", "password")}
    try:
        user = get_adapter().authenticate(request, **credentials)
    except ValidationError:
        context["blocked"] = True
        return render(request, "web/login.html", context, status=429)
    if user is None:
        form.add_error(None, WRONG)
        return render(request, "web/login.html", context)
    return perform_password_login(request, credentials, Login(user=user, redirect_url=target))


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
    """One's own account: name, roles, password, second factor, sessions."""
    action = request.POST.get("action", "")
    if action in {"end", "end_others"}:
        return _end_sessions(request, row_id(request.POST.get("session")) if action == "end" else None)
    form = PasswordChangeForm(request.user, request.POST or None)  # type: ignore[arg-type]  # signed in
    # The page begins with the account, not with this form.
    form.fields["old_password"].widget.attrs.pop("autofocus", None)
    if request.method == "POST" and form.is_valid():
        session_key = request.session.session_key
        user = form.save()
        update_session_auth_hash(request, user)
        end_session(session_key)
        recheck_user(user.pk)
        messages.success(request, "Your password is changed. Other sessions of yours have ended.")
        return redirect("web:settings_account")
    return page(
        request,
        "web/settings_account.html",
        form=form,
        sessions=sessions.sessions_of(request),
        has_second_factor=is_mfa_enabled(request.user),
        sign_on=sign_on("", process="connect"),
    )


@reauthentication_required
def _end_sessions(request: HttpRequest, number: int | None) -> HttpResponse:
    """End one of one's other sessions, or all (None): whoever sits at an open page must prove who they are."""
    ended = sessions.end(request, number=number)
    told = {0: "No session was open any more.", 1: "The session has ended."}.get(ended, f"{ended} sessions ended.")
    messages.success(request, told)
    return redirect("web:settings_account")


def safe_target(request: HttpRequest, url: str) -> str:
    """Where to go after signing in: only within this site."""
    hosts = {request.get_host()}
    if url and url_has_allowed_host_and_scheme(url, allowed_hosts=hosts, require_https=request.is_secure()):
        return url
    return resolve_url(settings.LOGIN_REDIRECT_URL)


def sign_on(target: str, *, process: str = "login") -> dict[str, str] | None:
    """What a page needs for its button of the single sign-on; None where there is none."""
    if not settings.OIDC_ISSUER:
        return None
    url = reverse("openid_connect_login", args=[settings.OIDC_ID])
    return {"name": settings.OIDC_NAME, "url": f"{url}?{urlencode({'process': process, 'next': target})}"}
