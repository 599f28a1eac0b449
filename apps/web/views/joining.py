"""`/join/…`: what somebody sees who was given a link; making and withdrawing such links."""

from __future__ import annotations

import logging
from typing import Any

from allauth.account.internal.flows.login import perform_password_login
from allauth.account.models import Login
from django.conf import settings
from django.contrib import messages
from django.contrib.auth import get_user_model
from django.core.mail import send_mail
from django.db import IntegrityError, transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.cache import add_never_cache_headers
from django.views.decorators.debug import sensitive_post_parameters, sensitive_variables

from apps.projects import invitations
from apps.projects.models import Invitation, Project, Role
from apps.web.access import SESSION_KEY, project_view
from apps.web.accounts.adapters import INVITATION_KEY
from apps.web.accounts.forms import InviteForm, NewAccountForm
from apps.web.forms import row_id
from apps.web.live import recheck_user
from apps.web.views.account import sign_on
from apps.web.views.settings import page

logger = logging.getLogger(__name__)


@sensitive_post_parameters()
def join(request: HttpRequest, secret: str) -> HttpResponse:
    """Accept an invitation: as who one is, with a new account, or by the single sign-on."""
    response = _join(request, secret)
    add_never_cache_headers(response)
    # The address is the secret: it goes to nobody.
    response.headers["Referrer-Policy"] = "no-referrer"
    return response


@sensitive_variables("secret")
def _join(request: HttpRequest, secret: str) -> HttpResponse:
    try:
        invitation = invitations.find(secret)
    except invitations.InvitationOverError:
        return render(request, "web/join_over.html", status=410)
    request.session[INVITATION_KEY] = secret
    try:
        if request.user.is_authenticated:
            return _join_as_oneself(request, secret, invitation)
        return _join_anew(request, secret, invitation)
    except invitations.InvitationOverError:
        return render(request, "web/join_over.html", status=410)


def _join_as_oneself(request: HttpRequest, secret: str, invitation: Invitation) -> HttpResponse:
    context: dict[str, Any] = {"invitation": invitation, "is_known": True}
    if request.method != "POST":
        return render(request, "web/join.html", context)
    try:
        invitations.accept(secret, request.user)  # type: ignore[arg-type]  # signed in
    except invitations.AlreadyMemberError:
        return render(request, "web/join.html", {**context, "is_member": True}, status=409)
    _arrive(request, invitation)
    recheck_user(request.user.pk or 0)
    return redirect("web:overview")


def _join_anew(request: HttpRequest, secret: str, invitation: Invitation) -> HttpResponse:
    given = request.POST if request.method == "POST" else None
    form = NewAccountForm(given, initial={"email": invitation.email})
    if form.is_valid() and (user := _made(form, secret)) is not None:
        _arrive(request, invitation)
        credentials = {"username": user.get_username()}
        return perform_password_login(request, credentials, Login(user=user, redirect_url=reverse("web:overview")))
    here = reverse("web:join", args=[secret])
    return render(request, "web/join.html", {"invitation": invitation, "form": form, "sign_on": sign_on(here)})


def _made(form: NewAccountForm, secret: str) -> Any:
    """The new account, let in; None when somebody took the name in the meantime, which the form then says."""
    data = form.cleaned_data
    try:
        with transaction.atomic():
            users = get_user_model().objects
            user = users.create_user(data["username"], email=data["email"], password=data["password"])
            invitations.accept(secret, user)
            return user
    except IntegrityError:
        form.add_error("username", "Somebody has this name already.")
        return None


def _arrive(request: HttpRequest, invitation: Invitation) -> None:
    """The next page shows the project that one was invited to."""
    request.session.pop(INVITATION_KEY, None)
    if invitation.project is not None:
        request.session[SESSION_KEY] = invitation.project.slug


@project_view(role=Role.ADMIN)
def invite(request: HttpRequest) -> HttpResponse:
    """The links of a project: made here, shown once, withdrawn here."""
    current: Project = request.project  # type: ignore[attr-defined]
    action = request.POST.get("action", "")
    if action == "withdraw":
        invitation = get_object_or_404(current.invitations, pk=row_id(request.POST.get("invitation")))
        invitations.revoke(invitation)
        messages.success(request, "The link is withdrawn.")
        return redirect("web:settings_invitations")
    form = InviteForm(request.POST if action == "invite" else None)
    context: dict[str, Any] = {"form": form}
    if action == "invite" and form.is_valid():
        data = form.cleaned_data
        try:
            secret = invitations.invite(current, data["role"], by=request.user, email=data["email"])  # type: ignore[arg-type]
        except invitations.TooManyInvitationsError:
            form.add_error(None, f"{invitations.MOST_OPEN} links wait to be used: withdraw some first.")
        else:
            # Shown in the answer itself and not after a redirect: a secret must not lie in a session.
            context["link"] = settings.PUBLIC_URL + reverse("web:join", args=[secret])
            context["sent_to"] = data["email"] if _sent(request, current, data, context["link"]) else ""
            context["not_sent_to"] = "" if context["sent_to"] else data["email"]
            context["form"] = InviteForm()
    return page(request, "web/settings_invitations.html", waiting=invitations.open_invitations(current), **context)


def _sent(request: HttpRequest, project: Project, data: dict[str, Any], link: str) -> bool:
    """True when the mail with the link is on its way."""
    if not data["email"]:
        return False
    days = invitations.LIFETIME.days
    text = (
        f"{request.user.get_username()} invites you to the project {project.name} in Sagascope, as {data['role']}.\n\n"
        f"{link}\n\nThe link works once, within {days} days. If you did not expect it, leave it."
    )
    # A line break in a name would be a second header.
    subject = " ".join(f"Invitation to {project.name}".split())
    try:
        return send_mail(subject, text, None, [data["email"]]) == 1
    except OSError:
        logger.warning("an invitation could not be sent by mail", exc_info=True)
        return False
