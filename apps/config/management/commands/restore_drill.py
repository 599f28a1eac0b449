"""`manage.py restore_drill`: show that a backup of this database can be used, and how long that takes."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from apps.config.backups import BackupError, drill


class Command(BaseCommand):
    """Ends with 1 when what was restored is not what was dumped."""

    help = (
        "Dump the database while it is used, restore the dump into a server of its own, compare every row, project"
        " everything anew there, and say what it took. The database itself is only read."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Where, and how much."""
        parser.add_argument("--folder", type=Path, help="for dump and scratch server (default: the temporary folder)")
        parser.add_argument("--no-rebuild", action="store_true", help="do not project everything anew afterwards")

    def handle(self, **options: Any) -> None:
        """Do it, and print the figures."""
        try:
            done = drill(
                settings.DATABASE_URL,
                options["folder"],
                rebuilds=not options["no_rebuild"],
                say=lambda what: self.stderr.write(f"{what} …"),
            )
        except (BackupError, OSError) as error:
            raise CommandError(str(error)) from None
        rebuild = "not asked for" if done.rebuild_seconds is None else f"{done.rebuild_seconds:.1f} s"
        back = done.restore_seconds + (done.rebuild_seconds or 0.0)
        for name, figure in (
            ("events", f"{done.events:,}"),
            ("rows", f"{done.rows:,} in {done.tables} tables"),
            ("dump", f"{done.dump_seconds:.1f} s, {done.dump_bytes / 2**20:.1f} MiB"),
            ("restore", f"{done.restore_seconds:.1f} s"),
            ("comparison", f"{done.compare_seconds:.1f} s"),
            ("projected anew", rebuild),
            ("back after", f"{back:.1f} s"),
        ):
            self.stdout.write(f"{name:16}{figure}")
        if done.wrong:
            raise CommandError("what was restored is not what was dumped: " + "; ".join(done.wrong))
        self.stdout.write(self.style.SUCCESS("every row was restored as it was"))
