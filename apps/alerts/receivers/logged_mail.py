"""Django's mail backend where no mail server is configured: a mail becomes one line of the worker's log.

Somebody who tries Sagascope sees at once that they would have been told, and of what.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from django.core.mail import EmailMessage
from django.core.mail.backends.base import BaseEmailBackend

logger = logging.getLogger(__name__)


class EmailBackend(BaseEmailBackend):
    """Writes recipients, subject and link; named by `EMAIL_BACKEND`."""

    def send_messages(self, email_messages: Sequence[EmailMessage]) -> int:
        """Log the messages; returns how many."""
        for message in email_messages:
            links = [line for line in message.body.splitlines() if line.startswith("http")]
            logger.warning(
                "no EMAIL_HOST, so only logged: mail to %s: %s %s",
                ", ".join(message.recipients()),
                message.subject,
                " ".join(links),
            )
        return len(email_messages)
