"""What the pages need done by the clock."""

from __future__ import annotations

from celery import shared_task

from apps.web.accounts.reset import mail_links
from apps.web.accounts.sessions import forget_expired


@shared_task
def forget_sessions() -> None:
    """Delete sessions that have ended by themselves."""
    forget_expired()


@shared_task(autoretry_for=(OSError,), max_retries=3, retry_backoff=10)
def mail_reset_links(who: str) -> None:
    """Mail the links of a forgotten password, if there is such an account."""
    mail_links(who)
