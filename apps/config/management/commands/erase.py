"""`manage.py erase`: take out what is known of a person or a correlation."""

from __future__ import annotations

import getpass
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from apps.config.erasure import Erased, erase, find_by_attribute, find_by_subject, lift
from apps.lib.secrets import UnreadableSecretError
from apps.projects.models import Project


class Command(BaseCommand):
    """Shows what would be erased; with `--really` it is gone for good."""

    help = (
        "Erase correlations with everything that is kept about them, by ID, by an attribute or by the subject of their"
        " events. Without --really it only says what would go. What comes of them later is refused, until --lift."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Whose data, and which."""
        parser.add_argument("--project", default="default", metavar="SLUG", help="default: %(default)s")
        parser.add_argument("--correlation", action="append", default=[], metavar="ID", help="may be given again")
        parser.add_argument(
            "--attribute", action="append", default=[], metavar="NAME=VALUE", help="such as customer=42"
        )
        parser.add_argument("--subject", action="append", default=[], help="the subject of CloudEvents")
        parser.add_argument(
            "--text",
            action="append",
            default=[],
            metavar="TERM",
            help="also lose refused items, dead letters and messages that hold this text (a mail address, say)",
        )
        parser.add_argument(
            "--lift", action="store_true", help="take events of these (--correlation) again, or of all that were erased"
        )
        parser.add_argument("--really", action="store_true", help="do it; there is no way back")

    def handle(self, **options: Any) -> None:
        """Find, then count or erase."""
        project = Project.objects.filter(slug=options["project"]).first()
        if project is None:
            raise CommandError(f"there is no project {options['project']!r}")
        if options["lift"]:
            self._lift(project, options["correlation"])
            return
        found = set(options["correlation"])
        for pair in options["attribute"]:
            name, equals, value = pair.partition("=")
            if not equals:
                raise CommandError(f"{pair!r} is no attribute: write NAME=VALUE")
            found.update(find_by_attribute(project, name, value))
        for subject in options["subject"]:
            found.update(find_by_subject(project, subject))
        if not found and not options["text"]:
            raise CommandError("nothing is known of that: give --correlation, --attribute, --subject or --text")
        try:
            erased = erase(
                project, found, options["text"], by=f"command of {getpass.getuser()}", really=options["really"]
            )
        except ValueError as error:
            raise CommandError(str(error)) from None
        self._report(erased, really=options["really"])

    def _lift(self, project: Project, correlations: list[str]) -> None:
        try:
            count = lift(project, correlations or None, by=f"command of {getpass.getuser()}")
        except UnreadableSecretError as error:
            raise CommandError(f"{error}: without --correlation all of them can be lifted") from None
        self.stdout.write(f"Lifted: events of {count} erased correlations are taken again.")

    def _report(self, erased: Erased, *, really: bool) -> None:
        parts = [
            f"{len(erased.correlations)} correlations with {erased.events} events",
            f"{erased.dead_letters} dead letters",
            f"{erased.rejected_events} refused items",
            f"{erased.deliveries} texts of deliveries",
            f"{erased.incidents} samples of incidents",
            f"{erased.notes} notes",
            f"{erased.links} links",
        ]
        self.stdout.write(("Erased: " if really else "Would erase: ") + ", ".join(parts) + ".")
        if not really:
            self.stdout.write("Say --really to do it.")
        elif erased.correlations:
            self.stdout.write("What comes of them from now on is refused (manage.py erase --lift takes it again).")
