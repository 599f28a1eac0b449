"""A web process with a project of its own, for tests that send through real HTTP and need not begin empty."""

from __future__ import annotations

import http.client
import json
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.core.management import call_command

from apps.projects.models import Project, Source
from apps.projects.tokens import create_token
from apps.sagas import queries
from apps.sagas.events import SagaEvent
from apps.sagas.models import Correlation
from tests.ingest.sending import JSON, Reply, assert_promised


@dataclass
class WebDoor:
    """The ingest door of a running web process, and what came through it."""

    url: str
    project: Project
    source: Source
    token: str

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        assert parts.hostname
        assert parts.port
        return parts.hostname, parts.port

    def post(
        self, body: bytes, content_type: str | None = JSON, headers: Mapping[str, str | None] | None = None
    ) -> Reply:
        given: dict[str, str | None] = {"Authorization": f"Bearer {self.token}", "Content-Type": content_type}
        return self.request("POST", "/api/v1/events", body, given | dict(headers or {}))

    def request(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str | None] | None = None
    ) -> Reply:
        connection = http.client.HTTPConnection(*self.address, timeout=20)
        try:
            connection.putrequest(method, path, skip_accept_encoding=True)
            for name, value in (headers or {}).items():
                if value is not None:
                    connection.putheader(name, value)
            connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            reply = Reply(answer.status, found, answer.read())
        finally:
            connection.close()
        assert_promised(reply)
        return reply

    def stored(self, correlation_id: str) -> list[SagaEvent]:
        """The events of one correlation, read the way pages and API read them."""
        page = queries.list_events(self.project.pk, correlation_id, limit=1000)
        return page.items if page else []

    def count_stored(self) -> int:
        return sum(Correlation.objects.filter(project=self.project).values_list("event_count", flat=True))


@pytest.fixture(scope="module")
def web_door(web_process: str, django_db_blocker: Any) -> Iterator[WebDoor]:
    """One for all tests of a module: they keep apart by the ids that they use. Afterwards the database is empty."""
    with django_db_blocker.unblock():
        project = Project.objects.create(slug=f"door-{uuid.uuid4().hex[:8]}", name="Door")
        source = Source.objects.create(project=project, name="sender")
        token = create_token(project, ["ingest"], source=source)
        yield WebDoor(web_process, project, source, token)
        call_command("flush", interactive=False, verbosity=0)


def unique(prefix: str) -> str:
    """An id that no other test uses."""
    return f"{prefix}-{uuid.uuid4().hex}"


def dumps(value: Any) -> bytes:
    """JSON with every character beyond ASCII escaped."""
    return json.dumps(value).encode()
