"""`manage.py rotate_secrets`: encrypt every stored secret anew under the newest key, so that an older one can go."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from allauth.mfa.models import Authenticator
from django.core.management.base import BaseCommand
from django.db import models, transaction

from apps.alerts.models import Receiver
from apps.dlq.models import DeadLetterQueue
from apps.ingest.transports.options import SECRETS
from apps.lib.secrets import UnreadableSecretError, rotate
from apps.projects import audit
from apps.projects.models import Project, Source


class Command(BaseCommand):
    help = "Encrypt what is stored under the newest of ENCRYPTION_KEYS; then the older ones can be taken away."

    def handle(self, *args: Any, **options: Any) -> None:
        unreadable = [
            *_each(Receiver.objects.all(), "settings_token", rotate),
            *_each(DeadLetterQueue.objects.all(), "settings_token", rotate),
            *_each(Source.objects.filter(settings__has_key=SECRETS), "settings", _source_settings),
            *_each(Project.objects.exclude(hash_key=""), "hash_key", rotate),
            *_each(Project.objects.exclude(seal_key=""), "seal_key", rotate),
            *_each(Project.objects.exclude(erasure_key=""), "erasure_key", rotate),
            *_each(Authenticator.objects.filter(type__in=("totp", "recovery_codes")), "data", _factor),
        ]
        audit.note("command", "rotate_secrets", {"unreadable": unreadable})
        for name in unreadable:
            self.stderr.write(f"{name} cannot be read with the present keys: bring its key back, or enter it anew.")
        if unreadable:
            raise SystemExit(1)
        self.stdout.write("Everything is encrypted under the newest key.")


def _each(rows: models.QuerySet, field: str, anew: Callable[[Any], Any]) -> list[str]:
    """Write one field of each row anew; returns the rows that could not be read."""
    unreadable = []
    for key in rows.order_by("pk").values_list("pk", flat=True):
        # One row at a time: whoever saves it meanwhile waits for a moment, and nothing of theirs is lost.
        with transaction.atomic():
            row = rows.model._default_manager.select_for_update(of=("self",)).filter(pk=key).first()
            if row is None:
                continue
            try:
                setattr(row, field, anew(getattr(row, field)))
            except UnreadableSecretError:
                unreadable.append(f"{row._meta.verbose_name} {key}")
                continue
            row.save(update_fields=[field])
    return unreadable


def _source_settings(settings: dict[str, Any]) -> dict[str, Any]:
    return {**settings, SECRETS: {name: rotate(token) for name, token in settings[SECRETS].items()}}


def _factor(data: dict[str, Any]) -> dict[str, Any]:
    sealed = {"secret", "seed"}
    return {name: rotate(value) if name in sealed else value for name, value in data.items()}
