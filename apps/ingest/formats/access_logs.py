"""Access logs of service meshes and API gateways, one JSON object per request, to `SagaEvent`s. Pure.

Dialects: `envoy` (Istio's JSON access log; values may all be text, `-` means none), `kong` (the http-log plugin),
`apigateway` (Amazon API Gateway: a JSON access log of `$context` variables, or the request as an HTTP API hands it on).

A request is an event of type `http.request` without a meaning of its own: a source's rules say which routes are steps.
It happened when it was answered. Its correlation ID is the one of a header (`x-correlation-id`, or the one configured),
else its trace ID, else its request ID, which a mesh hands on from hop to hop.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import msgspec

from apps.ingest.formats import engine_entries, json_path
from apps.ingest.formats.broker_message import headers_by_name, moment_of
from apps.ingest.formats.decoding import Decoded
from apps.ingest.formats.histories import HistoryOptions
from apps.ingest.formats.trace_headers import trace_of_headers
from apps.ingest.strict_json import Refused
from apps.sagas.events import Micros, SagaEvent

TYPE = "http.request"
#: Headers and log fields that carry a correlation ID, by their name without case, dashes and underscores.
CORRELATION_HEADERS = ("xcorrelationid", "correlationid", "xsagaid", "sagaid")
#: Envoy's response flags that say that the upstream failed, not the caller.
_FAILURES = frozenset({"UH", "UF", "UO", "UT", "UC", "UR", "URX", "NR", "NC", "DC", "LR", "SI", "UPE"})
_MILLIS = 1_000


class _Request(msgspec.Struct, kw_only=True):
    """One request, whatever wrote it down."""

    place: str
    service: str | None
    method: str
    path: str
    status: int | None
    headers: dict[str, str]
    request_id: str | None
    started_at: Micros
    duration_ms: float = 0
    attempt: int | None = None
    error: str | None = None
    more: dict[str, Any] = {}


def decode(document: Any, options: HistoryOptions, received_at: Micros, dialect: str = "") -> Decoded:
    """The events of one entry or a list of them; an entry that cannot be read is refused alone."""
    entries = engine_entries.Entries()
    for position, item in enumerate(document if isinstance(document, list) else [document]):
        entries.add(
            position,
            item,
            lambda item=item: [_event(item, options, received_at, dialect)],  # type: ignore[misc]
        )
    return entries.decoded


def _event(item: Any, options: HistoryOptions, received_at: Micros, dialect: str) -> SagaEvent:
    if not isinstance(item, dict):
        raise Refused("not_an_object", "access-logs: an entry is a JSON object")
    name = dialect or _dialect_of(item)
    request = DIALECTS[name](item)
    trace_id, span_id = trace_of_headers(request.headers)
    correlation_id = _correlation_id(request, item, options) or trace_id or request.request_id
    if correlation_id is None:
        raise Refused(
            "missing_correlation",
            "access-logs: no correlation, trace or request ID: log the header x-correlation-id or traceparent",
        )
    source = f"{name}://{request.place}"
    return engine_entries.event(
        item,
        source=source,
        id=_identity(request, item),
        type=TYPE,
        correlation_id=correlation_id,
        occurred_at=request.started_at + round(request.duration_ms * _MILLIS),
        received_at=received_at,
        flow=options.flow,
        attempt=request.attempt,
        service=request.service,
        error=request.error,
        trace_id=trace_id,
        span_id=span_id,
        attributes={
            "method": request.method,
            "path": request.path,
            "status": request.status,
            "duration_ms": request.duration_ms,
            "request_id": request.request_id,
            **request.more,
        },
    )


def _dialect_of(item: Mapping[str, Any]) -> str:
    if "response_code" in item or "upstream_cluster" in item:
        return "envoy"
    if "started_at" in item and isinstance(item.get("request"), dict):
        return "kong"
    if isinstance(item.get("requestContext"), dict) or "requestTimeEpoch" in item or "requestTime" in item:
        return "apigateway"
    raise Refused("unknown_dialect", f"access-logs: expected an entry of {', '.join(DIALECTS)}: it has none's fields")


def _correlation_id(request: _Request, item: Mapping[str, Any], options: HistoryOptions) -> str | None:
    if options.correlation_id:
        return options.correlation_id
    if options.correlation_path and (found := json_path.find_text(options.correlation_path, item)):
        return found
    named = options.correlation_key.lower().replace("-", "").replace("_", "") if options.correlation_key else None
    for name in (named, *CORRELATION_HEADERS):
        if name and (found := request.headers.get(name)) and found != "-":
            return found
    return None


def _identity(request: _Request, item: Mapping[str, Any]) -> str:
    """A request ID is handed on from hop to hop: place and time tell the hops apart."""
    seen: tuple[Any, ...] = (
        request.request_id,
        request.started_at,
        request.more.get("upstream"),
        request.method,
        request.path,
    )
    if request.request_id is None:
        seen = (msgspec.json.encode(item, order="deterministic").decode(),)
    return f"http:{hashlib.blake2b(repr(seen).encode(errors='replace'), digest_size=16).hexdigest()}"


# --- dialects ---------------------------------------------------------------------------------------------------------


def _envoy(item: dict[str, Any]) -> _Request:
    texts = {name: text for name, value in item.items() if (text := json_path.scalar_text(value)) and text != "-"}
    status = _number(texts.get("response_code"))
    flags = texts.get("response_flags", "")
    cluster = texts.get("upstream_cluster", "").split("|")
    service = cluster[3] if len(cluster) > 3 else texts.get("authority")
    attempt = _number(texts.get("upstream_request_attempt_count"))
    is_failed = (status or 0) >= 500 or not _FAILURES.isdisjoint(flags.split(","))
    details = texts.get("response_code_details") or texts.get("upstream_transport_failure_reason")
    return _Request(
        place=service or texts.get("authority") or "unknown",
        service=(service or "").partition(".")[0] or None,
        method=texts.get("method", ""),
        path=_path(texts.get("path", "")),
        status=status,
        headers=headers_by_name(texts),
        request_id=texts.get("request_id"),
        started_at=_time("start_time", texts.get("start_time")),
        duration_ms=_number(texts.get("duration")) or 0,
        attempt=int(attempt) if attempt and attempt > 0 else None,
        error=" ".join(filter(None, (str(status), flags, details))) if is_failed else None,
        more={
            "upstream": texts.get("upstream_host"),
            "authority": texts.get("authority"),
            "response_flags": flags,
            "route": texts.get("route_name"),
        },
    )


def _kong(item: dict[str, Any]) -> _Request:
    request, response = _object(item, "request"), _object(item, "response")
    service, latencies, route = _object(item, "service"), _object(item, "latencies"), _object(item, "route")
    headers = headers_by_name(_object(request, "headers"))
    status = _number(response.get("status"))
    stated = item.get("tries")
    tries = stated if isinstance(stated, list) else []
    named = engine_entries.text_at(service, "name", "host")
    request_id = engine_entries.text_at(request, "id") or headers.get("xrequestid") or headers.get("kongrequestid")
    return _Request(
        place=named or "unknown",
        service=named,
        method=engine_entries.text_at(request, "method") or "",
        path=_path(engine_entries.text_at(request, "uri", "url") or ""),
        status=status,
        headers=headers,
        request_id=request_id,
        started_at=_time("started_at", item.get("started_at")),
        duration_ms=_number(latencies.get("request")) or 0,
        attempt=len(tries) or None,
        error=str(status) if (status or 0) >= 500 else None,
        more={
            "route": engine_entries.text_at(route, "name", "id"),
            "upstream": engine_entries.text_at(tries[-1], "ip") if tries and isinstance(tries[-1], dict) else None,
        },
    )


def _api_gateway(item: dict[str, Any]) -> _Request:
    context = item.get("requestContext")
    context = context if isinstance(context, dict) else item
    call = _object(context, "http")
    headers = headers_by_name({**_object(item, "headers"), **{k: v for k, v in item.items() if isinstance(v, str)}})
    if trace := engine_entries.text_at(item, "xrayTraceId"):
        headers.setdefault("xamzntraceid", trace if trace.startswith("Root=") else f"Root={trace}")
    status = _number(item.get("status"))
    started = context.get("timeEpoch") or item.get("requestTimeEpoch") or item.get("requestTime")
    failed = engine_entries.text_at(item, "integrationErrorMessage", "integrationError", "errorMessage", "error")
    return _Request(
        place="/".join(filter(None, (engine_entries.text_at(context, name) for name in ("apiId", "stage"))))
        or "unknown",
        service=engine_entries.text_at(context, "domainPrefix", "apiId"),
        method=engine_entries.text_at(call, "method") or engine_entries.text_at(context, "httpMethod") or "",
        path=_path(
            engine_entries.text_at(call, "path") or engine_entries.text_at(context, "path", "resourcePath") or ""
        ),
        status=status,
        headers=headers,
        request_id=engine_entries.text_at(context, "requestId", "extendedRequestId"),
        started_at=_time("requestTime", started),
        duration_ms=_number(item.get("responseLatency")) or 0,
        error=(failed or str(status)) if failed not in (None, "-") or (status or 0) >= 500 else None,
        more={
            "route": engine_entries.text_at(context, "routeKey"),
            "domain": engine_entries.text_at(context, "domainName"),
        },
    )


#: Who writes such logs.
DIALECTS: Mapping[str, Callable[[dict[str, Any]], _Request]] = {
    "envoy": _envoy,
    "istio": _envoy,
    "kong": _kong,
    "apigateway": _api_gateway,
}


def _object(holder: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = holder.get(name)
    return found if isinstance(found, dict) else {}


def _number(value: Any) -> int | None:
    """A whole number, also one that was written as text or with a fraction."""
    text = json_path.scalar_text(value)
    try:
        number = float(text) if text and len(text) < 20 else None
    except ValueError:
        return None
    return int(number) if number is not None and abs(number) < 10**15 else None


def _path(text: str) -> str:
    """Without its query, which may hold secrets."""
    return text.partition("?")[0]


def _time(name: str, value: Any) -> Micros:
    text = json_path.scalar_text(value)
    found = moment_of(text) if text else None
    if found is None and text:
        found = _common_log_time(text)
    if found is None:
        raise Refused("invalid_time", f"access-logs: {name} is missing or no time")
    return found


def _common_log_time(text: str) -> Micros | None:
    """`12/Mar/2020:19:03:58 +0000`, as `$context.requestTime` has it."""
    try:
        moment = datetime.strptime(text.replace(" ", ""), "%d/%b/%Y:%H:%M:%S%z")
    except ValueError:
        return None
    return round(moment.timestamp()) * 1_000_000
