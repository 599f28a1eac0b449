"""`manage.py token`: a new bearer token, printed alone on standard output so that a script can take it."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from apps.projects.models import Project, Scope
from apps.projects.tokens import create_token


class Command(BaseCommand):
    help = "Make a bearer token and print it; it cannot be read again."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--project", required=True, metavar="SLUG")
        parser.add_argument("--scope", required=True, action="append", choices=Scope.values, help="can be repeated")
        parser.add_argument("--name", default="", help="what people will know it by")
        parser.add_argument("--source", default="", metavar="NAME", help="the source that an ingest token stands for")

    def handle(self, *args: Any, **options: Any) -> None:
        project = Project.objects.filter(slug=options["project"]).first()
        if project is None:
            known = ", ".join(Project.objects.order_by("slug").values_list("slug", flat=True)[:20]) or "none yet"
            raise CommandError(f"There is no project {options['project']!r}. Projects: {known}.")
        token = create_token(project, options["scope"], name=options["name"], source_name=options["source"])
        self.stdout.write(token)
