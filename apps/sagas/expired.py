"""Sagas that retention has forgotten, remembered by a digest, so that a straggler does not begin them anew.

An event may come when its saga is long forgotten. It is stored like any other, with the flag `after_retention`, and so
is all that follows it in its correlation: what is made of it is half a saga, which waits for nothing, is never stuck,
and goes with the next retention. A digest is kept for as long again as the saga was; nobody can tell from it which saga
it was.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import msgspec
import psycopg
from django.conf import settings
from django.db import connection

from apps.lib.micros import DAY, Micros
from apps.projects.models import ExpiredCorrelation, Project
from apps.sagas.events import AFTER_RETENTION, SagaEvent

if TYPE_CHECKING:
    from apps.sagas.forgetting import Forgotten
    from apps.sagas.merging import Workspace

_NOTE = """
INSERT INTO expired_correlation (digest, project_id, expired_at) SELECT unnest(%s::bytea[]), unnest(%s::bigint[]), %s
ON CONFLICT (digest) DO UPDATE SET expired_at = excluded.expired_at
"""
_MARK = """
UPDATE correlation c SET is_straggler = true FROM unnest(%s::int[], %s::uuid[]) k(shard, id)
WHERE c.shard = k.shard AND c.id = k.id
"""
_FIND = "SELECT digest FROM expired_correlation WHERE digest = ANY(%s::bytea[])"


def note(forgotten: Sequence[Forgotten], now: Micros) -> None:
    """Remember that these were forgotten, in the transaction that is open."""
    if not forgotten:
        return
    digests = [_digest(one.project_id, one.correlation_id) for one in forgotten]
    with connection.cursor() as cursor:
        cursor.execute(_NOTE, [digests, [one.project_id for one in forgotten], now])


def forget_old(now: Micros) -> int:
    """Forget of each project what was noted as long ago as it keeps finished sagas; how many."""
    count = 0
    for project_id, days in Project.objects.values_list("pk", "retention_days"):
        old = ExpiredCorrelation.objects.filter(project_id=project_id, expired_at__lt=now - days * DAY)
        count += old.delete()[0]
    return count


def mark_stragglers(cursor: psycopg.Cursor, works: Iterable[Workspace]) -> None:
    """Mark those, among correlations just begun, that retention has forgotten before, for all that comes of them."""
    new = {_digest(work.project_id, work.correlation_id): work for work in works if work.is_new}
    if not new:
        return
    cursor.execute(_FIND, [list(new)], prepare=True)
    found = [new[bytes(row[0])] for row in cursor.fetchall()]
    for work in found:
        work.is_straggler = True
    if found:
        cursor.execute(_MARK, [[work.shard for work in found], [work.uuid for work in found]])


def marked(event: SagaEvent) -> SagaEvent:
    """The event as that of a straggler."""
    return msgspec.structs.replace(event, flags=tuple(sorted({*event.flags, AFTER_RETENTION})))


def _digest(project_id: int, correlation_id: str) -> bytes:
    named = f"{project_id}\0{correlation_id}".encode(errors="surrogatepass")
    return hashlib.blake2b(named, digest_size=16, key=_key(settings.SECRET_KEY)).digest()


@lru_cache(maxsize=2)
def _key(secret: str) -> bytes:
    return hashlib.blake2b(secret.encode(), digest_size=32, person=b"expired sagas").digest()
