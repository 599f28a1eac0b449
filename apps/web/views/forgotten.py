"""A forgotten password: a link by mail to the address of the account, which lets its owner choose a new one, once.

The page says the same whoever is asked for, at the same speed: a worker looks whether there is such an account. The
new password signs nobody in, so that a second factor is asked for as ever, and ends all sessions.
"""

from __future__ import annotations

import logging

from allauth.core import ratelimit
from django.contrib import messages
from django.contrib.auth import get_user_model
from django.contrib.auth.forms import SetPasswordForm
from django.contrib.auth.models import User
from django.contrib.auth.tokens import default_token_generator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.cache import add_never_cache_headers
from django.utils.http import urlsafe_base64_decode
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters, sensitive_variables
from kombu.exceptions import OperationalError

from apps.web.accounts.reset import is_possible
from apps.web.live import recheck_user
from apps.web.tasks import mail_reset_links

logger = logging.getLogger(__name__)

_MOST_CHARACTERS = 254


@never_cache
def ask(request: HttpRequest) -> HttpResponse:
    """Ask for a link: by user name or by address."""
    if request.method != "POST":
        return render(request, "web/forgotten.html", {"is_possible": is_possible()})
    who = request.POST.get("who", "").strip()[:_MOST_CHARACTERS].replace("\0", "")
    if not who or not is_possible():
        return render(request, "web/forgotten.html", {"is_possible": is_possible(), "is_empty": True}, status=422)
    if ratelimit.consume_or_429(request, action="reset_password", key=who.casefold()):
        return render(request, "web/forgotten.html", {"is_possible": True, "is_blocked": True}, status=429)
    try:
        mail_reset_links.delay(who)
    except OperationalError as error:
        logger.warning("a link for a forgotten password could not be queued: %s", error)
        return render(request, "web/forgotten.html", {"is_possible": True, "is_away": True}, status=503)
    return render(request, "web/forgotten.html", {"is_possible": True, "is_sent": True})


@sensitive_post_parameters()
@sensitive_variables("token")
def choose(request: HttpRequest, number: str, token: str) -> HttpResponse:
    """Choose a new password by a link."""
    response = _choose(request, number, token)
    add_never_cache_headers(response)
    # The address is the secret: it goes to nobody.
    response.headers["Referrer-Policy"] = "no-referrer"
    return response


def _choose(request: HttpRequest, number: str, token: str) -> HttpResponse:
    user = _owner(number)
    if user is None or not default_token_generator.check_token(user, token):
        return render(request, "web/forgotten_over.html", status=410)
    form = SetPasswordForm(user, request.POST or None)
    if request.method != "POST" or not form.is_valid():
        return render(request, "web/forgotten_choose.html", {"form": form, "owner": user.get_username()})
    form.save()
    # The sessions of the old password hold no more; pages that are open learn it at once.
    recheck_user(user.pk)
    messages.success(request, "Your password is changed. Sign in with it.")
    return redirect("web:login")


def _owner(number: str) -> User | None:
    try:
        key = int(urlsafe_base64_decode(number).decode("ascii"))
    except (ValueError, OverflowError):
        return None
    if not 0 < key < 2**31:
        return None
    found = get_user_model().objects.filter(pk=key, is_active=True).first()
    return found if found is not None and found.has_usable_password() else None
