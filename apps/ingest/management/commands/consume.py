"""`manage.py consume [SOURCE]`: read messages of brokers into the record."""

from __future__ import annotations

import logging
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from apps.ingest.transports.connecting import TRANSPORTS, check_source, consuming_of, create_source
from apps.ingest.transports.consuming import BrokerAwayError, Stop
from apps.ingest.transports.every_source import EverySource
from apps.ingest.transports.options import OptionError
from apps.lib.secrets import UnreadableSecretError
from apps.lib.stop_signals import stopped_by_signals
from apps.projects.models import Project, Source, SourceKind

logger = logging.getLogger(__name__)


class Command(BaseCommand):
    """Reads one source, or every active one, until SIGTERM or Ctrl-C; what is in hand is finished first."""

    #: They read every page and call there is, which takes longer than a small import.
    requires_system_checks: list[str] = []
    help = "Read messages of brokers: of one source (its name or id), else of every active one."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Which source, how long, and how to make one."""
        parser.add_argument("source", nargs="?", metavar="SOURCE", help="name or id; without, every active one")
        parser.add_argument("--project", default="default", metavar="SLUG", help="default: %(default)s")
        parser.add_argument("--once", action="store_true", help="end when nothing more lies there")
        parser.add_argument("--check", action="store_true", help="only try the connection and say what was found")
        parser.add_argument("--create", action="store_true", help="make the source first, if it is not there")
        parser.add_argument("--system", choices=sorted(TRANSPORTS), help="with --create: which kind of broker")
        parser.add_argument("--flow", default="", help="with --create: flow of events that name none")
        parser.add_argument(
            "--set", action="append", default=[], metavar="NAME=VALUE", dest="given", help="with --create: an option"
        )

    def handle(self, *, source: str | None, once: bool, **options: Any) -> None:
        """Read until told to stop."""
        stop = Stop()
        with stopped_by_signals(stop):
            self._run(source, stop, once=once, **options)

    def _run(self, source: str | None, stop: Stop, *, once: bool, **options: Any) -> None:
        if source is None:
            if options["create"] or options["check"]:
                raise CommandError("name the source")
            EverySource(SourceKind.CONSUMER, _read, stop).run(once=once)
            return
        try:
            found = self._source(source, **options)
            if options["check"]:
                self.stdout.write(check_source(found))
                return
            consuming = consuming_of(found, stop)
            consuming.run(once=once)
        except (OptionError, BrokerAwayError, UnreadableSecretError) as error:
            raise CommandError(str(error)) from None
        self.stdout.write(
            f"{consuming.accepted} accepted, {consuming.duplicates} duplicates, {consuming.rejected} refused"
        )

    def _source(self, name: str, **options: Any) -> Source:
        project = Project.objects.filter(slug=options["project"]).first()
        if project is None:
            raise CommandError(f"there is no project {options['project']!r}")
        sources = project.sources.filter(kind=SourceKind.CONSUMER)
        found = sources.filter(name=name).first()
        if found is None and name.isdigit():
            found = sources.filter(pk=int(name)).first()
        if found is not None:
            return found
        if not options["create"]:
            raise CommandError(f"there is no source {name!r} of a broker in the project; --create makes one")
        if not options["system"]:
            raise CommandError("say with --system which kind of broker it is")
        given = dict(item.partition("=")[::2] for item in options["given"])
        return create_source(project, name, options["system"], given, default_flow=options["flow"])


def _read(source: Source, stop: Stop, once: bool) -> None:
    try:
        consuming_of(source, stop).run(once=once)
    except (OptionError, BrokerAwayError, UnreadableSecretError) as error:
        logger.error("%s: %s", source.name, error)
