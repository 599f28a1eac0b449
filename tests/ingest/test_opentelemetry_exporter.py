"""OpenTelemetry's own SDK and OTLP/HTTP exporter, sending to a running web process."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from apps.sagas.correlation_view import find_correlation
from tests.ingest.conftest import WebDoor, unique

exporting = pytest.importorskip(
    "opentelemetry.exporter.otlp.proto.http.trace_exporter", reason="the OTLP/HTTP exporter is not installed"
)

pytestmark = [pytest.mark.interop]


@pytest.fixture
def exporter(web_door: WebDoor, request: pytest.FixtureRequest) -> Any:
    from opentelemetry.exporter.otlp.proto.http import Compression

    return exporting.OTLPSpanExporter(
        endpoint=f"{web_door.url}/v1/traces",
        headers={"authorization": f"Bearer {getattr(request, 'param', web_door.token)}"},
        compression=Compression.Gzip,
        timeout=10,
    )


@pytest.mark.django_db  # the database of a run is made only if a test is marked to use it
def test_spans_of_the_sdk_become_steps(web_door: WebDoor, exporter: Any) -> None:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.trace import Status, StatusCode

    order = unique("order")
    provider = TracerProvider(resource=Resource.create({"service.name": "payments"}))
    provider.add_span_processor(BatchSpanProcessor(exporter))
    tracer = provider.get_tracer("shop")
    saga = {"saga.correlation_id": order, "saga.flow": "fulfilment"}
    with tracer.start_as_current_span("fulfil", attributes=saga | {"saga.kind": "saga"}) as whole:
        with tracer.start_as_current_span("reserve", attributes=saga | {"saga.step": "reserve"}):
            pass
        with tracer.start_as_current_span("charge", attributes=saga | {"saga.step": "charge"}) as span:
            span.record_exception(ValueError("declined"))
            span.set_status(Status(StatusCode.ERROR))
        undo = saga | {"saga.step": "release", "saga.compensates": "reserve"}
        with tracer.start_as_current_span("release", attributes=undo):
            pass
        whole.set_status(Status(StatusCode.ERROR, "rolled back"))
    assert provider.force_flush(20_000)
    provider.shutdown()

    view = find_correlation(web_door.project.pk, order)
    assert view is not None
    (instance,) = view.instances
    steps = {step.step: step for step in instance.steps}
    assert (instance.instance.flow, instance.instance.status) == ("fulfilment", "compensated")
    assert {name: step.status for name, step in steps.items()} == {
        "reserve": "completed",
        "charge": "failed",
        "release": "completed",
    }
    assert (steps["charge"].service, steps["charge"].attempts[0].error) == ("payments", "ValueError: declined")
    assert steps["reserve"].compensated_by == ("release",)


@pytest.mark.parametrize("exporter", ["nonsense"], indirect=True)
def test_the_exporter_understands_a_refusal(web_door: WebDoor, exporter: Any, caplog: pytest.LogCaptureFixture) -> None:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor

    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with caplog.at_level(logging.ERROR), provider.get_tracer("shop").start_as_current_span("charge"):
        pass
    provider.shutdown()

    assert "401" in caplog.text
