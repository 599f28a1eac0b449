"""Our own spans, metrics and logs, through opentelemetry-api: costs nothing until an SDK is configured.

Instruments are named here, once; `/metrics` (Prometheus text) reads its figures from PostgreSQL.
"""

from __future__ import annotations

import json
import logging
import time
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime

from opentelemetry import metrics, trace

tracer = trace.get_tracer("sagascope")
meter = metrics.get_meter("sagascope")

ingested_events = meter.create_counter("sagascope.ingest.events", unit="{event}", description="Items by outcome")
ingest_duration = meter.create_histogram("sagascope.ingest.duration", unit="s", description="One ingest request")
record_duration = meter.create_histogram("sagascope.record.duration", unit="s", description="One record transaction")
sweep_duration = meter.create_histogram("sagascope.sweep.duration", unit="s", description="One sweep")
deliveries = meter.create_counter("sagascope.deliveries", unit="{delivery}", description="Deliveries by outcome")


_no_span = nullcontext()


def span(name: str) -> AbstractContextManager[object]:
    """A span around one ingest request, where a provider is configured; else nothing, which is twenty times cheaper.

    What is raised inside is an answer, not an error: it is not recorded as one.
    """
    if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return _no_span
    return tracer.start_as_current_span(name, record_exception=False, set_status_on_exception=False)


#: What every record has. The rest is what a line says in `extra`.
_USUAL = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class TextFormatter(logging.Formatter):
    """A line for people, its time in UTC: logs of several machines are read together."""

    converter = staticmethod(time.gmtime)
    default_msec_format = "%s.%03dZ"
    default_time_format = "%Y-%m-%d %H:%M:%S"

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")


class JsonFormatter(logging.Formatter):
    """One JSON object per line: what it says, its `extra` values, and the trace and span id when there is a trace."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {name: value for name, value in vars(record).items() if name not in _USUAL}
        entry |= {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        context = trace.get_current_span().get_span_context()
        if context.is_valid:
            entry["trace_id"] = f"{context.trace_id:032x}"
            entry["span_id"] = f"{context.span_id:016x}"
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False, default=str)
