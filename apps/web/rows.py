"""What the instances table says about one instance beyond its columns, and how rows on the screen are read again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

from django.db.models import BooleanField
from django.db.models.expressions import RawSQL

from apps.lib.micros import Micros
from apps.sagas.conditions import condition_of
from apps.sagas.models import Instance
from apps.sagas.query import Query
from apps.sagas.watermarks import Watermarks
from apps.web.models import Note
from apps.web.notes import latest_notes

#: Rows that one page shows, and so rows that it may ask for again.
MOST_SHOWN = 200
#: (compensation state) → words of the last column; "{n}" is the number of things owed.
_COMPENSATION = {
    "owed": "{n} owed",
    "running": "undoing, {n} owed",
    "partial": "partly undone, {n} owed",
    "complete": "all undone",
    "failed": "failed, {n} owed",
}

RowKey = tuple[int, UUID]


@dataclass(frozen=True, slots=True)
class InstanceRow:
    """One row of the table."""

    instance: Instance
    #: When it should have moved on, if that has passed.
    stuck_since: Micros | None
    #: False when the row is on the screen but not found by the query any more.
    still_matches: bool = True
    #: The latest note on its correlation.
    note: Note | None = None

    @property
    def key(self) -> str:
        """What names the row in an address or a form."""
        return write_key(self.instance)

    @property
    def facts(self) -> dict[str, str]:
        """Searchable facts by name."""
        return self.instance.attributes or {}

    @property
    def mark(self) -> str:
        """stuck, blocked, explained (a timer or a suspension says why it waits) or nothing."""
        if self.stuck_since is not None:
            return "stuck"
        if self.instance.ended_at is not None:
            return ""
        if self.instance.blocked:
            return "blocked"
        return "explained" if self.is_explained else ""

    @property
    def is_explained(self) -> bool:
        """True while a suspension or a running timer says why nothing happens."""
        return self.instance.suspended or (self.instance.waiting_for or "").startswith("timer ")

    @property
    def end_is_unknown(self) -> bool:
        """True for an open instance of which nothing says what it waits for or when it will have ended."""
        instance = self.instance
        return instance.ended_at is None and not instance.waiting_for and not instance.current_steps

    @property
    def has_many_attempts(self) -> bool:
        """Worth a colour: somebody tries again and again."""
        return self.instance.max_attempts > 3

    @property
    def compensation(self) -> str:
        """The compensation state in words."""
        words = _COMPENSATION.get(self.instance.compensation_state, "none")
        return words.replace("{n}", str(self.instance.owed_count)).replace(", 0 owed", "")

    @property
    def compensation_tone(self) -> str:
        """The hue of the last column: amber while something is owed, violet for undoing, red when it failed."""
        state = self.instance.compensation_state
        if state == "failed":
            return "failed"
        if self.instance.owed_count:
            return "owed"
        return "compensating" if state in {"running", "complete", "partial"} else ""


def rows_of(instances: list[Instance], marks: Watermarks) -> list[InstanceRow]:
    """A row for each instance of one project, in the given order."""
    notes = _notes(instances)
    return [
        InstanceRow(instance, marks.stuck_since(instance), note=notes.get(instance.correlation_id))
        for instance in instances
    ]


def _notes(instances: list[Instance]) -> dict[str, Note]:
    if not instances:
        return {}
    return latest_notes(instances[0].project_id, {instance.correlation_id for instance in instances})


def write_key(instance: Instance) -> str:
    """The key of a row as text."""
    return f"{instance.shard}.{instance.id.hex}"


def write_keys(instances: Iterable[Instance]) -> str:
    """The keys of rows as text, for the page to ask for the same rows again."""
    return " ".join(map(write_key, instances))


def read_keys(text: str) -> list[RowKey]:
    """Keys that `write_keys` wrote; anything else is left out, and all beyond MOST_SHOWN."""
    keys: list[RowKey] = []
    for word in text.split()[:MOST_SHOWN]:
        shard, _, identity = word.partition(".")
        try:
            key = (int(shard), UUID(hex=identity))
        except ValueError:
            continue
        if -(2**31) <= key[0] < 2**31:
            keys.append(key)
    return keys


def read_again(project_id: int, query: Query, keys: list[RowKey], marks: Watermarks) -> list[InstanceRow]:
    """The rows of these keys as they are now, in the same order; rows that no longer exist are left out."""
    if not keys:
        return []
    condition = condition_of(query, project_id, marks)
    found = (
        Instance.objects.filter(project_id=project_id, pk__in=keys)
        .annotate(matches=RawSQL(condition.sql, condition.params, output_field=BooleanField()))  # noqa: S611 - bound
        .defer("state")
    )
    by_key = {(instance.shard, instance.id): instance for instance in found}
    notes = _notes(list(by_key.values()))
    return [
        InstanceRow(instance, marks.stuck_since(instance), bool(instance.matches), notes.get(instance.correlation_id))
        for key in keys
        if (instance := by_key.get(key)) is not None
    ]


def chosen_instances(project_id: int, keys: list[RowKey]) -> list[Instance]:
    """The instances of these keys as they are now, in the same order."""
    by_key = {
        (instance.shard, instance.id): instance
        for instance in Instance.objects.filter(project_id=project_id, pk__in=keys).defer("state")
    }
    return [by_key[key] for key in keys if key in by_key]
