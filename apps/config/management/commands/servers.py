"""`manage.py servers`: only the embedded PostgreSQL and Redis, for one command or until Ctrl-C."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from contextlib import nullcontext
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from apps.lib import embedded


class Command(BaseCommand):
    help = (
        "Run the embedded PostgreSQL and Redis: `servers` until Ctrl-C, `servers -- migrate` while that command runs."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("command", nargs=argparse.REMAINDER, help="a command of manage.py with its arguments")

    def handle(self, *args: Any, **options: Any) -> None:
        words = [word for word in options["command"] if word != "--"]
        has_own = bool(os.environ.get("DATABASE_URL") and os.environ.get("REDIS_URL"))
        try:
            with nullcontext() if has_own else embedded.start(settings.SAGASCOPE_DATA):
                if words:
                    code = subprocess.run([sys.executable, sys.argv[0], *words], check=False).returncode  # noqa: S603
                    sys.exit(code)
                print(f"DATABASE_URL={settings.DATABASE_URL}\nREDIS_URL={settings.REDIS_URL}", flush=True)
                signal.signal(signal.SIGTERM, signal.default_int_handler)
                try:
                    signal.pause()
                except KeyboardInterrupt:
                    print("stopping")
        except embedded.EmbeddedError as error:
            raise CommandError(str(error)) from error
