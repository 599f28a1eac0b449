"""Making a source that a consumer reads, testing its connection, and what to read it with.

For pages and commands: `TRANSPORTS` names the brokers and declares their options (see `options`), `create_source` keeps
one with its secrets encrypted, `check_source` tries it and says in words what it found or what is wrong.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from types import ModuleType

from django.db import IntegrityError, transaction

from apps.ingest.formats import HISTORIES, zeebe
from apps.ingest.formats.broker_message import PLACES, places_of
from apps.ingest.formats.broker_reading import Reading
from apps.ingest.formats.histories import HistoryDecoder, HistoryOptions
from apps.ingest.formats.schema_registry import Judge
from apps.ingest.formats.zeebe_memory import Memory
from apps.ingest.transports.consuming import BrokerAwayError, Consuming, Stop
from apps.ingest.transports.options import Option, OptionError, seal, unseal
from apps.ingest.transports.registry import registry_of
from apps.projects.models import Project, Source, SourceKind

AUTOMATIC = "automatic"
_PLACE_HELP = "headers, JSONPaths ($.order.id) or what the broker says (@key), with commas; the first found counts"

#: What every transport can be told about the messages themselves.
READING_OPTIONS = (
    Option("format", "Format", "what the messages are", AUTOMATIC, choices=(AUTOMATIC, *sorted(HISTORIES))),
    *(Option(name, name.replace("_", " ").capitalize(), _PLACE_HELP) for name in PLACES),
    Option("cluster", "Name of the broker", "part of every event's source; empty = what the broker calls itself"),
    Option("schema_registry_url", "Schema registry", "address of a Confluent-compatible one"),
    Option("schema_registry_username", "Schema registry: user name"),
    Option("schema_registry_password", "Schema registry: password", "or a bearer token", is_secret=True),
)
#: Our own name at the broker is made up once, so that two Sagascopes never share one and take each other's messages.
_OWN_NAMES = ("group", "queue", "durable")


@dataclass(frozen=True, slots=True)
class Transport:
    """One kind of broker."""

    system: str
    module: str

    @property
    def label(self) -> str:
        """Its name for people."""
        return str(self._loaded.LABEL)

    @property
    def options(self) -> tuple[Option, ...]:
        """All that a source of this kind can be told, the connection first."""
        return (*self._loaded.OPTIONS, *READING_OPTIONS)

    @property
    def _loaded(self) -> ModuleType:
        return import_module(f"apps.ingest.transports.{self.module}")

    def check(self, options: Mapping[str, str]) -> str:
        """Try to connect. Returns what was found; raises BrokerAwayError that says what is wrong."""
        found = str(self._loaded.check(options))
        registry = registry_of(options)
        if registry is not None:
            registry.check()
            found += "; the schema registry answers"
        return found

    def consuming(self, source: Source, options: Mapping[str, str], stop: Stop) -> Consuming:
        """What reads this source."""
        return Consuming(source, partial(self._loaded.connect, options), reading_of(options), stop)


TRANSPORTS: Mapping[str, Transport] = {
    transport.system: transport
    for transport in (
        Transport("kafka", "kafka"),
        Transport("rabbitmq", "rabbitmq"),
        Transport("sqs", "sqs"),
        Transport("nats", "nats"),
        Transport("redis", "redis_streams"),
    )
}


def create_source(
    project: Project, name: str, system: str, given: Mapping[str, str], *, default_flow: str = ""
) -> Source:
    """Keep a new source, secrets encrypted. It is read as soon as a consumer runs.

    Raises OptionError when an option is unknown, missing or impossible, or the name is taken.
    """
    if not name.strip() or len(name) > 128:
        raise OptionError("name", "must be text of 1 to 128 characters")
    settings = sealed_settings(system, given)
    try:
        with transaction.atomic():
            return Source.objects.create(
                project=project,
                name=name.strip(),
                kind=SourceKind.CONSUMER,
                system=system,
                settings=settings,
                default_flow=default_flow,
            )
    except IntegrityError:
        raise OptionError("name", "is taken by another source of the project") from None


def sealed_settings(system: str, given: Mapping[str, str]) -> dict[str, object]:
    """What to keep for these options. Raises OptionError."""
    transport = transport_of(system)
    chosen = dict(given)
    for option in transport.options:
        if option.name in _OWN_NAMES and not chosen.get(option.name):
            chosen[option.name] = f"sagascope-{secrets.token_hex(4)}"
    settings = seal(transport.options, chosen)
    for name in PLACES:
        try:
            places_of({name: chosen.get(name, "")})
        except ValueError as error:
            raise OptionError(name, str(error)) from None
    return settings


def check_source(source: Source) -> str:
    """Try to connect as the source's consumer would. Returns what was found.

    Raises BrokerAwayError that says what is wrong, in words for whoever typed the options.
    """
    return transport_of(source.system).check(options_of(source))


def consuming_of(source: Source, stop: Stop | None = None) -> Consuming:
    """What reads this source until told to stop. Raises OptionError, secrets.UnreadableSecretError."""
    return transport_of(source.system).consuming(source, options_of(source), stop or Stop())


def options_of(source: Source) -> dict[str, str]:
    """The options of a source, secrets decrypted. Raises secrets.UnreadableSecretError."""
    return unseal(transport_of(source.system).options, source.settings)


def transport_of(system: str) -> Transport:
    """The transport of this name. Raises OptionError."""
    if system not in TRANSPORTS:
        raise OptionError("system", f"must be one of {', '.join(TRANSPORTS)}")
    return TRANSPORTS[system]


def reading_of(options: Mapping[str, str]) -> Reading:
    """How the messages of a source with these options are read."""
    registry = registry_of(options)
    given = [place.strip() for place in options["correlation"].split(",") if place.strip()]
    return Reading(
        places=places_of(options),
        history=_history_of(options["format"]),
        history_options=HistoryOptions(
            correlation_path=next((place for place in given if place.startswith("$")), None),
            correlation_key=next((place for place in given if not place.startswith(("$", "@"))), None),
            namespace=options["cluster"] or None,
        ),
        judge=Judge(registry.find if registry else None),
    )


def _history_of(name: str) -> HistoryDecoder | None:
    """What reads an engine's records; one that remembers does so as long as the consumer runs."""
    if name == zeebe.NAME:
        return partial(zeebe.decode, memory=Memory())
    return HISTORIES.get(name)


__all__ = [
    "TRANSPORTS",
    "BrokerAwayError",
    "OptionError",
    "Transport",
    "check_source",
    "consuming_of",
    "create_source",
    "options_of",
]
