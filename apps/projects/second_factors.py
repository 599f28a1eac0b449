"""Whether somebody has to set up a second factor before anything is shown to them."""

from __future__ import annotations

from typing import Any

from allauth.account.authentication import AUTHENTICATION_METHODS_SESSION_KEY
from allauth.mfa.utils import is_mfa_enabled
from django.conf import settings
from django.contrib.sessions.backends.base import SessionBase


def is_owed(user: Any, session: SessionBase) -> bool:
    """True where `REQUIRE_SECOND_FACTOR` asks for one, and this account has none.

    Whoever has one was asked for it at the door. Who came by the single sign-on is the provider's to ask.
    """
    if not settings.REQUIRE_SECOND_FACTOR:
        return False
    methods = {record.get("method") for record in session.get(AUTHENTICATION_METHODS_SESSION_KEY, [])}
    return "socialaccount" not in methods and not is_mfa_enabled(user)
