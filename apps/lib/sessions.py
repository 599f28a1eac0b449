"""What each new connection to PostgreSQL is told: whether statements may be prepared on it, and how they are planned.

Statements that run for every batch of events are prepared once per session, which saves PostgreSQL from planning them
anew. A pooler in transaction mode changes the session below us: PgBouncer follows prepared statements from 1.21 on,
with `max_prepared_statements` above 0; earlier ones do not, so behind a pooler nothing is prepared unless its operator
says that it may be.
"""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.db.backends.base.base import BaseDatabaseWrapper

#: Only what asks for it is prepared: nothing runs so often that it would be by its count.
ON_REQUEST = 1 << 60

#: Told to sessions of processes that do nothing but record: see `plan_once`.
_PLAN_ONCE = "SET plan_cache_mode = force_generic_plan"
_session = {"plans_once": False}


def plan_once() -> None:
    """From now on sessions of this process keep the plan of a prepared statement, whatever it is called with.

    For processes whose statements all look rows up by their keys: there is one good plan, but PostgreSQL, which cannot
    know how many keys come, else plans the ones on partitioned tables anew each time. That was a fifth of its work for
    groups of 25 events.
    """
    _session["plans_once"] = True


def is_pooled(connection: BaseDatabaseWrapper) -> bool:
    """Whether something stands between us and PostgreSQL: a pooler names a process id that is not the server's.

    Raises DatabaseError when PostgreSQL is away.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return bool(cursor.fetchone()[0] != connection.connection.info.backend_pid)


def prepare_on(connection: BaseDatabaseWrapper, **_: Any) -> None:
    """Receiver of Django's `connection_created`: let statements be prepared where that holds."""
    if connection.vendor != "postgresql":
        return
    pooled = is_pooled(connection)
    if settings.DATABASE_POOLER_PREPARES or not pooled:
        connection.connection.prepare_threshold = ON_REQUEST
    # What a pooled session is told, others would inherit.
    if _session["plans_once"] and not pooled:
        with connection.cursor() as cursor:
            cursor.execute(_PLAN_ONCE)
