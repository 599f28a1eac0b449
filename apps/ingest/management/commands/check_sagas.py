"""`manage.py check_sagas FILE…`: do recorded sagas keep to the rules? For pipelines; needs no database."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from apps.ingest.checking import read_files, read_flows
from apps.lib import micros
from apps.sagas.checking import Checked, check, junit
from apps.sagas.definitions import DefinitionError
from apps.sagas.findings import CODES, RULES
from apps.sagas.interpretation import Definitions
from apps.sagas.timeline.wording import visible


class Command(BaseCommand):
    """Prints what was found. Ends with 1 when a rule was broken or an event could not be read, else with 0."""

    help = (
        "Judge recorded CloudEvents (one object, an array or one object a line; .gz too; - is stdin) by the rules of"
        " saga conduct. Nothing is stored. Exit code 1 when a rule was broken."
    )
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        """What to judge, by which definitions, and where to report."""
        parser.add_argument("files", nargs="+", metavar="FILE")
        parser.add_argument("--flows", metavar="DIR", help="a folder with flow definitions (*.yaml, *.json)")
        parser.add_argument("--default-flow", default="", metavar="FLOW", help="the flow of events that name none")
        parser.add_argument("--junit", metavar="FILE", help="write a JUnit report")
        parser.add_argument(
            "--ignore", action="append", default=[], choices=CODES, metavar="CODE", help=f"one of {', '.join(CODES)}"
        )

    def handle(
        self,
        *,
        files: list[str],
        flows: str | None,
        default_flow: str,
        junit: str | None,
        ignore: list[str],
        **options: Any,
    ) -> None:
        """Read, judge, tell."""
        try:
            declared = read_flows(flows) if flows else []
            recording = read_files(files, micros.now())
        except DefinitionError as error:
            raise CommandError(f"{error.__notes__[0]}: {error}", returncode=2) from None
        except (OSError, UnicodeDecodeError) as error:
            raise CommandError(str(error), returncode=2) from None
        checked = check(recording.events, Definitions(declared), default_flow=default_flow, ignored=ignore)
        self._tell(checked, recording.refused)
        if junit:
            Path(junit).write_text(_report(checked, recording.refused, ignored=ignore), encoding="utf-8")
        if checked.open_count or recording.refused:
            sys.exit(1)

    def _tell(self, checked: Checked, refused: list[str]) -> None:
        for one in checked.correlations:
            for found in one.found:
                word = RULES[found.code][0] if found.status == "open" else f"Cannot conclude: {RULES[found.code][0]}"
                name = visible(one.correlation_id, 120)
                self.stdout.write(f"{name}  {visible(found.flow, 80)}  {word}: {visible(found.explanation, 1000)}")
        for place in refused:
            self.stderr.write(f"refused: {visible(place, 500)}")
        self.stdout.write(
            f"{len(checked.correlations):,} sagas, {checked.event_count:,} events: {checked.open_count:,} findings,"
            f" {checked.inconclusive_count:,} inconclusive, {len(refused):,} events refused"
        )


_report = junit
