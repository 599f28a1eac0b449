"""Sagas in trouble, told through `record`, and targets that can be delivered to: real servers on the loopback."""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from apps.alerts.models import Incident, Receiver
from apps.alerts.receivers.stored import save_receiver
from apps.alerts.sweeping import SweepReport, sweep
from apps.lib import micros
from apps.lib.micros import Micros
from apps.projects.models import Project, Source
from apps.sagas.events import EventKind, SagaEvent, digest_of
from apps.sagas.flows import save_definition
from apps.sagas.recording import record

#: Half past two on a November day.
START: Micros = 1_795_098_600 * micros.SECOND

ORDER_FLOW = """
flow: order-fulfilment
version: 1
style: orchestration
steps:
  - {name: charge-payment, service: payments, role: compensable, deadline: 30s,
     compensation: {name: refund-payment, deadline: 1h}}
  - {name: reserve-stock, service: stock, role: compensable, deadline: 60s,
     compensation: {name: release-stock, deadline: 1h}}
"""


def at(seconds: float) -> Micros:
    """So many seconds after the start."""
    return START + int(seconds * micros.SECOND)


@dataclass
class World:
    """A project with the flow `order-fulfilment` (charge-payment 30s, reserve-stock 60s) and one HTTP source."""

    project: Project
    source: Source
    sent: int = 0
    now: Micros = field(default=START)

    @classmethod
    def create(cls, slug: str = "shop") -> World:
        """A fresh project."""
        project = Project.objects.create(slug=slug, name=slug.title())
        source = Source.objects.create(project=project, name="orders")
        save_definition(project, "order-fulfilment", ORDER_FLOW, by="test")
        return cls(project, source)

    def event(self, correlation_id: str, kind: EventKind, seconds: float, **more: Any) -> SagaEvent:
        """An event of the order flow."""
        self.sent += 1
        facts: dict[str, Any] = {
            "source": "//shop/orders",
            "id": f"e{self.sent:06}",
            "type": "test",
            "correlation_id": correlation_id,
            "occurred_at": at(seconds),
            "received_at": at(seconds),
            "kind": kind,
            "flow": "order-fulfilment",
            **more,
        }
        return SagaEvent(**facts, digest=digest_of(facts))

    def tell(self, *events: SagaEvent, source: Source | None = None) -> None:
        """Record events."""
        record(self.project.pk, (source or self.source).pk, events)

    def start(self, *correlation_ids: str, seconds: float = 0, step: str = "charge-payment", **more: Any) -> None:
        """Sagas that begin a step and then say nothing: overdue 30 s later (charge-payment) or 60 s (reserve-stock)."""
        told = [
            event
            for name in correlation_ids
            for event in (
                self.event(name, EventKind.SAGA_STARTED, seconds),
                self.event(name, EventKind.STEP_STARTED, seconds, step=step, **more),
            )
        ]
        self.tell(*told)

    def complete(self, *correlation_ids: str, seconds: float) -> None:
        """The sagas say that they have completed."""
        self.tell(
            *(self.event(name, EventKind.STEP_COMPLETED, seconds, step="charge-payment") for name in correlation_ids),
            *(self.event(name, EventKind.SAGA_COMPLETED, seconds) for name in correlation_ids),
        )

    def sweep(self, seconds: float) -> SweepReport:
        """Sweep so many seconds after the start."""
        report = sweep(at(seconds))
        assert not report.failures
        return report

    def incidents(self) -> list[Incident]:
        """All incidents of the project, oldest first."""
        return list(Incident.objects.filter(project=self.project).order_by("number"))

    def incident(self) -> Incident:
        """The only incident of the project."""
        (only,) = self.incidents()
        return only

    def receiver(self, name: str = "hook", kind: str = "webhook", **settings: str) -> Receiver:
        """A receiver of the project."""
        return save_receiver(self.project.pk, name=name, kind=kind, settings=settings)


@dataclass
class Request:
    """What a target got."""

    path: str
    headers: dict[str, str]
    body: bytes
    at: float

    @property
    def json(self) -> Any:
        """The body."""
        return json.loads(self.body)

    @property
    def id(self) -> str:
        """Its webhook-id."""
        return self.headers["webhook-id"]


class Target:
    """A real HTTP server: answers by `reply(request, handler)`, by default 204; keeps what it got."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.reply: Callable[[Request, http.server.BaseHTTPRequestHandler], None] = answer(204)
        self.released = threading.Event()
        target = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                headers = {name.lower(): value for name, value in self.headers.items()}
                request = Request(self.path, headers, body, time.monotonic())
                target.requests.append(request)
                target.reply(request, self)

            def log_message(self, *_: object) -> None:
                pass

            def handle(self) -> None:
                with contextlib.suppress(OSError):  # the caller hung up, as it should
                    super().handle()

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.server.server_address[1])

    @property
    def url(self) -> str:
        """Its URL."""
        return f"http://127.0.0.1:{self.port}/hook"


def answer(status: int, **headers: str) -> Callable[[Request, http.server.BaseHTTPRequestHandler], None]:
    """Reply with a status and headers (`retry_after="120"`)."""

    def reply(request: Request, handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return reply


@contextmanager
def target() -> Iterator[Target]:
    """A running target."""
    one = Target()
    thread = threading.Thread(target=one.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield one
    finally:
        one.released.set()
        one.server.shutdown()
        one.server.server_close()
