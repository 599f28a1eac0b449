"""`manage.py send FILE…`: post CloudEvents files to a Sagascope."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from apps.ingest.event_files import Item, Unreadable, read_events
from apps.ingest.posting import MAX_ITEMS, Answer, Door, DoorError, WaitEndedError


class Command(BaseCommand):
    """Posts the files in batches, says what was refused and where it stands, and ends with 1 if anything was."""

    help = "Post CloudEvents files (one object, an array or one object a line; .gz too; - is stdin) to a Sagascope."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Where to, with which token, what."""
        parser.add_argument("files", nargs="+", metavar="FILE")
        parser.add_argument("--url", default="http://127.0.0.1:8000", help="default: %(default)s")
        parser.add_argument("--token", default=os.environ.get("SAGASCOPE_TOKEN"), help="scope ingest; $SAGASCOPE_TOKEN")
        parser.add_argument(
            "--patience", type=float, default=60.0, metavar="SECONDS", help="how long to wait for a closed or busy door"
        )

    def handle(self, *, files: list[str], url: str, token: str | None, patience: float, **options: Any) -> None:
        """Send file after file; exit code 1 when anything was refused or could not be read or sent."""
        if not token:
            raise CommandError("a token with the scope ingest is needed: --token or SAGASCOPE_TOKEN")
        door = Door(url, token, patience_seconds=patience, notice=self.stderr.write)
        total, unreadable = Answer(), 0
        try:
            for path in files:
                unreadable += self._send_file(door, path, total)
        except (DoorError, WaitEndedError) as error:
            self._say_totals(total, unreadable)
            raise CommandError(str(error)) from None
        except OSError as error:
            self._say_totals(total, unreadable)
            raise CommandError(f"{error.filename}: {error.strerror}") from None
        finally:
            door.close()
        self._say_totals(total, unreadable)
        if total.refusals or unreadable:
            sys.exit(1)

    def _send_file(self, door: Door, path: str, total: Answer) -> int:
        """Send one file, batch by batch; gives how many of its places hold no JSON."""
        unreadable = 0
        waiting: list[Item] = []
        for found in read_events(path):
            if isinstance(found, Unreadable):
                unreadable += 1
                self.stdout.write(f"{found.place}: refused: {found.why}")
                continue
            waiting.append(found)
            if len(waiting) == MAX_ITEMS:
                self._send(door, waiting, total)
                waiting = []
        if waiting:
            self._send(door, waiting, total)
        return unreadable

    def _send(self, door: Door, items: list[Item], total: Answer) -> None:
        answer = door.post([item.text for item in items])
        for refusal in answer.refusals:
            named = f" (id {refusal.event_id})" if refusal.event_id else ""
            self.stdout.write(f"{items[refusal.index].place}: refused: {refusal.code}: {refusal.detail}{named}")
        total.add(answer)

    def _say_totals(self, total: Answer, unreadable: int) -> None:
        refused = len(total.refusals) + unreadable
        self.stdout.write(f"{total.accepted} accepted, {total.duplicates} duplicates, {refused} refused")
