"""`manage.py import_history FORMAT FILE…`: import engines' own history documents."""

from __future__ import annotations

import gzip
import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from apps.ingest import documents, door, redaction, rejected
from apps.ingest.documents import JSON, NDJSON, OptionError
from apps.ingest.formats import HISTORIES, Decoded, Rejection
from apps.ingest.strict_json import Unreadable
from apps.lib import micros
from apps.projects.models import Project, Source
from apps.sagas.recording import Outcome, record

#: Refusals that are printed; all are kept.
_SHOWN = 10
_LINES = (".ndjson", ".jsonl")


class Command(BaseCommand):
    """Import documents; importing a longer one later adds only what is new."""

    #: They read every page and call there is, which takes longer than a small import.
    requires_system_checks: list[str] = []
    help = "Import engines' own history documents: one JSON document per file, or one per line (.ndjson, .jsonl)."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the arguments."""
        parser.add_argument("format", choices=sorted(HISTORIES))
        parser.add_argument("files", nargs="+", metavar="FILE", help="a document, perhaps packed (.gz); - is stdin")
        parser.add_argument("--project", default="default", help="slug of the project (default: default)")
        parser.add_argument("--source", default="", help="name of the source, made when missing (default: the format)")
        parser.add_argument("--correlation-id", help="the correlation ID of everything in the documents")
        parser.add_argument("--correlation-path", help="JSONPath into the workflow's input, e.g. $.order.id")
        parser.add_argument("--correlation-key", help="memo entry, search attribute, header or variable that holds it")
        parser.add_argument("--flow", help="the flow's name (default: the engine's name of the workflow)")
        parser.add_argument("--namespace", help="which of several engines of one kind it is")
        parser.add_argument("--workflow-id", help="the workflow, for documents that do not name it")
        parser.add_argument("--run-id", help="its run, for documents that do not name it")

    def handle(self, *_: Any, **given: Any) -> None:
        """Import one file after the other. Raises CommandError when nothing of a file could be imported."""
        project = Project.objects.filter(slug=given["project"]).first()
        if project is None:
            raise CommandError(f"there is no project {given['project']!r}")
        source, _made = Source.objects.get_or_create(project=project, name=(given["source"] or given["format"])[:128])
        try:
            wanted = {name: given[name] for name in documents.TEXT_OPTIONS if given.get(name)}
            options = documents.options_of(source.settings, wanted)
        except OptionError as error:
            raise CommandError(str(error)) from None
        failed = []
        for name in given["files"]:
            received_at = micros.now()
            with redaction.applying(door.policy_of(source.pk)):
                decoded = self._decoded(given["format"], name, options, received_at)
            outcome, _refused = documents.store_in_slices(
                decoded, lambda events: (record(project.pk, source.pk, events), [])
            )
            rejected.keep(project.pk, source.pk, _with_conflicts(decoded, outcome), received_at)
            self._say(name, decoded, outcome)
            if decoded.rejections and not outcome.accepted and not outcome.duplicates:
                failed.append(name)
        if failed:
            raise CommandError(f"nothing could be imported of {', '.join(failed)}")

    def _decoded(self, format_name: str, name: str, options: Any, received_at: int) -> Decoded:
        try:
            body = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
            if name.endswith(".gz"):
                body = gzip.decompress(body)
        except (OSError, EOFError) as error:
            raise CommandError(f"{name} cannot be read: {error}") from None
        is_lines = name.removesuffix(".gz").endswith(_LINES)
        try:
            document, broken = documents.read(body, NDJSON if is_lines else JSON, format_name, is_history=True)
        except Unreadable as unreadable:
            raise CommandError(f"{name}: {unreadable.detail}") from None
        decoded = documents.decode_history(format_name, document, options, received_at, documents.place_for(body))
        decoded.rejections.extend(broken)
        return decoded

    def _say(self, name: str, decoded: Decoded, outcome: Outcome) -> None:
        counts = f"{outcome.accepted} accepted, {outcome.duplicates} duplicates, {len(decoded.rejections)} rejected"
        self.stdout.write(f"{name}: {counts}")
        for rejection in decoded.rejections[:_SHOWN]:
            self.stderr.write(f"  entry {rejection.index}: {rejection.code}: {rejection.detail}")
        if len(decoded.rejections) > _SHOWN:
            self.stderr.write(f"  and {len(decoded.rejections) - _SHOWN} more: see the source's rejected events")


def _with_conflicts(decoded: Decoded, outcome: Outcome) -> list[Rejection]:
    conflicts = [
        Rejection(
            decoded.positions[position],
            decoded.events[position].id,
            "conflict",
            "this id is taken by an event with another content, which is kept",
        )
        for position in outcome.conflicts
    ]
    return [*decoded.rejections, *conflicts, *(door.erased(decoded, position) for position in outcome.erased)]
