"""The emitter for Python programs, against an HTTP server that answers as Sagascope does, and as it does in trouble."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "docs/examples/python"


class Receiver:
    """A server that notes the batches it gets; its first answers can be given, the others say `stored`."""

    def __init__(self) -> None:
        self.batches: list[list[dict[str, Any]]] = []
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.answers: deque[tuple[int, dict[str, str], bytes]] = deque()
        #: Cleared, requests wait for it.
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.has_asked = threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.requests.append((self.path, dict(self.headers)))
                receiver.batches.append(json.loads(body))
                receiver.has_asked.set()
                receiver.may_answer.wait(20)
                stored = (200, {}, b'{"accepted": 0, "duplicates": 0, "rejected": []}')
                status, headers, answer = receiver.answers.popleft() if receiver.answers else stored
                self.send_response(status)
                for name, value in {"Content-Length": str(len(answer)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self.may_answer.set()
        self.server.shutdown()
        self.server.server_close()

    @property
    def events(self) -> list[dict[str, Any]]:
        return [event for batch in self.batches for event in batch]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    found = Receiver()
    yield found
    found.close()


@pytest.fixture
def emit(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module, as a program has it that copied the file."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module("sagascope_emit")


@pytest.fixture
def make(emit: Any, receiver: Receiver) -> Iterator[Callable[..., Any]]:
    made = []

    def emitter(**options: Any) -> Any:
        given = {"gather_seconds": 0.01, "close_seconds": 0.2, **options}
        made.append(emit.Emitter(given.pop("url", receiver.url), "sgo_ingest_x", "/shop/orders", **given))
        return made[-1]

    yield emitter
    receiver.may_answer.set()
    for each in made:
        each.close()


def test_an_event_says_all_that_it_was_told(make: Callable[..., Any], receiver: Receiver) -> None:
    emitter = make(flow="order-fulfilment", service="orders")

    event_id = emitter.emit(
        "com.acme.OrderPlaced",
        correlation_id="order-1",
        causation_id="click-7",
        step="place-order",
        kind="step.completed",
        attempt=2,
        data={"total": 42},
    )

    assert emitter.flush()
    (event,) = receiver.events
    assert event.pop("time").endswith("+00:00")
    assert event == {
        "specversion": "1.0",
        "id": event_id,
        "source": "/shop/orders",
        "type": "com.acme.OrderPlaced",
        "correlationid": "order-1",
        "causationid": "click-7",
        "sagaflow": "order-fulfilment",
        "sagaservice": "orders",
        "sagastep": "place-order",
        "sagakind": "step.completed",
        "sagaattempt": 2,
        "data": {"total": 42},
    }
    path, headers = receiver.requests[0]
    assert path == "/api/v1/events"
    assert headers["Authorization"] == "Bearer sgo_ingest_x"
    assert headers["Content-Type"] == "application/cloudevents-batch+json"
    assert emitter.sent == 1


def test_correlation_and_causation_are_those_of_the_block(
    emit: Any, make: Callable[..., Any], receiver: Receiver
) -> None:
    emitter = make()

    with emit.correlated("order-1", "cause-1"):
        emitter.emit("outer")
        outgoing = emit.headers(causation_id="told")
        with emit.carried_by([(b"correlation_id", b"order-2"), ("Causation-Id", "cause-2"), ("other", None)]):
            emitter.emit("inner")
        emitter.emit("outer again")

    assert emitter.flush()
    found = [(event["type"], event["correlationid"], event["causationid"]) for event in receiver.events]
    assert found == [
        ("outer", "order-1", "cause-1"),
        ("inner", "order-2", "cause-2"),
        ("outer again", "order-1", "cause-1"),
    ]
    assert outgoing == {"Correlation-ID": "order-1", "Causation-ID": "told"}
    assert emit.headers() == {}


def test_an_event_that_belongs_nowhere_is_an_error(emit: Any, make: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="no correlation ID"):
        make().emit("lost")
    with emit.correlated("order-1"), emit.carried_by({}), pytest.raises(ValueError, match="no correlation ID"):
        make().emit("message that says nothing")


def test_many_events_go_in_few_requests_and_in_order(make: Callable[..., Any], receiver: Receiver) -> None:
    emitter = make(gather_seconds=5.0)

    for number in range(450):
        emitter.emit("e", correlation_id="c", data=number)

    assert emitter.flush()
    assert [event["data"] for event in receiver.events] == list(range(450))
    assert len(receiver.batches) <= 4
    assert max(map(len, receiver.batches)) <= 200


@pytest.mark.parametrize("status", [503, 500, 429, 408])
def test_what_did_not_get_through_is_sent_again_the_same(
    status: int, make: Callable[..., Any], receiver: Receiver
) -> None:
    receiver.answers += [(status, {"Retry-After": "0"}, b""), (status, {}, b"")]
    emitter = make()

    emitter.emit("e", correlation_id="c")

    assert emitter.flush()
    assert len(receiver.batches) == 3
    assert receiver.batches[0] == receiver.batches[1] == receiver.batches[2]
    assert (emitter.sent, emitter.refused, emitter.dropped) == (1, 0, 0)


def test_what_is_refused_is_not_sent_again(make: Callable[..., Any], receiver: Receiver) -> None:
    refusal = b'{"accepted": 1, "duplicates": 0, "rejected": [{"index": 0, "id": "x", "code": "conflict"}]}'
    receiver.answers += [(200, {}, refusal), (401, {}, b"{}")]
    emitter = make(gather_seconds=5.0)

    for _ in range(2):
        emitter.emit("e", correlation_id="c")
    assert emitter.flush()
    assert (emitter.sent, emitter.refused) == (1, 1)
    emitter.emit("e", correlation_id="c")
    assert emitter.flush()
    assert (emitter.sent, emitter.refused) == (1, 2)
    assert len(receiver.batches) == 2


def test_a_batch_that_is_too_large_is_halved(make: Callable[..., Any], receiver: Receiver) -> None:
    receiver.answers += [(413, {}, b"")]
    emitter = make(gather_seconds=5.0)

    for number in range(4):
        emitter.emit("e", correlation_id="c", data=number)

    assert emitter.flush()
    assert [[event["data"] for event in batch] for batch in receiver.batches] == [[0, 1, 2, 3], [0, 1], [2, 3]]
    assert emitter.sent == 4


def test_a_full_queue_drops_and_counts_and_nobody_waits(make: Callable[..., Any], receiver: Receiver) -> None:
    receiver.may_answer.clear()
    emitter = make(most_queued=3, gather_seconds=0.0)
    emitter.emit("first", correlation_id="c")
    assert receiver.has_asked.wait(10)

    for number in range(5):
        emitter.emit("e", correlation_id="c", data=number)

    assert emitter.dropped == 2
    receiver.may_answer.set()
    assert emitter.flush()
    assert [event.get("data") for event in receiver.events] == [None, 0, 1, 2]


def test_redirects_do_not_carry_the_token_elsewhere(make: Callable[..., Any], receiver: Receiver) -> None:
    receiver.answers += [(307, {"Location": receiver.url + "/elsewhere"}, b"")]
    emitter = make()

    emitter.emit("e", correlation_id="c")

    assert emitter.flush()
    assert [path for path, _ in receiver.requests] == ["/api/v1/events"]
    assert emitter.refused == 1


def test_nobody_there_at_the_end_is_counted_and_ends_in_time(make: Callable[..., Any]) -> None:
    emitter = make(url="http://127.0.0.1:1")

    emitter.emit("e", correlation_id="c")
    emitter.close()
    emitter.emit("too late", correlation_id="c")

    assert emitter.dropped == 2


@pytest.mark.parametrize("url", ["sagascope.example", "ftp://x", "file:///etc/passwd", "http://"])
def test_an_address_is_one_of_the_web(url: str, emit: Any) -> None:
    with pytest.raises(ValueError, match="not an http"):
        emit.Emitter(url, "t", "/s")


PROGRAM = """
import os, sys
from sagascope_emit import Emitter
emitter = Emitter(sys.argv[1], "t", "/s", gather_seconds=60)
emitter.emit("parent", correlation_id="c")
if os.fork() == 0:
    emitter.emit("child", correlation_id="c")
    sys.exit()
