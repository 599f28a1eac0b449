"""What of django-allauth is different here: nobody signs up by themselves, secrets are encrypted, sockets close."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Iterable
from typing import Any

from allauth.account.adapter import DefaultAccountAdapter
from allauth.core.exceptions import ImmediateHttpResponse, SignupClosedException
from allauth.mfa.adapter import DefaultMFAAdapter
from allauth.socialaccount.adapter import DefaultSocialAccountAdapter
from allauth.usersessions.adapter import DefaultUserSessionsAdapter
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from apps.lib import secrets
from apps.projects.invitations import AlreadyMemberError, InvitationOverError, accept, find
from apps.web.accounts.single_sign_on import OpenIDAdapter
from apps.web.live import end_session

#: Where a session keeps the secret of the invitation while its owner is away at the single sign-on.
INVITATION_KEY = "invitation"
#: Seconds that our clock and the single sign-on's may differ.
_CLOCKS_DIFFER = 60
#: What allauth would say and the page shows anyway.
_SILENT = {"account/messages/logged_in.txt", "account/messages/logged_out.txt"}


class AccountAdapter(DefaultAccountAdapter):
    """Signing in."""

    def is_open_for_signup(self, request: HttpRequest) -> bool:
        """Never: people are invited."""
        return False

    def get_client_ip(self, request: HttpRequest) -> str:
        """The address of the connection, which uvicorn takes from a trusted proxy; unknown behind a Unix socket."""
        try:
            return str(ipaddress.ip_address(request.META.get("REMOTE_ADDR", "")))
        except ValueError:
            return "0.0.0.0"  # noqa: S104 - means "unknown"

    def _get_login_attempts_cache_key(self, request: HttpRequest, **credentials: Any) -> str:
        """Wrong passwords are counted by name *and* address, so that a stranger cannot lock somebody else out."""
        name = str(credentials.get("username", "")).casefold().encode("utf-8", "replace").decode()
        return f"{self.get_client_ip(request)} {name}"

    def add_message(
        self, request: HttpRequest, level: int, message_template: str | None = None, *args: Any, **more: Any
    ) -> None:
        """Say it, unless the page itself shows that somebody has signed in or out."""
        if message_template not in _SILENT:
            super().add_message(request, level, message_template, *args, **more)

    def respond_user_inactive(self, request: HttpRequest, user: Any) -> HttpResponse:
        """Somebody whose account is switched off."""
        return render(request, "web/sign_on_refused.html", {"is_inactive": True}, status=403)


class SecondFactorAdapter(DefaultMFAAdapter):
    """Second factors."""

    def encrypt(self, text: str) -> str:
        """Secrets of authenticator apps and recovery codes lie encrypted in the database."""
        return secrets.encrypt(text)

    def decrypt(self, encrypted_text: str) -> str:
        """The reverse."""
        return secrets.decrypt(encrypted_text)


class SessionsAdapter(DefaultUserSessionsAdapter):
    """The list of one's sessions."""

    def end_sessions(self, sessions: Iterable[Any]) -> None:
        """End sessions, and with each of them the live connections of its pages."""
        for session in list(sessions):
            session.end()
            end_session(session.session_key)


class SingleSignOnAdapter(DefaultSocialAccountAdapter):
    """Single sign-on: opens existing accounts, and makes one only for somebody who came by an invitation."""

    def get_provider(self, request: HttpRequest, provider: Any, client_id: str | None = None) -> Any:
        """The provider, whose answers are believed as `single_sign_on` does."""
        found = super().get_provider(request, provider, client_id)
        found.oauth2_adapter_class = OpenIDAdapter
        return found

    def is_open_for_signup(self, request: HttpRequest, sociallogin: Any) -> bool:
        """True for whoever holds an open invitation."""
        try:
            find(request.session.get(INVITATION_KEY, ""))
        except InvitationOverError:
            return False
        return True

    def pre_social_login(self, request: HttpRequest, sociallogin: Any) -> None:
        """Refuse an ID token that holds only later: allauth looks at its end, not at its beginning."""
        claims = sociallogin.account.extra_data
        claims = claims.get("id_token") or claims
        begins = claims.get("nbf")
        if begins is not None and not (isinstance(begins, int | float) and begins <= time.time() + _CLOCKS_DIFFER):
            raise ImmediateHttpResponse(render(request, "web/sign_on_refused.html", status=403))

    def save_user(self, request: HttpRequest, sociallogin: Any, form: Any = None) -> Any:
        """Make the account and let it in by the invitation, both or neither."""
        secret = request.session.pop(INVITATION_KEY, "")
        try:
            with transaction.atomic():
                user = super().save_user(request, sociallogin, form)
                accept(secret, user)
        except (InvitationOverError, AlreadyMemberError):
            raise SignupClosedException from None
        return user
