"""The routes of django-allauth that we have, by the names that it knows them by, in our own places.

What is about one's own account is shown among the settings and passes the same gate as every page.
"""

from __future__ import annotations

from typing import Any

from allauth.account.views import ReauthenticateView
from allauth.mfa.base.views import AuthenticateView, IndexView
from allauth.mfa.base.views import ReauthenticateView as ReauthenticateByCodeView
from allauth.mfa.recovery_codes.views import (
    DownloadRecoveryCodesView,
    GenerateRecoveryCodesView,
    ViewRecoveryCodesView,
)
from allauth.mfa.totp.views import ActivateTOTPView, DeactivateTOTPView
from allauth.mfa.webauthn.views import (
    AddWebAuthnView,
    EditWebAuthnView,
    ListWebAuthnView,
    ReauthenticateWebAuthnView,
    RemoveWebAuthnView,
)
from allauth.socialaccount.views import ConnectionsView, LoginCancelledView, LoginErrorView
from django.urls import path
from django.views.decorators.cache import never_cache

from apps.web.access import View, project_view
from apps.web.accounts import single_sign_on
from apps.web.views import account
from apps.web.views.settings import SECTIONS


def _setting(view: Any) -> View:
    """A page of one's own account among the settings."""
    shown = view.as_view(extra_context={"sections": SECTIONS, "here": "web:settings_account"})
    return project_view(sets_up_factor=True)(shown)


def _door(view: Any) -> Any:
    """A page on the way in."""
    return never_cache(view.as_view())


_OWN = "settings/account/second-factor"

urlpatterns = [
    path("login", account.login, name="account_login"),
    path("logout", account.logout, name="account_logout"),
    path("sign-in/code", _door(AuthenticateView), name="mfa_authenticate"),
    path("sign-in/again", _door(ReauthenticateView), name="account_reauthenticate"),
    path("sign-in/again/code", _door(ReauthenticateByCodeView), name="mfa_reauthenticate"),
    path("sign-in/again/key", _door(ReauthenticateWebAuthnView), name="mfa_reauthenticate_webauthn"),
    path(_OWN, _setting(IndexView), name="mfa_index"),
    path(f"{_OWN}/app", _setting(ActivateTOTPView), name="mfa_activate_totp"),
    path(f"{_OWN}/app/remove", _setting(DeactivateTOTPView), name="mfa_deactivate_totp"),
    path(f"{_OWN}/codes", _setting(ViewRecoveryCodesView), name="mfa_view_recovery_codes"),
    path(f"{_OWN}/codes/new", _setting(GenerateRecoveryCodesView), name="mfa_generate_recovery_codes"),
    path(f"{_OWN}/codes/download", _setting(DownloadRecoveryCodesView), name="mfa_download_recovery_codes"),
    path(f"{_OWN}/keys", _setting(ListWebAuthnView), name="mfa_list_webauthn"),
    path(f"{_OWN}/keys/new", _setting(AddWebAuthnView), name="mfa_add_webauthn"),
    path(f"{_OWN}/keys/<int:pk>/remove", _setting(RemoveWebAuthnView), name="mfa_remove_webauthn"),
    path(f"{_OWN}/keys/<int:pk>", _setting(EditWebAuthnView), name="mfa_edit_webauthn"),
    path("settings/account/sign-on", _setting(ConnectionsView), name="socialaccount_connections"),
    path("sign-on/cancelled", _door(LoginCancelledView), name="socialaccount_login_cancelled"),
    path("sign-on/failed", _door(LoginErrorView), name="socialaccount_login_error"),
    path("sign-on/<str:provider_id>/login/", single_sign_on.login, name="openid_connect_login"),
    path("sign-on/<str:provider_id>/login/callback/", single_sign_on.callback, name="openid_connect_callback"),
]
