"""Dead-letter queues as rows: connections are checked, encrypted as a whole, and opened only to be used."""

from __future__ import annotations

import json
import secrets as random
from collections.abc import Mapping
from dataclasses import dataclass

from django.db import IntegrityError, transaction

from apps.dlq.models import DeadLetterQueue, System
from apps.dlq.options import SettingsError, checked
from apps.dlq.probes import PROBES
from apps.dlq.probes.reading import BrokerError
from apps.lib import micros, secrets
from apps.lib.micros import Micros
from apps.projects.models import Source, SourceKind

MAX_NAME = 128
MAX_RATE = 1_000.0
#: Bounds of what a buildup can be judged by.
_MOST_DEPTH, _MOST_GROWTH, _MOST_AGE = 10**12, 10**9, 365 * micros.DAY


@dataclass(frozen=True, slots=True)
class Limits:
    """When a queue counts as building up (None: this is not judged), and how fast a redrive is at most by itself."""

    most_depth: int | None = 10
    most_growth: float | None = 1.0
    most_age_us: Micros | None = micros.HOUR
    redrive_rate: float = 5.0


def save_queue(
    project_id: int,
    *,
    name: str,
    system: str,
    given: Mapping[str, str],
    limits: Limits | None = None,
    queue: DeadLetterQueue | None = None,
) -> DeadLetterQueue:
    """Make a queue, or change one. Raises SettingsError.

    When changing, secrets left empty keep what is stored: forms cannot show them again. A system never changes.
    """
    name = name.strip()
    limits = limits or Limits()
    if queue is not None:
        system = queue.system
    settings = checked_settings(system, given, queue)
    problems = _limit_problems(limits)
    if not name or len(name) > MAX_NAME or not name.isprintable():
        problems["name"] = f"has 1 to {MAX_NAME} printable characters"
    if problems:
        raise SettingsError(problems)
    if "copy_queue" in settings and not settings["copy_queue"]:
        settings["copy_queue"] = f"sagascope.dead-letters.{random.token_hex(6)}"
    if queue is None:
        queue = DeadLetterQueue(project_id=project_id, system=system)
    elif settings_of(queue) != settings:
        # Reading begins anew: what is known already is recognised by its place.
        queue.cursor = {}
    queue.name = name
    queue.settings_token = secrets.encrypt(json.dumps(settings))
    queue.summary = PROBES[system].describe(settings)[:256]
    queue.reads_messages = PROBES[system].reads_messages(settings)
    queue.most_depth, queue.most_growth, queue.most_age_us = limits.most_depth, limits.most_growth, limits.most_age_us
    queue.redrive_rate = limits.redrive_rate
    queue.due_at, queue.failing_since, queue.last_error = 0, None, ""
    try:
        with transaction.atomic():
            queue.save()
    except IntegrityError:
        raise SettingsError({"name": "another dead-letter queue of this project has this name"}) from None
    return queue


def checked_settings(system: str, given: Mapping[str, str], queue: DeadLetterQueue | None = None) -> dict[str, str]:
    """A connection's options as they are to be stored. Raises SettingsError."""
    if system not in PROBES:
        raise SettingsError({"system": f"is one of {', '.join(PROBES)}"})
    probe = PROBES[system]
    if queue is not None:
        kept = settings_of(queue)
        secret = {option.name for option in probe.OPTIONS if option.is_secret}
        given = {**given, **{name: kept.get(name, "") for name in secret if not given.get(name, "").strip()}}
        if "copy_queue" in kept and not given.get("copy_queue", "").strip():
            given = {**given, "copy_queue": kept["copy_queue"]}
    settings = checked(probe.OPTIONS, given)
    problems = probe.problems(settings)
    if problems:
        raise SettingsError(problems)
    return settings


def settings_of(queue: DeadLetterQueue) -> dict[str, str]:
    """The connection, secrets and all: for connecting only. Raises `secrets.UnreadableSecretError`.

    Options that came later than the row have their defaults.
    """
    opened: dict[str, str] = json.loads(secrets.decrypt(queue.settings_token))
    return {option.name: opened.get(option.name, option.default) for option in PROBES[queue.system].OPTIONS}


def shown_settings(queue: DeadLetterQueue) -> dict[str, str]:
    """The options that a form may show again: no secrets."""
    secret = {option.name for option in PROBES[queue.system].OPTIONS if option.is_secret}
    return {name: value for name, value in settings_of(queue).items() if name not in secret}


def try_connection(system: str, settings: Mapping[str, str]) -> str:
    """Ask the broker once; what was found, in words. Raises BrokerError."""
    reading = PROBES[system].measure(settings)
    found = f"{reading.depth:,} message{'s' if reading.depth != 1 else ''} there, by {reading.means}"
    if reading.oldest_at is not None:
        found += f", the oldest since {micros.isoformat(reading.oldest_at)[:16].replace('T', ' ')} UTC"
    return found


def delete_queue(queue: DeadLetterQueue) -> None:
    """Forget a queue, its history, its letters and their redrives. What stands on timelines stays there."""
    with transaction.atomic():
        if queue.source is not None:
            Source.objects.filter(pk=queue.source.pk).update(is_active=False)
        queue.delete()


def source_of(queue: DeadLetterQueue) -> Source:
    """The source that events about this queue's letters are recorded under; made when it is first needed."""
    if queue.source is None:
        name = f"dead letters of {queue.name}"[:120]
        kind, system = SourceKind.CONSUMER, queue.system
        if Source.objects.filter(project_id=queue.project_id, name=name).exists():
            name = f"{name} {queue.pk}"
        queue.source = Source.objects.create(project_id=queue.project_id, name=name, kind=kind, system=system)
        queue.save(update_fields=["source"])
    return queue.source


def _limit_problems(limits: Limits) -> dict[str, str]:
    problems = {}
    if limits.most_depth is not None and not 1 <= limits.most_depth <= _MOST_DEPTH:
        problems["most_depth"] = "is 1 or more, or empty"
    if limits.most_growth is not None and not 0 < limits.most_growth <= _MOST_GROWTH:
        problems["most_growth"] = "is more than 0, or empty"
    if limits.most_age_us is not None and not micros.SECOND <= limits.most_age_us <= _MOST_AGE:
        problems["most_age"] = "lies between 1s and 365d, or is empty"
    if not 0.01 <= limits.redrive_rate <= MAX_RATE:
        problems["redrive_rate"] = f"lies between 0.01 and {MAX_RATE:,.0f} a second"
    return problems


SYSTEM_LABELS = dict(System.choices)

__all__ = ["SYSTEM_LABELS", "BrokerError", "Limits", "SettingsError", "delete_queue", "save_queue", "settings_of"]
