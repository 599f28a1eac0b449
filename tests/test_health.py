"""What load balancers and Prometheus are told."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.db import OperationalError, connection
from django.test import Client

from apps.config import health
from apps.ingest.formats import Rejection
from apps.ingest.rejected import keep
from apps.lib import micros
from apps.projects.models import Project, Source, SourceKind

pytestmark = pytest.mark.django_db


def away(*_: Any, **__: Any) -> Any:
    raise OperationalError("refused")


def test_healthz_asks_nobody(django_assert_num_queries: Any) -> None:
    with django_assert_num_queries(0):
        answer = Client().get("/healthz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


def test_ready_when_an_event_could_be_stored(redis_client: Any) -> None:
    answer = Client().get("/readyz")
    assert (answer.status_code, answer.json()) == (
        200,
        {"status": "ok", "database": "ok", "redis": "ok", "workers": "ok"},
    )


def test_ready_without_redis_which_is_named(settings: Any) -> None:
    settings.REDIS_URL = "unix:///nowhere/redis.sock"
    answer = Client().get("/readyz")
    assert answer.status_code == 200
    assert (answer.json()["redis"], answer.json()["workers"]) == ("unreachable", "unknown")


def test_ready_while_no_worker_takes_tasks_which_is_named(redis_client: Any) -> None:
    redis_client.rpush("celery", *range(200))
    answer = Client().get("/readyz")
    assert answer.status_code == 200
    assert answer.json()["workers"].startswith("behind")


def test_not_ready_without_a_database(monkeypatch: pytest.MonkeyPatch, redis_client: Any) -> None:
    monkeypatch.setattr(health.connection, "cursor", away)
    answer = Client().get("/readyz")
    assert (answer.status_code, answer.json()["database"]) == (503, "unreachable")


def test_not_ready_while_the_disk_is_full(redis_client: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL temp_file_limit = '100kB'")
    answer = Client().get("/readyz")
    assert (answer.status_code, answer.json()["database"]) == (503, "cannot store events: no room on its disk")


def test_metrics_count_by_source_and_are_well_formed() -> None:
    project = Project.objects.create(slug="shop", name="Shop")
    source = Source.objects.create(project=project, name='odd "name"\n')
    keep(project.pk, source.pk, [Rejection(0, "", "missing_id", "x")] * 3, micros.now())
    Source.objects.create(project=project, name="orders", kind=SourceKind.CONSUMER, lag=42)
    stopped_at = micros.to_datetime(micros.now() - 5 * micros.MINUTE)
    Source.objects.create(project=project, name="stopped", kind=SourceKind.CONSUMER, lag=0, lag_at=stopped_at)

    answer = Client().get("/metrics")

    assert answer.status_code == 200
    lines = answer.content.decode().splitlines()
    assert 'sagascope_rejected_events_total{project="shop",source="odd \\"name\\"\\n",code="missing_id"} 3' in lines
    assert 'sagascope_stuck_instances{project="shop"} 0' in lines
    assert 'sagascope_source_lag{project="shop",source="orders"} 42' in lines
    assert not any(line.startswith('sagascope_source_lag{project="shop",source="stopped"') for line in lines)
    (unknown,) = [line for line in lines if line.startswith("sagascope_source_lag_unknown_seconds{")]
    assert 'source="stopped"' in unknown
    assert 300 <= int(unknown.rpartition(" ")[2]) < 900
    sample = re.compile(r'[a-z_]+(\{([a-z]+="(\\.|[^"\\\n])*",?)+\})? \d+')
    assert all(line.startswith("# ") or sample.fullmatch(line) for line in lines)


def test_metrics_without_a_database_are_503(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "_families", away)
    assert Client().get("/metrics").status_code == 503


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
def test_they_only_answer_questions(path: str) -> None:
    assert Client().post(path).status_code == 405