os.wait()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_program_that_ends_has_sent_everything_once_also_after_a_fork(receiver: Receiver) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, receiver.url],
        check=False,
        cwd=EXAMPLES,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.returncode == 0, done.stderr
    assert sorted(event["type"] for event in receiver.events) == ["child", "parent"]


async def test_a_request_belongs_where_its_headers_say(emit: Any) -> None:
    seen: list[str | None] = []
    sent: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(emit.correlation_id())
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    served = emit.CorrelationMiddleware(app)
    await served({"type": "http", "headers": [(b"x-correlation-id", b"order-1")]}, None, send)
    await served({"type": "http", "headers": []}, None, send)

    assert seen[0] == "order-1"
    assert seen[1] not in {None, "order-1"}
    assert [message["headers"] for message in sent] == [[(b"correlation-id", str(each).encode())] for each in seen]
    assert emit.correlation_id() is None


@pytest.fixture
def example(emit: Any, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """An example of the folder, sending to the receiver."""
    monkeypatch.setenv("SAGASCOPE_URL", receiver.url)
    monkeypatch.setenv("SAGASCOPE_TOKEN", "t")
    monkeypatch.setenv("CELERY_BROKER_URL", "memory://")

    def load(name: str) -> Any:
        sys.modules.pop(name, None)
        return importlib.import_module(name)

    return load


@pytest.mark.slow
def test_a_celery_task_belongs_to_the_saga_that_sent_it(
    example: Callable[[str], Any], emit: Any, receiver: Receiver
) -> None:
    from celery.contrib.testing.worker import start_worker

    tasks = example("with_celery")

    with start_worker(tasks.app, perform_ping_check=False, pool="solo", shutdown_timeout=30):
        with emit.correlated("order-9", "cause-9"):
            tasks.charge_payment.delay("order-9")
        assert receiver.has_asked.wait(30)
    assert tasks.emitter.flush()

    told = [(event["correlationid"], event["causationid"], event.get("sagakind")) for event in receiver.events]
    assert told == [("order-9", "cause-9", kind) for kind in ("step.started", "info", "step.completed")]
    assert [event.get("sagastep") for event in receiver.events] == ["charge_payment", None, "charge_payment"]


@pytest.mark.slow
def test_a_celery_task_that_is_tried_again_says_so(
    example: Callable[[str], Any], emit: Any, receiver: Receiver
) -> None:
    from celery.contrib.testing.worker import start_worker

    tasks = example("with_celery")

    @tasks.app.task(bind=True, max_retries=1, name="orders.reserve")
    def reserve(self: Any) -> None:
        if not self.request.retries:
            raise self.retry(exc=RuntimeError("sold out"), countdown=0)

    with start_worker(tasks.app, perform_ping_check=False, pool="solo", shutdown_timeout=30):
        with emit.correlated("order-9"):
            reserve.delay()
        give_up_at = time.monotonic() + 30
        while len(receiver.events) < 4 and time.monotonic() < give_up_at:
            tasks.emitter.flush()

    told = [(event["sagastep"], event["sagakind"], event["sagaattempt"]) for event in receiver.events]
    assert told == [
        ("reserve", kind, attempt)
        for kind, attempt in (("step.started", 1), ("step.retrying", 1), ("step.started", 2), ("step.completed", 2))
    ]


def test_a_kafka_message_carries_where_it_belongs(example: Callable[[str], Any], emit: Any, receiver: Receiver) -> None:
    kafka = pytest.importorskip("confluent_kafka")
    program = example("with_kafka")
    producer = kafka.Producer({"test.mock.num.brokers": 1, "log_level": 0})
    servers = ",".join(f"{each.host}:{each.port}" for each in producer.list_topics(timeout=20).brokers.values())
    emitter = emit.Emitter(receiver.url, "t", "/s")
    program.place_order(producer, emitter, "order-5")
    producer.flush(20)
    consumer = kafka.Consumer({"bootstrap.servers": servers, "group.id": "g", "auto.offset.reset": "earliest"})
    consumer.subscribe(["payments"])
    message = consumer.poll(30)
    consumer.close()

    program.charge(message, emitter)

    assert emitter.flush()
    placed, started, charged = receiver.events
    assert {each["correlationid"] for each in receiver.events} == {"order-5"}
    assert started["causationid"] == charged["causationid"] == placed["id"]
    assert charged["data"] == {"order": "order-5"}
