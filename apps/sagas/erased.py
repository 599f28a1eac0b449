"""Correlations that were erased on somebody's demand, remembered so that late events do not bring them back.

A broker delivers again, a queue held a straggler: such an event is refused and nothing of it is kept. Of an erased
correlation only a keyed digest stays, by which its ID is known again and cannot be found out; each project has a key of
its own, encrypted like all secrets. It stays until an operator lifts it.

Writers look while they hold the project's meaning (`catalog.hold`), and whoever erases holds it alone: so an event is
either recorded before, and then erased, or it finds the digest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from django.db import connection

from apps.lib import secrets
from apps.lib.micros import Micros
from apps.projects.models import ErasedCorrelation, Project
from apps.sagas import catalog

#: (project id, correlation ID)
_Name = tuple[int, str]
_FIND = "SELECT digest FROM erased_correlation WHERE digest = ANY(%s::bytea[])"


def note(project_id: int, correlation_ids: Iterable[str], now: Micros) -> None:
    """Refuse all later events of these, in a transaction that is `catalog.changing` the project."""
    project = Project.objects.get(pk=project_id)
    if not project.erasure_key:
        project.erasure_key = secrets.new_key()
        project.save(update_fields=["erasure_key"])
    key = _key(project.erasure_key)
    ErasedCorrelation.objects.bulk_create(
        (
            ErasedCorrelation(digest=_digest(key, project_id, name), project_id=project_id, erased_at=now)
            for name in correlation_ids
        ),
        ignore_conflicts=True,
    )


def lift(project_id: int, correlation_ids: Iterable[str] | None) -> int:
    """Take events of these again, or of all (None) that were erased; how many there were.

    Raises UnreadableSecretError when they cannot be told from each other any more, because the key is lost.
    """
    rows = ErasedCorrelation.objects.filter(project_id=project_id)
    with catalog.changing(project_id):
        if correlation_ids is not None:
            token = Project.objects.values_list("erasure_key", flat=True).get(pk=project_id)
            names = correlation_ids if token else ()
            rows = rows.filter(digest__in=[_digest(_key(token), project_id, name) for name in names])
        count = rows.delete()[0]
        if not ErasedCorrelation.objects.filter(project_id=project_id).exists():
            Project.objects.filter(pk=project_id).update(erasure_key="")
    return count


def among(cursor: Any, meanings: Mapping[int, catalog.ProjectMeaning], names: Iterable[_Name]) -> set[_Name]:
    """Which of these correlations were erased. Raises UnreadableSecretError when a key cannot be read."""
    digests = {}
    for project_id, name in names:
        meaning = meanings.get(project_id)
        if meaning is not None and meaning.erasure_key:
            digests[_digest(_key(meaning.erasure_key), project_id, name)] = (project_id, name)
    if not digests:
        return set()
    cursor.execute(_FIND, [list(digests)])
    return {digests[bytes(row[0])] for row in cursor.fetchall()}


def erased_of(project_id: int, correlation_ids: Iterable[str]) -> set[str]:
    """Which of these were erased; that stays so until the transaction that is open ends."""
    with connection.cursor() as cursor:
        meanings = catalog.hold(cursor, [project_id])
        return {name for _, name in among(cursor, meanings, ((project_id, each) for each in correlation_ids))}


@lru_cache(maxsize=256)
def _key(token: str) -> bytes:
    return secrets.key_of(token)


def _digest(key: bytes, project_id: int, correlation_id: str) -> bytes:
    named = f"{project_id}\0{correlation_id}".encode(errors="surrogatepass")
    return hashlib.blake2b(named, digest_size=16, key=key, person=b"erased saga").digest()
