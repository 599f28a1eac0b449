"""While PostgreSQL is away everybody is told to come again, and the log says so in a line."""

from __future__ import annotations

import logging

import pytest
from django.db import OperationalError
from django.test import Client

from apps.config.celery import app
from apps.config.errors import OneLine
from tests.web.conftest import SignIn, rival, shop, sign_in, text_of

__all__ = ["rival", "shop", "sign_in"]


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks the database for a session or a project hears that it is gone."""

    def refuse(*_: object, **__: object) -> None:
        raise OperationalError("connection failed: the database system is starting up\nand more")

    monkeypatch.setattr("apps.web.access.projects_of", refuse)
    monkeypatch.setattr("apps.projects.tokens.identify", refuse)


@pytest.mark.django_db
def test_a_page_says_to_come_again(sign_in: SignIn, away: None) -> None:
    client = sign_in("viewer")
    client.raise_request_exception = False

    answer = client.get("/instances")

    assert answer.status_code == 503
    assert answer.headers["Retry-After"] == "5"
    assert "will by itself" in text_of(answer)


@pytest.mark.django_db
def test_a_call_says_to_come_again(away: None) -> None:
    answer = Client(raise_request_exception=False).get("/api/v1/instances", headers={"Authorization": "Bearer x"})

    assert answer.status_code == 503
    assert answer.headers["Retry-After"] == "5"
    assert answer.json()["code"] == "unavailable"


@pytest.mark.django_db
def test_another_error_is_still_a_500(sign_in: SignIn, monkeypatch: pytest.MonkeyPatch) -> None:
    client = sign_in("viewer")
    client.raise_request_exception = False
    monkeypatch.setattr("apps.web.access.projects_of", lambda _: 1 / 0)

    assert client.get("/instances").status_code == 500


def record(error: Exception) -> logging.LogRecord:
    return logging.LogRecord("x", logging.ERROR, "x.py", 1, "%s: %s", ("Oops", "/x"), (type(error), error, None))


def test_the_log_says_in_a_line_that_the_database_is_away_and_keeps_other_tracebacks() -> None:
    away, other = record(OperationalError("gone\nfar away")), record(ValueError("odd"))

    assert OneLine().filter(away)
    assert OneLine().filter(other)

    assert (away.getMessage(), away.exc_info) == ("Oops: /x: gone", None)
    assert other.exc_info is not None


def test_a_task_that_finds_the_database_away_is_no_surprise() -> None:
    app.loader.import_default_modules()
    ours = [task for name, task in app.tasks.items() if name.startswith("apps.")]

    assert len(ours) > 10
    assert [task.name for task in ours if OperationalError not in (task.throws or ())] == []
