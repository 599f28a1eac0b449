"""`manage.py setup`: prepare a database that you bring yourself; `manage.py up` does the same by itself."""

from __future__ import annotations

from typing import Any

from django.core.management import call_command
from django.core.management.base import BaseCommand

from apps.config.first_start import default_project, set_up_link


class Command(BaseCommand):
    help = "Bring the database up to date; until there is a user, print a link that makes the first one."
    requires_system_checks = ()

    def handle(self, *args: Any, **options: Any) -> None:
        call_command("migrate", interactive=False, verbosity=1)
        default_project()
        link = set_up_link()
        print(f"Make the first account: {link}" if link else "There are users already: nobody was added.")
