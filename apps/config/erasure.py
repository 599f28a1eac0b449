"""Erase what is known of a person or of a correlation, wherever it lies: the right to be forgotten (GDPR, article 17).

Events, their projections and findings go whole. What others keep about them goes too: refused items, dead letters,
texts of deliveries, samples of incidents, notes, links. Sums that name nobody stay. What lies in a broker, in a backup
or with those who were told stays where it is: only its owner can take it out there. What a broker delivers of it later
is refused (`apps.sagas.erased`), until somebody lifts that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from uuid import UUID

import msgspec
from django.db import connection, transaction
from django.db.models import Q

from apps.alerts.models import Delivery, DeliveryStatus, Incident
from apps.dlq.models import DeadLetter
from apps.ingest.models import RejectedEvent
from apps.lib import micros
from apps.projects import audit
from apps.projects.models import Project
from apps.sagas import catalog
from apps.sagas import erased as tombstones
from apps.sagas.forgetting import forget
from apps.sagas.models import Correlation, InstanceAttribute
from apps.web.models import EmbedLink, Note

#: Correlations erased in one transaction.
BATCH = 100
#: Shorter terms would match by accident in texts that nobody wants to lose.
SHORTEST_TERM = 4

#: Correlations with an event whose kept attributes hold this text, which is JSON.
_BY_EVENT = """
SELECT DISTINCT c.correlation_id FROM correlation c JOIN event e ON e.shard = c.shard AND e.correlation_uuid = c.id
WHERE c.project_id = %s AND position(%s in e.attributes) > 0
"""


@dataclass
class Erased:
    """What was found and, unless it was only a look, erased."""

    correlations: list[str] = field(default_factory=list)
    events: int = 0
    rejected_events: int = 0
    dead_letters: int = 0
    deliveries: int = 0
    incidents: int = 0
    notes: int = 0
    links: int = 0


def find_by_attribute(project: Project, name: str, value: str) -> list[str]:
    """IDs of the correlations of which an instance or an event has this attribute."""
    rows = InstanceAttribute.objects.filter(project=project, name=name, value=value)
    instances = rows.values_list("shard", "instance_id")
    found = {correlation for pair in instances for correlation in _correlation_of(*pair)}
    return sorted(found | set(_by_event(project, {name: value})))


def find_by_subject(project: Project, subject: str) -> list[str]:
    """IDs of the correlations with an event about this subject (CloudEvents `subject`)."""
    return sorted(_by_event(project, {"subject": subject}))


def erase(project: Project, correlations: Iterable[str], terms: Sequence[str] = (), *, by: str, really: bool) -> Erased:
    """Erase these correlations, and texts outside of them that hold their IDs or one of `terms`.

    Unless `really`, only counts. In the audit log stands how much was erased and a digest of what, never what itself.
    Raises ValueError for a term that is too short to be looked for in texts.
    """
    if short := [term for term in terms if len(term) < SHORTEST_TERM]:
        raise ValueError(f"{short[0]!r} is too short to be looked for: at least {SHORTEST_TERM} characters")
    names = sorted(set(correlations))
    erased = Erased(names)
    for at in range(0, len(names), BATCH):
        batch = names[at : at + BATCH]
        if not really:
            _erase_correlations(project, batch, erased, really=False)
            continue
        # Alone with the project: no event of these is on its way into a transaction that does not know it yet.
        with catalog.changing(project.pk):
            tombstones.note(project.pk, batch, micros.now())
            _erase_correlations(project, batch, erased, really=True)
    with transaction.atomic():
        for term in [*(name for name in names if len(name) >= SHORTEST_TERM), *terms]:
            _erase_texts(project, term, erased, really=really)
        if really:
            audit.note(by, "erase", _summary(erased, terms), project_id=project.pk)
    return erased


def lift(project: Project, correlations: Iterable[str] | None, *, by: str) -> int:
    """Take events of these correlations again, or of all that were erased (None); how many there were.

    Raises UnreadableSecretError when they cannot be told from each other any more: then only all can be lifted.
    """
    names = None if correlations is None else sorted(set(correlations))
    count = tombstones.lift(project.pk, names)
    audit.note(by, "erase lifted", {"correlations": count, "all": names is None}, project_id=project.pk)
    return count


def _erase_correlations(project: Project, names: list[str], erased: Erased, *, really: bool) -> None:
    found = Correlation.objects.filter(project=project, correlation_id__in=names)
    keys = [(shard, uuid) for shard, uuid in found.values_list("shard", "id")]
    erased.events += _count_events(keys)
    if really:
        forget(keys)
    for model, counter in ((DeadLetter, "dead_letters"), (Note, "notes"), (EmbedLink, "links")):
        rows = model._default_manager.filter(project=project, correlation_id__in=names)
        setattr(erased, counter, getattr(erased, counter) + rows.count())
        if really:
            rows.delete()
    for name in names:
        for incident in Incident.objects.filter(project=project, sample__contains=[name]):
            erased.incidents += 1
            if really:
                incident.sample = [each for each in incident.sample if each != name]
                incident.save(update_fields=["sample"])


def _erase_texts(project: Project, term: str, erased: Erased, *, really: bool) -> None:
    """Refused items and deliveries are text; a term in it is reason enough to lose all of it."""
    refused = RejectedEvent.objects.filter(project=project).filter(
        Q(excerpt__contains=term) | Q(detail__contains=term) | Q(event_id__contains=term)
    )
    letters = DeadLetter.objects.filter(project=project).filter(
        Q(body__contains=term) | Q(error__contains=term) | Q(headers__icontains=term)
    )
    told = Delivery.objects.filter(project=project, message__contains=term).exclude(status=DeliveryStatus.PENDING)
    erased.rejected_events += refused.count()
    erased.dead_letters += letters.count()
    erased.deliveries += told.count()
    if really:
        refused.delete()
        letters.delete()
        told.update(message=None)


def _by_event(project: Project, attribute: dict[str, str]) -> list[str]:
    """Attributes lie in the event as JSON text, written by us: the pair is found as it is written there."""
    text = msgspec.json.encode(attribute).decode()[1:-1]
    with connection.cursor() as cursor:
        cursor.execute(_BY_EVENT, [project.pk, text])
        return [row[0] for row in cursor.fetchall()]


def _correlation_of(shard: int, instance_id: UUID) -> list[str]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT correlation_id FROM instance WHERE shard = %s AND id = %s", [shard, instance_id])
        return [row[0] for row in cursor.fetchall()]


def _count_events(keys: list[tuple[int, UUID]]) -> int:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM event e JOIN unnest(%s::int[], %s::uuid[]) k(shard, id)"
            " ON e.shard = k.shard AND e.correlation_uuid = k.id",
            [[shard for shard, _ in keys], [uuid for _, uuid in keys]],
        )
        return int(cursor.fetchone()[0])


def _summary(erased: Erased, terms: Sequence[str]) -> dict[str, int | str]:
    digest = hashlib.sha256("\0".join([*erased.correlations, *terms]).encode("utf-8", "surrogatepass")).hexdigest()
    return {
        "correlations": len(erased.correlations),
        "events": erased.events,
        "rejected_events": erased.rejected_events,
        "dead_letters": erased.dead_letters,
        "deliveries": erased.deliveries,
        "digest": digest[:16],
    }
