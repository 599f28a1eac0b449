"""Every system that Sagascope reads by itself, brokers and engines alike: what a form for a source needs.

`SYSTEMS` names them; `create`, `change` and `check` treat a broker's source and an engine's the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass

from django.db import IntegrityError, transaction

from apps.ingest.transports import polling
from apps.ingest.transports.connecting import TRANSPORTS, check_source, create_source, sealed_settings
from apps.ingest.transports.consuming import BrokerAwayError
from apps.ingest.transports.engines import check_poller, checked_settings, create_poller, options_of_system
from apps.ingest.transports.options import Option, OptionError, unseal
from apps.lib.secrets import UnreadableSecretError
from apps.projects.models import Project, Source, SourceKind

#: Pages of docs/sources that are not called like their system.
_PAGES = {"redis": "redis-streams"}


class ConnectionFailedError(Exception):
    """The other side cannot be reached, does not let us in, or cannot be spoken to; the message holds no secret."""


@dataclass(frozen=True, slots=True)
class System:
    """A broker or an engine."""

    name: str
    kind: SourceKind

    @property
    def label(self) -> str:
        """Its name for people."""
        if self.kind == SourceKind.CONSUMER:
            return TRANSPORTS[self.name].label
        return polling.kind_of(self.name).label

    @property
    def options(self) -> tuple[Option, ...]:
        """All that a source of it can be told, the connection first."""
        if self.kind == SourceKind.CONSUMER:
            return TRANSPORTS[self.name].options
        return options_of_system(self.name)

    @property
    def page(self) -> str:
        """Where the documentation tells how to connect it, on both sides."""
        return f"docs/sources/{_PAGES.get(self.name, self.name)}.md"

    @property
    def command(self) -> str:
        """The command of manage.py that reads sources of it."""
        return "consume" if self.kind == SourceKind.CONSUMER else "poll"


SYSTEMS: Mapping[str, System] = {
    **{name: System(name, SourceKind.CONSUMER) for name in TRANSPORTS},
    **{name: System(name, SourceKind.POLLER) for name in sorted(polling.POLLERS)},
}


def system_of(source: Source) -> System | None:
    """What a source reads; None for one that is sent to us."""
    found = SYSTEMS.get(source.system)
    return found if found is not None and found.kind == source.kind else None


def create(project: Project, name: str, system: str, given: Mapping[str, str], *, default_flow: str = "") -> Source:
    """Keep a new source. Raises OptionError."""
    making = create_source if SYSTEMS[system].kind == SourceKind.CONSUMER else create_poller
    return making(project, name, system, given, default_flow=default_flow)


def shown_options(source: Source) -> dict[str, str]:
    """The options of a source that may be shown: without the secret ones."""
    system = system_of(source)
    return unseal([option for option in system.options if not option.is_secret], source.settings) if system else {}


def change(source: Source, name: str, given: Mapping[str, str], *, default_flow: str = "") -> None:
    """Keep other options. Secrets, and our own name at the broker, stay as they are where nothing is given.

    How far the source has been read stays, too. Raises OptionError.
    """
    system = system_of(source)
    if system is None:
        raise OptionError("system", "is not read by Sagascope")
    if not name.strip() or len(name) > 128:
        raise OptionError("name", "must be text of 1 to 128 characters")
    try:
        with transaction.atomic():
            kept = Source.objects.select_for_update().get(pk=source.pk)
            chosen = _with_kept(system, kept, given)
            sealing = sealed_settings if system.kind == SourceKind.CONSUMER else checked_settings
            settings = sealing(system.name, chosen)
            if polling.WATERMARK in kept.settings:
                settings[polling.WATERMARK] = kept.settings[polling.WATERMARK]
            source.name, source.settings, source.default_flow = name.strip(), settings, default_flow
            source.save(update_fields=["name", "settings", "default_flow"])
    except IntegrityError:
        raise OptionError("name", "is taken by another source of the project") from None


def check(source: Source) -> str:
    """Try to connect. Returns what was found; raises ConnectionFailedError that says what is wrong."""
    try:
        return check_source(source) if source.kind == SourceKind.CONSUMER else check_poller(source)
    except (BrokerAwayError, polling.EngineAwayError, OptionError, UnreadableSecretError) as error:
        raise ConnectionFailedError(str(error)) from None


def _with_kept(system: System, source: Source, given: Mapping[str, str]) -> dict[str, str]:
    chosen = dict(given)
    for option in system.options:
        if chosen.get(option.name, "").strip() or not (
            option.is_secret or option.name in {"group", "queue", "durable"}
        ):
            continue
        # What cannot be decrypted any more has to be entered anew.
        with contextlib.suppress(UnreadableSecretError):
            chosen[option.name] = unseal([option], source.settings)[option.name]
    return chosen
