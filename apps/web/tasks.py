"""What the pages need done by the clock."""

from __future__ import annotations

from celery import shared_task

from apps.web.accounts.sessions import forget_expired


@shared_task
def forget_sessions() -> None:
    """Delete sessions that have ended by themselves."""
    forget_expired()
