"""The other ways in: OpenTelemetry's spans by HTTP in protobuf, and a queue of RabbitMQ.

Spans come as exporters send them, 512 in a request, each saga a trace of four steps. Messages lie in a queue of a real
broker, published as persistent CloudEvents before the clock starts; one `manage.py consume` reads them, start-up left
out. Peers for orientation: ServicePulse's ServiceControl publishes 165 messages a second, and a tracing server from the
package index stored 180 spans a second on a machine like this, both durable; the bars are a hundred times that.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvloop
from ingest import _plain, _token
from stage import ROOT, servers, verdict, web_process

SPANS_BAR, MESSAGES_BAR = 18_000.0, 16_500.0
SPANS = 512
SECOND = 1_000_000_000
STEPS = ("charge-payment", "reserve-stock", "create-label", "notify")


def main() -> int:
    """Run both and print the verdicts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spans", type=int, default=40_960)
    parser.add_argument("--messages", type=int, default=20_000)
    options = parser.parse_args()
    with servers():
        with web_process() as port:
            token = _token()
            bodies = list(_traces(options.spans))
            uvloop.run(_post(port, token, bodies[:4]))
            seconds = uvloop.run(_post(port, token, bodies[4:]))
            spans = verdict("OTLP protobuf", (len(bodies) - 4) * SPANS / seconds, SPANS_BAR, unit=" spans/s")
        messages = _messages(options.messages)
    return 0 if spans and messages else 1


def _traces(spans: int) -> Iterator[bytes]:
    """Export requests of SPANS spans each."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
    from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

    dice = random.Random(7)
    start = time.time_ns() - 3_600 * SECOND

    def text(key: str, value: str) -> KeyValue:
        return KeyValue(key=key, value=AnyValue(string_value=value))

    for _ in range(spans // SPANS):
        request = ExportTraceServiceRequest()
        resource = request.resource_spans.add()
        resource.resource.attributes.append(text("service.name", "orders"))
        scope = resource.scope_spans.add()
        for number in range(SPANS):
            if number % len(STEPS) == 0:
                trace, saga = dice.randbytes(16), f"order-{dice.getrandbits(60):x}"
                start += 50_000_000
            step = STEPS[number % len(STEPS)]
            begun = start + number % len(STEPS) * SECOND
            span = scope.spans.add(
                trace_id=trace,
                span_id=dice.randbytes(8),
                name=step,
                start_time_unix_nano=begun,
                end_time_unix_nano=begun + dice.randrange(SECOND),
            )
            values = {"saga.correlation_id": saga, "saga.flow": "order", "saga.step": step}
            span.attributes.extend(text(key, value) for key, value in values.items())
        yield request.SerializeToString()


async def _post(port: int, token: str, bodies: list[bytes], *, connections: int = 4) -> float:
    """Post all bodies, each connection the next one as soon as it is answered; the seconds it took."""
    head = (
        f"POST /v1/traces HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {token}\r\n"
        "Content-Type: application/x-protobuf\r\nContent-Length: "
    ).encode()
    requests = iter([head + str(len(body)).encode() + b"\r\n\r\n" + body for body in bodies])

    async def send_some() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for request in requests:
            writer.write(request)
            answer = await reader.readuntil(b"\r\n\r\n")
            length = int(answer.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            # An empty message: nothing was refused.
            if await reader.readexactly(length) or not answer.startswith(b"HTTP/1.1 200"):
                raise SystemExit(f"refused: {answer[:80]!r}")
        writer.close()

    started = time.perf_counter()
    await asyncio.gather(*(send_some() for _ in range(connections)))
    return time.perf_counter() - started


def _messages(count: int) -> bool:
    from apps.ingest.transports.connecting import check_source, create_source
    from apps.projects.models import Project
    from apps.sagas.models import SourceTally
    from tests.ingest.transports.brokers import RABBITMQ, RabbitBroker

    if not RABBITMQ.exists():
        print("SKIP  RabbitMQ: install the package rabbitmq-server")
        return True
    project = Project.objects.get(slug="bench")
    with _rabbitmq() as port:
        broker = RabbitBroker(port)
        source = create_source(project, "queue", "rabbitmq", broker.options())
        check_source(source)
        for body in _plain(count, 5):
            broker.publish(body, {}, content_type="application/cloudevents+json")
        command = [sys.executable, "manage.py", "consume", "queue", "--project", "bench", "--once"]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        began, first = 0.0, 0
        while process.poll() is None:
            time.sleep(0.02)
            done = sum(SourceTally.objects.filter(source=source).values_list("accepted", flat=True))
            if done and not began:
                began, first = time.perf_counter(), done
            if done >= count:
                break
        seconds = time.perf_counter() - began
        out, _ = process.communicate(timeout=60)
        broker.close()
    print(f"      {out.strip()}")
    return verdict("RabbitMQ, one consumer", (count - first) / seconds, MESSAGES_BAR, unit=" messages/s")


@contextmanager
def _rabbitmq() -> Iterator[int]:
    from tests.ingest.transports.brokers import rabbitmq_server

    with tempfile.TemporaryDirectory(prefix="sagascope-rabbitmq-") as folder:
        program = rabbitmq_server(Path(folder))
        try:
            yield program.port
        finally:
            program.stop()


if __name__ == "__main__":
    sys.exit(main())
