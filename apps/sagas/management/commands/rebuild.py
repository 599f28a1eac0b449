"""`manage.py rebuild`: project everything anew from the events."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, NamedTuple

from django.core.management.base import BaseCommand, CommandError, CommandParser

from apps.projects.models import Project
from apps.sagas import rebuild
from apps.sagas.models import Reprojection


class _Began(NamedTuple):
    """How far a run was when we joined it, and when (by the steady clock)."""

    done: int
    at: float


def _every(seconds: float, tell: Callable[[Reprojection], None]) -> Callable[[Reprojection], None]:
    """`tell`, but not more often than that."""
    due = time.monotonic() + seconds

    def seldom(run: Reprojection) -> None:
        nonlocal due
        if time.monotonic() >= due:
            due = time.monotonic() + seconds
            tell(run)

    return seldom


class Command(BaseCommand):
    help = "Drop every projection and build it again from the events: online, resumable, with progress."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--project", help="slug of one project; all of them when not given")
        parser.add_argument(
            "--workers", type=int, default=1, help="processes at once, each with a core and a connection (default 1)"
        )

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
            began = _Began(run.done, time.monotonic())
            while run.finished_at is None:
                if not self._work_on(run, options["workers"], began):
                    # Another worker may be at it: wait for what it does.
                    time.sleep(0.2)
                run.refresh_from_db()
                self._tell(run, began)
        if failed := [f"{run.project.slug}: {line}" for run in runs for line in run.error.splitlines()]:
            raise CommandError("\n".join(["these could not be projected anew and stay as they were:", *failed]))
        self.stdout.write(self.style.SUCCESS("rebuilt"))

    def _work_on(self, run: Reprojection, workers: int, began: _Began) -> bool:
        if workers > 1:
            told = _every(2.0, lambda run: self._tell(run, began))
            return rebuild.run_in_processes(run, workers, told)
        return rebuild.run_open_reprojections(seconds=2.0) > 0

    def _tell(self, run: Reprojection, began: _Began) -> None:
        left = ""
        if run.finished_at is None and run.done > began.done:
            seconds = (run.total - run.done) * (time.monotonic() - began.at) / (run.done - began.done)
            left = f", about {timedelta(seconds=round(seconds))} left"
        self.stdout.write(f"{run.project.slug}: {run.done} of {run.total} correlations{left}")
