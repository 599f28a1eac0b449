"""`manage.py poll [SOURCE]`: read engines' own records, again and again."""

from __future__ import annotations

import logging
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from apps.ingest.answers import Refusal
from apps.ingest.transports import polling
from apps.ingest.transports.engines import check_poller, options_of_system, polling_of
from apps.ingest.transports.every_source import EverySource
from apps.ingest.transports.options import OptionError, seal, unseal
from apps.lib import micros
from apps.lib.secrets import UnreadableSecretError
from apps.lib.stop_signals import stopped_by_signals
from apps.projects.models import Project, Source, SourceKind

logger = logging.getLogger(__name__)


class Command(BaseCommand):
    """Polls one source, or every active one, until it is told to stop; `--system` makes the source first."""

    #: They read every page and call there is, which takes longer than a small import.
    requires_system_checks: list[str] = []
    help = "Poll an engine (" + ", ".join(sorted(polling.POLLERS)) + ") for what is new, and record it."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Which source, of which project, how often."""
        parser.add_argument("source", nargs="?", metavar="SOURCE", help="its name; without, every active one")
        parser.add_argument("--project", default="default", metavar="SLUG", help="default: %(default)s")
        parser.add_argument("--once", action="store_true", help="read what is new and end; 1 = it could not be read")
        parser.add_argument("--check", action="store_true", help="only try the connection")
        parser.add_argument(
            "--system", choices=sorted(polling.POLLERS), help="make the source, or change its options, before polling"
        )
        parser.add_argument(
            "--set",
            dest="given",
            action="append",
            default=[],
            metavar="OPTION=VALUE",
            help="an option of the source; with --system",
        )

    def handle(
        self,
        *,
        source: str | None,
        project: str,
        once: bool,
        check: bool,
        system: str | None,
        given: list[str],
        **options: Any,
    ) -> None:
        """Poll until SIGINT or SIGTERM."""
        if source is not None:
            self._poll_one(self._source(project, source, system, given), once=once, check=check)
        elif check or system is not None or given:
            raise CommandError("name the source")
        else:
            with stopped_by_signals(stop := polling.Stop()):
                EverySource(SourceKind.POLLER, _read, stop).run(once=once)

    def _poll_one(self, found: Source, *, once: bool, check: bool) -> None:
        stop = polling.Stop()
        try:
            if check:
                self.stdout.write(check_poller(found))
                return
            run = polling_of(found, stop, self._notice)
        except (OptionError, UnreadableSecretError, polling.EngineAwayError) as error:
            raise CommandError(f"{found.name}: {error}") from None
        if not once:
            label = polling.kind_of(found.system).label
            self.stderr.write(f"polling {label} for {found.name}, every {micros.format_duration(run.every)}")
        try:
            with stopped_by_signals(stop):
                run.run(once=once)
        except (polling.EngineAwayError, OptionError) as error:
            raise CommandError(f"{found.name}: {error}") from None
        except Refusal:
            raise CommandError(f"{found.name}: PostgreSQL is away") from None
        self.stdout.write(f"{run.accepted} accepted, {run.duplicates} duplicates, {run.rejected} refused")

    def _source(self, slug: str, name: str, system: str | None, given: list[str]) -> Source:
        project = Project.objects.filter(slug=slug).first()
        if project is None:
            raise CommandError(f"there is no project {slug!r}")
        found = Source.objects.filter(project=project, name=name).first()
        if system is not None:
            return self._made(project, name, system, given, found)
        if given:
            raise CommandError("--set goes with --system")
        if found is None:
            pollers = Source.objects.filter(project=project, kind=SourceKind.POLLER).values_list("name", flat=True)
            known = ", ".join(sorted(pollers)) or "none yet"
            raise CommandError(
                f"there is no source {name!r} (pollers: {known}); make one: --system SYSTEM --set OPTION=VALUE"
            )
        if found.kind != SourceKind.POLLER or found.system not in polling.POLLERS:
            raise CommandError(f"the source {name!r} is not polled: it is {found.system or found.kind}")
        return found

    def _made(self, project: Project, name: str, system: str, given: list[str], found: Source | None) -> Source:
        if found is not None and (found.kind, found.system) != (SourceKind.POLLER, system):
            raise CommandError(f"the source {name!r} exists already: it is {found.system or found.kind}")
        pairs = [text.partition("=") for text in given]
        if wrong := next((option for option, separator, _ in pairs if not separator), None):
            raise CommandError(f"--set {wrong}: write OPTION=VALUE")
        known = options_of_system(system)
        values = {} if found is None else _as_given(known, found)
        try:
            settings = seal(known, values | {option: value for option, _, value in pairs})
        except OptionError as error:
            raise CommandError(str(error)) from None
        if found is None:
            return Source.objects.create(
                project=project, name=name, kind=SourceKind.POLLER, system=system, settings=settings
            )
        if polling.WATERMARK in found.settings:
            settings[polling.WATERMARK] = found.settings[polling.WATERMARK]
        found.settings = settings
        found.save(update_fields=["settings"])
        return found

    def _notice(self, message: str, seconds: float) -> None:
        self.stderr.write(f"{message}; next try in {seconds:.0f} s")


def _as_given(options: tuple[Any, ...], source: Source) -> dict[str, str]:
    """The options of a source that it has been given."""
    try:
        values = unseal(options, source.settings)
    except UnreadableSecretError as error:
        raise CommandError(str(error)) from None
    return {option.name: values[option.name] for option in options if values[option.name] != option.default}


def _read(source: Source, stop: polling.Stop, once: bool) -> None:
    try:
        polling_of(source, stop).run(once=once)
    except (OptionError, UnreadableSecretError, polling.EngineAwayError) as error:
        logger.error("%s: %s", source.name, error)
    except Refusal:
        logger.error("%s: PostgreSQL is away", source.name)
