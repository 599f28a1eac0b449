"""What lies between Sagascope and PostgreSQL when it is large: a pooler, two web processes, a replica."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.core.cache import cache
from django.db import connection

from apps.lib import embedded
from apps.projects import tokens
from apps.sagas import catalog
from tests.alerts.conftest import hook, loopback
from tests.scale import pooler
from tests.scale.webs import running_web

__all__ = ["hook", "loopback"]


@pytest.fixture(autouse=True)
def fresh_caches() -> Iterator[None]:
    """Rolled-back rows must not be remembered."""
    for forget in (tokens.forget_cached, catalog.forget, cache.clear):
        forget()
    yield
    for forget in (tokens.forget_cached, catalog.forget, cache.clear):
        forget()


@pytest.fixture(scope="module")
def running_pooler(servers: embedded.Addresses, django_db_setup: None) -> Iterator[pooler.Pooler]:
    """PgBouncer in transaction mode in front of the test database; skips where none is installed."""
    path = pooler.program()
    if path is None:
        pytest.skip("no PgBouncer on this machine: install the package pgbouncer")
    with pooler.running_pooler(path, django_settings.DATABASES["default"]) as running:
        yield running


@contextmanager
def going_through(running: pooler.Pooler) -> Iterator[None]:
    """All that this process asks PostgreSQL meanwhile goes through the pooler."""
    straight = {name: connection.settings_dict[name] for name in ("HOST", "PORT")}
    connection.close()
    connection.settings_dict.update(HOST="127.0.0.1", PORT=str(running.port))
    try:
        connection.ensure_connection()
        yield
    finally:
        connection.close()
        connection.settings_dict.update(straight)


@pytest.fixture
def pooled(running_pooler: pooler.Pooler, transactional_db: None) -> Iterator[pooler.Pooler]:
    """All that this test asks PostgreSQL goes through the pooler; the emptying afterwards does not."""
    with going_through(running_pooler):
        yield running_pooler


@pytest.fixture
def start_web(servers: embedded.Addresses) -> Iterator[Callable[..., str]]:
    """Starts web processes of the test database: `start_web(DATABASE_URL=…)` -> its URL."""
    with ExitStack() as running:

        def start(**environment: str) -> str:
            return running.enter_context(
                running_web(
                    {
                        "SAGASCOPE_DATA": os.environ["SAGASCOPE_TEST_DATA"],
                        "REDIS_URL": django_settings.REDIS_URL,
                        "SECRET_KEY": django_settings.SECRET_KEY,
                        **environment,
                    }
                )
            )

        yield start


def database_name() -> str:
    """The test database's."""
    return str(connection.settings_dict["NAME"])


def threads_done(workers: list[Any]) -> None:
    """Wait for them, each for a minute at most."""
    for worker in workers:
        worker.join(60)
        assert not worker.is_alive()
