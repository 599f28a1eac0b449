"""Making a source that a poller reads, testing its connection, and what to poll it with.

For pages and commands, as `connecting` is for brokers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from django.db import IntegrityError, transaction

from apps.ingest.transports import polling
from apps.ingest.transports.options import Option, OptionError, seal, unseal
from apps.projects.models import Project, Source, SourceKind


def options_of_system(system: str) -> tuple[Option, ...]:
    """All that a source of this engine can be told, the connection first. Raises OptionError."""
    return (*_kind_of(system).options, *polling.HISTORY_OPTIONS)


def checked_settings(system: str, given: Mapping[str, str]) -> dict[str, object]:
    """What to keep for these options, secrets encrypted. Raises OptionError."""
    known = options_of_system(system)
    settings = seal(known, given)
    values = unseal(known, settings)
    polling.duration(values, "every")
    polling.history_options(values)
    polling.pace(values)
    return settings


def create_poller(
    project: Project, name: str, system: str, given: Mapping[str, str], *, default_flow: str = ""
) -> Source:
    """Keep a new source that is polled as soon as `manage.py poll` runs. Raises OptionError."""
    if not name.strip() or len(name) > 128:
        raise OptionError("name", "must be text of 1 to 128 characters")
    settings = checked_settings(system, given)
    try:
        with transaction.atomic():
            return Source.objects.create(
                project=project,
                name=name.strip(),
                kind=SourceKind.POLLER,
                system=system,
                settings=settings,
                default_flow=default_flow,
            )
    except IntegrityError:
        raise OptionError("name", "is taken by another source of the project") from None


def check_poller(source: Source) -> str:
    """Try to connect as the source's poller would. Returns what was reached.

    Raises polling.EngineAwayError that says what is wrong, OptionError, secrets.UnreadableSecretError.
    """
    poller = polling_of(source).open()
    try:
        return f"reached {poller.check()}"
    finally:
        poller.close()


def polling_of(
    source: Source, stop: polling.Stop | None = None, notice: Callable[[str, float], None] | None = None
) -> polling.Polling:
    """What polls this source until told to stop. Raises OptionError, secrets.UnreadableSecretError."""
    kind = _kind_of(source.system)
    stop = stop or polling.Stop()
    values = unseal(options_of_system(source.system), source.settings)
    every = polling.duration(values, "every")
    history = polling.history_options(values)
    pace = polling.pace(values, stop)
    return polling.Polling(source, lambda: kind.open(values, history, pace), every, stop, notice=notice)


def _kind_of(system: str) -> polling.PollerKind:
    if system not in polling.POLLERS:
        raise OptionError("system", f"must be one of {', '.join(sorted(polling.POLLERS))}")
    return polling.kind_of(system)
