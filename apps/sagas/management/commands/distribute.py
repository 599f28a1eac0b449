"""`manage.py distribute`: give the tables of sagas to the workers of a Citus cluster."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from apps.sagas import distribution


class Command(BaseCommand):
    help = "Distribute the tables of sagas by `shard` over the workers of a Citus cluster; doing it again adds nothing."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--shards", type=int, default=32, help="parts that the tables are cut into; two to four for each core to be"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Distribute what is not yet. Raises CommandError where there is no Citus or no worker."""
        if not 1 <= options["shards"] <= 1024:
            raise CommandError("--shards must be between 1 and 1024")
        try:
            tables = distribution.distribute(options["shards"])
        except distribution.NoCitusError as error:
            raise CommandError(str(error)) from None
        self.stdout.write(f"distributed: {', '.join(tables)}" if tables else "everything was distributed already")
        for place, parts, size in distribution.places():
            self.stdout.write(f"{place}: {parts} parts, {size / 1e6:,.1f} MB")
