"""Links for forgotten passwords: made for whoever has an account with an address, and sent there."""

from __future__ import annotations

from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.auth.tokens import default_token_generator
from django.core.mail import send_mail
from django.db.models import Q
from django.urls import reverse
from django.utils.encoding import force_bytes
from django.utils.http import urlsafe_base64_encode

from apps.projects import audit

#: Accounts that may share an address: more of them would be a way to send mail in bulk.
_MOST_ACCOUNTS = 5


def is_possible() -> bool:
    """Whether this installation sends mail at all."""
    return bool(settings.SENDS_MAIL)


def mail_links(who: str) -> int:
    """Mail a link for each account of this name or address; how many. Raises OSError where no mail can be sent."""
    users = get_user_model().objects.filter(is_active=True).exclude(email="")
    found = users.filter(Q(username=who) | Q(email__iexact=who)).order_by("pk")[:_MOST_ACCOUNTS]
    count = 0
    for user in found:
        if not user.has_usable_password():
            continue
        number = urlsafe_base64_encode(force_bytes(user.pk))
        path = reverse("web:forgotten_choose", args=[number, default_token_generator.make_token(user)])
        minutes = settings.PASSWORD_RESET_TIMEOUT // 60
        text = (
            f"Somebody asked for a new password for the account {user.get_username()} in Sagascope.\n\n"
            f"{settings.PUBLIC_URL}{path}\n\nThe link works once, within {minutes} minutes."
            " If it was not you, leave it: nothing has changed."
        )
        count += send_mail("A new password for Sagascope", text, None, [user.email])
        audit.note(user.get_username(), "a link for a new password was mailed")
    return count
