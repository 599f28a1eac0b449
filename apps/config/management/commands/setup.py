"""`manage.py setup`: prepare a database that you bring yourself; `manage.py up` does the same by itself."""

from __future__ import annotations

from typing import Any

from django.core.management import call_command
from django.core.management.base import BaseCommand

from apps.config.first_start import default_project, first_admin


class Command(BaseCommand):
    help = "Bring the database up to date; on first use make the project `default` and an admin, printed once."
    requires_system_checks = ()

    def handle(self, *args: Any, **options: Any) -> None:
        call_command("migrate", interactive=False, verbosity=1)
        login = first_admin(default_project())
        print(f"login: {login}" if login else "There are users already: nobody was added.")
