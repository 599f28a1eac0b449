"""E-mail: one message with text and HTML to a few addresses, by Django's e-mail settings (SMTP, else `logged_mail`)."""

from __future__ import annotations

import smtplib
from collections.abc import Mapping
from email.utils import parseaddr

from django.conf import settings as project_settings
from django.core.exceptions import ValidationError
from django.core.mail import EmailMultiAlternatives
from django.core.validators import validate_email

from apps.alerts.causes import shown
from apps.alerts.messages import Message
from apps.alerts.receivers.outcome import DeliveryError, Field, Sent, SettingsError

MAX_ADDRESSES = 20
MAX_SUBJECT = 180
_NO_SERVER = "; EMAIL_HOST is not set, so mail is only written to the worker's log"


class EmailReceiver:
    """Mail to people."""

    code = "email"
    label = "E-mail"
    fields: tuple[Field, ...] = (
        Field(
            "to",
            "Addresses",
            f"up to {MAX_ADDRESSES}, separated by commas or line breaks"
            + (_NO_SERVER if project_settings.EMAIL_BACKEND.endswith(".logged_mail.EmailBackend") else ""),
            is_long=True,
        ),
    )

    def check(self, settings: Mapping[str, str]) -> dict[str, str]:
        addresses = _addresses(settings.get("to", ""))
        if not addresses or len(addresses) > MAX_ADDRESSES:
            raise SettingsError({"to": f"between 1 and {MAX_ADDRESSES} addresses"})
        for address in addresses:
            try:
                validate_email(address)
            except ValidationError:
                raise SettingsError({"to": f"{shown(address, 60)!r} is not an e-mail address"}) from None
        return {"to": ", ".join(addresses)}

    def describe(self, settings: Mapping[str, str]) -> str:
        first, *others = _addresses(settings["to"])
        return f"mail to {first}" + (f" and {len(others)} more" if others else "")

    def send(self, settings: Mapping[str, str], message: Message) -> Sent:
        mail = EmailMultiAlternatives(
            subject=_subject(message),
            body=message.text(),
            from_email=project_settings.DEFAULT_FROM_EMAIL,
            to=_addresses(settings["to"]),
            headers={
                # The same over all tries: mail programs show a message that came twice once.
                "Message-ID": f"<{message.id}@{_domain()}>",
                "Auto-Submitted": "auto-generated",
                "X-Auto-Response-Suppress": "All",
            },
        )
        mail.attach_alternative(message.html(), "text/html")
        try:
            mail.send()
        except smtplib.SMTPRecipientsRefused as error:
            codes = {code for code, _ in error.recipients.values()}
            raise DeliveryError(
                f"the mail server refused every recipient ({_numbers(codes)})",
                permanent=all(500 <= code < 600 for code in codes),
            ) from None
        except smtplib.SMTPResponseException as error:
            raise DeliveryError(f"the mail server answered {error.smtp_code}") from None
        except TimeoutError:
            raise DeliveryError("the mail server did not answer in time") from None
        except (smtplib.SMTPException, OSError) as error:
            raise DeliveryError(f"the mail could not be sent: {type(error).__name__}") from None
        return Sent()


def _addresses(text: str) -> list[str]:
    parts = text.replace("\n", ",").replace(";", ",").split(",")
    return list(dict.fromkeys(part.strip() for part in parts if part.strip()))


def _subject(message: Message) -> str:
    """One line, whatever the names in it hold."""
    return shown(f"[Sagascope {message.severity}] {message.subject}", MAX_SUBJECT)


def _domain() -> str:
    address = parseaddr(project_settings.DEFAULT_FROM_EMAIL)[1]
    return address.rpartition("@")[2] or "sagascope"


def _numbers(codes: set[int]) -> str:
    return ", ".join(map(str, sorted(codes)))
