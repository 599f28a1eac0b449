"""A backup is one when every row comes back and the past can be projected anew from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from apps.config import backups
from apps.config.backups import differences, drill, program, sums_of
from apps.projects.models import Project, Source
from apps.sagas.recording import record
from tests.sagas.stories import saga, started


def url_of_tests() -> str:
    """The URL of the database that the tests use."""
    given: dict[str, Any] = connection.settings_dict
    return psycopg.conninfo.make_conninfo(
        dbname=given["NAME"], user=given["USER"], host=given["HOST"], port=given["PORT"] or 5432
    )


def test_what_differs_is_named() -> None:
    before = {"event": (2, 5), "instance": (1, 1), "note": (0, 0), "old": (1, 1)}
    after = {"event": (1, 5), "instance": (1, 2), "note": (0, 0), "new": (0, 0)}

    assert differences(before, after) == [
        "event had 2 rows and has 1",
        "instance has other rows",
        "new is only on one side",
        "old is only on one side",
    ]


@pytest.mark.django_db
def test_a_changed_row_changes_the_sum_of_its_table_and_of_no_other() -> None:
    project = Project.objects.create(slug="shop", name="Shop")
    before = sums_of(connection.connection)

    Project.objects.filter(pk=project.pk).update(name="Shop!")

    assert [name for name, sums in sums_of(connection.connection).items() if sums != before[name]] == [
        "projects_project"
    ]


def test_the_programs_are_there() -> None:
    assert Path(program("pg_dump")).exists()
    with pytest.raises(backups.BackupError, match="install"):
        program("pg_nothing")


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
def test_a_backup_brings_every_row_back(tmp_path: Path) -> None:
    project = Project.objects.create(slug="shop", name="Shop")
    source = Source.objects.create(project=project, name="orders")
    for number in range(30):
        facts = {"correlation_id": f"order-{number}"}
        record(project.pk, source.pk, [saga("started", 0, **facts), started("charge-payment", 1, **facts)])

    done = drill(url_of_tests())

    assert done.wrong == []
    assert done.events == 60
    assert done.dump_bytes > 0
    assert done.rebuild_seconds is not None


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
def test_a_backup_that_lost_something_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    Project.objects.create(slug="shop", name="Shop")
    whole = backups.restore

    def lossy(file: Path, url: str) -> None:
        whole(file, url)
        with psycopg.connect(url) as target:
            target.execute("DELETE FROM projects_project")

    monkeypatch.setattr(backups, "restore", lossy)
    monkeypatch.setattr("django.conf.settings.DATABASE_URL", url_of_tests())

    with pytest.raises(CommandError, match="projects_project had 1 rows and has 0"):
        call_command("restore_drill", no_rebuild=True)
