"""`manage.py sweep`: judge once what is wrong now, with --deliver also send what is due. The beat does both."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand

from apps.alerts.delivery import deliver_due
from apps.alerts.sweeping import sweep
from apps.lib import common_clock


class Command(BaseCommand):
    """One sweep."""

    help = "Open and resolve incidents as things stand now."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """--deliver."""
        parser.add_argument("--deliver", action="store_true", help="also send the messages that are due")

    def handle(self, *args: Any, **options: Any) -> None:
        """Sweep, and say what was done."""
        self.stdout.write(str(sweep(common_clock.now())))
        if options["deliver"]:
            report = deliver_due(common_clock.now())
            self.stdout.write(f"{report.sent} sent, {report.failed} failed, {report.given_up} given up")
