"""PostgreSQL that hangs, neither answering nor failing: senders are told to come again, in time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from apps.ingest import asgi
from apps.projects import tokens
from apps.projects.models import Project, Source
from apps.projects.tokens import create_token
from tests.ingest.sending import JSON, Door, event, text_of

pytestmark = pytest.mark.django_db


async def _never(*_: Any) -> Any:
    await asyncio.Event().wait()


@pytest.fixture
def door(monkeypatch: pytest.MonkeyPatch) -> Door:
    tokens.forget_cached()
    project = Project.objects.create(slug="hang", name="Hang")
    token = create_token(project, ["ingest"], source=Source.objects.create(project=project, name="sender"))
    tokens.identify(token)
    monkeypatch.setattr(asgi, "ANSWER_SECONDS", 0.05)
    return Door(asgi.application, token)


async def test_an_event_that_cannot_be_stored_in_time_is_503(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asgi, "_take_in", _never)

    reply = await asyncio.wait_for(door.post(text_of(event()), JSON), 10)

    assert (reply.status, reply.json["code"]) == (503, "unavailable")
    assert reply.headers["retry-after"]
    assert asgi._held_bytes == 0


async def test_a_token_that_cannot_be_looked_up_in_time_is_503(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens.forget_cached()
    monkeypatch.setattr(asgi, "in_thread", _never)

    reply = await asyncio.wait_for(door.post(text_of(event()), JSON), 10)

    assert (reply.status, reply.json["code"]) == (503, "unavailable")
