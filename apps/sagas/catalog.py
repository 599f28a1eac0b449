"""What events mean in each project: definitions, rules, learned deadlines; cached, and true by `Project.revision`.

Whoever projects holds a shared lock on the project's meaning until commit, and whoever changes it (`changing`) holds it
alone: so a new definition either is known to a record() or waits for it, and the re-projection that follows sees all
that was recorded with the old meaning.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
from django.db import connection, transaction

from apps.projects.models import Project, Source
from apps.sagas.deadlines import DEFAULT_FACTOR, LearnedStep, bound_of
from apps.sagas.definitions import DefinitionError, FlowDefinition, parse
from apps.sagas.interpretation import Definitions, Interpreter, SourceRule
from apps.sagas.models import FlowVersion, LearnedDeadline

logger = logging.getLogger(__name__)

#: First key of the advisory lock; the second is the project.
_LOCK = 0x5A6A


@dataclass
class ProjectMeaning:
    """All that decides what the events of one project mean, at one revision."""

    project_id: int
    revision: int
    definitions: Definitions
    #: See `apps.sagas.erased`; "" while nothing was erased.
    erasure_key: str = ""
    _interpreters: dict[int, Interpreter] = field(default_factory=dict)

    def interpreter(self, source_id: int) -> Interpreter:
        """The interpreter for events of that source."""
        found = self._interpreters.get(source_id)
        if found is None:
            source = Source.objects.filter(pk=source_id).only("default_flow", "rules").first()
            found = self._interpreters[source_id] = Interpreter(
                self.definitions,
                default_flow=source.default_flow if source else "",
                rules=[SourceRule.read(rule) for rule in source.rules] if source else (),
            )
        return found


_cache: dict[int, ProjectMeaning] = {}
_cache_lock = threading.Lock()


def hold(cursor: Any, project_ids: Iterable[int]) -> dict[int, ProjectMeaning]:
    """The meaning of each project, which nobody can change before this transaction ends."""
    wanted = sorted(set(project_ids))
    # Django's own cursors prepare nothing.
    prepared = {"prepare": True} if isinstance(cursor, psycopg.Cursor) else {}
    cursor.execute("SELECT pg_advisory_xact_lock_shared(%s, id) FROM unnest(%s::int[]) id", [_LOCK, wanted], **prepared)
    cursor.execute("SELECT id, revision FROM projects_project WHERE id = ANY(%s::bigint[])", [wanted], **prepared)
    return {project_id: _meaning(project_id, revision) for project_id, revision in cursor.fetchall()}


def current(project_id: int) -> ProjectMeaning:
    """The meaning as of now, for reading."""
    revision = Project.objects.values_list("revision", flat=True).get(pk=project_id)
    return _meaning(project_id, revision)


@contextmanager
def changing(project_id: int) -> Iterator[int]:
    """Change definitions or rules inside: alone, in one transaction, under a new revision, which it yields."""
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s, %s)", [_LOCK, project_id])
        project = Project.objects.select_for_update().get(pk=project_id)
        project.revision += 1
        project.save(update_fields=["revision"])
        yield project.revision


def _meaning(project_id: int, revision: int) -> ProjectMeaning:
    with _cache_lock:
        found = _cache.get(project_id)
        if found is None or found.revision != revision or found.project_id != project_id:
            erasure_key = Project.objects.values_list("erasure_key", flat=True).get(pk=project_id)
            found = _cache[project_id] = ProjectMeaning(
                project_id, revision, Definitions(_definitions(project_id), _learned(project_id)), erasure_key
            )
        return found


def _definitions(project_id: int) -> Iterator[FlowDefinition]:
    """Every kept version, the newest of each flow last."""
    rows = FlowVersion.objects.filter(flow__project_id=project_id, is_deleted=False).order_by("saved_at", "id")
    for version in rows.select_related("flow"):
        try:
            yield parse(version.text, name=version.flow.name)
        except DefinitionError:
            # It was valid when it was saved: a later release reads more strictly. The flow is discovered instead.
            logger.exception("definition of %s %s cannot be read any more", version.flow.name, version.version)


def _learned(project_id: int) -> dict[tuple[str, str], dict[str, LearnedStep]]:
    """(flow, version) → step → its deadlines, as published."""
    found: dict[tuple[str, str], dict[str, LearnedStep]] = {}
    for row in LearnedDeadline.objects.filter(project_id=project_id, limit_us__isnull=False):
        assert row.limit_us is not None
        steps = found.setdefault((row.flow, row.flow_version), {})
        bound = bound_of(row.limit_us, row.factor or DEFAULT_FACTOR, row.count, row.phase)
        steps[row.step] = steps.get(row.step, LearnedStep())._replace(**{row.phase: bound})
    return found


def forget() -> None:
    """Drop the cache, for tests that roll back a revision."""
    _cache.clear()
