"""`manage.py invite`: print a link that lets one person into a project."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from apps.projects.invitations import TooManyInvitationsError, invite
from apps.projects.models import Project, Role


class Command(BaseCommand):
    help = "Print a link that makes whoever opens it a member, once, within seven days."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--project", required=True, metavar="SLUG")
        parser.add_argument("--role", choices=Role.values, default=Role.VIEWER.value)

    def handle(self, *args: Any, **options: Any) -> None:
        project = Project.objects.filter(slug=options["project"]).first()
        if project is None:
            raise CommandError(f"There is no project {options['project']}.")
        try:
            secret = invite(project, options["role"])
        except TooManyInvitationsError:
            raise CommandError("Too many links of this project wait to be used: withdraw some.") from None
        print(f"{settings.PUBLIC_URL}/join/{secret}")
