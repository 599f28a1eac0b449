"""`manage.py rebuild`: project everything anew from the events."""

from __future__ import annotations

import time
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from apps.projects.models import Project
from apps.sagas import rebuild
from apps.sagas.models import Reprojection


class Command(BaseCommand):
    help = "Drop every projection and build it again from the events: online, resumable, with progress."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--project", help="slug of one project; all of them when not given")

    def handle(self, *args: Any, **options: Any) -> None:
        """Start a run for each project, or go on with the one that was interrupted.

        Raises CommandError for an unknown project, and names what could not be projected anew.
        """
        projects = Project.objects.order_by("id")
        if slug := options["project"]:
            projects = projects.filter(slug=slug)
            if not projects:
                raise CommandError(f"there is no project {slug!r}")
        runs = [
            Reprojection.objects.filter(project=project, finished_at__isnull=True).first()
            or rebuild.start(project.id, "rebuild asked for on the command line")
            for project in projects
        ]
        for run in runs:
            while run.finished_at is None:
                if not rebuild.run_open_reprojections(seconds=2.0):
                    # Another worker may be at it: wait for what it does.
                    time.sleep(0.2)
                run.refresh_from_db()
                self.stdout.write(f"{run.project.slug}: {run.done} of {run.total} correlations")
        if failed := [f"{run.project.slug}: {line}" for run in runs for line in run.error.splitlines()]:
            raise CommandError("\n".join(["these could not be projected anew and stay as they were:", *failed]))
        self.stdout.write(self.style.SUCCESS("rebuilt"))
