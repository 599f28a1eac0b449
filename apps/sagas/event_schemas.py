"""Event schemas as people keep them: one JSON Schema per event type and version, saved by API or page.

A change has all correlations judged again, in the background; nothing that was accepted is ever refused for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from django.db import connection, transaction

from apps.lib import micros
from apps.lib.read_limit import read_limit
from apps.projects.models import Project
from apps.sagas import finding_due
from apps.sagas.contracts import CannotCheckError, Compatibility, SchemaError, compare, compiled, infer, read_schema
from apps.sagas.events import SagaEvent
from apps.sagas.findings import CannotTellError
from apps.sagas.findings.facts import PayloadCheck
from apps.sagas.models import EventSchema

MAX_NAME = 256
MOST_SCHEMAS = 2_000
#: How many of the latest instances are searched for payloads of a type, and how many payloads are enough.
_SEARCHED, _SAMPLE = 2_000, 500


class IncompatibleError(Exception):
    """The new version does not keep the promise; `compatibility` says why."""

    def __init__(self, promise: str, than: str, compatibility: Compatibility) -> None:
        super().__init__(f"it is not {promise} compatible with version {than}")
        self.compatibility = compatibility


def save_schema(
    project: Project, event_type: str, version: str, text: str, by: str, *, promise: str = "none"
) -> tuple[EventSchema, bool]:
    """Save a version of a type's schema; and whether it is new. Saving a version again replaces it.

    With a `promise` (backward, forward, full) it must keep that with the version saved before it. Raises SchemaError,
    IncompatibleError.
    """
    for what, name in (("type", event_type), ("version", version)):
        if not name.strip() or len(name) > MAX_NAME or not name.isprintable():
            raise SchemaError(f"the {what} has 1 to {MAX_NAME} printable characters")
    if "/" in version:
        raise SchemaError("the version holds no slash")
    schema = read_schema(text)
    with transaction.atomic():
        # One writer of a project's schemas at a time: the promise is kept against what is there.
        Project.objects.select_for_update().get(pk=project.pk)
        others = EventSchema.objects.filter(project=project, event_type=event_type).exclude(version=version)
        before = others.order_by("-saved_at", "-pk").first()
        if promise != "none" and before is not None:
            found = compare(read_schema(before.text), schema)
            if not found.keeps(promise):
                raise IncompatibleError(promise, before.version, found)
        known = EventSchema.objects.filter(project=project, event_type=event_type, version=version).first()
        if known is not None and known.text == text:
            return known, False
        if known is None and EventSchema.objects.filter(project=project).count() >= MOST_SCHEMAS:
            raise SchemaError(f"a project has at most {MOST_SCHEMAS} schemas")
        saved, is_new = EventSchema.objects.update_or_create(
            project=project, event_type=event_type, version=version, defaults={"text": text, "saved_by": by}
        )
        _judge_again(project.pk)
    return saved, is_new


def delete_schema(project: Project, event_type: str, version: str) -> bool:
    """Forget one version; False when there is none."""
    with transaction.atomic():
        gone, _ = EventSchema.objects.filter(project=project, event_type=event_type, version=version).delete()
        if gone:
            _judge_again(project.pk)
    return bool(gone)


def find_schema(project_id: int, event_type: str, version: str) -> EventSchema | None:
    """One version of a type's schema."""
    if "\0" in event_type or "\0" in version:
        return None
    return EventSchema.objects.filter(project_id=project_id, event_type=event_type, version=version).first()


def list_schemas(project_id: int) -> list[EventSchema]:
    """Every schema by type, the newest version first."""
    return list(EventSchema.objects.filter(project_id=project_id).order_by("event_type", "-saved_at", "-pk"))


def _judge_again(project_id: int) -> None:
    with connection.wrap_database_errors:
        finding_due.judge_anew(project_id, micros.now())


# Judging


def payload_check(project_id: int) -> PayloadCheck | None:
    """What judges the payloads of a project's events; None when it has no schemas."""
    rows = EventSchema.objects.filter(project_id=project_id).order_by("-saved_at", "-pk")
    return check_with([(row.event_type, row.version, row.text) for row in rows])


def check_with(schemas: Iterable[tuple[str, str, str]]) -> PayloadCheck | None:
    """The same for (event type, version, text) of schemas, the newest of each type first."""
    by_type: dict[str, list[tuple[str, str]]] = {}
    for event_type, version, text in schemas:
        by_type.setdefault(event_type, []).append((version, text))
    if not by_type:
        return None
    return lambda event: _problem(by_type, event)


def _problem(by_type: Mapping[str, Sequence[tuple[str, str]]], event: SagaEvent) -> str:
    versions = by_type.get(event.type)
    if versions is None:
        return ""
    version, text = _version_of(event, versions)
    if "truncated" in event.flags:
        raise CannotTellError(f"whether it keeps to its schema {version} is unknown: it was cut when it was stored")
    if event.data is None and event.data_ref is not None:
        raise CannotTellError(f"whether it keeps to its schema {version} is unknown: it lies elsewhere (dataref)")
    try:
        problem = compiled(text).problem_of(event.data)
    except (SchemaError, CannotCheckError) as error:
        raise CannotTellError(f"whether it keeps to its schema {version} is unknown: {error}") from None
    return f"breaks schema version {version}: {problem}" if problem else ""


def _version_of(event: SagaEvent, versions: Sequence[tuple[str, str]]) -> tuple[str, str]:
    """The version that the event's `dataschema` names (its `$id`, or its last part), else the newest."""
    named = event.data_schema
    if not named:
        return versions[0]
    for version, text in versions:
        if compiled(text).schema.identity == named:
            return version, text
    last = named.rstrip("/#").rsplit("/", 1)[-1].rsplit(":", 1)[-1]
    candidates = {last, last.removesuffix(".json"), last.removesuffix(".json").removeprefix("v")}
    for version, text in versions:
        if version in candidates or version.removeprefix("v") in candidates:
            return version, text
    raise CannotTellError("it names a dataschema that is not registered")


# Inference


def infer_schema(project_id: int, event_type: str) -> tuple[dict[str, Any], int]:
    """A schema for the payloads of this type that came lately, and of how many it is made. Raises ReadTooLongError."""
    sql = """
        WITH lately AS MATERIALIZED (
            SELECT shard, correlation_uuid, last_event_at FROM instance
            WHERE project_id = %s ORDER BY last_event_at DESC, id LIMIT %s)
        SELECT e.data FROM lately
        JOIN event e ON e.shard = lately.shard AND e.correlation_uuid = lately.correlation_uuid
        WHERE e.type = %s AND e.data IS NOT NULL AND position('"truncated"' in e.attributes) = 0
        LIMIT %s
    """
    payloads = []
    with read_limit(), connection.cursor() as cursor:
        cursor.execute(sql, [project_id, _SEARCHED, event_type, _SAMPLE])
        for (data,) in cursor.fetchall():
            try:
                payloads.append(msgspec.json.decode(data))
            except (msgspec.DecodeError, ValueError, RecursionError):
                continue
    return infer(payloads), len(payloads)
